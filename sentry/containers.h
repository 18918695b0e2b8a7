// The kernel's part of a container: its names, mounts, ipc, network and filter. For the one that the sandbox is made
// for and for those that join it.
#pragma once
#include <memory>

#include "gofer/protocol/channel.h"
#include "sentry/control/server.h"

namespace sbx {

// Fills container.kernel in from its configuration; on a fiber. Errors are sentences: what is missing (a mount, the
// command) is the caller's `create` to report.
HostResult<void> set_up_container(control::Container& container, std::shared_ptr<gofer::Client> gofer);
// control::Joiner: the same for a container whose gofer waits at the other end of the socket.
HostResult<void> join_container(control::Container& container, UniqueFd gofer_socket);

}  // namespace sbx
