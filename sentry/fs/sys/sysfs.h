// sysfs: the few parts of /sys that programs read, and the container's own cgroup as files. Read-only.
#pragma once
#include "sentry/vfs/inode.h"

namespace sbx::fs::sys {
// The one instance; made on first use from the host facts.
RefPtr<vfs::FileSystem> sys_filesystem();
}  // namespace sbx::fs::sys
