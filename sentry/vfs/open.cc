#include <linux/capability.h>
#include <linux/openat2.h>
#include <sys/mount.h>

#include "sentry/vfs/notify.h"
#include "sentry/vfs/walker.h"

namespace sbx::vfs {

using security::Credentials;

namespace {

constexpr u32 kLargefile = 0100000;  // O_LARGEFILE, which glibc hides on x86-64; F_GETFL shows it

u32 wanted_access(u32 flags) {
  u32 may = 0;
  switch (flags & O_ACCMODE) {
    case O_RDONLY: may = kMayRead; break;
    case O_WRONLY: may = kMayWrite; break;
    default: may = kMayRead | kMayWrite; break;  // 3 too: both rights for an ioctl-only description (open(2))
  }
  if ((flags & O_TRUNC) != 0) may |= kMayWrite;
  return may;
}

// may_open() of fs/namei.c: what the kind of object and the mount forbid, then the permission bits.
Result<void> may_open(const Credentials& creds, const Path& path, u32 flags, u32* may_out) {
  Inode& inode = *path.inode();
  u32 may = wanted_access(flags);
  switch (inode.type()) {
    case S_IFLNK: return Errno::kLoop;
    case S_IFDIR:
      if ((may & kMayWrite) != 0) return Errno::kIsdir;
      break;
    case S_IFCHR:
    case S_IFBLK:
      if (path.mount && (path.mount->flags & MS_NODEV) != 0) return Errno::kAcces;
      break;
    default: break;
  }
  if ((may & kMayWrite) != 0 && inode.type() == S_IFREG && path.mount && path.mount->read_only()) return Errno::kRofs;
  TRY(check_access(creds, inode, may));
  if ((flags & O_NOATIME) != 0) {
    Owner o = TRY(inode.owner());
    if (!owner_or_capable(creds, o.uid, CAP_FOWNER)) return Errno::kPerm;
  }
  *may_out = may;
  return {};
}

Result<RefPtr<File>> open_inode(const Credentials& creds, const Path& path, u32 flags, u32 may) {
  RefPtr<Inode> inode(path.inode());
  bool regular = inode->type() == S_IFREG;
  if (regular && (may & kMayWrite) != 0 && inode->write_count() < 0) return Errno::kTxtbsy;
  RefPtr<File> file = TRY(inode->open(path, flags | kLargefile));
  if (regular && (flags & O_TRUNC) != 0) {
    TRY(truncate_inode(creds, *inode, 0));
    notify_dentry(*path.dentry, IN_MODIFY);
  }
  if (file->inode() == inode.get()) file->mark_opened();
  return file;
}

Result<RefPtr<File>> open_found(const Credentials& creds, const Path& path, u32 flags) {
  if ((flags & O_DIRECTORY) != 0 && !path.dentry->is_dir()) return Errno::kNotdir;
  if ((flags & O_PATH) != 0) return RefPtr<File>(make_ref<PathFile>(path, flags));
  u32 may = 0;
  TRY(may_open(creds, path, flags, &may));
  return open_inode(creds, path, flags, may);
}

Result<RefPtr<File>> open_tmpfile(const WalkContext& ctx, std::string_view name, const OpenRequest& request) {
  WalkFlags how;
  how.need_dir = true;
  how.resolve = request.resolve;
  Path dir = TRY(resolve(ctx, name, how));
  TRY(may_change_dir(*ctx.creds, dir));
  NewNode node;
  node.mode = S_IFREG | (request.mode & 07777);
  TRY(inherit_owner(*ctx.creds, *dir.inode(), node));
  RefPtr<Inode> inode = TRY(dir.inode()->tmpfile(node));
  auto attr = TRY(inode->attr());
  // d_path shows such files as "/#INODE (deleted)".
  RefPtr<Dentry> dentry =
      Dentry::make_root(RefPtr<FileSystem>(&dir.dentry->fs()), inode, "/#" + std::to_string(attr.ino));
  dentry->became_deleted(false);
  return open_inode(*ctx.creds, Path{dir.mount, dentry}, request.flags & ~u32{O_TMPFILE}, 0);
}

// Makes the file `name` in the directory where the walker stands and opens it. kExist: somebody else made it meanwhile.
Result<RefPtr<File>> create_and_open(const WalkContext& ctx, const Path& dir, std::string_view name,
                                     const OpenRequest& request) {
  TRY(may_change_dir(*ctx.creds, dir));
  NewNode node;
  node.mode = S_IFREG | (request.mode & 07777);
  TRY(inherit_owner(*ctx.creds, *dir.inode(), node));
  Path path{dir.mount, nullptr};
  {
    DirLock lock(*dir.dentry);
    if (dir.dentry->deleted()) return Errno::kNoent;
    auto inode = dir.inode()->create(name, node);
    if (!inode) {
      if (inode.error() == Errno::kExist) dir.dentry->forget_child(name);
      return inode.error();
    }
    path.dentry = dir.dentry->attach_child(name, std::move(*inode));
    name_changes.touched.emplace_back(name);
  }
  notify_child(*dir.inode(), IN_CREATE, name);
  return open_inode(*ctx.creds, path, request.flags & ~u32{O_TRUNC}, 0);
}

Result<RefPtr<File>> open_creating(const WalkContext& ctx, std::string_view text, const OpenRequest& request) {
  const u32 flags = request.flags;
  const bool exclusive = (flags & O_EXCL) != 0;
  Walker walker(ctx, request.resolve);
  std::string link;  // holds the text that the walk is in, once it followed a link in last position
  TRY(walker.begin(text));
  for (int races = 0;;) {
    TRY(walker.parents(text));
    if (walker.last() != Walker::Last::kNormal) return exclusive ? Errno::kExist : Errno::kIsdir;
    if (walker.trailing_slash()) return Errno::kIsdir;
    Path dir = walker.at();
    std::string_view name = walker.name();
    if ((request.resolve & RESOLVE_CACHED) != 0) return Errno::kAgain;
    auto found = dir.dentry->child(name);
    if (!found && found.error() != Errno::kNoent) return found.error();
    if (!found || (*found)->inode() == nullptr) {
      auto file = create_and_open(ctx, dir, name, request);
      if (!file && file.error() == Errno::kExist && !exclusive && ++races < 8) {
        text = walker.name();
        continue;
      }
      return file;
    }
    if (exclusive) return Errno::kExist;
    Path path{dir.mount, std::move(*found)};
    TRY(walker.cross(path));
    if (path.dentry->is_link()) {
      if ((flags & O_NOFOLLOW) != 0) return Errno::kLoop;
      bool jumped = false;
      std::string target = TRY(walker.enter_link(*path.dentry, true, &jumped));
      if (!jumped) {
        link = std::move(target);
        text = link;
        continue;
      }
      path = walker.at();
    }
    if (path.dentry->is_dir()) return Errno::kIsdir;
    TRY(may_open_sticky(*ctx.creds, *dir.inode(), *path.inode()));
    return open_found(*ctx.creds, path, flags);
  }
}

}  // namespace

Result<RefPtr<File>> open(const WalkContext& ctx, std::string_view path, const OpenRequest& asked) {
  OpenRequest request = asked;
  u32& flags = request.flags;
  if ((flags & O_PATH) != 0) flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  constexpr u32 kTmpfileBit = O_TMPFILE & ~O_DIRECTORY;
  if ((flags & kTmpfileBit) != 0) {
    if ((flags & O_TMPFILE) != O_TMPFILE || (flags & O_CREAT) != 0 || (flags & O_ACCMODE) == O_RDONLY)
      return Errno::kInval;
    return open_tmpfile(ctx, path, request);
  }
  if ((flags & O_CREAT) != 0) {
    if ((flags & O_DIRECTORY) != 0) return Errno::kInval;
    return open_creating(ctx, path, request);
  }
  WalkFlags how;
  how.follow_last = (flags & O_NOFOLLOW) == 0;
  how.resolve = request.resolve;
  Path found = TRY(resolve(ctx, path, how));
  return open_found(*ctx.creds, found, flags);
}

Result<RefPtr<File>> open_path(const Credentials& creds, const Path& path, u32 flags) {
  if (path.inode() == nullptr) return Errno::kNoent;
  return open_found(creds, path, flags & ~u32{O_CREAT | O_EXCL});
}

}  // namespace sbx::vfs
