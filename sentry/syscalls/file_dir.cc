// Directories: getdents, the working directory, the root, umask.
#include <linux/capability.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>

#include "sentry/abi/stat.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/path_args.h"
#include "sentry/syscalls/user_io.h"
#include "sentry/vfs/notify.h"

namespace sbx::syscalls {
namespace {

// Fills a kernel buffer with records, then writes it to the guest at once. `put` stores one record at its place and
// answers its length, 0 if it does not fit in the bytes left.
template <typename Put>
Result<i64> list_entries(Task& task, Fd fd, OutBuf to, u32 size, Put put) {
  auto file = TRY(task.fds->get(fd.n));
  if (file->inode() == nullptr || file->inode()->type() != S_IFDIR) return Errno::kNotdir;
  if (file->path().dentry->deleted()) return Errno::kNoent;
  constexpr size_t kMost = 65536;
  const size_t room = size > INT32_MAX ? 0 : std::min<size_t>(size, kMost);  // the kernel counts in an int
  auto buffer = std::make_unique_for_overwrite<u8[]>(room);
  size_t used = 0;
  bool too_small = false;
  {
    PositionLock lock(*file);
    auto emit = [&](const vfs::DirEntry& entry) {
      size_t n = put(entry, buffer.get() + used, room - used);
      used += n;
      too_small = n == 0;
      return n > 0;
    };
    TRY(file->read_dir(std::ref(emit)));
    vfs::notify_file(*file, IN_ACCESS);
  }
  if (used == 0) {
    if (too_small) return Errno::kInval;
    lend_close(task, fd.n, file);
    return 0;
  }
  TRY(task.memory().write(to.addr, buffer.get(), used));
  lend_close(task, fd.n, file);
  return static_cast<i64>(used);
}

size_t put_entry64(const vfs::DirEntry& entry, u8* at, size_t room) {
  const size_t length = (sizeof(abi::DirEntry64) + entry.name.size() + 1 + 7) & ~size_t{7};
  if (length > room) return 0;
  abi::DirEntry64 head{entry.ino, static_cast<i64>(entry.next), static_cast<u16>(length), entry.type};
  std::memset(at + length - 8, 0, 8);
  std::memcpy(at, &head, sizeof(head));
  std::memcpy(at + sizeof(head), entry.name.data(), entry.name.size());
  return length;
}

size_t put_entry_old(const vfs::DirEntry& entry, u8* at, size_t room) {
  const size_t length = (sizeof(abi::DirEntryOld) + entry.name.size() + 2 + 7) & ~size_t{7};
  if (length > room) return 0;
  abi::DirEntryOld head{entry.ino, entry.next, static_cast<u16>(length)};
  std::memset(at + length - 8, 0, 8);
  std::memcpy(at, &head, sizeof(head));
  std::memcpy(at + sizeof(head), entry.name.data(), entry.name.size());
  at[length - 1] = entry.type;
  return length;
}

Result<vfs::Path> find_directory(Task& task, UserPath path) {
  auto text = TRY(path.read(task));
  vfs::WalkFlags flags;
  flags.need_dir = true;
  vfs::Path place = TRY(vfs::resolve(task.walk_context(), text, flags));
  TRY(vfs::check_access(*task.creds, *place.inode(), vfs::kMayExec));
  return place;
}

}  // namespace

Result<i64> sys_getdents64(Task& task, Fd fd, OutBuf to, UInt size) {
  return list_entries(task, fd, to, size, put_entry64);
}

Result<i64> sys_getdents(Task& task, Fd fd, OutBuf to, UInt size) {
  return list_entries(task, fd, to, size, put_entry_old);
}

Result<i64> sys_getcwd(Task& task, OutBuf to, Size size) {
  if (task.fs->cwd.dentry->deleted()) return Errno::kNoent;
  std::string text = vfs::path_text(task.fs->cwd, task.fs->root);
  if (text.size() + 1 > size) return Errno::kRange;
  TRY(task.memory().write(to.addr, text.c_str(), text.size() + 1));
  return static_cast<i64>(text.size() + 1);
}

Result<i64> sys_chdir(Task& task, UserPath path) {
  task.fs->cwd = TRY(find_directory(task, path));
  return 0;
}

Result<i64> sys_fchdir(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n, true));
  if (file->inode() == nullptr || file->inode()->type() != S_IFDIR) return Errno::kNotdir;
  TRY(vfs::check_access(*task.creds, *file->inode(), vfs::kMayExec));
  task.fs->cwd = file->path();
  return 0;
}

Result<i64> sys_chroot(Task& task, UserPath path) {
  vfs::Path place = TRY(find_directory(task, path));
  if (!task.creds->capable(CAP_SYS_CHROOT)) return Errno::kPerm;
  task.fs->root = std::move(place);
  return 0;
}

Result<i64> sys_umask(Task& task, Mode mask) {
  const u32 old = task.fs->umask;
  task.fs->umask = mask.bits & 0777;
  return old;
}

}  // namespace sbx::syscalls
