#include "sentry/syscalls/path_args.h"

#include <fcntl.h>

namespace sbx::syscalls {

Result<NameAt> name_at(Task& task, DirFd dirfd, UserPath path) {
  auto text = TRY(path.read(task));
  if (text.empty()) return Errno::kNoent;  // before anything is said of dirfd
  task.looked_at = text;
  auto start = TRY(task.walk_context_at(dirfd.n, text));
  return NameAt{std::move(start), std::move(text)};
}

Result<vfs::Path> place_of(Task& task, DirFd fd) {
  if (fd.n == AT_FDCWD) return task.fs->cwd;
  auto file = TRY(task.fds->get(fd.n, true));
  return file->path();
}

Result<vfs::Path> resolve_at(Task& task, DirFd dirfd, UserPath path, u64 at_flags, bool follow) {
  if ((at_flags & AT_EMPTY_PATH) && path.addr == 0) return place_of(task, dirfd);
  auto text = TRY(path.read(task));
  if (text.empty() && (at_flags & AT_EMPTY_PATH)) return place_of(task, dirfd);
  if (text.empty()) return Errno::kNoent;
  task.looked_at = text;
  if (at_flags & AT_SYMLINK_NOFOLLOW) follow = false;
  if (at_flags & AT_SYMLINK_FOLLOW) follow = true;
  auto start = TRY(task.walk_context_at(dirfd.n, text));
  vfs::WalkFlags flags;
  flags.follow_last = follow;
  return vfs::resolve(start, text, flags);
}

}  // namespace sbx::syscalls
