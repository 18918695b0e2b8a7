// Dentry: one name in the tree of a filesystem, cached; Mount: a tree attached somewhere; Path: a place = (mount,
// dentry). The dentry tree holds parents by reference (child -> parent); a parent knows its children without owning
// them, except in filesystems that pin. Unused dentries stay in an LRU and are evicted beyond a bound.
//
// Locks: only Dentry::dir_lock(), a SleepLock held while a directory is asked or changed, since the filesystem may
// park. Of two directories the ancestor is locked first, else the one at the lower address; rename holds a global lock
// as well.
#pragma once
#include <string>
#include <unordered_map>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/fiber/fiber.h"
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
  // S_IFMT bits of the inode; 0 for a negative dentry.
  u32 kind() const { return kind_; }
  bool is_dir() const { return kind_ == S_IFDIR; }
  bool is_link() const { return kind_ == S_IFLNK; }
  // Unlinked or replaced while in use: paths show " (deleted)".
  bool deleted() const { return deleted_; }
  // Something is mounted on it (in some namespace): the walk asks the namespace.
  u32 mount_count() const { return mount_count_; }

  // Cached or looked-up child; a missing name gives a negative dentry where children are cacheable, else kNoent.
  Result<RefPtr<Dentry>> child(std::string_view name);
  // As child(), for callers that hold dir_lock().
  Result<RefPtr<Dentry>> child_locked(std::string_view name);
  // The cached child if it may be used without asking the filesystem, else null. Borrowed: valid until the next park.
  Dentry* valid_child(std::string_view name) const;
  fiber::SleepLock& dir_lock() { return directory().lock; }
  // This dentry is `ancestor` or lies below it.
  bool is_below(const Dentry& ancestor) const;

  // Cache maintenance by the generic operations and by filesystems that learn of changes.
  RefPtr<Dentry> cached_child(std::string_view name);
  RefPtr<Dentry> attach_child(std::string_view name, RefPtr<Inode> inode);  // replaces a negative one
  void forget_child(std::string_view name);  // next use asks the filesystem, and keeps the dentry if nothing changed
  void forget_children();
  void became_deleted(bool leave_negative);
  void moved_to(Dentry& new_parent, std::string_view new_name);
  void exchange_with(Dentry& other);
  // How many dentries exist in all, and evict unused ones until at most `keep` of them are left.
  static size_t cached_total();
  static void shrink(size_t keep);
  // The most unused dentries kept (default 32768).
  static void set_unused_bound(size_t bound);

 protected:
  void last_unref() override;  // to the LRU, or freed
  ~Dentry() override;

 private:
  friend class Mount;
  friend class MountNamespace;
  struct Cache;  // the LRU and the queue of dentries to free
  Dentry();
  static RefPtr<Dentry> fs_root(const RefPtr<FileSystem>& fs);
  Dentry* new_child(std::string_view name, RefPtr<Inode> inode);
  void set_inode(RefPtr<Inode> inode);
  using Children = std::unordered_map<std::string_view, Dentry*>;  // keys are the children's name_
  struct Directory {
    Children children;
    fiber::SleepLock lock;
  };
  Directory& directory();
  const Children& children() const;
  Dentry* hashed_child(std::string_view name) const;  // null: none
  void hash_into(Dentry& parent);
  void unhash();
  void unpin();
  void drop_tree();
  bool has_mounts_below() const;
  RefPtr<Dentry> parent_;
  std::string name_;
  RefPtr<Inode> inode_;
  RefPtr<FileSystem> fs_;
  std::unique_ptr<Directory> directory_;  // made on first use: most dentries have no children
  Dentry* lru_prev_ = nullptr;
  Dentry* lru_next_ = nullptr;
  u32 kind_ = 0;
  u32 mount_count_ = 0;
  u32 epoch_ = 0;  // counts forgets: an answer that was under way meanwhile is asked for again
  bool in_lru_ = false, deleted_ = false, pinned_ = false;
  bool hashed_ = false;      // the parent finds it by name
  bool stale_ = false;       // to be confirmed by the filesystem before its next use
  bool referenced_ = false;  // used since the LRU last looked at it
};

// Holds the lock of a directory (null: none) for a scope.
class DirLock {
 public:
  explicit DirLock(Dentry& dir) : dir_(&dir) { dir_->dir_lock().lock(); }
  ~DirLock() { dir_->dir_lock().unlock(); }
  DirLock(const DirLock&) = delete;
  DirLock& operator=(const DirLock&) = delete;

 private:
  RefPtr<Dentry> dir_;
};

class Mount;

struct Path {
  RefPtr<Mount> mount;
  RefPtr<Dentry> dentry;
  Inode* inode() const { return dentry->inode(); }
  explicit operator bool() const { return static_cast<bool>(dentry); }
  inline friend bool operator==(const Path& a, const Path& b);
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
  // By flag or by nature of the filesystem.
  bool read_only() const;
  // The mount whose mount point is `at` in `parent`, or null. Ask only if at.mount_count() is not 0.
  static Mount* covering(const Mount& parent, const Dentry& at);

 private:
  friend class MountNamespace;
  Mount(RefPtr<FileSystem> fs, RefPtr<Dentry> root, u64 flags, std::string source);
  ~Mount() override;
  void attach(const Path& at);
  void detach();
  u32 id_ = 0;
  RefPtr<FileSystem> fs_;
  RefPtr<Dentry> root_;        // may be below the filesystem's root (bind mounts)
  RefPtr<Mount> parent_;       // null for the namespace's root
  RefPtr<Dentry> mountpoint_;  // in parent's tree
};

inline bool operator==(const Path& a, const Path& b) { return a.mount == b.mount && a.dentry == b.dentry; }

// One view of the tree of mounts (mount_namespaces(7)). All mounts are private: nothing propagates.
class MountNamespace : public RefCounted {
 public:
  // Takes `fs` as the root of a new tree.
  static RefPtr<MountNamespace> create(RefPtr<FileSystem> fs, u64 flags, std::string source);
  Path root() const;
  // Attaches fs (or a subtree: bind) at `at`. The new mount has exactly `flags`; the mounts that a recursive bind
  // copies keep theirs. kNotdir unless both are directories or neither is; kNoent if `at` was removed; kNospc beyond
  // 100000.
  Result<RefPtr<Mount>> mount(RefPtr<FileSystem> fs, const Path& at, u64 flags, std::string source);
  Result<RefPtr<Mount>> bind(const Path& from, const Path& at, u64 flags, bool recursive);
  // Unmounts the top mount at `at`; kBusy with children or users other than `at` itself unless detach (MNT_DETACH).
  // kInval: nothing is mounted there, or it is the root.
  Result<void> unmount(const Path& at, bool detach);
  // The mount that covers `path` exactly, topmost; null if none.
  RefPtr<Mount> mounted_at(const Path& path) const;
  Result<void> move(const Path& from, const Path& at);
  // pivot_root(2), on the root of this namespace; tasks that stand in the old root are the caller's to move.
  Result<void> pivot_root(const Path& new_root, const Path& put_old);
  // In mount order, for /proc/PID/mounts and mountinfo.
  const std::vector<RefPtr<Mount>>& mounts() const { return mounts_; }
  // A copy of the tree (CLONE_NEWNS); `translate` maps paths of this namespace into the copy.
  RefPtr<MountNamespace> clone(std::function<Path(const Path&)>* translate);

  // Follows mounts on `path` down to the topmost.
  static void cross_down(Path& path);
  // `path` is `top` or lies below it, mounts included.
  static bool is_under(Path path, const Path& top);

 private:
  MountNamespace() = default;
  ~MountNamespace() override;
  Result<void> may_attach(const Dentry& root, const Path& at) const;
  Result<RefPtr<Mount>> add(RefPtr<Mount> mount, const Path& at);
  // Mounts that hang below `top`, parents first; only those below dentry `within` of `top` if given.
  std::vector<RefPtr<Mount>> below(const Mount& top, const Dentry* within = nullptr) const;
  bool contains(const Mount* mount) const;
  void remove(Mount& mount);
  std::vector<RefPtr<Mount>> mounts_;
  RefPtr<Mount> root_mount_;
};

// The path as text seen from `root`; "(unreachable)" prefix as getcwd(2) if outside; " (deleted)" suffix if unlinked.
std::string path_text(const Path& path, const Path& root);

}  // namespace sbx::vfs
