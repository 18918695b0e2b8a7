#include "sentry/fs/tmpfs/node.h"

#include <linux/fs.h>
#include <sys/xattr.h>

#include "sentry/vfs/special.h"

namespace sbx::tmpfs {

using vfs::SetAttr;

// ---- Node ----

Node::Node(Tmpfs& fs, const NewNode& how) : Inode(fs), usage_(fs.usage()) {
  ++usage_->inodes;
  attr_.dev = fs.dev();
  attr_.ino = fs.next_ino();
  attr_.mode = how.mode;
  attr_.uid = how.uid;
  attr_.gid = how.gid;
  attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = vfs::time_now();
}

Node::~Node() {
  (void)charge_xattrs(0);
  --usage_->inodes;
}

Result<Attr> Node::attr() { return attr_; }

Result<void> Node::set_attr(const SetAttr& change) {
  vfs::Time now = vfs::time_now();
  if ((change.mask & SetAttr::kMode) != 0) attr_.mode = (attr_.mode & S_IFMT) | (change.mode & 07777);
  if ((change.mask & SetAttr::kUid) != 0) attr_.uid = change.uid;
  if ((change.mask & SetAttr::kGid) != 0) attr_.gid = change.gid;
  if ((change.mask & SetAttr::kAtime) != 0) attr_.atime = change.atime;
  if ((change.mask & SetAttr::kMtime) != 0) attr_.mtime = change.mtime;
  if ((change.mask & SetAttr::kAtimeNow) != 0) attr_.atime = now;
  if ((change.mask & SetAttr::kMtimeNow) != 0) attr_.mtime = now;
  attr_.ctime = now;
  return {};
}

void Node::touch_atime() {
  auto before = [](const vfs::Time& a, const vfs::Time& b) {
    return a.sec != b.sec ? a.sec < b.sec : a.nsec <= b.nsec;
  };
  constexpr i64 kDay = 24 * 60 * 60;
  if (!before(attr_.atime, attr_.mtime) && !before(attr_.atime, attr_.ctime)) {
    if (vfs::time_now().sec - attr_.atime.sec < kDay) return;
  }
  attr_.atime = vfs::time_now();
}

namespace {
constexpr size_t kMaxXattrs = 1024;
constexpr u64 kXattrOverhead = 128;  // of one entry in the sentry's heap
u64 xattr_cost(std::string_view name, std::string_view value) { return name.size() + value.size() + kXattrOverhead; }
bool xattr_supported(std::string_view name) {
  return name.starts_with("user.") || name.starts_with("trusted.") || name.starts_with("security.");
}
}  // namespace

// Attributes count like data: else they would be a way around the size limit.
Result<void> Node::charge_xattrs(u64 bytes) {
  u64 before = (xattr_bytes_ + kPageSize - 1) / kPageSize, after = (bytes + kPageSize - 1) / kPageSize;
  if (after > before && after - before > usage_->pages_left()) return Errno::kNospc;
  usage_->pages += after - before;
  xattr_bytes_ = bytes;
  return {};
}

Result<std::string> Node::get_xattr(std::string_view name) {
  if (!xattr_supported(name)) return Errno::kOpnotsupp;
  if (!xattrs_) return Errno::kNodata;
  auto it = xattrs_->find(name);
  if (it == xattrs_->end()) return Errno::kNodata;
  return it->second;
}

Result<void> Node::set_xattr(std::string_view name, std::string_view value, u32 flags) {
  if (!xattr_supported(name)) return Errno::kOpnotsupp;
  if (name.size() > XATTR_NAME_MAX) return Errno::kRange;
  if (value.size() > XATTR_SIZE_MAX) return Errno::kTooBig;
  if (!xattrs_) xattrs_ = std::make_unique<std::map<std::string, std::string, std::less<>>>();
  auto it = xattrs_->find(name);
  if (it != xattrs_->end() && (flags & XATTR_CREATE) != 0) return Errno::kExist;
  if (it == xattrs_->end() && (flags & XATTR_REPLACE) != 0) return Errno::kNodata;
  if (it == xattrs_->end() && xattrs_->size() >= kMaxXattrs) return Errno::kNospc;
  u64 old = it == xattrs_->end() ? 0 : xattr_cost(name, it->second);
  TRY(charge_xattrs(xattr_bytes_ - old + xattr_cost(name, value)));
  if (it == xattrs_->end()) xattrs_->emplace(name, value);
  if (it != xattrs_->end()) it->second = value;
  touch_ctime();
  return {};
}

Result<std::vector<std::string>> Node::list_xattr() {
  std::vector<std::string> names;
  if (xattrs_)
    for (auto& [name, value] : *xattrs_) names.push_back(name);
  return names;
}

Result<void> Node::remove_xattr(std::string_view name) {
  if (!xattr_supported(name)) return Errno::kOpnotsupp;
  auto it = xattrs_ ? xattrs_->find(name) : decltype(xattrs_->end()){};
  if (!xattrs_ || it == xattrs_->end()) return Errno::kNodata;
  (void)charge_xattrs(xattr_bytes_ - xattr_cost(it->first, it->second));
  xattrs_->erase(it);
  touch_ctime();
  return {};
}

// ---- Regular ----

Result<Attr> Regular::attr() {
  Attr a = attr_;
  a.size = data.size();
  a.blocks = data.pages() * (kPageSize / 512);
  return a;
}

Result<void> Regular::set_attr(const SetAttr& change) {
  if ((change.mask & SetAttr::kSize) != 0) {
    TRY(data.resize(change.size));
    attr_.mtime = vfs::time_now();
  }
  return Node::set_attr(change);
}

// ---- Symlink, Special ----

Symlink::Symlink(Tmpfs& fs, const NewNode& how) : Node(fs, how), target_(how.target) {
  attr_.mode = S_IFLNK | 0777;
  attr_.size = target_.size();
}

Result<RefPtr<vfs::File>> Special::open(const vfs::Path& path, u32 flags) {
  return vfs::open_special(*this, type(), attr_.rdev, path, flags);
}

// ---- Directory ----

Directory::Directory(Tmpfs& fs, const NewNode& how) : Node(fs, how) {
  attr_.nlink = 2;
  parent_ino = attr_.ino;
}

Directory::~Directory() = default;

// A tree may be deeper than a fiber's stack is high: its directories are freed by a loop, not by recursion.
void Directory::last_unref() {
  static auto& dying = *new std::vector<Directory*>;
  static bool draining = false;
  dying.push_back(this);
  if (draining) return;
  draining = true;
  while (!dying.empty()) {
    Directory* next = dying.back();
    dying.pop_back();
    delete next;
  }
  draining = false;
}

Result<Attr> Directory::attr() {
  constexpr u64 kBytesPerEntry = 20;  // what Linux's tmpfs says
  Attr a = attr_;
  a.size = entries_.size() * kBytesPerEntry;
  return a;
}

Directory::Entry* Directory::find(std::string_view name) {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_.at(it->second);
}

void Directory::insert(std::string_view name, RefPtr<Node> node) {
  u64 cookie = next_cookie_++;
  auto [it, fresh] = entries_.emplace(cookie, Entry{std::string(name), std::move(node)});
  index_.emplace(it->second.name, cookie);
  touch_mtime();
}

void Directory::erase(std::string_view name) {
  auto it = index_.find(name);
  u64 cookie = it->second;
  index_.erase(it);
  entries_.erase(cookie);
  touch_mtime();
}

Result<RefPtr<vfs::Inode>> Directory::lookup(std::string_view name) {
  Entry* e = find(name);
  if (e == nullptr) return Errno::kNoent;
  return RefPtr<Inode>(e->node);
}

Result<RefPtr<vfs::Inode>> Directory::create(std::string_view name, const NewNode& how) {
  if (nlink() == 0) return Errno::kNoent;
  if (find(name) != nullptr) return Errno::kExist;
  Usage& usage = *tmpfs().usage();
  if (usage.inode_limit != 0 && usage.inodes >= usage.inode_limit) return Errno::kNospc;
  RefPtr<Node> node;
  switch (how.mode & S_IFMT) {
    case S_IFREG: node = make_ref<Regular>(tmpfs(), how); break;
    case S_IFDIR: {
      auto dir = make_ref<Directory>(tmpfs(), how);
      dir->parent_ino = ino();
      node = std::move(dir);
      add_link(1);
      break;
    }
    case S_IFLNK: node = make_ref<Symlink>(tmpfs(), how); break;
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK: node = make_ref<Special>(tmpfs(), how); break;
    default: return Errno::kInval;
  }
  insert(name, node);
  return RefPtr<Inode>(std::move(node));
}

Result<RefPtr<vfs::Inode>> Directory::tmpfile(const NewNode& how) {
  Usage& usage = *tmpfs().usage();
  if (usage.inode_limit != 0 && usage.inodes >= usage.inode_limit) return Errno::kNospc;
  auto node = make_ref<Regular>(tmpfs(), how);
  node->add_link(-1);
  node->linkable = true;
  return RefPtr<Inode>(std::move(node));
}

Result<void> Directory::link(std::string_view name, Inode& target) {
  if (nlink() == 0) return Errno::kNoent;
  if (find(name) != nullptr) return Errno::kExist;
  auto& node = static_cast<Node&>(target);
  if (node.nlink() == 0 && !node.linkable) return Errno::kNoent;
  node.linkable = false;
  node.add_link(1);
  insert(name, RefPtr<Node>(&node));
  return {};
}

Result<void> Directory::unlink(std::string_view name, Inode& child) {
  Entry* e = find(name);
  if (e == nullptr || e->node.get() != &child) return Errno::kNoent;
  RefPtr<Node> node = e->node;
  erase(name);
  node->add_link(-1);
  return {};
}

bool Directory::is_empty_dir(const Inode& node) {
  return node.type() != S_IFDIR || static_cast<const Directory&>(node).entries_.empty();
}

Result<void> Directory::rmdir(std::string_view name, Inode& child) {
  Entry* e = find(name);
  if (e == nullptr || e->node.get() != &child) return Errno::kNoent;
  if (!is_empty_dir(child)) return Errno::kNotempty;
  RefPtr<Node> node = e->node;
  erase(name);
  node->add_link(-2);
  add_link(-1);
  return {};
}

Result<void> Directory::rename(std::string_view old_name, Inode& child, Inode& new_dir, std::string_view new_name,
                               Inode* replaced, u32 flags) {
  auto& to = static_cast<Directory&>(new_dir);
  Entry* from_entry = find(old_name);
  Entry* to_entry = to.find(new_name);
  if (from_entry == nullptr || from_entry->node.get() != &child) return Errno::kNoent;
  if ((to_entry == nullptr ? nullptr : to_entry->node.get()) != replaced) return Errno::kNoent;
  if (to.nlink() == 0) return Errno::kNoent;
  RefPtr<Node> moved = from_entry->node;
  bool dir = moved->type() == S_IFDIR;
  if ((flags & RENAME_EXCHANGE) != 0) {
    RefPtr<Node> other = to_entry->node;
    bool other_dir = other->type() == S_IFDIR;
    std::swap(from_entry->node, to_entry->node);
    if (this != &to && dir != other_dir) {
      add_link(other_dir ? 1 : -1);
      to.add_link(dir ? 1 : -1);
    }
    if (dir) static_cast<Directory&>(*moved).parent_ino = to.ino();
    if (other_dir) static_cast<Directory&>(*other).parent_ino = ino();
    other->touch_ctime();
  } else if (to_entry != nullptr) {
    if (dir && !is_empty_dir(*replaced)) return Errno::kNotempty;
    RefPtr<Node> gone = to_entry->node;
    to_entry->node = moved;
    erase(old_name);
    gone->add_link(dir ? -2 : -1);
    if (dir) add_link(-1);
  } else {
    erase(old_name);
    to.insert(new_name, moved);
    if (dir && this != &to) {
      add_link(-1);
      to.add_link(1);
    }
  }
  if (dir) static_cast<Directory&>(*moved).parent_ino = to.ino();
  moved->touch_ctime();
  touch_mtime();
  to.touch_mtime();
  return {};
}

}  // namespace sbx::tmpfs
