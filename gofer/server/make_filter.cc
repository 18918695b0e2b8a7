// Runs while the product is built: the gofer's filters as constants.
#include "gofer/server/filter_rules.h"
#include "sentry/base/bpf_export.h"

int main() {
  using sbx::gofer::gofer_program;
  bool done =
      sbx::print_bpf("kPlain", gofer_program(false, false)) && sbx::print_bpf("kRaw", gofer_program(false, true));
  done = done && sbx::print_bpf("kSockets", gofer_program(true, false)) &&
         sbx::print_bpf("kSocketsAndRaw", gofer_program(true, true));
  return done ? 0 : 1;
}
