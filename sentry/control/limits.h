// The container's limits as the guest sees them: in /proc/meminfo, /sys/fs/cgroup, and where the sentry counts itself.
#pragma once
#include "sentry/control/boot_config.h"
#include "sentry/task/container.h"

namespace sbx::control {

// Makes these the limits of the first container. Fields that are kUnchanged (or an empty CPU list) stay as they are.
// Kernel lock.
void set_limits(const VisibleLimits& limits);
// VisibleLimits::pids of one container.
void set_pids_limit(task::Container& container, i64 limit);

}  // namespace sbx::control
