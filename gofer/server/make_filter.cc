// Runs while the product is built: the gofer's filters as constants.
#include "gofer/server/filter_rules.h"
#include "sentry/base/bpf_export.h"

int main() {
  using sbx::gofer::gofer_program;
  return sbx::print_bpf("kPlain", gofer_program(false)) && sbx::print_bpf("kRaw", gofer_program(true)) ? 0 : 1;
}
