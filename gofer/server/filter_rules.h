// What the gofer's filter lets through.
#pragma once
#include <linux/filter.h>

#include <vector>

#include "sentry/base/result.h"

namespace sbx::gofer {

// Assembled by libseccomp: while the product is built.
HostResult<std::vector<sock_filter>> gofer_program(bool sockets, bool raw_sockets);

}  // namespace sbx::gofer
