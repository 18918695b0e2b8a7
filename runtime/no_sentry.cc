// Stands in while no sentry is linked: create fails and says why.
#include "sentry/control/boot_config.h"
#include "sentry/main.h"

namespace sbx {

int sentry_main(int boot_fd) {
  if (auto config = control::read_boot_config(boot_fd)) {
    control::send_boot_report(config->sync_fd, {false, "this build has no sentry"});
  }
  return 1;
}

}  // namespace sbx
