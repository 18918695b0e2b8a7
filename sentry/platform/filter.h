// The stub's seccomp filter: the boundary between guest and host.
#pragma once
#include <linux/filter.h>

#include <string>
#include <vector>

#include "sentry/base/result.h"
#include "sentry/base/types.h"

namespace sbx::platform {

// One condition on an argument of an allowed call: (args[index] & mask) == value. A call may have several rows; the
// conditions within a row must all hold.
struct ArgRule {
  u32 index;
  u64 mask;
  u64 value;
};
struct FilterRow {
  int nr;
  const char* name;
  std::vector<ArgRule> rules;
};
// The exact list of what a stub may ask of the host; the filter and host_surface() are made from it.
const std::vector<FilterRow>& filter_rows();
// Assembled by libseccomp: while the product is built (make_filter.cc).
HostResult<std::vector<sock_filter>> build_filter();

}  // namespace sbx::platform
