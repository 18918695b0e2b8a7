// The reactor: one host thread in epoll_wait for timers, host descriptors and whatever else wakes the kernel from
// outside. Callbacks run under the kernel lock and must not park (they wake fibers).
#pragma once
#include <functional>
#include <memory>

#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"
#include "sentry/fiber/fiber.h"

namespace sbx::fiber {

// Makes the epoll instance, the timer descriptor and the wake event. Before the sentry's seccomp filter is loaded.
HostResult<void> reactor_init();
// Runs the loop on the calling thread until reactor_stop(). Takes the kernel lock for each batch of events.
void reactor_run();
// From any thread.
void reactor_stop();
// From any thread, without the kernel lock: the reactor takes the lock and runs ready fibers soon.
void reactor_poke();

// Watches one host descriptor, edge-triggered. `on_events` gets EPOLL* bits. Descriptors epoll refuses (regular files,
// EPERM) are always ready: watch() then answers kPerm.
class HostWatch {
 public:
  HostWatch() = default;
  ~HostWatch() { unwatch(); }
  HostWatch(const HostWatch&) = delete;
  HostWatch& operator=(const HostWatch&) = delete;
  // fd is not owned and must outlive the watch.
  Result<void> watch(int fd, u32 events, std::function<void(u32 events)> on_events);
  void unwatch();
  bool watching() const { return token_ != 0; }

 private:
  int fd_ = -1;
  u64 token_ = 0;
};

}  // namespace sbx::fiber
