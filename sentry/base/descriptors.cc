#include "sentry/base/descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

namespace sbx {

u64 raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  return limit.rlim_cur;
}

void make_room_for_descriptors(u32 count) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const auto last = static_cast<int>(std::min<u64>(limit.rlim_cur, count)) - 1;
  // Any descriptor will do. Without room the table grows later.
  for (int fd = 0; fd < last; ++fd) {
    const int high = fcntl(fd, F_DUPFD_CLOEXEC, last);
    if (high < 0 && errno == EBADF) continue;
    if (high >= 0) close(high);
    return;
  }
}

void close_all_but(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned from = 0;
  for (int fd : kept) {
    if (fd < 0) continue;
    auto at = static_cast<unsigned>(fd);
    if (at > from) ::close_range(from, at - 1, 0);
    from = at + 1;
  }
  ::close_range(from, ~0u, 0);
}

}  // namespace sbx
