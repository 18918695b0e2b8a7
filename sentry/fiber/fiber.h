// Fibers: the threads of the emulated kernel. A guest thread's syscalls run on its fiber; blocking parks the fiber,
// never the host thread. All functions here need the kernel lock (kernel_lock.h) unless said otherwise, and the lock is
// held whenever fiber code runs (docs/decisions/0001-kernel-lock.md).
#pragma once
#include <functional>
#include <memory>
#include <optional>

#include "sentry/base/result.h"
#include "sentry/base/types.h"

namespace sbx::fiber {

class WaitQueue;

// Monotonic host time in nanoseconds (CLOCK_MONOTONIC). No lock needed.
u64 now_ns();
// A point on that clock; kNever: no deadline.
using Deadline = u64;
constexpr Deadline kNever = ~0ull;

class Fiber {
 public:
  virtual ~Fiber() = default;
  // Makes a parked fiber runnable; nothing happens if it is running or runnable already (the wake is remembered).
  void wake();
  // Signal arrival: interruptible waits of this fiber end with kRestartSys until clear_interrupt().
  void interrupt();
  void clear_interrupt() { interrupted_ = false; }
  bool interrupted() const { return interrupted_; }
  // What the fiber waits for, for `sbx debug` ("futex", "pipe read"); a literal.
  const char* wait_reason() const { return wait_reason_; }
  void set_wait_reason(const char* reason) { wait_reason_ = reason; }
  // When the present wait began, now_ns(); 0 if not parked.
  u64 parked_since() const { return parked_since_; }

  // Whose fiber it is, for its owner's own use (task/ stores the Task).
  void* owner = nullptr;

 protected:
  friend class Scheduler;
  bool interrupted_ = false;
  const char* wait_reason_ = nullptr;
  u64 parked_since_ = 0;
};

// Starts a fiber that runs `body`; it first runs when the current fiber parks or the scheduler is entered.
// The fiber object is freed after body returns. stack bytes include no guard (one guard page is added).
Fiber* spawn(std::function<void()> body, size_t stack_bytes = 128 * 1024);
// The running fiber; null outside fibers. noinline: thread-locals must not be cached across a switch.
Fiber* current();
// Gives up the processor until wake(). May return spuriously: callers re-check their condition.
void park();
// As park(), but returns false once the deadline passed.
bool park_until(Deadline deadline);
// Lets other ready fibers run first.
void yield();
// Runs ready fibers until none is left. Called by receiver and reactor with the kernel lock held, outside fibers.
void run_ready();
bool any_ready();

enum class Interruptible : bool { kNo, kYes };

// One membership of a fiber (or a callback) in one wait queue. Lives on the waiter's stack or inside an object; leaves
// the queue when destroyed.
class Waiter {
 public:
  // Wakes `fiber`.
  explicit Waiter(Fiber* fiber) : fiber_(fiber) {}
  // Calls `notify` under the kernel lock on each wake; it must not park. For epoll and other observers.
  explicit Waiter(std::function<void()> notify) : notify_(std::move(notify)) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter();
  void join(WaitQueue& queue);
  void leave();
  bool joined() const { return queue_ != nullptr; }

 private:
  friend class WaitQueue;
  void fire();
  Fiber* fiber_ = nullptr;
  std::function<void()> notify_;
  WaitQueue* queue_ = nullptr;
  Waiter* prev_ = nullptr;
  Waiter* next_ = nullptr;
};

// Who waits for a change of some object. wake_all() after every change that could make a predicate true.
class WaitQueue {
 public:
  WaitQueue() = default;
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue();
  void wake_all();
  // Wakes the first waiter only (FIFO); observers (callbacks) are all notified.
  void wake_one();
  bool empty() const { return first_ == nullptr; }

  // Parks until pred() holds. kRestartSys if interrupted, kTimedout at the deadline. pred is tested first and after
  // each wake; nothing runs between a false test and the park, so no wake-up is lost.
  template <typename Pred>
  Result<void> wait_until(Pred pred, const char* reason, Deadline deadline = kNever,
                          Interruptible mode = Interruptible::kYes) {
    if (pred()) return {};
    Waiter waiter(current());
    waiter.join(*this);
    for (;;) {
      if (mode == Interruptible::kYes && current()->interrupted()) return Errno::kRestartSys;
      current()->set_wait_reason(reason);
      bool in_time = park_until(deadline);
      if (pred()) return {};
      if (!in_time) return Errno::kTimedout;
    }
  }

 private:
  friend class Waiter;
  Waiter* first_ = nullptr;
  Waiter* last_ = nullptr;
};

// A mutex that parks. For what must be exclusive across a park (an inode during a rename with a gofer request).
class SleepLock {
 public:
  void lock();
  void unlock();

 private:
  bool held_ = false;
  WaitQueue queue_;
};

// A one-shot timer callback at a monotonic deadline, run by the reactor under the kernel lock; must not park.
class Timer {
 public:
  explicit Timer(std::function<void()> fire) : fire_(std::move(fire)) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { cancel(); }
  void arm(Deadline at);
  void cancel();
  bool armed() const { return armed_; }
  Deadline deadline() const { return at_; }

 private:
  friend class TimerQueue;
  std::function<void()> fire_;
  Deadline at_ = 0;
  u64 sequence_ = 0;
  bool armed_ = false;
};

}  // namespace sbx::fiber
