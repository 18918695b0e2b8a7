#include "sentry/control/filter.h"

#include "sentry/base/bpf_program.h"

namespace sbx::control {
namespace {

#include "sentry/control/sentry_filter.inc"

}  // namespace

HostResult<void> load_sentry_filter(bool unix_sockets, bool raw_sockets) {
  if (unix_sockets) return raw_sockets ? load_bpf(kUnixAndRaw) : load_bpf(kUnix);
  return raw_sockets ? load_bpf(kRaw) : load_bpf(kPlain);
}

}  // namespace sbx::control
