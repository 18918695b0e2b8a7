// The control socket's server: `start`, `exec`, `kill`, `ps`, `debug`... of the sbx command (messages.h).
#pragma once
#include <functional>
#include <memory>

#include "sentry/control/boot_config.h"
#include "sentry/control/messages.h"
#include "sentry/control/processes.h"

namespace sbx::control {

// What the server drives; made by main.cc. Everything under the kernel lock, on fibers.
struct Container {
  BootConfig config;
  bool started = false;
  Streams init_streams;  // until started
  // Ends the sentry with this exit status (after draining output).
  std::function<void(i32 exit_status)> finish;
};

// Starts serving config.control_fd. Call once, on the reactor's side, with the kernel lock.
HostResult<void> serve_control(Container& container);
// Starts the container's init; used by `start`. On a fiber.
HostResult<void> start_init(Container& container);

// Sends a signal to the container's init. Before its start a signal that would end it ends the sandbox.
void signal_init(Container& container, int signo);

// Text of `sbx debug`.
std::string debug_text(const std::string& what);

// 128 + signal or the exit code, from a wait status.
i32 exit_status_of(i32 wait_status);

}  // namespace sbx::control
