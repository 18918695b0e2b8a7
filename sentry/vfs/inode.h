// Inode and FileSystem: what a filesystem implements. The generic layer (dentry.h, walk.h) has checked permissions,
// mount flags and names before any method here is called, and holds the dentry references.
// Methods may park (gofer) unless said otherwise. Kernel lock held.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/security/credentials.h"
#include "sentry/vfs/attr.h"

namespace sbx::vfs {

class Dentry;
class File;
class FileLocks;
class FileSystem;
struct Path;

// What to make in a directory.
struct NewNode {
  u32 mode = 0;  // type and permission bits (umask applied)
  u32 uid = 0, gid = 0;
  u64 rdev = 0;        // devices
  std::string target;  // symbolic links
  // Sockets: makes the host's socket that is to be bound to the name, where the file system may do that; -1: none.
  // Called at most once; the caller owns it, and the creation fails if it cannot be bound.
  std::function<int()> host_socket = {};
};

// What a permission check needs to know.
struct Owner {
  u32 mode = 0, uid = 0, gid = 0;
};

struct DirEntry {
  std::string name;
  u64 ino = 0;
  u8 type = 0;   // DT_*
  u64 next = 0;  // cookie that continues after this entry (d_off)
};

class Inode : public RefCounted {
 public:
  explicit Inode(FileSystem& fs);
  FileSystem& fs() const { return *fs_; }

  // --- every inode ---
  virtual Result<Attr> attr() = 0;
  // S_IFMT bits without asking anybody; fixed for the life of the inode.
  virtual u32 type() const = 0;
  virtual Result<void> set_attr(const SetAttr&) { return Errno::kPerm; }
  // The part of attr() that permission checks read, asked for each component of a path by users without capabilities:
  // worth overriding where attr() is not cheap.
  virtual Result<Owner> owner();
  // A new open file description. `path` names it (mount and dentry); flags are O_* as given, access already checked.
  // O_TRUNC is done by the caller through set_attr. FIFOs may park until the other end opens.
  virtual Result<RefPtr<File>> open(const Path& path, u32 flags) = 0;
  virtual Result<std::string> get_xattr(std::string_view) { return Errno::kOpnotsupp; }
  virtual Result<void> set_xattr(std::string_view, std::string_view, u32 /*XATTR_CREATE|REPLACE*/) {
    return Errno::kOpnotsupp;
  }
  virtual Result<std::vector<std::string>> list_xattr() { return std::vector<std::string>{}; }
  virtual Result<void> remove_xattr(std::string_view) { return Errno::kOpnotsupp; }
  // True: permission checks of the generic layer are skipped, the filesystem does its own (some of /proc).
  virtual bool own_permission_checks() const { return false; }

  // --- directories ---
  virtual Result<RefPtr<Inode>> lookup(std::string_view) { return Errno::kNotdir; }
  // Makes a regular file, directory, symbolic link, FIFO, socket or device. kExist if the name is taken.
  virtual Result<RefPtr<Inode>> create(std::string_view, const NewNode&) { return Errno::kPerm; }
  virtual Result<void> link(std::string_view, Inode& /*target*/) { return Errno::kPerm; }
  virtual Result<void> unlink(std::string_view, Inode& /*child*/) { return Errno::kPerm; }
  virtual Result<void> rmdir(std::string_view, Inode& /*child*/) { return Errno::kPerm; }
  // flags: RENAME_NOREPLACE (already enforced), RENAME_EXCHANGE. `replaced` is what new_name was, or null.
  virtual Result<void> rename(std::string_view /*old_name*/, Inode& /*child*/, Inode& /*new_dir*/,
                              std::string_view /*new_name*/, Inode* /*replaced*/, u32 /*flags*/) {
    return Errno::kPerm;
  }
  // An unnamed regular file in this directory (O_TMPFILE).
  virtual Result<RefPtr<Inode>> tmpfile(const NewNode&) { return Errno::kOpnotsupp; }
  // True: a cached child dentry (positive or negative) may be used without asking again. False: lookup() every time
  // (proc); the answer may be the same inode.
  virtual bool children_cacheable() const { return true; }
  // For cacheable directories whose content the host may change: asked before a cached child is used. Cheap.
  virtual bool child_still_valid(std::string_view, Inode* /*child or null*/) { return true; }

  // --- symbolic links ---
  virtual Result<std::string> read_link() { return Errno::kInval; }
  // Magic links of /proc (fd/N, exe, cwd, root): where following leads without a walk. kNosys: an ordinary link.
  virtual Result<Path> follow_magic();

  // --- sockets ---
  // Connects a non-blocking AF_UNIX socket of the host's to the one this file stands for on the host, as `creds`.
  // kConnrefused: it stands for none that may be reached.
  virtual Result<void> connect_host_socket(int /*socket*/, const security::Credentials& /*creds*/) {
    return Errno::kConnrefused;
  }

  // Advisory locks (flock, POSIX, OFD), made on first use.
  FileLocks& locks();
  bool has_locks() const { return locks_ != nullptr; }
  // Open descriptions (File::mark_opened), for the time of IN_DELETE_SELF.
  u32 opened = 0;
  // Inotify watches on this inode; null until the first (vfs/notify.h).
  std::shared_ptr<void> notify_state;
  // What the driver of a special file keeps with it (the pipe of a FIFO, the socket bound to a name); null at first.
  // Filesystems that stand in front of others (overlay) forward it to the inode behind.
  virtual RefPtr<RefCounted>& special_state() { return special_state_; }
  // Open descriptions that may write (> 0) or programs that run from it (< 0): ETXTBSY either way (vfs/file.h).
  virtual i32& write_count() { return write_count_; }

 protected:
  ~Inode() override;

 private:
  FileSystem* fs_;  // filesystems outlive their inodes: a Mount and each Dentry keep them alive
  std::unique_ptr<FileLocks> locks_;
  RefPtr<RefCounted> special_state_;
  i32 write_count_ = 0;
};

// A mounted instance (superblock). RefCounted: held by mounts.
class FileSystem : public RefCounted {
 public:
  virtual const char* type_name() const = 0;  // "tmpfs", as in /proc/mounts
  virtual RefPtr<Inode> root() = 0;
  virtual Result<StatFs> statfs() = 0;
  virtual Result<void> sync() { return {}; }
  // MS_REMOUNT with the filesystem's own options; the flags of the mount are not its business.
  virtual Result<void> remount(std::string_view /*options*/) { return {}; }
  // What stands in the device column and in the options of /proc/mounts.
  virtual std::string source() const { return type_name(); }
  virtual std::string options() const { return {}; }
  // True: the dentry tree is the truth (tmpfs): dentries with an inode are never evicted.
  virtual bool pins_dentries() const { return false; }
  // True: names in it change by our own calls only, as far as anybody can expect to see others at once.
  virtual bool steady_names() const { return false; }
  // True: every mount of it is read-only, whatever the flags of the mount say.
  virtual bool read_only() const { return false; }
  // st_dev of its inodes; anonymous numbers from allocate_dev().
  u64 dev() const { return dev_; }
  static u64 allocate_dev();

 protected:
  FileSystem() : dev_(allocate_dev()) {}

 private:
  friend class Dentry;
  friend class Mount;
  friend class MountNamespace;
  u64 dev_;
  Dentry* root_dentry_ = nullptr;  // of the mounted tree while it exists: all mounts share one cache
  u32 mount_count_ = 0;
};

}  // namespace sbx::vfs
