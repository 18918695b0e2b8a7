// The sentry process: the container's kernel.
#pragma once

namespace sbx {
// boot_fd: sealed memfd with a control::BootConfig. Returns only on failure to boot (status 1, already reported); ends
// the process with the container's exit status otherwise.
int sentry_main(int boot_fd);
}  // namespace sbx
