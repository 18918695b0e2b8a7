// Inside the fiber room: all armed timers by deadline, and the timerfd that makes the reactor come for the earliest.
#pragma once
#include <map>

#include "sentry/fiber/fiber.h"

namespace sbx::fiber {

class TimerQueue {
 public:
  static TimerQueue& get();
  // -1 until reactor_init(): timers armed before fire once the reactor runs.
  void set_timerfd(int fd);
  void add(Timer& timer);
  void remove(Timer& timer);
  // Fires everything due; kernel lock held.
  void fire_due();

 private:
  void program();
  std::map<std::pair<Deadline, u64>, Timer*> timers_;
  u64 next_sequence_ = 1;
  Deadline programmed_ = kNever;
  int timerfd_ = -1;
};

}  // namespace sbx::fiber
