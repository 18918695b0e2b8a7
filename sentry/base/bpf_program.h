// Seccomp programs of the product's own processes. libseccomp assembles them while the product is built (bpf_export.h),
// which takes it some milliseconds; at run time they are constants.
#pragma once
#include <linux/filter.h>

#include <span>

#include "sentry/base/result.h"

namespace sbx {

// Loads it on all threads of the process, for good, with no_new_privs.
HostResult<void> load_bpf(std::span<const sock_filter> program);

}  // namespace sbx
