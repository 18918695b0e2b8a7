// Extended attributes (xattr(7)): names and sizes checked, permissions by name space, then the inode.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/limits.h>
#include <linux/xattr.h>
#include <sys/stat.h>

#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/path_args.h"
#include "sentry/vfs/notify.h"

namespace sbx::syscalls {
namespace {

constexpr DirFd kCwd{AT_FDCWD};
enum class Use : u8 { kRead, kWrite };

Result<std::string> read_name(Task& task, UserString name) {
  auto text = task.memory().read_string(name.addr, XATTR_NAME_MAX);
  if (!text) return text.error() == Errno::kNametoolong ? Errno::kRange : text.error();
  if (text->empty()) return Errno::kRange;
  return text;
}

// fs/xattr.c, xattr_permission.
Result<void> may_use(const Task& task, const vfs::Path& place, std::string_view name, Use use) {
  vfs::Inode& inode = *place.inode();
  if (use == Use::kWrite && place.mount && place.mount->read_only()) return Errno::kRofs;
  const bool admin = task.creds->capable(CAP_SYS_ADMIN);
  if (name.starts_with("security.")) {
    if (use == Use::kRead) return {};
    const u32 cap = name == "security.capability" ? CAP_SETFCAP : CAP_SYS_ADMIN;
    if (!task.creds->capable(cap)) return Errno::kPerm;
    return {};
  }
  if (name.starts_with("system.")) return {};
  if (name.starts_with("trusted.")) {
    if (admin) return {};
    return use == Use::kWrite ? Errno::kPerm : Errno::kNodata;
  }
  if (name.starts_with("user.")) {
    if (inode.type() != S_IFREG && inode.type() != S_IFDIR) return use == Use::kWrite ? Errno::kPerm : Errno::kNodata;
    if (inode.type() == S_IFDIR && use == Use::kWrite) {
      vfs::Owner owner = TRY(inode.owner());
      if ((owner.mode & S_ISVTX) && owner.uid != task.creds->fsuid && !task.creds->capable(CAP_FOWNER)) {
        return Errno::kPerm;
      }
    }
    return vfs::check_access(*task.creds, inode, use == Use::kRead ? vfs::kMayRead : vfs::kMayWrite);
  }
  return Errno::kOpnotsupp;
}

void changed(const vfs::Path& place) { vfs::notify_dentry(*place.dentry, IN_ATTRIB); }

Result<i64> set(Task& task, const vfs::Path& place, UserString name, InBuf value, u64 size, i32 flags) {
  if (flags & ~(XATTR_CREATE | XATTR_REPLACE)) return Errno::kInval;
  std::string text = TRY(read_name(task, name));
  if (size > XATTR_SIZE_MAX) return Errno::kTooBig;
  std::string bytes(size, '\0');
  if (size > 0) TRY(task.memory().read(value.addr, bytes.data(), size));
  TRY(may_use(task, place, text, Use::kWrite));
  TRY(place.inode()->set_xattr(text, bytes, static_cast<u32>(flags)));
  changed(place);
  return 0;
}

// A size of 0 asks how much there is.
Result<i64> give(Task& task, OutBuf to, u64 size, std::string_view bytes) {
  if (size == 0) return static_cast<i64>(bytes.size());
  if (bytes.size() > size) return Errno::kRange;
  if (!bytes.empty()) TRY(task.memory().write(to.addr, bytes.data(), bytes.size()));
  return static_cast<i64>(bytes.size());
}

Result<i64> get(Task& task, const vfs::Path& place, UserString name, OutBuf to, u64 size) {
  std::string text = TRY(read_name(task, name));
  TRY(may_use(task, place, text, Use::kRead));
  return give(task, to, size, TRY(place.inode()->get_xattr(text)));
}

Result<i64> list(Task& task, const vfs::Path& place, OutBuf to, u64 size) {
  auto names = TRY(place.inode()->list_xattr());
  std::string all;
  for (const std::string& name : names) {
    if (name.starts_with("trusted.") && !task.creds->capable(CAP_SYS_ADMIN)) continue;
    all += name;
    all += '\0';
  }
  return give(task, to, size, all);
}

Result<i64> remove(Task& task, const vfs::Path& place, UserString name) {
  std::string text = TRY(read_name(task, name));
  TRY(may_use(task, place, text, Use::kWrite));
  TRY(place.inode()->remove_xattr(text));
  changed(place);
  return 0;
}

Result<vfs::Path> followed(Task& task, UserPath path) { return resolve_at(task, kCwd, path, 0); }
Result<vfs::Path> itself(Task& task, UserPath path) { return resolve_at(task, kCwd, path, AT_SYMLINK_NOFOLLOW); }
Result<vfs::Path> opened(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  if (file->inode() == nullptr) return Errno::kOpnotsupp;
  return file->path();
}

}  // namespace

Result<i64> sys_setxattr(Task& task, UserPath path, UserString name, InBuf value, Size size, Int flags) {
  return set(task, TRY(followed(task, path)), name, value, size, flags);
}
Result<i64> sys_lsetxattr(Task& task, UserPath path, UserString name, InBuf value, Size size, Int flags) {
  return set(task, TRY(itself(task, path)), name, value, size, flags);
}
Result<i64> sys_fsetxattr(Task& task, Fd fd, UserString name, InBuf value, Size size, Int flags) {
  return set(task, TRY(opened(task, fd)), name, value, size, flags);
}
Result<i64> sys_getxattr(Task& task, UserPath path, UserString name, OutBuf to, Size size) {
  return get(task, TRY(followed(task, path)), name, to, size);
}
Result<i64> sys_lgetxattr(Task& task, UserPath path, UserString name, OutBuf to, Size size) {
  return get(task, TRY(itself(task, path)), name, to, size);
}
Result<i64> sys_fgetxattr(Task& task, Fd fd, UserString name, OutBuf to, Size size) {
  return get(task, TRY(opened(task, fd)), name, to, size);
}
Result<i64> sys_listxattr(Task& task, UserPath path, OutBuf to, Size size) {
  return list(task, TRY(followed(task, path)), to, size);
}
Result<i64> sys_llistxattr(Task& task, UserPath path, OutBuf to, Size size) {
  return list(task, TRY(itself(task, path)), to, size);
}
Result<i64> sys_flistxattr(Task& task, Fd fd, OutBuf to, Size size) {
  return list(task, TRY(opened(task, fd)), to, size);
}
Result<i64> sys_removexattr(Task& task, UserPath path, UserString name) {
  return remove(task, TRY(followed(task, path)), name);
}
Result<i64> sys_lremovexattr(Task& task, UserPath path, UserString name) {
  return remove(task, TRY(itself(task, path)), name);
}
Result<i64> sys_fremovexattr(Task& task, Fd fd, UserString name) { return remove(task, TRY(opened(task, fd)), name); }

}  // namespace sbx::syscalls
