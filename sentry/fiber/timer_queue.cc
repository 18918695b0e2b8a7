#include "sentry/fiber/timer_queue.h"

#include <sys/timerfd.h>

#include "sentry/base/log.h"

namespace sbx::fiber {

TimerQueue& TimerQueue::get() {
  static auto* queue = new TimerQueue;
  return *queue;
}

void TimerQueue::set_timerfd(int fd) {
  timerfd_ = fd;
  programmed_ = kNever;
  program();
}

void TimerQueue::add(Timer& timer) {
  timer.sequence_ = next_sequence_++;
  timers_[{timer.at_, timer.sequence_}] = &timer;
  program();
}

void TimerQueue::remove(Timer& timer) {
  timers_.erase({timer.at_, timer.sequence_});
  // The timerfd is left alone: a spurious expiry is cheaper than a system call per cancelled timeout.
}

void TimerQueue::program() {
  if (timerfd_ < 0 || timers_.empty()) return;
  Deadline first = timers_.begin()->first.first;
  if (first >= programmed_) return;
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(first / 1'000'000'000);
  spec.it_value.tv_nsec = static_cast<long>(first % 1'000'000'000);
  if (first == 0) spec.it_value.tv_nsec = 1;
  if (timerfd_settime(timerfd_, TFD_TIMER_ABSTIME, &spec, nullptr) != 0) PANIC("timerfd_settime failed");
  programmed_ = first;
}

void TimerQueue::fire_due() {
  programmed_ = kNever;
  u64 now = now_ns();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    Timer* timer = timers_.begin()->second;
    timers_.erase(timers_.begin());
    timer->armed_ = false;
    timer->fire_();
  }
  program();
}

void Timer::arm(Deadline at) {
  cancel();
  at_ = at;
  armed_ = true;
  TimerQueue::get().add(*this);
}

void Timer::cancel() {
  if (!armed_) return;
  armed_ = false;
  TimerQueue::get().remove(*this);
}

}  // namespace sbx::fiber
