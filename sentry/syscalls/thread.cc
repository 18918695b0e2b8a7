// Thread calls that the stub answers natively (docs/platform.md, tier 0). What arrives here is what the stub passed on:
// forms it does not know, or everything while all calls are reported.
#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

Result<i64> sys_futex(Task&, UserAddr, Int op, UInt, ULong, UserAddr, UInt) {
  // What the stub does not know: FUTEX_WAIT_REQUEUE_PI and the like, which the C libraries do without.
  STUB("futex", op);
  return Errno::kNosys;
}

Result<i64> sys_set_tid_address(Task& task, UserAddr) { return task.tid; }

// The stub has refused it: a bad length.
Result<i64> sys_set_robust_list(Task&, UserAddr, Size) { return Errno::kInval; }

Result<i64> sys_get_robust_list(Task& task, Pid pid, OutBuf head, OutBuf length) {
  Task* target = pid.n == 0 ? &task : task::kernel().find_task(pid.n);
  if (target == nullptr) return Errno::kSrch;
  u64 size = 24;
  TRY(task.memory().write(length.addr, &size, sizeof(size)));
  const u64 list = target->thread->robust_list();
  TRY(task.memory().write(head.addr, &list, sizeof(list)));
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
