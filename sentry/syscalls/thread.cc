// Thread calls that the stub answers natively (docs/platform.md, tier 0). What arrives here is what the stub passed on:
// forms it does not know, or everything while all calls are reported.
#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

Result<i64> sys_futex(Task&, UserAddr, Int op, UInt, ULong, UserAddr, UInt) {
  // Priority inheritance needs the guest's ids to be the host's; glibc falls back (ENOTSUP from pthread).
  STUB("futex", op);
  return Errno::kNosys;
}

Result<i64> sys_set_tid_address(Task& task, UserAddr) { return task.tid; }

Result<i64> sys_set_robust_list(Task& task, UserAddr head, Size length) {
  if (length != 24) return Errno::kInval;  // sizeof(struct robust_list_head)
  task.robust_list = head.addr;
  return 0;
}

Result<i64> sys_get_robust_list(Task& task, Pid pid, OutBuf head, OutBuf length) {
  Task* target = pid.n == 0 ? &task : task::kernel().find_task(pid.n);
  if (target == nullptr) return Errno::kSrch;
  u64 size = 24;
  TRY(task.memory().write(length.addr, &size, sizeof(size)));
  TRY(task.memory().write(head.addr, &target->robust_list, sizeof(u64)));
  return 0;
}

Result<i64> sys_arch_prctl(Task&, Int code, ULong) {
  STUB("arch_prctl", code);
  return Errno::kInval;
}

Result<i64> sys_sched_yield(Task&) { return 0; }

Result<i64> sys_rt_sigreturn(Task& task) {
  // Sigreturn is the stub's alone: one that arrives here had no frame.
  task::exit_group(*task.group, SIGSEGV);
  return 0;
}

// The interrupted call is repeated by the sentry itself, so guests have nothing to restart.
Result<i64> sys_restart_syscall(Task&) { return Errno::kIntr; }

}  // namespace sbx::syscalls
