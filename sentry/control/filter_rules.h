// What the sentry's own filter lets through, and the program that says so.
#pragma once
#include <linux/filter.h>

#include <string>
#include <vector>

#include "sentry/base/result.h"

namespace sbx::control {

// Assembled by libseccomp, which takes milliseconds: while the product is built.
HostResult<std::vector<sock_filter>> sentry_program(bool unix_sockets, bool raw_sockets);
// The allowed calls, one line each, for `sbx features` and the documentation.
std::vector<std::string> sentry_surface();

}  // namespace sbx::control
