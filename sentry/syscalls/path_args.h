// Paths of *at calls, resolved by the flags at the door.
#pragma once
#include "sentry/syscalls/args.h"
#include "sentry/vfs/walk.h"

namespace sbx::syscalls {

// An existing object named by (dirfd, path). With AT_EMPTY_PATH in at_flags an empty path (or a null pointer) names the
// descriptor itself. AT_SYMLINK_NOFOLLOW and AT_SYMLINK_FOLLOW override `follow`.
Result<vfs::Path> resolve_at(Task& task, DirFd dirfd, UserPath path, u64 at_flags, bool follow = true);
// (start, text) for the operations that take names themselves.
struct NameAt {
  vfs::WalkContext start;
  std::string text;
};
Result<NameAt> name_at(Task& task, DirFd dirfd, UserPath path);
// The place an open descriptor names, O_PATH included; AT_FDCWD: the working directory.
Result<vfs::Path> place_of(Task& task, DirFd fd);

}  // namespace sbx::syscalls
