// The core of inotify(7): watches on inodes and the hooks that the generic operations call. fs/anon has the file type.
// While nobody watches anything a hook costs one load and a branch.
#pragma once
#include <sys/inotify.h>

#include <string_view>

#include "sentry/vfs/file.h"

namespace sbx::vfs {

// One watch: derive from it (or hold one) per (inotify instance, inode). It keeps the inode alive as Linux does and
// leaves the inode's list when destroyed.
class NotifyWatch {
 public:
  // mask: IN_* events wanted. The same instance must not watch an inode twice: look with find().
  NotifyWatch(RefPtr<Inode> inode, u32 mask);
  virtual ~NotifyWatch();
  NotifyWatch(const NotifyWatch&) = delete;
  NotifyWatch& operator=(const NotifyWatch&) = delete;

  Inode* inode() const { return inode_.get(); }
  u32 mask() const { return mask_; }
  void set_mask(u32 mask);
  // An event that `mask` selects (IN_IGNORED and IN_UNMOUNT always), IN_ISDIR included; name is empty for the object
  // itself. Kernel lock held; must not park; must not destroy other watches. It may destroy this one only on IN_IGNORED
  // (the object is gone and nothing more will come) or with IN_ONESHOT in the mask.
  virtual void on_event(u32 events, u32 cookie, std::string_view name) = 0;

 private:
  u32 mask_ = 0;
  RefPtr<FileSystem> fs_;  // outlives the inode, whatever is unmounted meanwhile
  RefPtr<Inode> inode_;
};

// Calls `visit` for each watch on the inode.
void for_each_watch(Inode& inode, const std::function<void(NotifyWatch&)>& visit);

namespace notify_detail {
extern u64 watches;         // in the whole system
extern u64 access_watches;  // those that want IN_ACCESS
void dentry_event(Dentry& dentry, u32 events, u32 cookie);
void inode_event(Inode& inode, u32 events, u32 cookie, std::string_view name);
void removed(Dentry& dentry);
// The last name of the object is gone: its own end, now or when nobody has it open any more (d_delete, iput).
void lost_last_name(Inode& inode);
void unused(Inode& inode);
}  // namespace notify_detail

inline bool notify_active() { return notify_detail::watches != 0; }
// Somebody wants to hear of reads.
inline bool notifies_reads() { return notify_detail::access_watches != 0; }

// Something happened to the object a dentry names: told to its watches and, with the name, to its directory's.
inline void notify_dentry(Dentry& dentry, u32 events) {
  if (notify_active()) notify_detail::dentry_event(dentry, events, 0);
}
// Something happened in directory `dir` to the name (IN_CREATE, IN_DELETE, IN_MOVED_*); IN_ISDIR by the caller.
inline void notify_child(Inode& dir, u32 events, std::string_view name, u32 cookie = 0) {
  if (notify_active()) notify_detail::inode_event(dir, events, cookie, name);
}
// The object itself only (IN_MOVE_SELF, IN_ATTRIB of a link count).
inline void notify_self(Inode& inode, u32 events) {
  if (notify_active()) notify_detail::inode_event(inode, events, 0, {});
}
// A name was removed: IN_DELETE in its directory; IN_DELETE_SELF and IN_IGNORED if it was the last name of the object.
inline void notify_removed(Dentry& dentry) {
  if (notify_active()) notify_detail::removed(dentry);
}
// Nobody has it open any more: the end of one whose last name is gone.
inline void notify_unused(Inode& inode) {
  if (notify_active()) notify_detail::unused(inode);
}
inline void notify_file(const File& file, u32 events) {
  if (notify_active() && file.path().dentry) notify_detail::dentry_event(*file.path().dentry, events, 0);
}
// Pairs IN_MOVED_FROM with IN_MOVED_TO.
u32 next_notify_cookie();

}  // namespace sbx::vfs
