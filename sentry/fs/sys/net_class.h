// /sys/class/net: the interfaces of the container's network namespace (Documentation/ABI/testing/sysfs-class-net).
#pragma once
#include "sentry/fs/proc/node.h"

namespace sbx::fs::sys {

// Adds class/net and devices/virtual/net, where its links lead.
void add_net_class(proc::PseudoFs& fs, proc::StaticDir& root);

}  // namespace sbx::fs::sys
