// Dentry: one name in the tree of a filesystem, cached; Mount: a tree attached somewhere; Path: a place = (mount, dentry).
// The dentry tree holds parents by reference (child -> parent); a parent knows its children without owning them, except
// in filesystems that pin (tmpfs). Unused dentries stay in an LRU and are evicted beyond a bound.
#pragma once
#include <string>
#include <unordered_map>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/vfs/inode.h"

namespace sbx::vfs {

class MountNamespace;

class Dentry : public RefCounted {
 public:
  // A root (no parent) or an anonymous dentry with a display name ("pipe:[7]").
  static RefPtr<Dentry> make_root(RefPtr<FileSystem> fs, RefPtr<Inode> inode, std::string name = "/");

  Dentry* parent() const { return parent_.get(); }
  const std::string& name() const { return name_; }
  Inode* inode() const { return inode_.get(); }  // null: negative (the name is known not to exist)
  FileSystem& fs() const { return *fs_; }
  bool is_root() const { return !parent_; }
  // Unlinked or replaced while in use: paths show " (deleted)".
  bool deleted() const { return deleted_; }
  // Something is mounted on it (in some namespace): the walk asks the namespace.
  u32 mount_count() const { return mount_count_; }

  // Cached or looked-up child; a missing name gives a negative dentry where children are cacheable, else kNoent.
  Result<RefPtr<Dentry>> child(std::string_view name);
  // Cache maintenance by the generic operations and by filesystems that learn of changes.
  RefPtr<Dentry> cached_child(std::string_view name);
  RefPtr<Dentry> attach_child(std::string_view name, RefPtr<Inode> inode);  // replaces a negative one
  void forget_child(std::string_view name);  // next use looks up again
  void forget_children();
  void became_deleted(bool leave_negative);
  void moved_to(Dentry& new_parent, std::string_view new_name);
  void exchange_with(Dentry& other);
  // Observers (gofer): how many dentries are cached in all, and evict down to a bound.
  static size_t cached_total();
  static void shrink(size_t keep);

 protected:
  void last_unref() override;  // to the LRU, or freed
  ~Dentry() override;

 private:
  friend class Mount;
  friend class MountNamespace;
  Dentry() = default;
  void lru_remove();
  void lru_add();
  RefPtr<Dentry> parent_;
  std::string name_;
  RefPtr<Inode> inode_;
  RefPtr<FileSystem> fs_;
  std::unordered_map<std::string_view, Dentry*> children_;  // keys are the children's name_
  Dentry* lru_prev_ = nullptr;
  Dentry* lru_next_ = nullptr;
  bool in_lru_ = false, deleted_ = false, pinned_ = false;
  u32 mount_count_ = 0;
};

class Mount;

struct Path {
  RefPtr<Mount> mount;
  RefPtr<Dentry> dentry;
  Inode* inode() const { return dentry->inode(); }
  explicit operator bool() const { return static_cast<bool>(dentry); }
  friend bool operator==(const Path& a, const Path& b);
};

// MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME... of <sys/mount.h>.
class Mount : public RefCounted {
 public:
  u64 flags = 0;
  u32 id() const { return id_; }
  Mount* parent() const { return parent_.get(); }
  const RefPtr<Dentry>& mountpoint() const { return mountpoint_; }
  const RefPtr<Dentry>& root() const { return root_; }
  FileSystem& fs() const { return *fs_; }
  std::string source;  // device column of /proc/mounts
  bool read_only() const;

 private:
  friend class MountNamespace;
  ~Mount() override;
  u32 id_ = 0;
  RefPtr<FileSystem> fs_;
  RefPtr<Dentry> root_;        // may be below the filesystem's root (bind mounts)
  RefPtr<Mount> parent_;       // null for the namespace's root
  RefPtr<Dentry> mountpoint_;  // in parent's tree
};

class MountNamespace : public RefCounted {
 public:
  // Takes `fs` as the root of a new tree.
  static RefPtr<MountNamespace> create(RefPtr<FileSystem> fs, u64 flags, std::string source);
  Path root() const;
  // Attaches fs (or a subtree: bind) at `at`.
  Result<RefPtr<Mount>> mount(RefPtr<FileSystem> fs, const Path& at, u64 flags, std::string source);
  Result<RefPtr<Mount>> bind(const Path& from, const Path& at, u64 flags, bool recursive);
  // Unmounts the top mount at `at`; kBusy with children unless detach (MNT_DETACH).
  Result<void> unmount(const Path& at, bool detach);
  // The mount that covers `path` exactly, topmost; null if none.
  RefPtr<Mount> mounted_at(const Path& path) const;
  Result<void> move(const Path& from, const Path& at);
  Result<void> pivot_root(const Path& new_root, const Path& put_old);
  // In mount order, for /proc/PID/mounts and mountinfo.
  const std::vector<RefPtr<Mount>>& mounts() const { return mounts_; }
  // A copy of the tree (CLONE_NEWNS); `translate` maps paths of this namespace into the copy.
  RefPtr<MountNamespace> clone(std::function<Path(const Path&)>* translate);

 private:
  std::vector<RefPtr<Mount>> mounts_;
};

// The path as text seen from `root`; "(unreachable)" prefix as getcwd(2) if outside; " (deleted)" suffix if unlinked.
std::string path_text(const Path& path, const Path& root);

}  // namespace sbx::vfs
