// Inside the syscalls room: timers of a process that Linux keeps in signal_struct, and CPU time of processes.
#pragma once
#include <map>
#include <memory>

#include "sentry/task/kernel.h"
#include "sentry/time/alarm.h"

namespace sbx::syscalls {

// CPU time used by the process so far, former images included.
u64 process_cpu_ns(const task::ThreadGroup& group, time::CpuKind kind);
// The clock behind a guest's clock id for the CPU clocks; kInval if there is none or its task is gone.
Result<u64> cpu_clock_ns(task::Task& task, clockid_t clock);

struct PosixTimer {
  i32 id = 0;
  clockid_t clock = CLOCK_MONOTONIC;
  i32 notify = 0;  // SIGEV_*
  i32 signo = 0;
  i32 target_tid = 0;  // SIGEV_THREAD_ID
  u64 value = 0;
  i32 overrun = 0;  // of the last signal
  std::unique_ptr<time::Alarm> alarm;
};

// Lives in ThreadGroup::posix_timers; gone at exec and exit.
struct ProcessTimers {
  std::map<i32, std::unique_ptr<PosixTimer>> posix;
  i32 next_id = 0;
  std::unique_ptr<time::Alarm> virtual_timer, profile_timer;  // ITIMER_VIRTUAL, ITIMER_PROF
};
ProcessTimers& timers_of(task::ThreadGroup& group);

}  // namespace sbx::syscalls
