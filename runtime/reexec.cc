// The other two programs of the binary. Not in a library: which sentry_main is linked is the program's choice.
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>

#include "gofer/main.h"
#include "runtime/boot/launch.h"
#include "sentry/main.h"

namespace sbx::boot {

int run_gofer(int argc, char** argv) {
  ::prctl(PR_SET_NAME, kGoferName);
  if (argc < 2) return 1;
  return gofer::gofer_main(argc, argv);
}

int run_sentry(int argc, char** argv) {
  ::prctl(PR_SET_NAME, kSentryName);
  if (argc < 2) return 1;
  return sentry_main(std::atoi(argv[1]));
}

}  // namespace sbx::boot
