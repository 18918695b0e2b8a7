// A process's terminal: an emulated pty whose master is relayed to the host's tty.
#pragma once
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/boot_config.h"
#include "sentry/task/container.h"
#include "sentry/task/session.h"
#include "sentry/vfs/file.h"

namespace sbx::control {

struct MadeTerminal {
  RefPtr<vfs::File> file;  // the slave, for descriptors 0, 1 and 2
  RefPtr<task::ControllingTty> tty;
};
// `host_tty`: the slave of the host's pty, in raw mode. Size from the spec, else from the host's.
HostResult<MadeTerminal> make_terminal(const task::Container& container, UniqueFd host_tty, const ProcessSpec& spec);
// SIGWINCH: every terminal takes its size from the host's again.
void host_window_changed();
// Writes what guests printed before the sentry ends, blocking the host thread at most this long each.
void drain_terminals(u64 timeout_ms);
}  // namespace sbx::control
