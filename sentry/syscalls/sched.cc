// Scheduling calls. Threads are scheduled by the host: affinity is real (the host's), policy and nice value are kept as
// the guest set them and shown back, but nothing is asked of the host for them.
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"

namespace sbx::syscalls {

using task::kernel;

namespace {

constexpr u32 SCHED_ATTR_SIZE_VER0 = 48;  // linux/sched/types.h, which cannot be included beside sched.h
constexpr i32 kNiceMin = -20, kNiceMax = 19;
constexpr size_t kMaskBytes = 1024 / 8;

Result<Task*> find(Task& task, i32 tid) {
  if (tid < 0) return Errno::kInval;
  Task* target = tid == 0 ? &task : kernel().find_task(tid);
  if (target == nullptr) return Errno::kSrch;
  return target;
}

bool same_owner(const Task& task, const Task& target) {
  return task.creds->euid == target.creds->euid || task.creds->euid == target.creds->uid;
}

bool may_change(const Task& task, const Task& target) {
  return same_owner(task, target) || task.creds->capable(CAP_SYS_NICE);
}

bool may_have_nice(const Task& task, const Task& target, i32 nice) {
  return nice >= target.nice || static_cast<u64>(20 - nice) <= target.group->limit(RLIMIT_NICE) ||
         task.creds->capable(CAP_SYS_NICE);
}

bool is_realtime(u32 policy) { return policy == SCHED_FIFO || policy == SCHED_RR; }

// Real-time scheduling is not given: as on a kernel whose group has no real-time budget.
Result<void> set_policy(Task& task, Task& target, u32 policy, u32 priority) {
  if (policy != SCHED_OTHER && policy != SCHED_BATCH && policy != SCHED_IDLE && !is_realtime(policy)) {
    return Errno::kInval;
  }
  if (is_realtime(policy) ? priority < 1 || priority > 99 : priority != 0) return Errno::kInval;
  if (!may_change(task, target)) return Errno::kPerm;
  if (is_realtime(policy)) {
    STUB("sched_setscheduler", policy);
    return Errno::kPerm;
  }
  target.sched_policy = policy;
  return {};
}

}  // namespace

Result<i64> sys_sched_setaffinity(Task& task, Pid tid, Size size, InBuf mask_in) {
  u8 mask[kMaskBytes] = {};
  TRY(task.memory().read(mask_in.addr, mask, std::min<u64>(size, kMaskBytes)));
  Task* target = TRY(find(task, tid.n));
  if (!may_change(task, *target)) return Errno::kPerm;
  if (::sched_setaffinity(target->thread->host_tid(), kMaskBytes, reinterpret_cast<cpu_set_t*>(mask)) != 0) {
    return last_errno();
  }
  return 0;
}

Result<i64> sys_sched_getaffinity(Task& task, Pid tid, Size size, OutBuf mask_out) {
  if ((size & 7) != 0) return Errno::kInval;
  Task* target = TRY(find(task, tid.n));
  u8 mask[kMaskBytes] = {};
  cpu_set_t* set = reinterpret_cast<cpu_set_t*>(mask);
  if (::sched_getaffinity(target->thread->host_tid(), kMaskBytes, set) != 0) return last_errno();
  size_t last = 0;
  for (size_t i = 0; i < kMaskBytes; ++i) {
    if (mask[i] != 0) last = i;
  }
  // The kernel's own mask is as wide as the possible CPUs, in words.
  const size_t width = (last / 8 + 1) * 8;
  if (size < width) return Errno::kInval;
  TRY(task.memory().write(mask_out.addr, mask, width));
  return static_cast<i64>(width);
}

Result<i64> sys_sched_setparam(Task& task, Pid tid, InBuf param) {
  if (param.addr == 0) return Errno::kInval;
  i32 priority = TRY(In<i32>{param.addr}.read(task));
  Task* target = TRY(find(task, tid.n));
  TRY(set_policy(task, *target, target->sched_policy, static_cast<u32>(priority)));
  return 0;
}

Result<i64> sys_sched_getparam(Task& task, Pid tid, OutBuf param) {
  if (param.addr == 0) return Errno::kInval;
  TRY(find(task, tid.n));
  TRY(Out<i32>{param.addr}.write(task, 0));
  return 0;
}

Result<i64> sys_sched_setscheduler(Task& task, Pid tid, Int policy, InBuf param) {
  constexpr i32 kResetOnFork = 0x40000000;
  if (param.addr == 0 || policy < 0) return Errno::kInval;
  i32 priority = TRY(In<i32>{param.addr}.read(task));
  Task* target = TRY(find(task, tid.n));
  TRY(set_policy(task, *target, static_cast<u32>(policy & ~kResetOnFork), static_cast<u32>(priority)));
  return 0;
}

Result<i64> sys_sched_getscheduler(Task& task, Pid tid) { return TRY(find(task, tid.n))->sched_policy; }

Result<i64> sys_sched_get_priority_max(Task&, Int policy) {
  if (policy == SCHED_FIFO || policy == SCHED_RR) return 99;
  if (policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE || policy == 6) return 0;
  return Errno::kInval;
}

Result<i64> sys_sched_get_priority_min(Task&, Int policy) {
  if (policy == SCHED_FIFO || policy == SCHED_RR) return 1;
  if (policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE || policy == 6) return 0;
  return Errno::kInval;
}

Result<i64> sys_sched_rr_get_interval(Task& task, Pid tid, OutBuf interval) {
  TRY(find(task, tid.n));
  constexpr timespec kSlice{0, 4'000'000};
  TRY(Out<timespec>{interval.addr}.write(task, kSlice));
  return 0;
}

Result<i64> sys_sched_setattr(Task& task, Pid tid, InBuf attr_in, Hex flags) {
  if (attr_in.addr == 0 || flags.v != 0) return Errno::kInval;
  u32 size = TRY(In<u32>{attr_in.addr}.read(task));
  if (size == 0) size = SCHED_ATTR_SIZE_VER0;
  if (size < SCHED_ATTR_SIZE_VER0 || size > kPageSize) return Errno::kTooBig;
  // struct sched_attr: size, policy, flags, nice, priority, then deadlines.
  struct {
    u32 size, policy;
    u64 flags;
    i32 nice;
    u32 priority;
  } attr;
  TRY(task.memory().read(attr_in.addr, &attr, sizeof(attr)));
  Task* target = TRY(find(task, tid.n));
  const i32 nice = std::clamp(attr.nice, kNiceMin, kNiceMax);
  if (attr.policy == SCHED_OTHER && !may_have_nice(task, *target, nice)) return Errno::kPerm;
  TRY(set_policy(task, *target, attr.policy, attr.priority));
  if (attr.policy == SCHED_OTHER || attr.policy == SCHED_BATCH) target->nice = nice;
  return 0;
}

Result<i64> sys_sched_getattr(Task& task, Pid tid, OutBuf attr_out, UInt size, Hex flags) {
  if (attr_out.addr == 0 || size < SCHED_ATTR_SIZE_VER0 || size > kPageSize || flags.v != 0) return Errno::kInval;
  Task* target = TRY(find(task, tid.n));
  struct {
    u32 size, policy;
    u64 flags;
    i32 nice;
    u32 priority;
    u64 runtime, deadline, period;
    u32 util_min, util_max;
  } attr{};
  static_assert(sizeof(attr) == 56);
  attr.size = std::min<u32>(size, sizeof(attr));
  attr.policy = target->sched_policy;
  attr.nice = target->nice;
  TRY(task.memory().write(attr_out.addr, &attr, attr.size));
  return 0;
}

namespace {

// The tasks that getpriority and setpriority mean.
Result<std::vector<Task*>> targets_of(Task& task, i32 which, i32 who) {
  std::vector<Task*> targets;
  if (which == PRIO_PROCESS) {
    Task* target = who == 0 ? &task : kernel().find_task(who);
    if (target != nullptr) targets.push_back(target);
  } else if (which == PRIO_PGRP) {
    task::ProcessGroup* group = who == 0 ? task.group->group.get() : kernel().find_process_group(who);
    if (group != nullptr) {
      for (task::ThreadGroup* member : group->members) {
        targets.insert(targets.end(), member->tasks.begin(), member->tasks.end());
      }
    }
  } else if (which == PRIO_USER) {
    const u32 uid = who == 0 ? task.creds->uid : static_cast<u32>(who);
    for (const auto& [pid, group] : kernel().groups()) {
      for (Task* t : group->tasks) {
        if (t->creds->uid == uid) targets.push_back(t);
      }
    }
  } else {
    return Errno::kInval;
  }
  if (targets.empty()) return Errno::kSrch;
  return targets;
}

}  // namespace

// Answers 20 - nice (1..40), so that errors are told apart.
Result<i64> sys_getpriority(Task& task, Int which, Int who) {
  auto targets = TRY(targets_of(task, which, who));
  i32 best = kNiceMax;
  for (const Task* t : targets) best = std::min(best, t->nice);
  return 20 - best;
}

Result<i64> sys_setpriority(Task& task, Int which, Int who, Int value) {
  const i32 nice = std::clamp(value, kNiceMin, kNiceMax);
  auto targets = TRY(targets_of(task, which, who));
  Errno error = Errno::kNone;
  for (Task* t : targets) {
    if (!may_change(task, *t))
      error = Errno::kPerm;
    else if (!may_have_nice(task, *t, nice))
      error = Errno::kAcces;
    else
      t->nice = nice;
  }
  if (error != Errno::kNone) return error;
  return 0;
}

Result<i64> sys_getcpu(Task& task, OutBuf cpu, OutBuf node, UserAddr) {
  // The host's vDSO answers programs natively; a request that comes here was handed over on the caller's CPU.
  unsigned now_cpu = 0, now_node = 0;
  if (::getcpu(&now_cpu, &now_node) != 0) return last_errno();
  if (cpu.addr != 0) TRY(Out<u32>{cpu.addr}.write(task, now_cpu));
  if (node.addr != 0) TRY(Out<u32>{node.addr}.write(task, now_node));
  return 0;
}

}  // namespace sbx::syscalls
