// The other two programs of the binary.
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>

#include "gofer/main.h"
#include "runtime/boot/launch.h"
#include "sentry/control/boot_config.h"

#if __has_include("sentry/main.h")
#include "sentry/main.h"
#define SBX_HAVE_SENTRY 1
#endif

namespace sbx::boot {

int run_gofer(int argc, char** argv) {
  ::prctl(PR_SET_NAME, kGoferName);
  if (argc < 2) return 1;
  return gofer::gofer_main(argc, argv);
}

#ifdef SBX_HAVE_SENTRY
int run_sentry(int argc, char** argv) {
  ::prctl(PR_SET_NAME, kSentryName);
  if (argc < 2) return 1;
  return sentry_main(std::atoi(argv[1]));
}
#else
// Only the tests' double answers in such a build.
__attribute__((weak)) int test_sentry_main(int boot_fd);

int run_sentry(int argc, char** argv) {
  ::prctl(PR_SET_NAME, kSentryName);
  if (argc < 2) return 1;
  int boot_fd = std::atoi(argv[1]);
  if (test_sentry_main != nullptr) return test_sentry_main(boot_fd);
  if (auto config = control::read_boot_config(boot_fd)) {
    control::send_boot_report(config->sync_fd, {false, "this build has no sentry"});
  }
  return 1;
}
#endif

}  // namespace sbx::boot
