// Inside the tmpfs room: the kinds of objects.
#pragma once
#include <map>
#include <string>
#include <unordered_map>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/file.h"

namespace sbx::tmpfs {

using vfs::Attr;
using vfs::NewNode;

class Node : public vfs::Inode {
 public:
  Node(Tmpfs& fs, const NewNode& how);

  Result<Attr> attr() override;
  u32 type() const override { return attr_.mode & S_IFMT; }
  Result<vfs::Owner> owner() override { return vfs::Owner{attr_.mode, attr_.uid, attr_.gid}; }
  Result<void> set_attr(const vfs::SetAttr& change) override;
  Result<std::string> get_xattr(std::string_view name) override;
  Result<void> set_xattr(std::string_view name, std::string_view value, u32 flags) override;
  Result<std::vector<std::string>> list_xattr() override;
  Result<void> remove_xattr(std::string_view name) override;

  u64 ino() const { return attr_.ino; }
  u32 nlink() const { return attr_.nlink; }
  void add_link(int by) {
    attr_.nlink += static_cast<u32>(by);
    touch_ctime();
  }
  void touch_ctime() { attr_.ctime = vfs::time_now(); }
  void touch_mtime() { attr_.mtime = attr_.ctime = vfs::time_now(); }
  // relatime (mount(8)): the access time moves only if it would tell something new.
  void touch_atime();
  bool linkable = false;  // made by O_TMPFILE: a first name may come

 protected:
  ~Node() override;
  Tmpfs& tmpfs() const { return static_cast<Tmpfs&>(fs()); }
  Attr attr_;

 private:
  std::shared_ptr<Usage> usage_;  // the instance may be gone before us
  Result<void> charge_xattrs(u64 bytes);
  std::unique_ptr<std::map<std::string, std::string, std::less<>>> xattrs_;
  u64 xattr_bytes_ = 0;
};

class Regular final : public Node {
 public:
  Regular(Tmpfs& fs, const NewNode& how) : Node(fs, how), data(fs.usage()) {}
  Result<Attr> attr() override;
  Result<void> set_attr(const vfs::SetAttr& change) override;
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
  FileData data;
};

class Symlink final : public Node {
 public:
  Symlink(Tmpfs& fs, const NewNode& how);
  Result<std::string> read_link() override { return target_; }
  Result<RefPtr<vfs::File>> open(const vfs::Path&, u32) override { return Errno::kLoop; }

 private:
  std::string target_;
};

// FIFO, socket or device.
class Special final : public Node {
 public:
  Special(Tmpfs& fs, const NewNode& how) : Node(fs, how) { attr_.rdev = how.rdev; }
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
};

class Directory final : public Node {
 public:
  Directory(Tmpfs& fs, const NewNode& how);
  Result<Attr> attr() override;
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
  Result<RefPtr<Inode>> lookup(std::string_view name) override;
  Result<RefPtr<Inode>> create(std::string_view name, const NewNode& how) override;
  Result<void> link(std::string_view name, Inode& target) override;
  Result<void> unlink(std::string_view name, Inode& child) override;
  Result<void> rmdir(std::string_view name, Inode& child) override;
  Result<void> rename(std::string_view old_name, Inode& child, Inode& new_dir, std::string_view new_name,
                      Inode* replaced, u32 flags) override;
  Result<RefPtr<Inode>> tmpfile(const NewNode& how) override;

  struct Entry {
    std::string name;
    RefPtr<Node> node;
  };
  // By cookie: a position in the directory keeps its meaning whatever comes and goes (readdir(3)).
  const std::map<u64, Entry>& entries() const { return entries_; }
  u64 parent_ino = 0;

 private:
  ~Directory() override;
  void last_unref() override;
  Entry* find(std::string_view name);
  void insert(std::string_view name, RefPtr<Node> node);
  void erase(std::string_view name);
  static bool is_empty_dir(const Inode& node);
  std::map<u64, Entry> entries_;
  std::unordered_map<std::string_view, u64> index_;  // keys are the entries' names
  u64 next_cookie_ = 3;                              // 1 and 2 follow "." and ".."
};

}  // namespace sbx::tmpfs
