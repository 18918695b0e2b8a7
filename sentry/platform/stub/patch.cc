// Rewriting syscall sites into jumps.
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {

void try_patch(Context& ctx) { (void)ctx; }

}  // namespace sbx::platform::stub
