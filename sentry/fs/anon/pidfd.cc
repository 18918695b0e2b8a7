#include "sentry/fs/anon/pidfd.h"

#include "sentry/base/log.h"
#include "sentry/fs/anon/node.h"

namespace sbx::fs::anon {

PidFd::PidFd(RefPtr<task::ThreadGroup> group, u32 flags)
    : File(anon_path("[pidfd]"), O_RDWR | flags), group_(std::move(group)) {}

u32 PidFd::readiness() {
  if (!group_ || !group_->zombie) return 0;
  return POLLIN | POLLRDNORM | (group_->group ? 0 : POLLHUP);
}

std::string PidFd::fdinfo() { return str_printf("Pid:\t%d\nNSpid:\t%d\n", pid(), pid()); }

Result<RefPtr<vfs::File>> make_pidfd(RefPtr<task::ThreadGroup> group, u32 flags) {
  if (flags & ~u32{O_NONBLOCK}) return Errno::kInval;
  return RefPtr<vfs::File>(make_ref<PidFd>(std::move(group), flags));
}

}  // namespace sbx::fs::anon
