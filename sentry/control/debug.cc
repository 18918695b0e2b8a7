// The text of `sbx debug`: what every task does and waits for, files, mounts, counters.
#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/control/filter_rules.h"
#include "sentry/control/server.h"
#include "sentry/syscalls/table.h"
#include "sentry/task/kernel.h"

namespace sbx::control {

namespace {

using task::kernel;

void tasks(std::string& out) {
  out += "tasks:\n";
  u64 now = fiber::now_ns();
  for (const auto& [pid, group] : kernel().groups()) {
    out += str_printf("  process %d (%s) parent %d pgid %d sid %d%s%s\n", pid, group->comm_of_leader().c_str(),
                      group->parent != nullptr ? group->parent->pid : 0, group->group ? group->group->pgid : 0,
                      group->group ? group->session().sid : 0, group->zombie ? " zombie" : "",
                      group->stop_signal != 0 ? " stopped" : "");
    for (task::Task* task : group->tasks) {
      std::string doing = "running";
      if (task->thread->in_sentry()) {
        u32 nr = task->entry.nr;
        const char* name = task->entry.kind != platform::EntryKind::kSyscall              ? "entry"
                           : nr < syscalls::kRows && syscalls::kTable[nr].name != nullptr ? syscalls::kTable[nr].name
                                                                                          : "?";
        u64 since = task->fiber->parked_since();
        const char* reason = task->fiber->wait_reason();
        doing = str_printf("in %s, waits for %s, %llu ms", name, reason != nullptr ? reason : "nothing",
                           since != 0 ? static_cast<unsigned long long>((now - since) / 1'000'000) : 0ull);
      }
      out +=
          str_printf("    task %d host %d: %s; ip %#llx sp %#llx pending %#llx blocked %#llx\n", task->tid,
                     task->thread->host_tid(), doing.c_str(), static_cast<unsigned long long>(task->thread->last_ip()),
                     static_cast<unsigned long long>(task->thread->last_sp()),
                     static_cast<unsigned long long>(task->pending.set() | group->pending.set()),
                     static_cast<unsigned long long>(task->thread->signal_mask()));
    }
  }
}

void files(std::string& out) {
  out += "open files:\n";
  for (const auto& [pid, group] : kernel().groups()) {
    if (group->tasks.empty() || !group->tasks[0]->fds) continue;
    task::Task& task = *group->tasks[0];
    task.fds->for_each([&](int fd, vfs::File& file, bool cloexec) {
      std::string name = file.path() ? vfs::path_text(file.path(), task.fs->root) : "anonymous";
      out += str_printf("  %d: %d %s flags 0%o%s ready %#x\n", pid, fd, name.c_str(), file.flags(),
                        cloexec ? " cloexec" : "", file.readiness());
    });
  }
}

void mounts(std::string& out) {
  out += "mounts:\n";
  const vfs::MountNamespace& all = *kernel().container->mounts;
  vfs::Path root = all.root();
  for (const auto& mount : all.mounts()) {
    std::string at = "/";
    if (mount->parent() != nullptr)
      at = vfs::path_text({RefPtr<vfs::Mount>(mount->parent()), mount->mountpoint()}, root);
    out += str_printf("  %u %s on %s type %s flags %#llx\n", mount->id(), mount->source.c_str(), at.c_str(),
                      mount->fs().type_name(), static_cast<unsigned long long>(mount->flags));
  }
}

void counters(std::string& out) {
  out += "counters:\n";
  for (const Counter* c : Counter::all()) {
    out += str_printf("  %-32s %12llu  %s\n", c->name(), static_cast<unsigned long long>(c->value()), c->what());
  }
  out += "system calls:\n";
  for (u32 nr = 0; nr < syscalls::kRows; ++nr) {
    u64 n = syscalls::call_counts[nr].load(std::memory_order_relaxed);
    if (n > 0) out += str_printf("  %-32s %12llu\n", syscalls::kTable[nr].name, static_cast<unsigned long long>(n));
  }
}

void missing(std::string& out) {
  out += "not supported, but asked for:\n";
  for (const MissingPiece& m : missing_pieces()) {
    out += str_printf("  %-32s %#12llx  %llu times\n", m.name.c_str(), static_cast<unsigned long long>(m.detail),
                      static_cast<unsigned long long>(m.count));
  }
}

// What of the host's kernel an attacker can reach who has taken over a stub, or the sentry.
void surface(std::string& out) {
  out += "calls that a stub may make:\n";
  for (const std::string& line : platform::host_surface()) out += "  " + line + "\n";
  out += "calls that the sentry may make:\n";
  for (const std::string& line : sentry_surface()) out += "  " + line + "\n";
}

}  // namespace

std::string debug_text(const std::string& what) {
  std::string out;
  bool all = what.empty() || what == "all";
  if (all || what == "tasks" || what == "stacks") tasks(out);
  if (all || what == "fds") files(out);
  if (all || what == "mounts") mounts(out);
  if (all || what == "counters") counters(out);
  if (all || what == "missing") missing(out);
  if (all || what == "platform") out += kernel().platform->debug_state();
  if (what == "surface") surface(out);
  if (out.empty()) {
    out = "sbx debug: " + what + ": known are tasks, fds, mounts, counters, missing, platform, surface, all\n";
  }
  return out;
}

}  // namespace sbx::control
