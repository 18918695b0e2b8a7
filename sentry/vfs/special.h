// What stands behind a special file (FIFO, device, socket) of any filesystem: the rooms that own pipes, devices and
// sockets register how such an inode is opened; filesystems call open_special() from Inode::open.
#pragma once
#include <functional>

#include "sentry/base/result.h"
#include "sentry/vfs/file.h"

namespace sbx::vfs {

// `inode` is the special file's own (its special_state() belongs to the opener), `rdev` the number of a device.
// May park (a FIFO waits for its other end).
using SpecialOpener = std::function<Result<RefPtr<File>>(Inode& inode, u64 rdev, const Path& path, u32 flags)>;

// Registers the opener of S_IFIFO, S_IFCHR or S_IFBLK; the latest counts.
void register_special(u32 type, SpecialOpener opener);
// Opens by registration. Sockets, and devices nobody serves: kNxio.
Result<RefPtr<File>> open_special(Inode& inode, u32 type, u64 rdev, const Path& path, u32 flags);

}  // namespace sbx::vfs
