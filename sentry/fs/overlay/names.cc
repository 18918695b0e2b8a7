// Changes of names in an overlay: what goes to the upper directory, and what must hide the lower one.
#include <linux/fs.h>

#include <unordered_set>

#include "sentry/fs/overlay/node.h"

namespace sbx::overlay {

namespace {

Result<std::vector<vfs::DirEntry>> list(const Node& node, Inode& dir) {
  RefPtr<vfs::File> file = TRY(node.open_real(dir, {}, O_RDONLY | O_DIRECTORY));
  std::vector<vfs::DirEntry> entries;
  TRY(file->read_dir([&](const vfs::DirEntry& e) {
    if (e.name != "." && e.name != "..") entries.push_back(e);
    return true;
  }));
  return entries;
}

}  // namespace

Result<std::vector<vfs::DirEntry>> Node::merged_entries() {
  std::vector<vfs::DirEntry> out;
  std::unordered_set<std::string> seen;
  if (upper_) {
    std::vector<vfs::DirEntry> above = TRY(list(*this, *upper_));
    for (vfs::DirEntry& e : above) {
      auto inode = upper_->lookup(e.name);
      if (!inode) continue;
      bool hidden = TRY(is_whiteout(**inode));
      if (lower_) seen.insert(e.name);
      if (hidden) continue;
      e.ino = TRY(upper_ino(**inode));
      out.push_back(std::move(e));
    }
  }
  if (lower_) {
    std::vector<vfs::DirEntry> under = TRY(list(*this, *lower_));
    for (vfs::DirEntry& e : under)
      if (!seen.contains(e.name)) out.push_back(std::move(e));
  }
  return out;
}

Result<bool> Node::lower_has(std::string_view name) {
  if (!lower_) return false;
  auto found = lower_->lookup(name);
  if (found) return true;
  if (found.error() == Errno::kNoent) return false;
  return found.error();
}

Result<void> Node::remove_whiteout(std::string_view name, bool* was_there) {
  *was_there = false;
  auto found = upper_->lookup(name);
  if (!found) return found.error() == Errno::kNoent ? Result<void>{} : Result<void>{found.error()};
  if (!TRY(is_whiteout(**found))) return {};
  *was_there = true;
  return upper_->unlink(name, **found);
}

Result<void> Node::make_whiteout(std::string_view name) {
  NewNode how;
  how.mode = S_IFCHR;
  TRY(upper_->create(name, how));
  return {};
}

// kNotempty if the merged directory shows anything; else takes the whiteouts out of its upper part.
Result<void> Node::prepare_empty(Node& dir) {
  std::vector<vfs::DirEntry> shown = TRY(dir.merged_entries());
  if (!shown.empty()) return Errno::kNotempty;
  if (!dir.upper_) return {};
  std::vector<vfs::DirEntry> hidden = TRY(list(dir, *dir.upper_));
  for (const vfs::DirEntry& e : hidden) {
    bool was_there = false;
    TRY(dir.remove_whiteout(e.name, &was_there));
  }
  return {};
}

Result<RefPtr<Inode>> Node::create(std::string_view name, const NewNode& how) {
  if (removed_) return Errno::kNoent;
  if (S_ISCHR(how.mode) && how.rdev == 0) return Errno::kPerm;  // would be taken for a whiteout
  TRY(copy_up());
  bool hidden = false;
  TRY(remove_whiteout(name, &hidden));
  auto made = upper_->create(name, how);
  if (!made) {
    if (hidden) TRY(make_whiteout(name));
    return made.error();
  }
  RefPtr<Inode> up = std::move(*made);
  if (hidden && up->type() == S_IFDIR) TRY(up->set_xattr(kOpaque, "y", 0));
  return RefPtr<Inode>(child_node(name, std::move(up), nullptr));
}

Result<RefPtr<Inode>> Node::tmpfile(const NewNode& how) {
  if (removed_) return Errno::kNoent;
  TRY(copy_up());
  RefPtr<Inode> up = TRY(upper_->tmpfile(how));
  return RefPtr<Inode>(make_ref<Node>(overlay(), nullptr, "", std::move(up), nullptr));
}

Result<void> Node::link(std::string_view name, Inode& target) {
  auto& node = static_cast<Node&>(target);
  if (removed_) return Errno::kNoent;
  TRY(node.copy_up());
  TRY(copy_up());
  bool hidden = false;
  TRY(remove_whiteout(name, &hidden));
  auto linked = upper_->link(name, *node.upper_);
  if (!linked && hidden) TRY(make_whiteout(name));
  if (linked && !node.parent_) node.place(RefPtr<Node>(this), name);
  return linked;
}

Result<void> Node::unlink(std::string_view name, Inode& child) {
  auto& node = static_cast<Node&>(child);
  RefPtr<Node> hold(&node);
  bool hide = TRY(lower_has(name));
  if (hide) TRY(copy_up());
  if (node.upper_) TRY(upper_->unlink(name, *node.upper_));
  if (hide) TRY(make_whiteout(name));
  if (!node.upper_) node.removed_ = true;
  if (node.parent_.get() == this && node.name_ == name) node.unplace();
  return {};
}

Result<void> Node::rmdir(std::string_view name, Inode& child) {
  auto& node = static_cast<Node&>(child);
  RefPtr<Node> hold(&node);
  TRY(prepare_empty(node));
  bool hide = TRY(lower_has(name));
  if (hide) TRY(copy_up());
  if (node.upper_) TRY(upper_->rmdir(name, *node.upper_));
  if (hide) TRY(make_whiteout(name));
  node.removed_ = true;
  node.unplace();
  return {};
}

Result<void> Node::rename(std::string_view old_name, Inode& child, Inode& new_dir, std::string_view new_name,
                          Inode* replaced, u32 flags) {
  auto& node = static_cast<Node&>(child);
  auto& to = static_cast<Node&>(new_dir);
  auto* other = static_cast<Node*>(replaced);
  RefPtr<Node> hold(&node), hold_other(other);
  bool exchange = (flags & RENAME_EXCHANGE) != 0;
  bool dir = node.type_ == S_IFDIR, other_dir = other != nullptr && other->type_ == S_IFDIR;
  // The name of a merged directory is how its lower half is found (overlayfs: redirect_dir=off).
  if (dir && node.lower_) return Errno::kXdev;
  if (exchange && other_dir && other->lower_) return Errno::kXdev;
  if (!exchange && other_dir) TRY(prepare_empty(*other));
  TRY(node.copy_up());
  if (exchange) TRY(other->copy_up());
  TRY(copy_up());
  TRY(to.copy_up());
  bool old_below = TRY(lower_has(old_name)), new_below = TRY(to.lower_has(new_name));
  if (dir && new_below) TRY(node.upper_->set_xattr(kOpaque, "y", 0));
  if (exchange) {
    if (other_dir && old_below) TRY(other->upper_->set_xattr(kOpaque, "y", 0));
    TRY(upper_->rename(old_name, *node.upper_, *to.upper_, new_name, other->upper_.get(), flags));
    RefPtr<Node> here(this);
    node.place(RefPtr<Node>(&to), new_name);
    other->place(here, old_name);
    return {};
  }
  bool hidden = false;
  TRY(to.remove_whiteout(new_name, &hidden));
  TRY(upper_->rename(old_name, *node.upper_, *to.upper_, new_name, other != nullptr ? other->upper_.get() : nullptr,
                     0));
  if (old_below) TRY(make_whiteout(old_name));
  if (other != nullptr) {
    if (!other->upper_ || other_dir) other->removed_ = true;
    if (other->parent_.get() == &to && other->name_ == new_name) other->unplace();
  }
  node.place(RefPtr<Node>(&to), new_name);
  return {};
}

}  // namespace sbx::overlay
