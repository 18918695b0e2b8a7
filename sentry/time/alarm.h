// Alarm: a repeating timer on the monotonic clock or on a CPU clock, with Linux's overrun arithmetic. What itimers and
// POSIX timers are made of. Kernel lock.
#pragma once
#include <functional>

#include "sentry/fiber/fiber.h"
#include "sentry/time/clock.h"

namespace sbx::time {

class Alarm {
 public:
  // Clock of the values; empty: CLOCK_MONOTONIC. A CPU clock is sampled: every clock tick near the end, and seldom
  // while it stands still.
  using Clock = std::function<u64()>;
  // Called by the reactor with the number of periods that ended since the last call (>= 1); must not park.
  using Fire = std::function<void(u64 periods)>;

  Alarm(Clock clock, Fire fire);
  // Fires when the clock shows `at`, then every `interval` (0: once).
  void set(u64 at, u64 interval);
  void cancel();
  bool armed() const { return armed_; }
  // Until the next expiration; at least 1 while armed, 0 when not.
  u64 remaining() const;
  u64 interval() const { return interval_; }
  u64 now() const { return clock_ ? clock_() : fiber::now_ns(); }

 private:
  void expired();
  void schedule(u64 now);
  Clock clock_;
  Fire fire_;
  fiber::Timer timer_;
  u64 at_ = 0, interval_ = 0;
  u64 last_sample_ = 0, nap_ = 0;
  bool armed_ = false;
};

}  // namespace sbx::time
