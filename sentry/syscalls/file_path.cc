// open(2) and the calls that make, remove and rename names.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "sentry/abi/file.h"
#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/path_args.h"
#include "sentry/syscalls/user_io.h"

namespace sbx::syscalls {
namespace {

constexpr u64 kOpenFlags = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC |
                           O_DSYNC | O_ASYNC | O_DIRECT | abi::kLargeFile | O_DIRECTORY | O_NOFOLLOW | O_NOATIME |
                           O_CLOEXEC | O_PATH | O_TMPFILE;
constexpr u64 kPathFlags = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC;
constexpr u64 kTmpFile = O_TMPFILE & ~O_DIRECTORY;

// open(2) ignores what it does not know; the combinations that cannot work are errors (fs/open.c, build_open_flags).
Result<u32> checked_flags(u64 flags) {
  flags &= kOpenFlags;
  if (flags & O_PATH) return static_cast<u32>(flags & kPathFlags);
  if ((flags & kTmpFile) && (!(flags & O_DIRECTORY) || (flags & O_ACCMODE) == O_RDONLY)) return Errno::kInval;
  if ((flags & kTmpFile) && (flags & O_CREAT)) return Errno::kInval;
  if ((flags & O_CREAT) && (flags & O_DIRECTORY)) return Errno::kInval;
  return static_cast<u32>(flags);
}

Result<i64> do_open(Task& task, DirFd dirfd, UserPath path, const vfs::OpenRequest& request) {
  NameAt name = TRY(name_at(task, dirfd, path));
  if (name.text.empty()) return Errno::kNoent;
  auto file = TRY(vfs::open(name.start, name.text, request));
  const int fd = TRY(task.fds->add(file, request.flags & O_CLOEXEC, task.nofile_limit()));
  lend_position(task, fd, file);
  return fd;
}

Result<i64> do_open(Task& task, DirFd dirfd, UserPath path, u32 flags, u32 mode) {
  vfs::OpenRequest request;
  request.flags = TRY(checked_flags(flags));
  if (flags & (O_CREAT | kTmpFile)) request.mode = mode & 07777 & ~task.fs->umask;
  return do_open(task, dirfd, path, request);
}

constexpr DirFd kCwd{AT_FDCWD};

Result<i64> do_mknod(Task& task, DirFd dirfd, UserPath path, u32 mode, u64 device) {
  vfs::NewNode node;
  node.mode = (mode & S_IFMT) | (mode & 07777 & ~task.fs->umask);
  switch (mode & S_IFMT) {
    case 0: node.mode |= S_IFREG; break;
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK: break;
    case S_IFCHR:
    case S_IFBLK: {
      const bool whiteout = S_ISCHR(mode) && device == 0;
      if (!whiteout && !task.creds->capable(CAP_MKNOD)) return Errno::kPerm;
      node.rdev = static_cast<u32>(device);
      break;
    }
    case S_IFDIR: return Errno::kPerm;
    default: return Errno::kInval;
  }
  NameAt name = TRY(name_at(task, dirfd, path));
  (void)TRY(vfs::make_node(name.start, name.text, node));
  return 0;
}

Result<i64> do_mkdir(Task& task, DirFd dirfd, UserPath path, u32 mode) {
  NameAt name = TRY(name_at(task, dirfd, path));
  vfs::NewNode node;
  node.mode = S_IFDIR | (mode & 01777 & ~task.fs->umask);
  (void)TRY(vfs::make_node(name.start, name.text, node));
  return 0;
}

Result<i64> do_symlink(Task& task, UserPath target, DirFd dirfd, UserPath path) {
  vfs::NewNode node;
  node.mode = S_IFLNK | 0777;
  node.target = TRY(target.read(task));
  if (node.target.empty()) return Errno::kNoent;
  NameAt name = TRY(name_at(task, dirfd, path));
  (void)TRY(vfs::make_node(name.start, name.text, node));
  return 0;
}

Result<i64> do_link(Task& task, DirFd old_dir, UserPath old_path, DirFd new_dir, UserPath new_path, u64 flags) {
  if (flags & ~u64{AT_SYMLINK_FOLLOW | AT_EMPTY_PATH}) return Errno::kInval;
  if ((flags & AT_EMPTY_PATH) && !task.creds->capable(CAP_DAC_READ_SEARCH)) return Errno::kNoent;
  NameAt from = TRY(name_at(task, old_dir, old_path));
  NameAt to = TRY(name_at(task, new_dir, new_path));
  if (from.text.empty() && (flags & AT_EMPTY_PATH)) {
    vfs::Path place = TRY(place_of(task, old_dir));
    TRY(vfs::link_path(place, to.start, to.text));
  } else {
    TRY(vfs::link(from.start, from.text, flags & AT_SYMLINK_FOLLOW, to.start, to.text));
  }
  return 0;
}

Result<i64> do_rename(Task& task, DirFd old_dir, UserPath old_path, DirFd new_dir, UserPath new_path, u64 flags) {
  if (flags & ~u64{RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT}) return Errno::kInval;
  if ((flags & RENAME_EXCHANGE) && (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT))) return Errno::kInval;
  if (flags & RENAME_WHITEOUT) {
    STUB("renameat2", flags);
    return Errno::kInval;
  }
  NameAt from = TRY(name_at(task, old_dir, old_path));
  NameAt to = TRY(name_at(task, new_dir, new_path));
  TRY(vfs::rename(from.start, from.text, to.start, to.text, static_cast<u32>(flags)));
  return 0;
}

Result<i64> do_unlink(Task& task, DirFd dirfd, UserPath path) {
  NameAt name = TRY(name_at(task, dirfd, path));
  TRY(vfs::unlink(name.start, name.text));
  return 0;
}

Result<i64> do_rmdir(Task& task, DirFd dirfd, UserPath path) {
  NameAt name = TRY(name_at(task, dirfd, path));
  TRY(vfs::rmdir(name.start, name.text));
  return 0;
}

}  // namespace

// --- open ---

Result<i64> sys_open(Task& task, UserPath path, OpenFlags flags, Mode mode) {
  return do_open(task, kCwd, path, flags.bits, mode.bits);
}

Result<i64> sys_openat(Task& task, DirFd dirfd, UserPath path, OpenFlags flags, Mode mode) {
  return do_open(task, dirfd, path, flags.bits, mode.bits);
}

Result<i64> sys_creat(Task& task, UserPath path, Mode mode) {
  return do_open(task, kCwd, path, O_CREAT | O_WRONLY | O_TRUNC, mode.bits);
}

// openat2 refuses what open ignores.
Result<i64> sys_openat2(Task& task, DirFd dirfd, UserPath path, InBuf how_addr, Size size) {
  if (size < sizeof(abi::OpenHow)) return Errno::kInval;
  if (size > kPageSize) return Errno::kTooBig;
  auto how = TRY(In<abi::OpenHow>{how_addr.addr}.read(task));
  for (u64 at = sizeof(how); at < size; at += 1) {
    if (TRY(In<u8>{how_addr.addr + at}.read(task)) != 0) return Errno::kTooBig;
  }
  if ((how.flags & ~kOpenFlags) || (how.mode & ~u64{07777})) return Errno::kInval;
  constexpr u64 kResolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH |
                           RESOLVE_IN_ROOT | RESOLVE_CACHED;
  if (how.resolve & ~kResolve) return Errno::kInval;
  if ((how.resolve & RESOLVE_BENEATH) && (how.resolve & RESOLVE_IN_ROOT)) return Errno::kInval;
  if (how.mode != 0 && !(how.flags & (O_CREAT | kTmpFile))) return Errno::kInval;
  if ((how.flags & O_PATH) && (how.flags & ~kPathFlags)) return Errno::kInval;
  vfs::OpenRequest request;
  request.flags = TRY(checked_flags(how.flags));
  request.mode = static_cast<u32>(how.mode) & ~task.fs->umask;
  request.resolve = how.resolve;
  return do_open(task, dirfd, path, request);
}

// --- make ---

Result<i64> sys_mknod(Task& task, UserPath path, Mode mode, ULong device) {
  return do_mknod(task, kCwd, path, mode.bits, device);
}
Result<i64> sys_mknodat(Task& task, DirFd dirfd, UserPath path, Mode mode, ULong device) {
  return do_mknod(task, dirfd, path, mode.bits, device);
}
Result<i64> sys_mkdir(Task& task, UserPath path, Mode mode) { return do_mkdir(task, kCwd, path, mode.bits); }
Result<i64> sys_mkdirat(Task& task, DirFd dirfd, UserPath path, Mode mode) {
  return do_mkdir(task, dirfd, path, mode.bits);
}
Result<i64> sys_symlink(Task& task, UserPath target, UserPath path) { return do_symlink(task, target, kCwd, path); }
Result<i64> sys_symlinkat(Task& task, UserPath target, DirFd dirfd, UserPath path) {
  return do_symlink(task, target, dirfd, path);
}
Result<i64> sys_link(Task& task, UserPath old_path, UserPath new_path) {
  return do_link(task, kCwd, old_path, kCwd, new_path, 0);
}
Result<i64> sys_linkat(Task& task, DirFd old_dir, UserPath old_path, DirFd new_dir, UserPath new_path, Hex flags) {
  return do_link(task, old_dir, old_path, new_dir, new_path, flags.v);
}

// --- remove and rename ---

Result<i64> sys_unlink(Task& task, UserPath path) { return do_unlink(task, kCwd, path); }
Result<i64> sys_rmdir(Task& task, UserPath path) { return do_rmdir(task, kCwd, path); }
Result<i64> sys_unlinkat(Task& task, DirFd dirfd, UserPath path, Hex flags) {
  if (flags.v & ~u64{AT_REMOVEDIR}) return Errno::kInval;
  return flags.v & AT_REMOVEDIR ? do_rmdir(task, dirfd, path) : do_unlink(task, dirfd, path);
}
Result<i64> sys_rename(Task& task, UserPath old_path, UserPath new_path) {
  return do_rename(task, kCwd, old_path, kCwd, new_path, 0);
}
Result<i64> sys_renameat(Task& task, DirFd old_dir, UserPath old_path, DirFd new_dir, UserPath new_path) {
  return do_rename(task, old_dir, old_path, new_dir, new_path, 0);
}
Result<i64> sys_renameat2(Task& task, DirFd old_dir, UserPath old_path, DirFd new_dir, UserPath new_path, Hex flags) {
  return do_rename(task, old_dir, old_path, new_dir, new_path, flags.v);
}

}  // namespace sbx::syscalls
