// Clocks, sleeping, interval timers (kernel/time/). Most clock reads and sleeps are answered in the stub; what comes
// here is what the stub passes on: CPU clocks of others, unusual clocks, and everything when the stub reports all
// calls.
#include <linux/capability.h>
#include <sys/times.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/process_timers.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

using task::ThreadGroup;
using time::CpuKind;
using time::kNsPerTick;
using time::kNsPerUs;

namespace {

// Wide enough for every host clock there is; CPU clocks are decoded apart.
bool is_plain_clock(clockid_t clock) {
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM:
    case CLOCK_TAI: return true;
    default: return false;
  }
}

struct GuestTimeval {
  i64 sec, usec;
};
struct GuestItimerval {
  GuestTimeval interval, value;
};

GuestItimerval itimerval(u64 interval_ns, u64 value_ns) {
  // Linux shows at least 1 µs while armed.
  timeval i = time::to_timeval(interval_ns), v = time::to_timeval(value_ns == 0 ? 0 : std::max(value_ns, kNsPerUs));
  return {{i.tv_sec, i.tv_usec}, {v.tv_sec, v.tv_usec}};
}

void send_timer_signal(ThreadGroup& group, int signo) {
  signal::SigInfo info;
  info.signo = signo;
  info.code = SI_KERNEL;
  task::send_to_group(group, info);
}

GuestItimerval real_timer_value(const ThreadGroup& group) {
  if (!group.real_timer || !group.real_timer->armed()) return itimerval(0, 0);
  const u64 now = fiber::now_ns(), at = group.real_timer->deadline();
  return itimerval(group.real_interval_ns, at > now ? at - now : 1);
}

void real_timer_fired(ThreadGroup& group) {
  if (group.real_interval_ns != 0) {
    // A period of 1 µs is legal; signals merge anyway.
    const u64 period = std::max(group.real_interval_ns, 50 * kNsPerUs);
    const u64 now = fiber::now_ns();
    u64 next = group.real_timer->deadline() + period;
    if (next <= now) next += (now - next) / period * period + period;
    group.real_timer->arm(next);
  }
  send_timer_signal(group, SIGALRM);
}

void set_real_timer(ThreadGroup& group, u64 value_ns, u64 interval_ns) {
  group.real_interval_ns = interval_ns;
  if (!group.real_timer) {
    group.real_timer = std::make_unique<fiber::Timer>([g = &group] { real_timer_fired(*g); });
  }
  group.real_timer->cancel();
  if (value_ns != 0) group.real_timer->arm(fiber::now_ns() + std::min(value_ns, time::kForever));
}

std::unique_ptr<time::Alarm>& cpu_timer(ThreadGroup& group, int which) {
  ProcessTimers& timers = timers_of(group);
  return which == ITIMER_VIRTUAL ? timers.virtual_timer : timers.profile_timer;
}

Result<GuestItimerval> itimer_value(ThreadGroup& group, int which) {
  switch (which) {
    case ITIMER_REAL: return real_timer_value(group);
    case ITIMER_VIRTUAL:
    case ITIMER_PROF: {
      const auto& alarm = cpu_timer(group, which);
      return alarm ? itimerval(alarm->interval(), alarm->remaining()) : itimerval(0, 0);
    }
    default: return Errno::kInval;
  }
}

}  // namespace

u64 process_cpu_ns(const ThreadGroup& group, CpuKind kind) {
  u64 past = group.usage.utime_us * kNsPerUs;
  if (kind == CpuKind::kTotal) past += group.usage.stime_us * kNsPerUs;
  if (group.zombie || group.tasks.empty()) return past;
  auto space = group.tasks[0]->thread->address_space();
  return past + (space ? time::host_process_cpu_ns(space->host_pid(), kind) : 0);
}

Result<u64> cpu_clock_ns(Task& task, clockid_t clock) {
  time::CpuClockId id = TRY(time::decode_cpu_clock(clock));
  const ThreadGroup* group = task.group.get();
  if (id.thread) {
    Task* target = id.pid == 0 ? &task : task::kernel().find_task(id.pid);
    if (target == nullptr || target->group != task.group) return Errno::kInval;
    // The host tells no CPU time of single threads of other processes; with one thread it is the process's.
    if (group->tasks.size() > 1) {
      STUB("clock_gettime of a thread", clock);
      return Errno::kInval;
    }
  } else if (id.pid != 0) {
    group = task::kernel().find_group(id.pid);
    if (group == nullptr) return Errno::kInval;
  }
  return process_cpu_ns(*group, id.kind);
}

ProcessTimers& timers_of(ThreadGroup& group) {
  if (!group.posix_timers) group.posix_timers = std::make_shared<ProcessTimers>();
  return *static_cast<ProcessTimers*>(group.posix_timers.get());
}

Result<i64> sys_getitimer(Task& task, Int which, OutBuf value) {
  GuestItimerval now = TRY(itimer_value(*task.group, which));
  TRY(Out<GuestItimerval>{value.addr}.write(task, now));
  return 0;
}

Result<i64> sys_setitimer(Task& task, Int which, InBuf value, OutBuf old_value) {
  ThreadGroup& group = *task.group;
  u64 at = 0, interval = 0;
  if (value.addr != 0) {  // Linux takes a null pointer for zeros
    auto wanted = TRY(In<GuestItimerval>{value.addr}.read(task));
    at = TRY(time::to_ns(timeval{wanted.value.sec, static_cast<suseconds_t>(wanted.value.usec)}));
    interval = TRY(time::to_ns(timeval{wanted.interval.sec, static_cast<suseconds_t>(wanted.interval.usec)}));
  }
  const GuestItimerval old = TRY(itimer_value(group, which));
  if (which == ITIMER_REAL) {
    set_real_timer(group, at, at != 0 ? interval : 0);
  } else {
    auto& alarm = cpu_timer(group, which);
    const CpuKind kind = which == ITIMER_VIRTUAL ? CpuKind::kUser : CpuKind::kTotal;
    const int signo = which == ITIMER_VIRTUAL ? SIGVTALRM : SIGPROF;
    if (!alarm) {
      ThreadGroup* g = &group;
      alarm = std::make_unique<time::Alarm>([g, kind] { return process_cpu_ns(*g, kind); },
                                            [g, signo](u64) { send_timer_signal(*g, signo); });
    }
    if (at == 0)
      alarm->cancel();
    else
      alarm->set(alarm->now() + at, interval);
  }
  if (old_value.addr != 0) TRY(Out<GuestItimerval>{old_value.addr}.write(task, old));
  return 0;
}

Result<i64> sys_alarm(Task& task, UInt seconds) {
  const GuestItimerval old = real_timer_value(*task.group);
  set_real_timer(*task.group, seconds * time::kNsPerSec, 0);
  // Rounded to the nearest second, and never 0 while one was set (alarm_setitimer).
  i64 left = old.value.sec;
  if (old.value.usec >= 500'000 || (left == 0 && old.value.usec != 0)) ++left;
  return left;
}

Result<i64> sys_times(Task& task, OutBuf buffer) {
  if (buffer.addr != 0) {
    const ThreadGroup& group = *task.group;
    const u64 user = process_cpu_ns(group, CpuKind::kUser), total = process_cpu_ns(group, CpuKind::kTotal);
    auto ticks_of_us = [](u64 us) { return static_cast<i64>(us * kNsPerUs / kNsPerTick); };
    i64 out[4] = {static_cast<i64>(user / kNsPerTick), static_cast<i64>((std::max(total, user) - user) / kNsPerTick),
                  ticks_of_us(group.children_usage.utime_us), ticks_of_us(group.children_usage.stime_us)};
    TRY(task.memory().write(buffer.addr, out, sizeof(out)));
  }
  return static_cast<i64>(fiber::now_ns() / kNsPerTick);
}

Result<i64> sys_time(Task& task, OutBuf result) {
  i64 now = static_cast<i64>(time::host_clock_ns(CLOCK_REALTIME_COARSE) / time::kNsPerSec);
  if (result.addr != 0) TRY(Out<i64>{result.addr}.write(task, now));
  return now;
}

Result<i64> sys_gettimeofday(Task& task, OutBuf tv, OutBuf tz) {
  if (tv.addr != 0) {
    timeval now = time::to_timeval(time::host_clock_ns(CLOCK_REALTIME));
    TRY(Out<GuestTimeval>{tv.addr}.write(task, GuestTimeval{now.tv_sec, now.tv_usec}));
  }
  if (tz.addr != 0) TRY(Out<u64>{tz.addr}.write(task, 0));  // minutes west and DST: kernel time is UTC
  return 0;
}

Result<i64> sys_clock_gettime(Task& task, Int clock, OutBuf out) {
  u64 now = is_plain_clock(clock) ? time::host_clock_ns(clock) : TRY(cpu_clock_ns(task, clock));
  TRY(Out<timespec>{out.addr}.write(task, time::to_timespec(now)));
  return 0;
}

Result<i64> sys_clock_getres(Task& task, Int clock, OutBuf out) {
  timespec resolution{0, 1};
  if (is_plain_clock(clock)) {
    if (::clock_getres(clock, &resolution) != 0) return last_errno();
  } else {
    TRY(time::decode_cpu_clock(clock));
  }
  if (out.addr != 0) TRY(Out<timespec>{out.addr}.write(task, resolution));
  return 0;
}

Result<i64> sys_clock_settime(Task& task, Int clock, InBuf value) {
  timespec wanted = TRY(In<timespec>{value.addr}.read(task));
  TRY(time::to_ns(wanted));
  if (clock != CLOCK_REALTIME) return is_plain_clock(clock) ? Errno::kInval : Errno::kPerm;
  return Errno::kPerm;  // the clock is the host's
}

namespace {

Result<i64> sleep_until(Task& task, fiber::Deadline deadline, u64 remaining_addr, bool relative) {
  fiber::WaitQueue nobody;
  auto waited = nobody.wait_until([] { return false; }, "nanosleep", deadline);
  if (!waited && waited.error() == Errno::kTimedout) return 0;
  if (!relative) return Errno::kRestartNoHand;
  const u64 now = fiber::now_ns();
  if (now >= deadline) return 0;
  if (remaining_addr != 0) {
    TRY(Out<timespec>{remaining_addr}.write(task, time::to_timespec(deadline - now)));
  }
  task.restart_deadline = deadline;
  return Errno::kRestartRestartBlock;
}

Result<i64> sleep_for(Task& task, u64 span, u64 remaining_addr) {
  fiber::Deadline deadline = task.restarting && task.restart_deadline != 0
                                 ? task.restart_deadline
                                 : fiber::now_ns() + std::min(span, time::kForever / 2);
  return sleep_until(task, deadline, remaining_addr, true);
}

// Sleeping on a CPU clock: sampled.
Result<i64> sleep_on_cpu_clock(Task& task, clockid_t clock, bool absolute, u64 value, u64 remaining_addr) {
  const u64 start = TRY(cpu_clock_ns(task, clock));
  const u64 until = absolute ? value : start + value;
  fiber::WaitQueue queue;
  bool done = start >= until;
  // The clock's process may end meanwhile; its time then stands still and only a signal ends the sleep, as on Linux.
  time::Alarm alarm(
      [&task, clock] {
        auto now = cpu_clock_ns(task, clock);
        return now ? *now : 0;
      },
      [&](u64) {
        done = true;
        queue.wake_all();
      });
  if (!done) alarm.set(until, 0);
  auto waited = queue.wait_until([&] { return done; }, "nanosleep");
  if (waited) return 0;
  if (absolute) return Errno::kRestartNoHand;
  if (remaining_addr != 0) {
    TRY(Out<timespec>{remaining_addr}.write(task, time::to_timespec(alarm.remaining())));
  }
  return Errno::kIntr;
}

}  // namespace

Result<i64> sys_nanosleep(Task& task, In<timespec> request, OutBuf remaining) {
  timespec ts = TRY(request.read(task));
  u64 span = TRY(time::to_ns(ts));
  return sleep_for(task, span, remaining.addr);
}

Result<i64> sys_clock_nanosleep(Task& task, Int clock, Hex flags, InBuf request, OutBuf remaining) {
  constexpr u64 kAbsolute = 1;
  timespec ts = TRY(In<timespec>{request.addr}.read(task));
  u64 value = TRY(time::to_ns(ts));
  const bool absolute = (flags.v & kAbsolute) != 0;
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_TAI:
      if (!absolute) return sleep_for(task, value, remaining.addr);
      return sleep_until(task, time::monotonic_of(clock, value), 0, false);
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM: return Errno::kPerm;  // CAP_WAKE_ALARM is the host's
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_MONOTONIC_COARSE: return Errno::kOpnotsupp;
    case CLOCK_THREAD_CPUTIME_ID: return Errno::kInval;
    default: return sleep_on_cpu_clock(task, clock, absolute, value, absolute ? 0 : remaining.addr);
  }
}

}  // namespace sbx::syscalls
