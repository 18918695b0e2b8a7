// Runs while the product is built: the sentry's filters as constants.
#include "sentry/base/bpf_export.h"
#include "sentry/control/filter_rules.h"

int main() {
  using sbx::control::sentry_program;
  const bool done =
      sbx::print_bpf("kPlain", sentry_program(false, false)) && sbx::print_bpf("kRaw", sentry_program(false, true)) &&
      sbx::print_bpf("kUnix", sentry_program(true, false)) && sbx::print_bpf("kUnixAndRaw", sentry_program(true, true));
  return done ? 0 : 1;
}
