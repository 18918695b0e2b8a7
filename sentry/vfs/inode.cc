#include "sentry/vfs/inode.h"

#include <sys/sysmacros.h>

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/file_locks.h"

namespace sbx::vfs {

// The coarse clock, as Linux does for file times: consistent with files that the host keeps.
Time time_now() {
  timespec t{};
  clock_gettime(CLOCK_REALTIME_COARSE, &t);
  return {t.tv_sec, static_cast<u32>(t.tv_nsec)};
}

Inode::Inode(FileSystem& fs) : fs_(&fs) {}
Inode::~Inode() = default;

Result<Owner> Inode::owner() {
  Attr a = TRY(attr());
  return Owner{a.mode, a.uid, a.gid};
}

Result<Path> Inode::follow_magic() { return Errno::kNosys; }

FileLocks& Inode::locks() {
  if (!locks_) locks_ = std::make_unique<FileLocks>();
  return *locks_;
}

u64 FileSystem::allocate_dev() {
  static u32 minor = 0;
  return makedev(0, ++minor);
}

}  // namespace sbx::vfs
