#include "sentry/fiber/reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <atomic>
#include <ctime>
#include <iterator>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/timer_queue.h"

namespace sbx::fiber {
namespace {

constexpr u64 kWakeToken = 1;
constexpr u64 kTimerToken = 2;
// So many batches of events within that time make it hot.
constexpr u32 kHotBatches = 16;
constexpr u64 kHotNs = 2'000'000;

struct Reactor {
  // The thread waits on `gate`, which has two members: all the rest, in `epoll`, unless that is held by the receiver,
  // and the stop event.
  UniqueFd gate, epoll, wake, timer, stop;
  std::atomic<bool> stopping{false}, hot{false}, waits{false};
  u64 counted_since = 0;
  u32 batches = 0;
  u64 next_token = 16;
  // Tokens, not pointers, travel through epoll: a watch may end while its event is already in the batch.
  struct Watch {
    std::function<void(u32)> on_events;
    bool wakes;
  };
  std::unordered_map<u64, Watch> watches;
  // Events that reactor_take_news() came upon and had to leave; for the host they are told.
  std::vector<epoll_event> left;
};

Reactor& reactor() {
  static auto* instance = new Reactor;
  return *instance;
}

bool control(int epoll, int operation, int fd, u32 events, u64 token) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = token;
  return epoll_ctl(epoll, operation, fd, &event) == 0;
}
bool add(int fd, u32 events, u64 token) { return control(reactor().epoll.get(), EPOLL_CTL_ADD, fd, events, token); }

void drain(int fd) {
  u64 count = 0;
  while (::read(fd, &count, sizeof(count)) == sizeof(count)) {
  }
}

}  // namespace

HostResult<void> reactor_init() {
  Reactor& r = reactor();
  r.epoll.reset(epoll_create1(EPOLL_CLOEXEC));
  r.gate.reset(epoll_create1(EPOLL_CLOEXEC));
  r.wake.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  r.stop.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  r.timer.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!r.epoll || !r.gate || !r.wake || !r.stop || !r.timer)
    return Failure::from_errno("making the reactor's descriptors");
  if (!add(r.wake.get(), EPOLLIN, kWakeToken) || !add(r.timer.get(), EPOLLIN, kTimerToken)) {
    return Failure::from_errno("adding to the reactor's epoll");
  }
  if (!control(r.gate.get(), EPOLL_CTL_ADD, r.stop.get(), EPOLLIN, kWakeToken) ||
      !control(r.gate.get(), EPOLL_CTL_ADD, r.epoll.get(), EPOLLIN, kTimerToken)) {
    return Failure::from_errno("adding to the reactor's gate");
  }
  TimerQueue::get().set_timerfd(r.timer.get());
  return {};
}

namespace {

void call(u64 token, u32 events) {
  Reactor& r = reactor();
  auto it = r.watches.find(token);
  if (it == r.watches.end()) return;
  auto callback = it->second.on_events;  // a copy: the callback may end its own watch
  callback(events);
}

// Without waiting: between the look that brought us here and this one somebody else may have taken it.
int fetch(epoll_event (&events)[64]) { return epoll_wait(reactor().epoll.get(), events, std::size(events), 0); }

}  // namespace

void reactor_serve() {
  Reactor& r = reactor();
  epoll_event events[64];
  int n = fetch(events);
  for (const epoll_event& event : std::exchange(r.left, {})) call(event.data.u64, event.events);
  for (int i = 0; i < n; ++i) {
    u64 token = events[i].data.u64;
    if (token == kWakeToken) {
      drain(r.wake.get());
    } else if (token == kTimerToken) {
      drain(r.timer.get());
      TimerQueue::get().fire_due();
    } else {
      call(token, events[i].events);
    }
  }
  run_ready();
}

void reactor_take_news() {
  constexpr int kBatches = 64;  // of a host that has more to tell all the time
  Reactor& r = reactor();
  epoll_event events[64];
  bool leaves = false;
  int n = static_cast<int>(std::ssize(events));
  for (int batch = 0; batch < kBatches && n == std::ssize(events); ++batch) {
    n = fetch(events);
    for (int i = 0; i < n; ++i) {
      u64 token = events[i].data.u64;
      // These two go on being told.
      if (token == kWakeToken || token == kTimerToken) continue;
      auto it = r.watches.find(token);
      if (it == r.watches.end()) continue;
      if (it->second.wakes) {
        call(token, events[i].events);
      } else {
        r.left.push_back(events[i]);
        leaves = true;
      }
    }
  }
  if (leaves) reactor_poke();
}

// With the kernel lock afterwards, or false: look at the gate again. Whoever sleeps for the lock costs the receiver a
// wake with each request, and does not get it, as the receiver has it again by then. So the receiver is told to look
// after the events itself, which it does before it waits for the next request; if it is somebody else that has the
// lock, this one waits like everybody.
static bool lock_or_leave(u32& left, u64& left_at) {
  constexpr u32 kMostLeft = 3;
  constexpr timespec kNap{0, 50'000};
  if (kernel_lock_soon()) return true;
  if (left++ < kMostLeft) {
    const u64 now = now_ns(), last = std::exchange(left_at, now);
    (now - last < kHotNs ? reactor().hot : reactor().waits).store(true, std::memory_order_relaxed);
    (void)nanosleep(&kNap, nullptr);
    return false;
  }
  kernel_lock();
  return true;
}

void reactor_run() {
  Reactor& r = reactor();
  epoll_event event;
  u32 left = 0;
  u64 left_at = 0;  // when it did so last
  while (!r.stopping.load(std::memory_order_acquire)) {
    if (epoll_wait(r.gate.get(), &event, 1, -1) <= 0 || event.data.u64 == kWakeToken) continue;
    if (!lock_or_leave(left, left_at)) continue;
    left = 0;
    r.waits.store(false, std::memory_order_relaxed);
    reactor_serve();
    kernel_unlock();
    if (++r.batches < kHotBatches) continue;
    u64 now = now_ns();
    if (now - r.counted_since < kHotNs) r.hot.store(true, std::memory_order_relaxed);
    r.counted_since = now;
    r.batches = 0;
  }
}

void reactor_stop() {
  reactor().stopping.store(true, std::memory_order_release);
  u64 one = 1;
  if (::write(reactor().stop.get(), &one, sizeof(one)) < 0) return;  // full counter: it will wake anyway
}

bool reactor_is_hot() { return reactor().hot.load(std::memory_order_relaxed); }

bool reactor_waits() {
  auto& waits = reactor().waits;
  return waits.load(std::memory_order_relaxed) && waits.exchange(false, std::memory_order_relaxed);
}

void reactor_hold(bool hold) {
  Reactor& r = reactor();
  r.hot.store(false, std::memory_order_relaxed);
  control(r.gate.get(), EPOLL_CTL_MOD, r.epoll.get(), hold ? 0u : u32{EPOLLIN}, kTimerToken);
}

int reactor_fd() { return reactor().epoll.get(); }

void reactor_poke() {
  u64 one = 1;
  if (::write(reactor().wake.get(), &one, sizeof(one)) < 0) return;  // full counter: it will wake anyway
}

Result<void> HostWatch::watch(int fd, u32 events, std::function<void(u32)> on_events, Does does) {
  unwatch();
  Reactor& r = reactor();
  u64 token = r.next_token++;
  r.watches[token] = {std::move(on_events), does == Does::kWakes};
  if (!add(fd, events | EPOLLET, token)) {
    Errno e = last_errno();
    r.watches.erase(token);
    return e;
  }
  fd_ = fd;
  token_ = token;
  return {};
}

void HostWatch::unwatch() {
  if (token_ == 0) return;
  epoll_ctl(reactor().epoll.get(), EPOLL_CTL_DEL, fd_, nullptr);
  reactor().watches.erase(token_);
  token_ = 0;
}

}  // namespace sbx::fiber
