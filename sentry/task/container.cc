#include "sentry/task/container.h"

#include <unistd.h>

#include "sentry/base/log.h"
#include "sentry/security/credentials.h"
#include "sentry/task/seccomp.h"
#include "sentry/task/thread_group.h"

namespace sbx::task {

Container::Container() = default;
Container::~Container() = default;

void Container::adopt(i32 host_pid) const {
  const std::string text = std::to_string(host_pid);
  for (const UniqueFd& fd : cgroup_procs) {
    if (write(fd.get(), text.data(), text.size()) < 0) LOG_WARNING("guest cgroup: %s", errno_text(last_errno()));
  }
}

vfs::WalkContext Container::kernel_context() const {
  vfs::Path root = mounts->root();
  return {root, root, security::kernel_credentials().get(), mounts.get()};
}

}  // namespace sbx::task
