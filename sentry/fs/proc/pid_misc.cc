// /proc/PID: mounts, limits and the small files.
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "sentry/base/log.h"
#include "sentry/fs/proc/host_facts.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/proc/target.h"

namespace sbx::fs::proc {

using task::Task;
using ull = unsigned long long;

namespace {

std::string escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\\')
      out += str_printf("\\%03o", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out;
}

std::string mount_options(const vfs::Mount& mount) {
  static constexpr struct {
    u64 flag;
    const char* name;
  } kNames[] = {{MS_NOSUID, ",nosuid"},   {MS_NODEV, ",nodev"},           {MS_NOEXEC, ",noexec"},
                {MS_NOATIME, ",noatime"}, {MS_NODIRATIME, ",nodiratime"}, {MS_RELATIME, ",relatime"}};
  std::string out = mount.read_only() ? "ro" : "rw";
  for (const auto& option : kNames) {
    if ((mount.flags & option.flag) != 0) out += option.name;
  }
  return out;
}

std::string path_in_fs(const vfs::Dentry* dentry) {
  std::string path;
  for (; dentry != nullptr && dentry->parent() != nullptr; dentry = dentry->parent())
    path = "/" + dentry->name() + path;
  return path.empty() ? "/" : path;
}

// Calls visit(mount, mount point as the process sees it) for each mount below its root.
template <typename Visit>
Result<void> each_mount(const Target& target, Visit visit) {
  const Task* t = TRY(target.live_task());
  if (!t->fs || !t->mounts) return Errno::kSrch;
  for (const auto& mount : t->mounts->mounts()) {
    std::string at = vfs::path_text(vfs::Path{mount, mount->root()}, t->fs->root);
    if (at.starts_with("(unreachable)")) continue;
    visit(*mount, at);
  }
  return {};
}

std::string device_of(const vfs::Mount& mount) { return mount.source.empty() ? "none" : escape(mount.source); }

}  // namespace

Result<std::string> mounts_text(const Target& target) {
  std::string out;
  TRY(each_mount(target, [&](const vfs::Mount& mount, const std::string& at) {
    std::string own = mount.fs().options();
    out += device_of(mount) + " " + escape(at) + " " + mount.fs().type_name() + " " + mount_options(mount) +
           (own.empty() ? "" : "," + own) + " 0 0\n";
  }));
  return out;
}

Result<std::string> mountinfo_text(const Target& target) {
  std::string out;
  TRY(each_mount(target, [&](const vfs::Mount& mount, const std::string& at) {
    std::string own = mount.fs().options();
    const u64 dev = mount.fs().dev();
    out += str_printf("%u %u %u:%u ", mount.id(), mount.parent() != nullptr ? mount.parent()->id() : 1, major(dev),
                      minor(dev));
    out += escape(path_in_fs(mount.root().get())) + " " + escape(at) + " " + mount_options(mount) + " - " +
           mount.fs().type_name() + " " + device_of(mount) + " " + (mount.fs().read_only() ? "ro" : "rw") +
           (own.empty() ? "" : "," + own) + "\n";
  }));
  return out;
}

Result<std::string> mountstats_text(const Target& target) {
  std::string out;
  TRY(each_mount(target, [&](const vfs::Mount& mount, const std::string& at) {
    out += "device " + device_of(mount) + " mounted on " + escape(at) + " with fstype " + mount.fs().type_name() + "\n";
  }));
  return out;
}

Result<std::string> limits_text(const Target& target) {
  static constexpr struct {
    int resource;
    const char *name, *unit;
  } kRows[] = {{RLIMIT_CPU, "Max cpu time", "seconds"},         {RLIMIT_FSIZE, "Max file size", "bytes"},
               {RLIMIT_DATA, "Max data size", "bytes"},         {RLIMIT_STACK, "Max stack size", "bytes"},
               {RLIMIT_CORE, "Max core file size", "bytes"},    {RLIMIT_RSS, "Max resident set", "bytes"},
               {RLIMIT_NPROC, "Max processes", "processes"},    {RLIMIT_NOFILE, "Max open files", "files"},
               {RLIMIT_MEMLOCK, "Max locked memory", "bytes"},  {RLIMIT_AS, "Max address space", "bytes"},
               {RLIMIT_LOCKS, "Max file locks", "locks"},       {RLIMIT_SIGPENDING, "Max pending signals", "signals"},
               {RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"}, {RLIMIT_NICE, "Max nice priority", ""},
               {RLIMIT_RTPRIO, "Max realtime priority", ""},    {RLIMIT_RTTIME, "Max realtime timeout", "us"}};
  auto value = [](u64 v) { return v == RLIM_INFINITY ? std::string("unlimited") : std::to_string(v); };
  std::string out = str_printf("%-25s %-20s %-20s %-10s\n", "Limit", "Soft Limit", "Hard Limit", "Units");
  for (const auto& row : kRows) {
    const rlimit& limit = target.group->limits[static_cast<size_t>(row.resource)];
    out += str_printf("%-25s %-20s %-20s %-10s\n", row.name, value(limit.rlim_cur).c_str(),
                      value(limit.rlim_max).c_str(), row.unit);
  }
  return out;
}

// The sentry moves the bytes of all processes and does not account them by process.
Result<std::string> io_text(const Target&) {
  return std::string(
      "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
}

Result<std::string> cgroup_text(const Target& target) { return "0::" + target.group->container->cgroup_shown + "\n"; }

Result<std::string> wchan_text(const Target& target) {
  const Task* t = target.task();
  if (t == nullptr || t->fiber == nullptr || t->fiber->parked_since() == 0 || t->fiber->wait_reason() == nullptr) {
    return std::string("0");
  }
  std::string out = t->fiber->wait_reason();
  for (char& c : out) {
    if (c == ' ') c = '_';
  }
  return out;
}

Result<std::string> syscall_text(const Target& target) {
  const Task* t = TRY(target.live_task());
  if (!t->thread->in_sentry()) return std::string("running\n");
  const platform::Entry& e = t->entry;
  return str_printf("%u 0x%llx 0x%llx 0x%llx 0x%llx 0x%llx 0x%llx 0x%llx 0x%llx\n", e.nr, static_cast<ull>(e.args[0]),
                    static_cast<ull>(e.args[1]), static_cast<ull>(e.args[2]), static_cast<ull>(e.args[3]),
                    static_cast<ull>(e.args[4]), static_cast<ull>(e.args[5]), static_cast<ull>(t->thread->last_sp()),
                    static_cast<ull>(t->thread->last_ip()));
}

Result<std::string> sched_text(const Target& target) {
  const Task* t = TRY(target.live_task());
  const CpuTimes cpu = group_cpu(*target.group);
  const u64 ns = cpu.user_ns + cpu.system_ns;
  return str_printf("%s (%d, #threads: %zu)\n%s\nse.sum_exec_runtime : %25llu.%06llu\npolicy : %u\nprio : %d\n",
                    t->comm.c_str(), t->tid, target.group->tasks.size(), std::string(67, '-').c_str(),
                    static_cast<ull>(ns / 1'000'000), static_cast<ull>(ns % 1'000'000), t->sched_policy, 120 + t->nice);
}

Result<std::string> schedstat_text(const Target& target) {
  const CpuTimes cpu = group_cpu(*target.group);
  return str_printf("%llu 0 0\n", static_cast<ull>(cpu.user_ns + cpu.system_ns));
}

Result<std::string> uid_map_text(const Target&) { return std::string("         0          0 4294967295\n"); }

Result<std::string> personality_text(const Target& target) {
  return str_printf("%08x\n", TRY(target.live_task())->personality);
}

Result<std::string> oom_score_adj_text(const Target& target) {
  return std::to_string(target.group->oom_score_adj) + "\n";
}

Result<std::string> oom_adj_text(const Target& target) {
  const i32 adj = target.group->oom_score_adj;
  return std::to_string(adj == 1000 ? 15 : adj * 17 / 1000) + "\n";
}

}  // namespace sbx::fs::proc
