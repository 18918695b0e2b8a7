// A stand-in: the host's process in place of one in a sandbox whose end somebody waits for by a host pid. Signals that
// reach it are for the other, its exit status is the other's.
#pragma once
#include "sentry/base/types.h"
#include "sentry/base/unique_fd.h"

namespace sbx::boot {

// Blocks every signal that a stand-in or a foreground command passes on, and returns a signalfd of them. To be called
// before the process exists that they are for.
UniqueFd block_passed_signals();

// Waits on the control connection for the end of that exec, 0: of the init of the connection's container. `tty`: the
// terminal whose size is told when it changes; -1: none. Returns the exit status; 128 + SIGKILL if the sandbox ended.
int stand_in(int control_fd, int signals_fd, int tty, u32 exec_id);

}  // namespace sbx::boot
