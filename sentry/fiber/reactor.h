// The reactor: one host thread in epoll_wait for timers, host descriptors and whatever else wakes the kernel from
// outside. Callbacks run under the kernel lock and must not park (they wake fibers). While events come in quick
// succession the platform's receiver may take its place: a server's fiber is then woken by the thread that runs it, and
// not by another one that has to be scheduled and wait for the lock.
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

// For the receiver, without the kernel lock.
// Events come so often that it had better look after them itself.
bool reactor_is_hot();
// There is one that its thread could not get the lock for: it stays out of the way. Once each time.
bool reactor_waits();
// From now on (true) the caller waits for reactor_fd() to be readable and then calls reactor_serve(); or, until then,
// the reactor's own thread does again.
void reactor_hold(bool hold);
int reactor_fd();
// Runs what is due, with the kernel lock held, and the fibers that became ready.
void reactor_serve();
// On a fiber: what the host tells by now of descriptors whose watches only wake is known afterwards. The rest waits for
// reactor_serve().
void reactor_take_news();

// Watches one host descriptor, edge-triggered. `on_events` gets EPOLL* bits. Descriptors epoll refuses (regular files,
// EPERM) are always ready: watch() then answers kPerm.
class HostWatch {
 public:
  HostWatch() = default;
  ~HostWatch() { unwatch(); }
  HostWatch(const HostWatch&) = delete;
  HostWatch& operator=(const HostWatch&) = delete;
  // What on_events does: no more than to note something and to wake fibers, or anything.
  enum class Does : bool { kAnything, kWakes };
  // fd is not owned and must outlive the watch.
  Result<void> watch(int fd, u32 events, std::function<void(u32 events)> on_events, Does does = Does::kAnything);
  void unwatch();
  bool watching() const { return token_ != 0; }

 private:
  int fd_ = -1;
  u64 token_ = 0;
};

}  // namespace sbx::fiber
