// Resource limits and usage (kernel/sys.c).
#include <linux/capability.h>

#include <algorithm>

#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/process_timers.h"

namespace sbx::syscalls {

using task::ThreadGroup;

namespace {

constexpr u64 kMaxOpenFiles = 1 << 20;  // fs.nr_open

Result<void> set_limit(Task& task, ThreadGroup& group, u32 resource, const rlimit& wanted) {
  rlimit& slot = group.limits[resource];
  if (wanted.rlim_cur > wanted.rlim_max) return Errno::kInval;
  if (resource == RLIMIT_NOFILE && wanted.rlim_max > kMaxOpenFiles) return Errno::kPerm;
  if (wanted.rlim_max > slot.rlim_max && !task.creds->capable(CAP_SYS_RESOURCE)) return Errno::kPerm;
  slot = wanted;
  if (resource == RLIMIT_AS || resource == RLIMIT_DATA) group.apply_memory_limits();
  if (resource == RLIMIT_STACK) {
    for (Task* each : group.tasks) each->publish_identity();
  }
  return {};
}

bool may_see_limits(const Task& task, const ThreadGroup& target) {
  if (task.group.get() == &target || task.creds->capable(CAP_SYS_RESOURCE)) return true;
  const Task* any = target.leader != nullptr ? target.leader : (target.tasks.empty() ? nullptr : target.tasks[0]);
  if (any == nullptr) return false;
  const security::Credentials &from = *task.creds, &to = *any->creds;
  return from.uid == to.euid && from.uid == to.suid && from.uid == to.uid && from.gid == to.egid &&
         from.gid == to.sgid && from.gid == to.gid;
}

}  // namespace

Result<i64> sys_getrlimit(Task& task, Int resource, OutBuf out) {
  if (static_cast<u32>(resource) >= RLIM_NLIMITS) return Errno::kInval;
  TRY(Out<rlimit>{out.addr}.write(task, task.group->limits[static_cast<size_t>(resource)]));
  return 0;
}

Result<i64> sys_setrlimit(Task& task, Int resource, InBuf in) {
  rlimit wanted = TRY(In<rlimit>{in.addr}.read(task));
  if (static_cast<u32>(resource) >= RLIM_NLIMITS) return Errno::kInval;
  TRY(set_limit(task, *task.group, static_cast<u32>(resource), wanted));
  return 0;
}

Result<i64> sys_prlimit64(Task& task, Pid pid, Int resource, InBuf in, OutBuf out) {
  if (static_cast<u32>(resource) >= RLIM_NLIMITS) return Errno::kInval;
  rlimit wanted{};
  if (in.addr != 0) wanted = TRY(In<rlimit>{in.addr}.read(task));
  ThreadGroup* group = task.group.get();
  if (pid.n != 0) {
    Task* target = task::kernel().find_task(pid.n);
    if (target == nullptr) return Errno::kSrch;
    group = target->group.get();
  }
  if (!may_see_limits(task, *group)) return Errno::kPerm;
  const rlimit old = group->limits[static_cast<size_t>(resource)];
  if (in.addr != 0) TRY(set_limit(task, *group, static_cast<u32>(resource), wanted));
  if (out.addr != 0) TRY(Out<rlimit>{out.addr}.write(task, old));
  return 0;
}

namespace {

// struct rusage of x86-64: times, then maxrss, ixrss, idrss, isrss, minflt, majflt, ...
struct GuestUsage {
  i64 utime[2], stime[2];
  i64 maxrss, ixrss, idrss, isrss, minflt, majflt, nswap, inblock, oublock, msgsnd, msgrcv, nsignals, nvcsw, nivcsw;
};
static_assert(sizeof(GuestUsage) == 144);

GuestUsage guest_usage(const task::Usage& u) {
  GuestUsage out{};
  auto split = [](u64 us, i64* to) {
    to[0] = static_cast<i64>(us / 1'000'000);
    to[1] = static_cast<i64>(us % 1'000'000);
  };
  split(u.utime_us, out.utime);
  split(u.stime_us, out.stime);
  out.maxrss = static_cast<i64>(u.maxrss_kb);
  out.minflt = static_cast<i64>(u.minflt);
  out.majflt = static_cast<i64>(u.majflt);
  out.nvcsw = static_cast<i64>(u.nvcsw);
  out.nivcsw = static_cast<i64>(u.nivcsw);
  return out;
}

}  // namespace

Result<i64> sys_getrusage(Task& task, Int who, OutBuf out) {
  constexpr i32 kSelf = 0, kChildren = -1, kThread = 1;
  task::Usage usage;
  if (who == kChildren) {
    usage = task.group->children_usage;
  } else if (who == kSelf || (who == kThread && task.group->tasks.size() == 1)) {
    usage = task::group_usage(*task.group);
    const u64 user = process_cpu_ns(*task.group, time::CpuKind::kUser);
    const u64 total = std::max(user, process_cpu_ns(*task.group, time::CpuKind::kTotal));
    usage.utime_us = user / 1000;
    usage.stime_us = (total - user) / 1000;
  } else {
    return Errno::kInval;
  }
  TRY(Out<GuestUsage>{out.addr}.write(task, guest_usage(usage)));
  return 0;
}

}  // namespace sbx::syscalls
