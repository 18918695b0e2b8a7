// Runs while the product is built: the stub's filter as a constant.
#include "sentry/base/bpf_export.h"
#include "sentry/platform/filter.h"

int main() { return sbx::print_bpf("kStubFilter", sbx::platform::build_filter()) ? 0 : 1; }
