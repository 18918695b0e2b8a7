// The typed event point of every emulated call: counters, strace and the monitor hang here.
#include "sentry/base/counters.h"
#include "sentry/syscalls/strace.h"
#include "sentry/syscalls/table.h"

namespace sbx::syscalls {

i64 dispatch(Task& task) {
  // Copied: the entry changes when the handler lets the thread run (exec, clone).
  const u32 nr = task.entry.nr;
  u64 args[6];
  for (int i = 0; i < 6; ++i) args[i] = task.entry.args[i];
  if (nr >= kRows || kTable[nr].name == nullptr) [[unlikely]] {
    i64 result;
    if (task.seccomp && !task::seccomp_admits(task, nr, args, &result)) return result;
    STUB("syscall", nr);
    return -static_cast<i64>(Errno::kNosys);
  }
  call_counts[nr].fetch_add(1, std::memory_order_relaxed);
  const Row& row = kTable[nr];
  i64 result;
  if (task.seccomp && !task::seccomp_admits(task, nr, args, &result)) [[unlikely]] {
    // Answered by the filter.
  } else if (row.invoke != nullptr) [[likely]] {
    result = row.invoke(task, args);
  } else {
    STUB(row.name, 0);
    result = -static_cast<i64>(row.refusal);
  }
  if (trace_flags != 0) [[unlikely]] {
    if (trace_flags & kTraceStrace) strace_call(task, nr, args, result);
  }
  return result;
}

}  // namespace sbx::syscalls
