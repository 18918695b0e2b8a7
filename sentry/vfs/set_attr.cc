#include <linux/capability.h>

#include "sentry/vfs/notify.h"
#include "sentry/vfs/walker.h"

namespace sbx::vfs {

using security::Credentials;

namespace {

Result<void> check_chown(const Credentials& creds, const Attr& now, const SetAttr& change) {
  if (creds.capable(CAP_CHOWN)) return {};
  bool own = creds.fsuid == now.uid;
  if ((change.mask & SetAttr::kUid) != 0 && !(own && change.uid == now.uid)) return Errno::kPerm;
  if ((change.mask & SetAttr::kGid) != 0 && !(own && (change.gid == now.gid || creds.in_group(change.gid))))
    return Errno::kPerm;
  return {};
}

Result<void> check_times(const Credentials& creds, Inode& inode, const Attr& now, const SetAttr& change) {
  if (owner_or_capable(creds, now.uid, CAP_FOWNER)) return {};
  // utimensat(2): both to "now" is what anybody may do who may write.
  constexpr u32 kNow = SetAttr::kAtimeNow | SetAttr::kMtimeNow;
  if ((change.mask & kNow) != kNow) return Errno::kPerm;
  return check_access(creds, inode, kMayWrite);
}

constexpr u32 kTimes = SetAttr::kAtime | SetAttr::kMtime | SetAttr::kAtimeNow | SetAttr::kMtimeNow;

}  // namespace

Result<void> truncate_inode(const Credentials& creds, Inode& inode, u64 size) {
  SetAttr change;
  change.mask = SetAttr::kSize;
  change.size = size;
  Owner o = TRY(inode.owner());
  if (u32 mode = without_set_id(creds, o); mode != o.mode) {
    change.mask |= SetAttr::kMode;
    change.mode = mode & 07777;
  }
  return inode.set_attr(change);
}

Result<void> set_attr(const Credentials& creds, const Path& path, SetAttr change) {
  RefPtr<Inode> inode(path.inode());
  if ((change.mask & SetAttr::kSize) != 0) {
    if (inode->type() == S_IFDIR) return Errno::kIsdir;
    if (inode->type() != S_IFREG) return Errno::kInval;
    TRY(check_path_access(creds, path, kMayWrite));
    if (inode->write_count() < 0) return Errno::kTxtbsy;
    TRY(truncate_inode(creds, *inode, change.size));
    notify_dentry(*path.dentry, IN_MODIFY);
    change.mask &= ~u32{SetAttr::kSize};
    if (change.mask == 0) return {};
  }
  if (path.mount && path.mount->read_only()) return Errno::kRofs;  // none: a nameless object (a pipe)
  Attr now = TRY(inode->attr());
  if ((change.mask & SetAttr::kMode) != 0) {
    if (!owner_or_capable(creds, now.uid, CAP_FOWNER)) return Errno::kPerm;
    if (inode->type() == S_IFLNK) return Errno::kOpnotsupp;
    change.mode &= 07777;
    u32 gid = (change.mask & SetAttr::kGid) != 0 ? change.gid : now.gid;
    if (!creds.in_group(gid) && !creds.capable(CAP_FSETID)) change.mode &= ~u32{S_ISGID};
  }
  if ((change.mask & (SetAttr::kUid | SetAttr::kGid)) != 0) {
    TRY(check_chown(creds, now, change));
    // chown(2): set-id bits of anything but a directory go, whoever asks.
    if (!now.is_dir() && (change.mask & SetAttr::kMode) == 0) {
      u32 mode = now.mode & ~u32{S_ISUID};
      if ((mode & S_IXGRP) != 0 || (!creds.in_group(now.gid) && !creds.capable(CAP_FSETID))) mode &= ~u32{S_ISGID};
      if (mode != now.mode) {
        change.mask |= SetAttr::kMode;
        change.mode = mode & 07777;
      }
    }
  }
  if ((change.mask & kTimes) != 0) TRY(check_times(creds, *inode, now, change));
  TRY(inode->set_attr(change));
  if (now.is_dir() && (change.mask & (SetAttr::kMode | SetAttr::kUid | SetAttr::kGid)) != 0) name_changes.trees = true;
  // Only one of the times: as if by the access that would have set it (fsnotify_change).
  u32 event = IN_ATTRIB;
  const bool access = (change.mask & (SetAttr::kAtime | SetAttr::kAtimeNow)) != 0;
  const bool modify = (change.mask & (SetAttr::kMtime | SetAttr::kMtimeNow)) != 0;
  if ((change.mask & ~kTimes) == 0 && access != modify) event = access ? IN_ACCESS : IN_MODIFY;
  notify_dentry(*path.dentry, event);
  return {};
}

Result<void> truncate(const Credentials& creds, File& file, u64 size) {
  Inode* inode = file.inode();
  if (inode == nullptr || inode->type() != S_IFREG || !file.writable()) return Errno::kInval;
  TRY(truncate_inode(creds, *inode, size));
  notify_file(file, IN_MODIFY);
  return {};
}

void after_read(File& file) { notify_file(file, IN_ACCESS); }

void after_write(const Credentials& creds, File& file) {
  Inode* inode = file.inode();
  if (inode == nullptr) return;
  if (!creds.capable(CAP_FSETID) && inode->type() == S_IFREG) {
    auto owner = inode->owner();
    if (owner) {
      if (u32 mode = without_set_id(creds, *owner); mode != owner->mode) {
        SetAttr change;
        change.mask = SetAttr::kMode;
        change.mode = mode & 07777;
        // The bytes are written already; a failure to drop the bits cannot undo that.
        (void)inode->set_attr(change);
      }
    }
  }
  notify_file(file, IN_MODIFY);
}

}  // namespace sbx::vfs
