// Builds the container's mount tree from the boot configuration.
#pragma once
#include <functional>

#include "sentry/control/boot_config.h"
#include "sentry/vfs/dentry.h"

namespace sbx::control {

// Makes the filesystem of a gofer mount (rootfs, binds).
using BindMaker = std::function<Result<RefPtr<vfs::FileSystem>>(const BootMount& mount)>;

// Mounts root, mounts, devices, masked and read-only paths. Sets nothing global. The error names the mount. On a fiber.
HostResult<RefPtr<vfs::MountNamespace>> build_mounts(const BootConfig& config, const BindMaker& make_bind);

}  // namespace sbx::control
