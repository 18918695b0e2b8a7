// procfs. proc(5) is the specification; what is shown and what is not: docs/proc.md.
#pragma once
#include <functional>
#include <string>

#include "sentry/fs/proc/node.h"

namespace sbx::fs::proc {

// The one instance; made on first use.
RefPtr<vfs::FileSystem> proc_filesystem();

// Reads a file of /proc/PID of a host process ("maps", "status", "statm", "smaps", "io"), or with pid 0 of /proc itself
// ("meminfo"); connected to the gofer at boot. May park. Unset: kNosys.
using HostProcReader = std::function<Result<std::string>(i32 host_pid, const char* kind)>;
void set_host_proc_reader(HostProcReader reader);
Result<std::string> read_host_proc(i32 host_pid, const char* kind);
// A file of /proc/net ("net/dev") as the host shows it in the container's network namespace. kNoent: no process lives.
Result<std::string> read_host_net(const char* kind);

}  // namespace sbx::fs::proc
