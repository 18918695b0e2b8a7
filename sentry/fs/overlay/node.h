// Inside the overlay room: an object of the merged tree.
#pragma once
#include <string>
#include <unordered_map>

#include "sentry/fs/overlay/overlay.h"
#include "sentry/vfs/file.h"

namespace sbx::overlay {

using vfs::Attr;
using vfs::Inode;
using vfs::NewNode;

class Node;

// Nodes by their upper inode: all names of a hard link are one node. Nodes may outlive the mount, hence shared.
struct Registry {
  std::unordered_map<const Inode*, Node*> by_upper;
};

class Node final : public Inode {
 public:
  // At least one of upper and lower. parent and name say where copying up puts it; null for the root and unnamed files.
  Node(OverlayFs& fs, RefPtr<Node> parent, std::string name, RefPtr<Inode> upper, RefPtr<Inode> lower);

  Result<Attr> attr() override;
  u32 type() const override { return type_; }
  Result<vfs::Owner> owner() override { return real().owner(); }
  Result<void> set_attr(const vfs::SetAttr& change) override;
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
  Result<std::string> get_xattr(std::string_view name) override;
  Result<void> set_xattr(std::string_view name, std::string_view value, u32 flags) override;
  Result<std::vector<std::string>> list_xattr() override;
  Result<void> remove_xattr(std::string_view name) override;

  Result<RefPtr<Inode>> lookup(std::string_view name) override;
  Result<RefPtr<Inode>> create(std::string_view name, const NewNode& how) override;
  Result<void> link(std::string_view name, Inode& target) override;
  Result<void> unlink(std::string_view name, Inode& child) override;
  Result<void> rmdir(std::string_view name, Inode& child) override;
  Result<void> rename(std::string_view old_name, Inode& child, Inode& new_dir, std::string_view new_name,
                      Inode* replaced, u32 flags) override;
  Result<RefPtr<Inode>> tmpfile(const NewNode& how) override;
  bool children_cacheable() const override { return !lower_ || lower_->children_cacheable(); }
  bool child_still_valid(std::string_view name, Inode* child) override;
  Result<std::string> read_link() override { return real().read_link(); }
  RefPtr<RefCounted>& special_state() override { return real().special_state(); }

  Inode& real() const { return upper_ ? *upper_ : *lower_; }
  Inode* upper() const { return upper_.get(); }
  Inode* lower() const { return lower_.get(); }
  u64 ino() const { return ino_; }
  u64 parent_ino() const { return parent_ ? parent_->ino_ : ino_; }

  // Makes the upper inode if there is none, with all parents; of a regular file's bytes only the first `bytes`.
  Result<void> copy_up(u64 bytes = ~0ull);
  // Opens the real object; the description's own path names that object alone.
  Result<RefPtr<vfs::File>> open_real(Inode& inode, const vfs::Path& path, u32 flags) const;
  // The merged entries, whiteouts taken out; "." and ".." not included.
  Result<std::vector<vfs::DirEntry>> merged_entries();

 private:
  ~Node() override;
  void last_unref() override;
  OverlayFs& overlay() const { return static_cast<OverlayFs&>(fs()); }
  Result<void> copy_up_here(u64 bytes);
  Result<void> copy_data(Inode& to, u64 bytes);
  Result<void> adopt_upper(RefPtr<Inode> upper);
  Result<bool> lower_has(std::string_view name);
  Result<void> remove_whiteout(std::string_view name, bool* was_there);
  Result<void> make_whiteout(std::string_view name);
  Result<void> prepare_empty(Node& dir);
  RefPtr<Node> child_node(std::string_view name, RefPtr<Inode> upper, RefPtr<Inode> lower);
  void place(RefPtr<Node> parent, std::string_view name);
  void unplace();

  std::shared_ptr<Registry> registry_;
  RefPtr<Node> parent_;
  std::string name_;
  RefPtr<Inode> upper_;
  RefPtr<Inode> lower_;  // null for an opaque directory, and for other objects once copied up
  u32 type_;
  u64 ino_ = 0;
  bool removed_ = false;
  fiber::SleepLock copy_lock_;
  // Live nodes of this directory by name, not owned: two nodes for one lower object could be copied up twice.
  std::unordered_map<std::string, Node*> children_;
};

constexpr const char* kOpaque = "trusted.overlay.opaque";
constexpr const char* kOrigin = "trusted.overlay.origin";
Result<bool> is_whiteout(Inode& upper);
// The number that stat shows for an object with this upper inode: its lower origin's if it was copied up.
Result<u64> upper_ino(Inode& upper);

}  // namespace sbx::overlay
