#include "sentry/time/alarm.h"

#include <algorithm>

namespace sbx::time {

namespace {
// A guest may ask for a period of 1 ns: periods shorter than this are counted, not each served.
constexpr u64 kShortestPeriod = 50 * kNsPerUs;
constexpr u64 kCpuTick = 4 * kNsPerMs;
constexpr u64 kLongestNap = 64 * kNsPerMs;
}  // namespace

Alarm::Alarm(Clock clock, Fire fire)
    : clock_(std::move(clock)), fire_(std::move(fire)), timer_([this] { expired(); }) {}

void Alarm::set(u64 at, u64 interval) {
  at_ = std::min(at, kForever);
  interval_ = std::min(interval, kForever);
  armed_ = true;
  nap_ = 0;
  last_sample_ = now();
  schedule(last_sample_);
}

void Alarm::cancel() {
  timer_.cancel();
  armed_ = false;
  interval_ = 0;
}

u64 Alarm::remaining() const {
  if (!armed_) return 0;
  u64 t = now();
  return t < at_ ? at_ - t : 1;
}

void Alarm::schedule(u64 now) {
  if (!clock_) {
    timer_.arm(at_);
    return;
  }
  // All CPUs may work for the process at once, so near the end only sampling tells; while it sleeps, ever fewer
  // samples.
  u64 left = at_ > now ? at_ - now : 0;
  u64 wait = std::clamp(left / 2, kCpuTick, 250 * kNsPerMs);
  timer_.arm(fiber::now_ns() + std::max(wait, nap_));
}

void Alarm::expired() {
  if (!armed_) return;
  const u64 t = now();
  if (t < at_) {
    nap_ = t == last_sample_ ? std::min(kLongestNap, std::max(2 * nap_, kCpuTick)) : 0;
    last_sample_ = t;
    schedule(t);
    return;
  }
  u64 periods = 1;
  if (interval_ == 0) {
    armed_ = false;
  } else {
    periods += (t - at_) / interval_;
    at_ += periods * interval_;
    if (!clock_ && at_ < t + kShortestPeriod) {
      u64 more = (t + kShortestPeriod - at_) / interval_;
      at_ += more * interval_;
      periods += more;
    }
    schedule(t);
  }
  last_sample_ = t;
  fire_(periods);
}

}  // namespace sbx::time
