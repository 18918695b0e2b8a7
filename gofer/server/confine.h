// What the gofer gives up before it serves the first request.
#pragma once
#include "sentry/base/result.h"

namespace sbx::gofer {

// Keeps only the capabilities file work needs (of those it has), and CAP_NET_RAW if raw_sockets; lets a change of the
// file system ids not touch them, sets no_new_privs. Before any thread is started.
HostResult<void> drop_privileges(bool raw_sockets);
// Makes the root directory one in which no name exists. kPerm where the caller may not chroot.
HostResult<void> enter_empty_root();
// Loads the list of allowed system calls for all threads of the process; others answer EPERM. After the threads have
// started: no new ones can be made.
HostResult<void> load_filter(bool sockets, bool raw_sockets);

}  // namespace sbx::gofer
