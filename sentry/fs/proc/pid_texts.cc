// /proc/PID: status, stat, memory (fs/proc/array.c, fs/proc/task_mmu.c).
#include <algorithm>
#include <array>

#include "sentry/base/log.h"
#include "sentry/fs/proc/host_facts.h"
#include "sentry/fs/proc/maps.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/proc/target.h"
#include "sentry/task/ptrace.h"
#include "sentry/time/clock.h"

namespace sbx::fs::proc {

using security::Credentials;
using signal::SigSet;
using task::kernel;
using task::Task;
using task::ThreadGroup;
using time::kNsPerTick;
using ull = unsigned long long;

namespace {

// Areas of ours in a stub are the same in all: learnt once from a host map.
u64& hidden_pages() {
  static u64 pages = 0;
  return pages;
}

std::string comm_of(const Target& target) {
  if (const Task* t = target.task()) return t->comm;
  return target.group->zombie_comm.empty() ? target.group->comm_of_leader() : target.group->zombie_comm;
}

// Third field of the host's stat, for threads that run guest code.
char host_state(std::string_view stat) {
  size_t paren = stat.rfind(')');
  return paren != std::string_view::npos && paren + 2 < stat.size() ? stat[paren + 2] : 'R';
}

char state_of(const Target& target, std::string_view host_stat) {
  char letter = state_letter(target);
  if (letter != '?') return letter;
  const Task* t = target.task();
  // The host's file speaks of the first thread of the host process only.
  if (t == nullptr || t->thread->host_tid() != target.host_pid()) return 'S';
  char c = host_state(host_stat);
  return c == 'R' || c == 'D' || c == 'S' ? c : 'S';
}

struct Statm {
  u64 size = 0, resident = 0, shared = 0, text = 0, data = 0;
};

Statm memory_of(const Target& target) {
  Statm m;
  const i32 pid = target.host_pid();
  if (pid == 0) return m;
  if (hidden_pages() == 0) {
    if (auto maps = read_host_proc(pid, "maps")) hidden_pages() = hidden_bytes(*maps) / kPageSize;
  }
  auto text = read_host_proc(pid, "statm");
  if (!text) return m;
  ull v[7] = {};
  if (sscanf(text->c_str(), "%llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6]) <
      6) {
    return m;
  }
  m.size = v[0] - std::min<u64>(v[0], hidden_pages());
  m.resident = std::min<u64>(v[1], m.size);
  m.shared = v[2];
  m.text = v[3];
  m.data = v[5] - std::min<u64>(v[5], hidden_pages());
  return m;
}

const char* state_name(char letter) {
  switch (letter) {
    case 'R': return "R (running)";
    case 'D': return "D (disk sleep)";
    case 'T': return "T (stopped)";
    case 't': return "t (tracing stop)";
    case 'Z': return "Z (zombie)";
    default: return "S (sleeping)";
  }
}

i32 tracer_of(const Task* t) {
  const Task* tracer = t != nullptr && t->trace ? t->trace->tracer : nullptr;
  return tracer != nullptr ? tracer->pid() : 0;
}

struct SignalSets {
  SigSet pending = 0, shared = 0, blocked = 0, ignored = 0, caught = 0;
};

SignalSets signal_sets(const Target& target) {
  SignalSets s;
  const Task* t = target.task();
  if (t != nullptr) {
    s.pending = t->pending.set();
    s.blocked = t->thread->signal_mask();
  }
  s.shared = target.group->pending.set();
  if (target.group->actions) {
    for (int signo = 1; signo <= signal::kMaxSignal; ++signo) {
      const signal::Action& action = target.group->actions->of[static_cast<size_t>(signo)];
      if (action.is_ignored())
        s.ignored |= signal::bit(signo);
      else if (!action.is_default())
        s.caught |= signal::bit(signo);
    }
  }
  return s;
}

i32 parent_of(const ThreadGroup& group) { return group.parent != nullptr ? group.parent->pid : 0; }

std::string escape_comm(const std::string& comm) {
  std::string out;
  for (char c : comm) {
    if (c == '\n')
      out += "\\n";
    else if (c == '\\')
      out += "\\\\";
    else
      out += c;
  }
  return out;
}

std::string cpu_mask_text(const std::vector<u32>& cpus) {
  std::vector<u32> words((cpus.empty() ? 0 : cpus.back() / 32) + 1);
  for (u32 cpu : cpus) words[cpu / 32] |= 1u << (cpu % 32);
  std::string out;
  for (size_t i = words.size(); i-- > 0;) out += str_printf(out.empty() ? "%x" : ",%08x", words[i]);
  return out;
}

// The Vm and Rss lines of the host's status, without what is ours.
std::string memory_lines(const std::string& host_status) {
  std::string out;
  for (size_t at = 0; at < host_status.size();) {
    size_t end = std::min(host_status.find('\n', at), host_status.size());
    std::string line = host_status.substr(at, end - at);
    at = end + 1;
    if (line.starts_with("VmPeak:") || line.starts_with("VmSize:") || line.starts_with("VmData:")) {
      u64 kb = strtoull(line.c_str() + 7, nullptr, 10), hidden = hidden_pages() * (kPageSize / 1024);
      line = str_printf("%s\t%8llu kB", line.substr(0, 7).c_str(), static_cast<ull>(kb - std::min(kb, hidden)));
    } else if (!line.starts_with("Vm") && !line.starts_with("Rss") && !line.starts_with("HugetlbPages")) {
      continue;
    }
    out += line + "\n";
  }
  return out;
}

}  // namespace

Result<std::string> stat_text(const Target& target) {
  const i32 host_pid = target.host_pid();
  std::string host_stat;
  if (host_pid != 0) {
    if (auto text = read_host_proc(host_pid, "stat")) host_stat = std::move(*text);
  }
  const Statm memory = memory_of(target);
  if (!target.alive()) return Errno::kSrch;
  const ThreadGroup& g = *target.group;
  const Task* t = target.task();
  const SignalSets sets = signal_sets(target);
  const CpuTimes cpu = group_cpu(g);
  const task::Usage usage = task::group_usage(g);
  const bool may = target.may_read();
  const task::ImageInfo* image = g.image.get();
  i32 tty = 0, foreground = -1, pgrp = 0, sid = 0;
  if (g.group) {
    pgrp = g.group->pgid;
    sid = g.session().sid;
    if (const auto& controlling = g.session().tty) {
      const u64 rdev = controlling->rdev();
      // tty_nr has the old layout: minor 7..0 and 31..20, major 15..8.
      const u64 major = (rdev >> 8) & 0xfff, minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
      tty = static_cast<i32>((minor & 0xff) | (major << 8) | ((minor & ~0xffull) << 12));
      foreground = controlling->foreground_pgid();
    }
  }
  const i32 nice = t != nullptr ? t->nice : 0;
  std::string out =
      str_printf("%d (%s) %c %d %d %d %d %d 0 ", target.tid != 0 ? target.tid : g.pid, comm_of(target).c_str(),
                 state_of(target, host_stat), parent_of(g), pgrp, sid, tty, foreground);
  out += str_printf("%llu 0 %llu 0 %llu %llu %llu %llu ", static_cast<ull>(usage.minflt),
                    static_cast<ull>(usage.majflt), static_cast<ull>(cpu.user_ns / kNsPerTick),
                    static_cast<ull>(cpu.system_ns / kNsPerTick), static_cast<ull>(g.children_usage.utime_us / 10000),
                    static_cast<ull>(g.children_usage.stime_us / 10000));
  out += str_printf("%d %d %zu 0 %llu %llu %llu %llu ", 20 + nice, nice, g.tasks.size(),
                    static_cast<ull>(time::boottime_of(g.start_time_ns) / kNsPerTick),
                    static_cast<ull>(memory.size * kPageSize), static_cast<ull>(memory.resident),
                    static_cast<ull>(g.limit(RLIMIT_RSS)));
  out += str_printf("1 1 %llu 0 0 %llu %llu %llu %llu 0 0 0 %d 0 0 %u 0 0 0 ",
                    static_cast<ull>(may && image != nullptr ? image->stack_start : 0),
                    static_cast<ull>(sets.pending & 0x7fffffff), static_cast<ull>(sets.blocked & 0x7fffffff),
                    static_cast<ull>(sets.ignored & 0x7fffffff), static_cast<ull>(sets.caught & 0x7fffffff),
                    g.exit_signal, t != nullptr ? t->sched_policy : 0);
  if (may && image != nullptr) {
    out += str_printf("0 0 %llu %llu %llu %llu %llu %d\n", static_cast<ull>(image->brk_start),
                      static_cast<ull>(image->arg_start), static_cast<ull>(image->arg_end),
                      static_cast<ull>(image->env_start), static_cast<ull>(image->env_end), g.exit_status);
  } else {
    out += "0 0 0 0 0 0 0 0\n";
  }
  return out;
}

Result<std::string> statm_text(const Target& target) {
  const Statm m = memory_of(target);
  if (!target.alive()) return Errno::kSrch;
  return str_printf("%llu %llu %llu %llu 0 %llu 0\n", static_cast<ull>(m.size), static_cast<ull>(m.resident),
                    static_cast<ull>(m.shared), static_cast<ull>(m.text), static_cast<ull>(m.data));
}

Result<std::string> status_text(const Target& target) {
  const i32 host_pid = target.host_pid();
  std::string host_status, host_stat;
  if (host_pid != 0) {
    memory_of(target);  // learns what is hidden
    if (auto text = read_host_proc(host_pid, "status")) host_status = std::move(*text);
    if (state_letter(target) == '?') {
      if (auto text = read_host_proc(host_pid, "stat")) host_stat = std::move(*text);
    }
  }
  if (!target.alive()) return Errno::kSrch;
  const ThreadGroup& g = *target.group;
  const Task* t = target.task();
  const Credentials* creds = t != nullptr ? t->creds.get() : nullptr;
  const i32 id = target.tid != 0 ? target.tid : g.pid;
  std::string out = "Name:\t" + escape_comm(comm_of(target)) + "\n";
  if (t != nullptr && t->fs) out += str_printf("Umask:\t%04o\n", t->fs->umask);
  out += str_printf("State:\t%s\nTgid:\t%d\nNgid:\t0\nPid:\t%d\nPPid:\t%d\nTracerPid:\t%d\n",
                    state_name(state_of(target, host_stat)), g.pid, id, parent_of(g), tracer_of(t));
  if (creds != nullptr) {
    out += str_printf("Uid:\t%u\t%u\t%u\t%u\nGid:\t%u\t%u\t%u\t%u\n", creds->uid, creds->euid, creds->suid,
                      creds->fsuid, creds->gid, creds->egid, creds->sgid, creds->fsgid);
  } else {
    out +=
        str_printf("Uid:\t%u\t%u\t%u\t%u\nGid:\t0\t0\t0\t0\n", g.zombie_uid, g.zombie_uid, g.zombie_uid, g.zombie_uid);
  }
  size_t fd_size = 0;
  if (t != nullptr && t->fds) {
    t->fds->for_each([&](int fd, vfs::File&, bool) { fd_size = static_cast<size_t>(fd) + 1; });
    fd_size = (fd_size + 63) / 64 * 64;
  }
  out += str_printf("FDSize:\t%zu\nGroups:\t", fd_size);
  if (creds != nullptr) {
    for (u32 group : creds->groups) out += std::to_string(group) + " ";
  }
  out += str_printf("\nNStgid:\t%d\nNSpid:\t%d\nNSpgid:\t%d\nNSsid:\t%d\nKthread:\t0\n", g.pid, id,
                    g.group ? g.group->pgid : 0, g.group ? g.session().sid : 0);
  out += memory_lines(host_status);
  if (t != nullptr) out += "CoreDumping:\t0\nTHP_enabled:\t1\n";
  const SignalSets s = signal_sets(target);
  out += str_printf("Threads:\t%zu\nSigQ:\t0/%llu\nSigPnd:\t%016llx\nShdPnd:\t%016llx\nSigBlk:\t%016llx\n",
                    g.tasks.size(), static_cast<ull>(g.limit(RLIMIT_SIGPENDING)), static_cast<ull>(s.pending),
                    static_cast<ull>(s.shared), static_cast<ull>(s.blocked));
  out += str_printf("SigIgn:\t%016llx\nSigCgt:\t%016llx\n", static_cast<ull>(s.ignored), static_cast<ull>(s.caught));
  if (creds != nullptr) {
    out += str_printf("CapInh:\t%016llx\nCapPrm:\t%016llx\nCapEff:\t%016llx\nCapBnd:\t%016llx\nCapAmb:\t%016llx\n",
                      static_cast<ull>(creds->inheritable), static_cast<ull>(creds->permitted),
                      static_cast<ull>(creds->effective), static_cast<ull>(creds->bounding),
                      static_cast<ull>(creds->ambient));
    const u32 filters = t != nullptr && t->seccomp ? t->seccomp->count() : 0;
    out += str_printf("NoNewPrivs:\t%d\nSeccomp:\t%d\nSeccomp_filters:\t%u\n", creds->no_new_privs ? 1 : 0,
                      filters != 0 ? 2 : 0, filters);
  }
  const auto& cpus = host_facts().cpus;
  out += "Cpus_allowed:\t" + cpu_mask_text(cpus) + "\nCpus_allowed_list:\t" + cpu_list(cpus) +
         "\nMems_allowed:\t1\nMems_allowed_list:\t0\n";
  const task::Usage usage = task::group_usage(g);
  out += str_printf("voluntary_ctxt_switches:\t%llu\nnonvoluntary_ctxt_switches:\t%llu\n",
                    static_cast<ull>(usage.nvcsw), static_cast<ull>(usage.nivcsw));
  return out;
}

namespace {

std::string read_guest(Task& t, u64 start, u64 end, u64 most) {
  if (end <= start) return {};
  std::string out(std::min(end - start, most), '\0');
  auto got = t.thread->read_some(start, out.data(), out.size());
  out.resize(got ? *got : 0);
  return out;
}

constexpr u64 kMostText = 2 << 20;

}  // namespace

Result<std::string> cmdline_text(const Target& target) {
  Task* t = target.task();
  const task::ImageInfo* image = target.group->image.get();
  if (t == nullptr || image == nullptr) return std::string();
  RefPtr<task::ImageInfo> keep(target.group->image);
  std::string out = read_guest(*t, image->arg_start, image->arg_end, kMostText);
  // setproctitle: a title that overwrote the final NUL goes on into the environment (fs/proc/base.c).
  if (!out.empty() && out.back() != '\0') {
    Task* again = target.task();
    std::string more = again != nullptr ? read_guest(*again, image->arg_end, image->env_end, 64 * 1024) : "";
    out += more.substr(0, more.find('\0'));
    out.resize(std::min(out.size(), out.find('\0')));
  }
  return out;
}

Result<std::string> environ_text(const Target& target) {
  Task* t = target.task();
  const task::ImageInfo* image = target.group->image.get();
  if (t == nullptr || image == nullptr) return std::string();
  return read_guest(*t, image->env_start, image->env_end, kMostText);
}

Result<std::string> comm_text(const Target& target) { return comm_of(target) + "\n"; }

Result<std::string> auxv_text(const Target& target) {
  if (!target.group->image) return std::string();
  return target.group->image->auxv;
}

namespace {

// Host paths of mapped files end with the guest's path when the file lies in the rootfs: the mounted part in front is
// cut by what the guest's own root can resolve. The host's layout must not be shown.
std::string guest_path(const Target& target, std::string_view host) {
  const Task* t = target.task();
  if (t == nullptr || !t->fs) return std::string(host.substr(host.rfind('/') + 1));
  std::string deleted;
  if (host.ends_with(" (deleted)")) {
    deleted = " (deleted)";
    host.remove_suffix(deleted.size());
  }
  vfs::WalkContext ctx{t->fs->root, t->fs->root, security::kernel_credentials().get(), t->mounts.get()};
  RefPtr<vfs::MountNamespace> keep(t->mounts);
  for (size_t at = 0; at != std::string_view::npos; at = host.find('/', at + 1)) {
    std::string_view tail = host.substr(at);
    if (tail.size() > 1 && vfs::resolve(ctx, tail, {.follow_last = false})) return std::string(tail) + deleted;
  }
  return "/" + std::string(host.substr(host.rfind('/') + 1)) + " (deleted)";
}

Result<std::string> translated(const Target& target, const char* kind) {
  const i32 pid = target.host_pid();
  if (pid == 0) return std::string();
  std::string host = TRY(read_host_proc(pid, kind));
  Task* t = TRY(target.live_task());
  MapsView view;
  if (const auto& image = target.group->image) {
    view.stack = image->stack_start;
    view.heap_start = image->brk_start;
    if (auto space = t->thread->address_space()) view.heap_end = std::max(view.heap_start, space->brk_end());
  }
  std::map<std::string, std::string, std::less<>> known;
  view.path = [&](std::string_view path) {
    auto it = known.find(path);
    if (it == known.end()) it = known.emplace(std::string(path), guest_path(target, path)).first;
    return it->second;
  };
  return translate_maps(host, view);
}

}  // namespace

Result<std::string> maps_text(const Target& target) { return translated(target, "maps"); }
Result<std::string> smaps_text(const Target& target) { return translated(target, "smaps"); }
Result<std::string> smaps_rollup_text(const Target& target) {
  const i32 pid = target.host_pid();
  if (pid == 0) return Errno::kSrch;
  return read_host_proc(pid, "smaps_rollup");
}

}  // namespace sbx::fs::proc
