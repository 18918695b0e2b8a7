#include <linux/capability.h>
#include <sys/mount.h>

#include "sentry/vfs/walker.h"

namespace sbx::vfs {

using security::Credentials;

Protections& protections() {
  static Protections instance;
  return instance;
}

Result<void> check_access(const Credentials& creds, Inode& inode, u32 may) {
  if (inode.own_permission_checks()) return {};
  Owner o = TRY(inode.owner());
  u32 bits = o.uid == creds.fsuid ? o.mode >> 6 : creds.in_group(o.gid) ? o.mode >> 3 : o.mode;
  if ((may & ~bits & 7) == 0) return {};
  // capabilities(7): DAC_OVERRIDE executes only what somebody may execute.
  bool dir = S_ISDIR(o.mode);
  if (creds.capable(CAP_DAC_OVERRIDE) && (dir || (may & kMayExec) == 0 || (o.mode & 0111) != 0)) return {};
  if (creds.capable(CAP_DAC_READ_SEARCH) && (dir ? (may & kMayWrite) == 0 : may == kMayRead)) return {};
  return Errno::kAcces;
}

bool anybody_may_read(const Path& path) {
  if (!path || path.mount->parent() != nullptr || path.dentry->deleted()) return false;
  auto file = path.inode()->owner();
  if (!file || (file->mode & S_IROTH) == 0) return false;
  for (Dentry* dir = path.dentry->parent(); dir != nullptr; dir = dir->parent()) {
    auto owner = dir->inode()->owner();
    if (!owner || (owner->mode & S_IXOTH) == 0) return false;
  }
  return true;
}

Result<void> check_path_access(const Credentials& creds, const Path& path, u32 may) {
  Inode& inode = *path.inode();
  u32 type = inode.type();
  if ((may & kMayExec) != 0 && type == S_IFREG && path.mount && (path.mount->flags & MS_NOEXEC) != 0)
    return Errno::kAcces;
  TRY(check_access(creds, inode, may));
  if ((may & kMayWrite) != 0 && path.mount && path.mount->read_only() &&
      (type == S_IFREG || type == S_IFDIR || type == S_IFLNK))
    return Errno::kRofs;
  return {};
}

bool owner_or_capable(const Credentials& creds, u32 uid, u32 cap) { return creds.fsuid == uid || creds.capable(cap); }

Result<void> check_sticky(const Credentials& creds, Inode& dir, Inode& child) {
  if (creds.capable(CAP_FOWNER)) return {};
  Owner d = TRY(dir.owner());
  if ((d.mode & S_ISVTX) == 0 || d.uid == creds.fsuid) return {};
  Owner c = TRY(child.owner());
  if (c.uid == creds.fsuid) return {};
  return Errno::kPerm;
}

Result<void> may_change_dir(const Credentials& creds, const Path& dir) {
  if (dir.mount->read_only()) return Errno::kRofs;
  if (dir.dentry->deleted()) return Errno::kNoent;
  return check_access(creds, *dir.inode(), kMayWrite | kMayExec);
}

Result<void> may_delete(const Credentials& creds, const Path& dir, const Dentry& victim, bool want_dir) {
  TRY(check_access(creds, *dir.inode(), kMayWrite | kMayExec));
  TRY(check_sticky(creds, *dir.inode(), *victim.inode()));
  if (want_dir && !victim.is_dir()) return Errno::kNotdir;
  if (!want_dir && victim.is_dir()) return Errno::kIsdir;
  return {};
}

// proc(5), protected_symlinks: in a sticky directory that anybody may write, only links of one's own or of the
// directory's owner are followed.
Result<void> may_follow_link(const Credentials& creds, Inode& dir, Inode& link) {
  if (protections().symlinks == 0) return {};
  Owner d = TRY(dir.owner());
  if ((d.mode & (S_ISVTX | S_IWOTH)) != (S_ISVTX | S_IWOTH)) return {};
  Owner l = TRY(link.owner());
  if (l.uid == creds.fsuid || l.uid == d.uid) return {};
  return Errno::kAcces;
}

Result<void> may_hard_link(const Credentials& creds, Inode& target) {
  if (protections().hardlinks == 0) return {};
  Owner o = TRY(target.owner());
  if (owner_or_capable(creds, o.uid, CAP_FOWNER)) return {};
  bool safe = S_ISREG(o.mode) && (o.mode & S_ISUID) == 0 && (o.mode & (S_ISGID | S_IXGRP)) != (S_ISGID | S_IXGRP) &&
              check_access(creds, target, kMayRead | kMayWrite);
  if (!safe) return Errno::kPerm;
  return {};
}

// proc(5), protected_fifos and protected_regular: O_CREAT must not open what somebody else planted.
Result<void> may_open_sticky(const Credentials& creds, Inode& dir, Inode& inode) {
  u32 type = inode.type();
  int level = type == S_IFIFO ? protections().fifos : type == S_IFREG ? protections().regular : 0;
  if (level == 0) return {};
  Owner d = TRY(dir.owner());
  if ((d.mode & S_ISVTX) == 0) return {};
  Owner o = TRY(inode.owner());
  if (o.uid == d.uid || o.uid == creds.fsuid) return {};
  if ((d.mode & S_IWOTH) != 0 || ((d.mode & S_IWGRP) != 0 && level >= 2)) return Errno::kAcces;
  return {};
}

Result<void> inherit_owner(const Credentials& creds, Inode& dir, NewNode& node) {
  node.uid = creds.fsuid;
  node.gid = creds.fsgid;
  Owner d = TRY(dir.owner());
  if ((d.mode & S_ISGID) == 0) return {};
  node.gid = d.gid;
  if (S_ISDIR(node.mode))
    node.mode |= S_ISGID;
  else if ((node.mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && !creds.in_group(d.gid) &&
           !creds.capable(CAP_FSETID))
    node.mode &= ~u32{S_ISGID};
  return {};
}

u32 without_set_id(const Credentials& creds, const Owner& o) {
  if (!S_ISREG(o.mode) || (o.mode & (S_ISUID | S_ISGID)) == 0 || creds.capable(CAP_FSETID)) return o.mode;
  u32 mode = o.mode & ~u32{S_ISUID};
  // Without group execution the bit once meant mandatory locking and stays, unless the writer is outside the group.
  if ((mode & S_IXGRP) != 0 || !creds.in_group(o.gid)) mode &= ~u32{S_ISGID};
  return mode;
}

}  // namespace sbx::vfs
