// timer_create and its family (kernel/time/posix-timers.c): alarms that queue one signal each and count what they miss.
#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/process_timers.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

using task::ThreadGroup;

namespace {

constexpr i32 kSigevSignal = 0, kSigevNone = 1, kSigevThreadId = 4;

struct GuestSigevent {
  u64 value;
  i32 signo, notify, tid;
  u8 unused[44];
};
static_assert(sizeof(GuestSigevent) == 64);

struct GuestItimerspec {
  timespec interval, value;
};

bool on_cpu_clock(const PosixTimer& timer) {
  return timer.clock < 0 || timer.clock == CLOCK_PROCESS_CPUTIME_ID || timer.clock == CLOCK_THREAD_CPUTIME_ID;
}

void expired(ThreadGroup& group, PosixTimer& timer, u64 periods) {
  if (timer.notify == kSigevNone) return;
  Task* target = timer.notify == kSigevThreadId ? task::kernel().find_task(timer.target_tid) : nullptr;
  if (timer.notify == kSigevThreadId && (target == nullptr || target->group.get() != &group)) return;
  signal::PendingSignals& queue = target != nullptr ? target->pending : group.pending;
  auto grown = [](i32 count, u64 by) {
    return static_cast<i32>(std::min<u64>(static_cast<u64>(count) + by, INT32_MAX));
  };
  if (signal::SigInfo* waiting = queue.of_timer(timer.id)) {
    waiting->overrun = timer.overrun = grown(waiting->overrun, periods);
    return;
  }
  signal::SigInfo info;
  info.signo = timer.signo;
  info.code = SI_TIMER;
  info.timer_id = timer.id;
  info.value = timer.value;
  info.overrun = timer.overrun = grown(0, periods - 1);
  if (target != nullptr)
    task::send_to_task(*target, info);
  else
    task::send_to_group(group, info);
}

Result<PosixTimer*> find(Task& task, i32 id) {
  auto& timers = timers_of(*task.group).posix;
  auto it = timers.find(id);
  if (it == timers.end()) return Errno::kInval;
  return it->second.get();
}

GuestItimerspec current_value(const PosixTimer& timer) {
  return {time::to_timespec(timer.alarm->armed() ? timer.alarm->interval() : 0),
          time::to_timespec(timer.alarm->remaining())};
}

}  // namespace

Result<i64> sys_timer_create(Task& task, Int clock, InBuf event, OutBuf id_out) {
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_TAI: break;
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM: return Errno::kPerm;
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_MONOTONIC_COARSE: return Errno::kOpnotsupp;
    default: TRY(cpu_clock_ns(task, clock));
  }
  ThreadGroup& group = *task.group;
  ProcessTimers& timers = timers_of(group);
  if (timers.posix.size() >= std::min<u64>(group.limit(RLIMIT_SIGPENDING), 4096)) return Errno::kAgain;

  auto timer = std::make_unique<PosixTimer>();
  timer->id = timers.next_id;
  timer->clock = clock;
  if (event.addr == 0) {
    timer->notify = kSigevSignal;
    timer->signo = SIGALRM;
    timer->value = static_cast<u64>(timer->id);
  } else {
    auto wanted = TRY(In<GuestSigevent>{event.addr}.read(task));
    if (wanted.notify == kSigevThreadId) {
      Task* target = task::kernel().find_task(wanted.tid);
      if (target == nullptr || target->group != task.group) return Errno::kInval;
    } else if (wanted.notify != kSigevSignal && wanted.notify != kSigevNone && wanted.notify != 2 /* SIGEV_THREAD */) {
      return Errno::kInval;
    }
    if (wanted.notify != kSigevNone && !signal::valid(wanted.signo)) return Errno::kInval;
    timer->notify = wanted.notify;
    timer->signo = wanted.signo;
    timer->target_tid = wanted.tid;
    timer->value = wanted.value;
  }
  time::Alarm::Clock source;
  if (on_cpu_clock(*timer)) {
    auto id = TRY(time::decode_cpu_clock(clock));
    i32 pid = id.pid == 0 || id.thread ? group.pid : id.pid;
    source = [pid, kind = id.kind]() -> u64 {
      ThreadGroup* g = task::kernel().find_group(pid);
      return g != nullptr ? process_cpu_ns(*g, kind) : 0;
    };
  }
  timer->alarm = std::make_unique<time::Alarm>(
      std::move(source), [g = &group, t = timer.get()](u64 periods) { expired(*g, *t, periods); });
  TRY(Out<i32>{id_out.addr}.write(task, timer->id));
  timers.next_id = (timers.next_id + 1) & INT32_MAX;
  while (timers.posix.count(timers.next_id) > 0) timers.next_id = (timers.next_id + 1) & INT32_MAX;
  timers.posix.emplace(timer->id, std::move(timer));
  return 0;
}

Result<i64> sys_timer_settime(Task& task, Int id, Int flags, InBuf value, OutBuf old_value) {
  constexpr i32 kAbsolute = 1;
  if (value.addr == 0) return Errno::kInval;
  auto wanted = TRY(In<GuestItimerspec>{value.addr}.read(task));
  const u64 at = TRY(time::to_ns(wanted.value));
  const u64 interval = TRY(time::to_ns(wanted.interval));
  PosixTimer* timer = TRY(find(task, id));
  const GuestItimerspec old = current_value(*timer);
  timer->overrun = 0;
  if (at == 0) {
    timer->alarm->cancel();
  } else {
    u64 start;
    if ((flags & kAbsolute) == 0)
      start = timer->alarm->now() + at;
    else if (on_cpu_clock(*timer))
      start = at;
    else
      start = time::monotonic_of(timer->clock, at);
    timer->alarm->set(start, interval);
  }
  if (old_value.addr != 0) TRY(Out<GuestItimerspec>{old_value.addr}.write(task, old));
  return 0;
}

Result<i64> sys_timer_gettime(Task& task, Int id, OutBuf value) {
  PosixTimer* timer = TRY(find(task, id));
  TRY(Out<GuestItimerspec>{value.addr}.write(task, current_value(*timer)));
  return 0;
}

Result<i64> sys_timer_getoverrun(Task& task, Int id) {
  PosixTimer* timer = TRY(find(task, id));
  return timer->overrun;
}

Result<i64> sys_timer_delete(Task& task, Int id) {
  TRY(find(task, id));
  timers_of(*task.group).posix.erase(id);
  return 0;
}

}  // namespace sbx::syscalls
