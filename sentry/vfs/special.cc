#include "sentry/vfs/special.h"

#include <sys/stat.h>

namespace sbx::vfs {
namespace {
SpecialOpener& opener_of(u32 type) {
  static auto* openers = new SpecialOpener[3];
  return openers[type == S_IFIFO ? 0 : type == S_IFCHR ? 1 : 2];
}
}  // namespace

void register_special(u32 type, SpecialOpener opener) { opener_of(type) = std::move(opener); }

Result<RefPtr<File>> open_special(Inode& inode, u32 type, u64 rdev, const Path& path, u32 flags) {
  if (type != S_IFIFO && type != S_IFCHR && type != S_IFBLK) return Errno::kNxio;
  SpecialOpener& opener = opener_of(type);
  if (!opener) return Errno::kNxio;
  return opener(inode, rdev, path, flags);
}

}  // namespace sbx::vfs
