// The foreground part of `run` and `exec`: a terminal between the caller and the container, signals passed on.
#pragma once
#include <functional>

#include "runtime/boot/stdio.h"
#include "sentry/base/unique_fd.h"

namespace sbx::container {

// Blocks every signal that is to be passed on; to be made before the container's process exists. signalfd.
class ForegroundSignals {
 public:
  ForegroundSignals();
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

// Returns when `done_fd` is readable. `pty_master` may be -1. `on_signal` gets every signal but SIGWINCH (and SIGCHLD,
// SIGPIPE, SIGURG); `on_resize` is called after the pty has its new size.
void foreground(int done_fd, int pty_master, const ForegroundSignals& signals,
                const std::function<void(int)>& on_signal, const std::function<void(u16 rows, u16 columns)>& on_resize);

}  // namespace sbx::container
