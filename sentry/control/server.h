// The control socket's server: `start`, `exec`, `kill`, `ps`, `debug`... of the sbx command (messages.h).
#pragma once
#include <functional>
#include <memory>

#include "sentry/control/boot_config.h"
#include "sentry/control/messages.h"
#include "sentry/control/processes.h"
#include "sentry/fiber/reactor.h"

namespace sbx::control {

// An end that somebody may wait for.
struct End : public RefCounted {
  bool done = false;
  i32 wait_status = 0;
  fiber::WaitQueue queue;
  void set(i32 status);
};

// What the server drives: the container that the sandbox was made for (main.cc), and those that joined it. Everything
// under the kernel lock, on fibers.
struct Container : public RefCounted {
  BootConfig config;
  RefPtr<task::Container> kernel;
  bool started = false;
  Streams init_streams;  // until started
  // The first's: ends the sentry with this exit status (after draining output). Null in one that joined.
  std::function<void(i32 exit_status)> finish;
  RefPtr<End> end = make_ref<End>();  // of one that joined
  UniqueFd listener;
  fiber::HostWatch accepts;
};

// Makes the kernel's part of a container that joins, on a fiber.
using Joiner = std::function<HostResult<void>(Container& container, UniqueFd gofer)>;

// Starts serving the first container's config.control_fd. Call once, on the reactor's side, with the kernel lock.
HostResult<void> serve_control(Container& container, Joiner joiner);
// Starts the container's init; used by `start`. On a fiber.
HostResult<void> start_init(Container& container);

// Sends a signal to the container's init. Before its start a signal that would end it ends the sandbox.
void signal_init(Container& container, int signo);

// Text of `sbx debug`.
std::string debug_text(const std::string& what);

// 128 + signal or the exit code, from a wait status.
i32 exit_status_of(i32 wait_status);

}  // namespace sbx::control
