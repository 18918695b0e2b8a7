#include "sentry/fiber/fiber.h"

#include <sys/mman.h>
#include <time.h>

#include <boost/context/fiber.hpp>
#include <boost/context/stack_context.hpp>
#include <deque>
#include <vector>

#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/scheduler.h"
#include "sentry/fiber/timer_queue.h"

namespace sbx::fiber {

namespace ctx = boost::context;

u64 now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000ull + static_cast<u64>(t.tv_nsec);
}

namespace {

// To a few milliseconds, for a tenth of the cost: parking is part of every call.
u64 coarse_now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000ull + static_cast<u64>(t.tv_nsec);
}

constexpr size_t kPooledStackBytes = 128 * 1024;
constexpr size_t kMaxPooledStacks = 32;

// Stacks with a guard page below; the common size is kept for reuse (mmap + first-touch faults cost more than a fork's
// share of the sentry's work).
class StackAllocator {
 public:
  explicit StackAllocator(size_t bytes) : bytes_(page_up(bytes)) {}

  ctx::stack_context allocate() {
    ctx::stack_context out;
    void* base = nullptr;
    if (bytes_ == kPooledStackBytes && !pool().empty()) {
      base = pool().back();
      pool().pop_back();
    } else {
      base = mmap(nullptr, bytes_ + kPageSize, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
      if (base == MAP_FAILED) PANIC("no memory for a fiber stack");
      if (mprotect(base, kPageSize, PROT_NONE) != 0) PANIC("no guard page for a fiber stack");
    }
    out.size = bytes_;
    out.sp = static_cast<char*>(base) + kPageSize + bytes_;
    return out;
  }

  void deallocate(ctx::stack_context& stack) {
    void* base = static_cast<char*>(stack.sp) - stack.size - kPageSize;
    if (stack.size == kPooledStackBytes && pool().size() < kMaxPooledStacks) {
      pool().push_back(base);
    } else {
      munmap(base, stack.size + kPageSize);
    }
  }

 private:
  static std::vector<void*>& pool() {
    static auto* stacks = new std::vector<void*>;  // outlives every fiber
    return *stacks;
  }
  size_t bytes_;
};

}  // namespace

class Scheduler {
 public:
  struct Task : Fiber {
    enum class State : u8 { kReady, kRunning, kParked, kDone };
    State state = State::kReady;
    bool wake_pending = false;
    ctx::fiber context;  // where to continue it; empty while it runs
    ctx::fiber caller;   // where run_ready() stands; filled while it runs
    std::function<void()> body;
  };

  static Scheduler& get() {
    static auto* scheduler = new Scheduler;
    return *scheduler;
  }

  Fiber* spawn(std::function<void()> body, size_t stack_bytes) {
    auto* task = new Task;
    task->body = std::move(body);
    task->context = ctx::fiber(std::allocator_arg, StackAllocator(stack_bytes), [task](ctx::fiber&& caller) {
      task->caller = std::move(caller);
      task->body();
      task->body = nullptr;
      task->state = Task::State::kDone;
      return std::move(task->caller);
    });
    ready_.push_back(task);
    return task;
  }

  void wake(Task* task) {
    if (task->state == Task::State::kParked) {
      task->state = Task::State::kReady;
      ready_.push_back(task);
    } else if (task->state == Task::State::kRunning) {
      task->wake_pending = true;
    }
  }

  void park() {
    Task* task = current;
    CHECK(task != nullptr);
    if (task->wake_pending) {
      task->wake_pending = false;
      return;
    }
    task->state = Task::State::kParked;
    task->parked_since_ = coarse_now_ns();
    switch_out(task);
    task->parked_since_ = 0;
  }

  void yield() {
    Task* task = current;
    task->state = Task::State::kReady;
    ready_.push_back(task);
    switch_out(task);
  }

  void run_ready() {
    while (!ready_.empty()) {
      Task* task = ready_.front();
      ready_.pop_front();
      task->state = Task::State::kRunning;
      current = task;
      task->context = std::move(task->context).resume();
      current = nullptr;
      if (task->state == Task::State::kDone) delete task;
    }
  }

  bool any_ready() const { return !ready_.empty(); }

  Task* current = nullptr;

 private:
  // The wake flag is cleared on the way in: a wake while parked made the fiber ready, later ones are news.
  void switch_out(Task* task) {
    task->caller = std::move(task->caller).resume();
    task->wake_pending = false;
  }

  std::deque<Task*> ready_;
};

void Fiber::wake() { Scheduler::get().wake(static_cast<Scheduler::Task*>(this)); }

void Fiber::interrupt() {
  interrupted_ = true;
  wake();
}

Fiber* spawn(std::function<void()> body, size_t stack_bytes) {
  return Scheduler::get().spawn(std::move(body), stack_bytes);
}

__attribute__((noinline)) Fiber* current() { return Scheduler::get().current; }

void set_current(Fiber* fiber) { Scheduler::get().current = static_cast<Scheduler::Task*>(fiber); }

void park() { Scheduler::get().park(); }

bool park_until(Deadline deadline) {
  if (deadline == kNever) {
    park();
    return true;
  }
  if (now_ns() >= deadline) return false;
  Fiber* self = current();
  Timer timer([self] { self->wake(); });
  timer.arm(deadline);
  park();
  return now_ns() < deadline;
}

void yield() { Scheduler::get().yield(); }
void run_ready() { Scheduler::get().run_ready(); }
bool any_ready() { return Scheduler::get().any_ready(); }

// ---- wait queues ----

Waiter::~Waiter() { leave(); }

void Waiter::join(WaitQueue& queue) {
  leave();
  queue_ = &queue;
  prev_ = queue.last_;
  next_ = nullptr;
  if (queue.last_ != nullptr)
    queue.last_->next_ = this;
  else
    queue.first_ = this;
  queue.last_ = this;
}

void Waiter::leave() {
  if (queue_ == nullptr) return;
  if (prev_ != nullptr)
    prev_->next_ = next_;
  else
    queue_->first_ = next_;
  if (next_ != nullptr)
    next_->prev_ = prev_;
  else
    queue_->last_ = prev_;
  queue_ = nullptr;
  prev_ = next_ = nullptr;
}

void Waiter::fire() {
  if (fiber_ != nullptr)
    fiber_->wake();
  else
    notify_();
}

WaitQueue::~WaitQueue() {
  while (first_ != nullptr) {
    Waiter* waiter = first_;
    waiter->leave();
    if (waiter->fiber_ != nullptr) waiter->fiber_->wake();  // it re-tests its predicate and finds out
  }
}

void WaitQueue::wake_all() {
  for (Waiter* waiter = first_; waiter != nullptr;) {
    Waiter* next = waiter->next_;  // a callback may leave the queue
    waiter->fire();
    waiter = next;
  }
}

void WaitQueue::wake_one() {
  bool woken = false;
  for (Waiter* waiter = first_; waiter != nullptr;) {
    Waiter* next = waiter->next_;
    if (waiter->fiber_ == nullptr) {
      waiter->fire();
    } else if (!woken) {
      woken = true;
      waiter->fire();
    }
    waiter = next;
  }
}

void SleepLock::lock() {
  while (held_) {
    Waiter waiter(current());
    waiter.join(queue_);
    park();
  }
  held_ = true;
}

void SleepLock::unlock() {
  held_ = false;
  queue_.wake_one();
}

}  // namespace sbx::fiber
