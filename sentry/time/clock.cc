#include "sentry/time/clock.h"

#include <algorithm>

namespace sbx::time {

Result<u64> to_ns(const timespec& ts) {
  if (ts.tv_sec < 0 || ts.tv_nsec < 0 || ts.tv_nsec >= static_cast<i64>(kNsPerSec)) return Errno::kInval;
  u64 ns;
  if (__builtin_mul_overflow(static_cast<u64>(ts.tv_sec), kNsPerSec, &ns) || ns >= kForever - kNsPerSec) {
    return kForever;
  }
  return ns + static_cast<u64>(ts.tv_nsec);
}

Result<u64> to_ns(const timeval& tv) {
  if (tv.tv_usec < 0 || tv.tv_usec >= 1'000'000) return Errno::kInval;
  return to_ns(timespec{tv.tv_sec, static_cast<long>(tv.tv_usec * 1000)});
}

timespec to_timespec(u64 ns) { return {static_cast<time_t>(ns / kNsPerSec), static_cast<long>(ns % kNsPerSec)}; }

timeval to_timeval(u64 ns) {
  return {static_cast<time_t>(ns / kNsPerSec), static_cast<suseconds_t>(ns % kNsPerSec / kNsPerUs)};
}

u64 host_clock_ns(clockid_t clock) {
  timespec ts{};
  if (::clock_gettime(clock, &ts) != 0) return 0;
  return static_cast<u64>(ts.tv_sec) * kNsPerSec + static_cast<u64>(ts.tv_nsec);
}

u64 monotonic_of(clockid_t clock, u64 at) {
  if (at >= kForever) return kForever;
  const u64 monotonic = host_clock_ns(CLOCK_MONOTONIC);
  const u64 now = clock == CLOCK_MONOTONIC ? monotonic : host_clock_ns(clock);
  return at <= now ? monotonic : std::min(kForever, monotonic + (at - now));
}

u64 boottime_of(u64 monotonic_ns) {
  const u64 asleep = host_clock_ns(CLOCK_BOOTTIME) - host_clock_ns(CLOCK_MONOTONIC);
  // The two reads are not one instant: with no sleep at all the difference is noise.
  return asleep < kNsPerMs || asleep > kForever ? monotonic_ns : monotonic_ns + asleep;
}

u64 host_process_cpu_ns(i32 host_pid, CpuKind kind) {
  if (host_pid <= 0) return 0;
  return host_clock_ns(static_cast<clockid_t>((~static_cast<u32>(host_pid) << 3) | static_cast<u32>(kind)));
}

Result<CpuClockId> decode_cpu_clock(clockid_t clock) {
  if (clock == CLOCK_PROCESS_CPUTIME_ID) return CpuClockId{0, false, CpuKind::kTotal};
  if (clock == CLOCK_THREAD_CPUTIME_ID) return CpuClockId{0, true, CpuKind::kTotal};
  if (clock >= 0) return Errno::kInval;
  const i32 pid = ~(clock >> 3);
  const u32 which = static_cast<u32>(clock) & 3;
  if (which == 3 || pid < 0) return Errno::kInval;
  return CpuClockId{pid, (clock & 4) != 0, which == 1 ? CpuKind::kUser : CpuKind::kTotal};
}

}  // namespace sbx::time
