#include "sentry/fiber/reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <atomic>
#include <unordered_map>

#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/timer_queue.h"

namespace sbx::fiber {
namespace {

constexpr u64 kWakeToken = 1;
constexpr u64 kTimerToken = 2;

struct Reactor {
  UniqueFd epoll, wake, timer;
  std::atomic<bool> stopping{false};
  u64 next_token = 16;
  // Tokens, not pointers, travel through epoll: a watch may end while its event is already in the batch.
  std::unordered_map<u64, std::function<void(u32)>> watches;
};

Reactor& reactor() {
  static auto* instance = new Reactor;
  return *instance;
}

bool add(int fd, u32 events, u64 token) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = token;
  return epoll_ctl(reactor().epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

void drain(int fd) {
  u64 count = 0;
  while (::read(fd, &count, sizeof(count)) == sizeof(count)) {
  }
}

}  // namespace

HostResult<void> reactor_init() {
  Reactor& r = reactor();
  r.epoll.reset(epoll_create1(EPOLL_CLOEXEC));
  r.wake.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  r.timer.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!r.epoll || !r.wake || !r.timer) return Failure::from_errno("making the reactor's descriptors");
  if (!add(r.wake.get(), EPOLLIN, kWakeToken) || !add(r.timer.get(), EPOLLIN, kTimerToken)) {
    return Failure::from_errno("adding to the reactor's epoll");
  }
  TimerQueue::get().set_timerfd(r.timer.get());
  return {};
}

void reactor_run() {
  Reactor& r = reactor();
  epoll_event events[64];
  while (!r.stopping.load(std::memory_order_acquire)) {
    int n = epoll_wait(r.epoll.get(), events, 64, -1);
    if (n <= 0) continue;
    KernelLock lock;
    for (int i = 0; i < n; ++i) {
      u64 token = events[i].data.u64;
      if (token == kWakeToken) {
        drain(r.wake.get());
      } else if (token == kTimerToken) {
        drain(r.timer.get());
        TimerQueue::get().fire_due();
      } else if (auto it = r.watches.find(token); it != r.watches.end()) {
        auto callback = it->second;  // a copy: the callback may end its own watch
        callback(events[i].events);
      }
    }
    run_ready();
  }
}

void reactor_stop() {
  reactor().stopping.store(true, std::memory_order_release);
  reactor_poke();
}

void reactor_poke() {
  u64 one = 1;
  if (::write(reactor().wake.get(), &one, sizeof(one)) < 0) return;  // full counter: it will wake anyway
}

Result<void> HostWatch::watch(int fd, u32 events, std::function<void(u32)> on_events) {
  unwatch();
  Reactor& r = reactor();
  u64 token = r.next_token++;
  r.watches[token] = std::move(on_events);
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
