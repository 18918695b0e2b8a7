#include "sentry/fs/anon/node.h"

#include "sentry/base/log.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::anon {

Result<vfs::StatFs> NamelessFs::statfs() {
  vfs::StatFs out;
  out.type = magic_;
  return out;
}

NamelessInode::NamelessInode(NamelessFs& fs, u32 mode, u32 uid, u32 gid) : Inode(fs) {
  attr_.dev = fs.dev();
  attr_.ino = fs.next_ino();
  attr_.mode = mode;
  attr_.uid = uid;
  attr_.gid = gid;
  attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = vfs::time_now();
}

Result<void> NamelessInode::set_attr(const vfs::SetAttr& change) {
  using S = vfs::SetAttr;
  if (change.mask & S::kSize) return Errno::kInval;
  vfs::Time now = vfs::time_now();
  if (change.mask & S::kMode) attr_.mode = (attr_.mode & S_IFMT) | (change.mode & 07777);
  if (change.mask & S::kUid) attr_.uid = change.uid;
  if (change.mask & S::kGid) attr_.gid = change.gid;
  if (change.mask & (S::kAtime | S::kAtimeNow)) attr_.atime = change.mask & S::kAtimeNow ? now : change.atime;
  if (change.mask & (S::kMtime | S::kMtimeNow)) attr_.mtime = change.mask & S::kMtimeNow ? now : change.mtime;
  attr_.ctime = now;
  return {};
}

Result<RefPtr<vfs::File>> NamelessInode::open(const vfs::Path& path, u32 flags) {
  if (reopen) return reopen(path, flags);
  return Errno::kNxio;
}

vfs::Path anon_path(const char* kind) {
  constexpr u64 kMagic = 0x09041934;  // ANON_INODE_FS_MAGIC
  static auto* fs = make_ref<NamelessFs>("anon_inodefs", kMagic).leak();
  // Linux shares one inode between all of them; nothing a guest can see depends on it but st_ino.
  static auto* inode = make_ref<NamelessInode>(*fs, 0600, 0, 0).leak();
  vfs::Path path;
  path.dentry =
      vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(fs), RefPtr<vfs::Inode>(inode), std::string("anon_inode:") + kind);
  return path;
}

vfs::Path nameless_path(NamelessFs& fs, const char* prefix, RefPtr<NamelessInode> inode) {
  std::string name = str_printf("%s:[%llu]", prefix, static_cast<unsigned long long>(inode->ino()));
  vfs::Path path;
  path.dentry = vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(&fs), std::move(inode), std::move(name));
  return path;
}

}  // namespace sbx::fs::anon
