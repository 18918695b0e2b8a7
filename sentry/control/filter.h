// The sentry's own seccomp filter: what the kernel of a container may ask of the host's (docs/security.md).
#pragma once
#include "sentry/base/result.h"

namespace sbx::control {

// Loads it on every thread of the process (TSYNC), for good.
// unix_sockets: sockets of the host may be connected to (BootConfig::host_sockets).
// raw_sockets: the options of raw and packet sockets (BootConfig::raw_sockets).
HostResult<void> load_sentry_filter(bool unix_sockets, bool raw_sockets);

}  // namespace sbx::control
