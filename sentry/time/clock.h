// Clocks: conversions, the host's clocks, and CPU time of stub processes read from outside (never what a stub says).
#pragma once
#include <sys/time.h>
#include <time.h>

#include "sentry/base/result.h"
#include "sentry/base/types.h"

namespace sbx::time {

constexpr u64 kNsPerSec = 1'000'000'000, kNsPerUs = 1'000, kNsPerMs = 1'000'000;
constexpr u64 kNsPerTick = 10'000'000;  // USER_HZ is 100
// Far enough for ever (292 years), far enough from overflow.
constexpr u64 kForever = 1ull << 63;

// kInval unless 0 <= nsec < 1e9 and sec >= 0. Saturates at kForever.
Result<u64> to_ns(const timespec& ts);
Result<u64> to_ns(const timeval& tv);
timespec to_timespec(u64 ns);
timeval to_timeval(u64 ns);

// A host clock (CLOCK_*) in nanoseconds; 0 if the host does not have it.
u64 host_clock_ns(clockid_t clock);
// CLOCK_MONOTONIC value at which the clock (REALTIME, BOOTTIME, TAI, MONOTONIC) shows `at`; now or later, saturating.
u64 monotonic_of(clockid_t clock, u64 at);
// What CLOCK_BOOTTIME showed at a CLOCK_MONOTONIC instant (start times in /proc are since boot, sleep included).
u64 boottime_of(u64 monotonic_ns);

enum class CpuKind : u8 { kTotal = 0, kUser = 1 };  // CPUCLOCK_PROF, CPUCLOCK_VIRT
// CPU time of a host process (id in the sentry's pid namespace); 0 if it is gone.
u64 host_process_cpu_ns(i32 host_pid, CpuKind kind);

// --- dynamic clock ids of the guest: CPU clocks of processes and threads (include/linux/posix-timers.h) ---
struct CpuClockId {
  i32 pid;  // 0: the caller
  bool thread;
  CpuKind kind;
};
// kInval for ids that are not CPU clocks. Also accepts CLOCK_PROCESS_CPUTIME_ID and CLOCK_THREAD_CPUTIME_ID.
Result<CpuClockId> decode_cpu_clock(clockid_t clock);

}  // namespace sbx::time
