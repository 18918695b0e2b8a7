#include "sentry/fs/overlay/node.h"

#include <linux/magic.h>

#include <charconv>

#include "sentry/vfs/special.h"

namespace sbx::overlay {

using vfs::SetAttr;

namespace {

// Numbers of objects that exist only above lie apart from those of the lower tree.
constexpr u64 kUpperInoBit = 1ull << 52;
constexpr std::string_view kPrivate = "trusted.overlay.";

}  // namespace

Result<bool> is_whiteout(Inode& upper) {
  if (upper.type() != S_IFCHR) return false;
  Attr a = TRY(upper.attr());
  return a.rdev == 0;
}

Result<u64> upper_ino(Inode& upper) {
  if (auto origin = upper.get_xattr(kOrigin)) {
    u64 ino = 0;
    std::from_chars(origin->data(), origin->data() + origin->size(), ino);
    return ino;
  }
  Attr a = TRY(upper.attr());
  return a.ino | kUpperInoBit;
}

// ---- OverlayFs ----

OverlayFs::OverlayFs(RefPtr<vfs::FileSystem> upper, RefPtr<vfs::FileSystem> lower)
    : upper_(std::move(upper)), lower_(std::move(lower)), registry_(std::make_shared<Registry>()) {}

OverlayFs::~OverlayFs() = default;

Result<RefPtr<OverlayFs>> OverlayFs::create(RefPtr<vfs::FileSystem> upper, RefPtr<vfs::FileSystem> lower) {
  RefPtr<OverlayFs> fs(new OverlayFs(std::move(upper), std::move(lower)));
  RefPtr<Inode> up = fs->upper_->root(), down = fs->lower_->root();
  Attr a = TRY(down->attr());
  SetAttr change;
  change.mask = SetAttr::kMode | SetAttr::kUid | SetAttr::kGid | SetAttr::kAtime | SetAttr::kMtime;
  change.mode = a.mode & 07777;
  change.uid = a.uid;
  change.gid = a.gid;
  change.atime = a.atime;
  change.mtime = a.mtime;
  TRY(up->set_attr(change));
  fs->root_ = make_ref<Node>(*fs, nullptr, "", std::move(up), std::move(down));
  return fs;
}

RefPtr<Inode> OverlayFs::root() { return root_; }

Result<vfs::StatFs> OverlayFs::statfs() {
  vfs::StatFs s = TRY(upper_->statfs());
  if (s.blocks == 0) {  // no limit above: say something that installers can compare with
    if (auto below = lower_->statfs()) s = *below;
  }
  s.type = OVERLAYFS_SUPER_MAGIC;
  s.fsid = dev();
  return s;
}

// ---- Node: identity ----

Node::Node(OverlayFs& fs, RefPtr<Node> parent, std::string name, RefPtr<Inode> upper, RefPtr<Inode> lower)
    : Inode(fs),
      registry_(fs.registry()),
      upper_(std::move(upper)),
      lower_(std::move(lower)),
      type_(upper_ ? upper_->type() : lower_->type()) {
  if (parent) place(std::move(parent), name);
  if (upper_) registry_->by_upper[upper_.get()] = this;
  // A merged directory shows the lower one's number, so that nothing changes when it is copied up.
  if (lower_) {
    if (auto a = lower_->attr()) ino_ = a->ino;
  } else if (auto ino = upper_ino(*upper_)) {
    ino_ = *ino;
  }
}

Node::~Node() {
  unplace();
  if (upper_) {
    auto it = registry_->by_upper.find(upper_.get());
    if (it != registry_->by_upper.end() && it->second == this) registry_->by_upper.erase(it);
  }
}

// Nodes keep their parents; a chain of them is freed by a loop, since trees may be deeper than stacks are high.
void Node::last_unref() {
  static auto& dying = *new std::vector<Node*>;
  static bool draining = false;
  dying.push_back(this);
  if (draining) return;
  draining = true;
  while (!dying.empty()) {
    Node* next = dying.back();
    dying.pop_back();
    delete next;
  }
  draining = false;
}

void Node::place(RefPtr<Node> parent, std::string_view name) {
  unplace();
  parent_ = std::move(parent);
  name_ = name;
  parent_->children_[name_] = this;
}

void Node::unplace() {
  if (!parent_) return;
  auto it = parent_->children_.find(name_);
  if (it != parent_->children_.end() && it->second == this) parent_->children_.erase(it);
  parent_.reset();
}

// ---- attributes ----

Result<Attr> Node::attr() {
  Attr a = TRY(real().attr());
  a.dev = fs().dev();
  a.ino = ino_;
  if (type_ == S_IFDIR && upper_ && lower_ && !removed_) a.nlink = 1;  // unknown without reading both
  if (removed_ && !upper_) a.nlink = 0;
  return a;
}

Result<void> Node::set_attr(const SetAttr& change) {
  TRY(copy_up((change.mask & SetAttr::kSize) != 0 ? change.size : ~0ull));
  return upper_->set_attr(change);
}

Result<std::string> Node::get_xattr(std::string_view name) {
  if (name.starts_with(kPrivate)) return Errno::kNodata;
  return real().get_xattr(name);
}

Result<void> Node::set_xattr(std::string_view name, std::string_view value, u32 flags) {
  if (name.starts_with(kPrivate)) return Errno::kPerm;
  TRY(copy_up());
  return upper_->set_xattr(name, value, flags);
}

Result<std::vector<std::string>> Node::list_xattr() {
  std::vector<std::string> names = TRY(real().list_xattr());
  std::erase_if(names, [](const std::string& n) { return n.starts_with(kPrivate); });
  return names;
}

Result<void> Node::remove_xattr(std::string_view name) {
  if (name.starts_with(kPrivate)) return Errno::kNodata;
  TRY(real().get_xattr(name));
  TRY(copy_up());
  return upper_->remove_xattr(name);
}

// ---- lookup ----

RefPtr<Node> Node::child_node(std::string_view name, RefPtr<Inode> upper, RefPtr<Inode> lower) {
  return make_ref<Node>(overlay(), RefPtr<Node>(this), std::string(name), std::move(upper), std::move(lower));
}

Result<RefPtr<Inode>> Node::lookup(std::string_view name) {
  if (type_ != S_IFDIR) return Errno::kNotdir;
  if (auto it = children_.find(std::string(name)); it != children_.end()) {
    RefPtr<Node> node(it->second);
    if (node->upper_ || !lower_ || lower_->child_still_valid(name, node->lower_.get())) return RefPtr<Inode>(node);
    // The host changed the lower tree: a node that is still true stays, since it may be in use.
    auto now = lower_->lookup(name);
    if (now && *now == node->lower_) return RefPtr<Inode>(node);
    node->unplace();
  }
  RefPtr<Inode> up;
  if (upper_) {
    auto found = upper_->lookup(name);
    if (!found && found.error() != Errno::kNoent) return found.error();
    if (found) {
      up = std::move(*found);
      if (TRY(is_whiteout(*up))) return Errno::kNoent;
      if (auto it = registry_->by_upper.find(up.get()); it != registry_->by_upper.end())
        return RefPtr<Inode>(it->second);
      if (up->type() != S_IFDIR || up->get_xattr(kOpaque)) return RefPtr<Inode>(child_node(name, up, nullptr));
    }
  }
  RefPtr<Inode> down;
  if (lower_) {
    auto found = lower_->lookup(name);
    if (!found && found.error() != Errno::kNoent) return found.error();
    if (found) down = std::move(*found);
  }
  if (up) {
    if (down && down->type() != S_IFDIR) down.reset();
    return RefPtr<Inode>(child_node(name, up, down));
  }
  if (!down) return Errno::kNoent;
  // The lower filesystem may have parked: somebody else may have made the node meanwhile.
  if (auto it = children_.find(std::string(name)); it != children_.end()) return RefPtr<Inode>(it->second);
  return RefPtr<Inode>(child_node(name, nullptr, down));
}

bool Node::child_still_valid(std::string_view name, Inode* child) {
  if (!lower_) return true;
  if (child == nullptr) return lower_->child_still_valid(name, nullptr);
  auto& node = static_cast<Node&>(*child);
  return node.upper_ || lower_->child_still_valid(name, node.lower_.get());
}

// ---- copying up ----

Result<void> Node::copy_up(u64 bytes) {
  if (upper_) return {};
  std::vector<RefPtr<Node>> chain;  // this first, then parents that are not above yet
  for (Node* n = this; n != nullptr && !n->upper_; n = n->parent_.get()) chain.emplace_back(n);
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) TRY((*it)->copy_up_here(it->get() == this ? bytes : 0));
  return {};
}

namespace {
class Held {
 public:
  explicit Held(fiber::SleepLock& lock) : lock_(lock) { lock_.lock(); }
  ~Held() { lock_.unlock(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  fiber::SleepLock& lock_;
};
}  // namespace

Result<void> Node::copy_up_here(u64 bytes) {
  Held held(copy_lock_);
  if (upper_) return {};
  if (removed_ && type_ == S_IFDIR) return Errno::kNoent;
  Attr a = TRY(lower_->attr());
  NewNode how;
  how.mode = a.mode;
  how.uid = a.uid;
  how.gid = a.gid;
  how.rdev = a.rdev;
  if (type_ == S_IFLNK) how.target = TRY(lower_->read_link());
  // A removed file that is still open is copied up without a name.
  Node& home = removed_ || !parent_ ? static_cast<Node&>(*overlay().root()) : *parent_;
  RefPtr<Inode> fresh;
  bool named = type_ != S_IFREG;
  if (named && removed_) return Errno::kNoent;
  if (named)
    fresh = TRY(home.upper_->create(name_, how));
  else
    fresh = TRY(home.upper_->tmpfile(how));
  auto finish = [&]() -> Result<void> {
    if (type_ == S_IFREG) TRY(copy_data(*fresh, std::min(bytes, a.size)));
    if (auto names = lower_->list_xattr()) {
      for (const std::string& name : *names) {
        auto value = lower_->get_xattr(name);
        if (value) (void)fresh->set_xattr(name, *value, 0);  // kinds the upper does not know stay behind
      }
    }
    TRY(fresh->set_xattr(kOrigin, std::to_string(ino_), 0));
    SetAttr times;
    times.mask = SetAttr::kAtime | SetAttr::kMtime;
    times.atime = a.atime;
    times.mtime = a.mtime;
    TRY(fresh->set_attr(times));
    if (!named && !removed_) TRY(home.upper_->link(name_, *fresh));
    return {};
  };
  if (auto done = finish(); !done) {
    if (named && type_ != S_IFDIR) (void)home.upper_->unlink(name_, *fresh);
    if (type_ == S_IFDIR) (void)home.upper_->rmdir(name_, *fresh);
    return done.error();
  }
  return adopt_upper(std::move(fresh));
}

Result<void> Node::adopt_upper(RefPtr<Inode> upper) {
  upper_ = std::move(upper);
  registry_->by_upper[upper_.get()] = this;
  if (type_ == S_IFDIR) return {};
  if (lower_->special_state()) upper_->special_state() = std::move(lower_->special_state());
  lower_.reset();
  return {};
}

Result<void> Node::copy_data(Inode& to, u64 bytes) {
  constexpr size_t kChunk = 256 * 1024;
  if (bytes == 0) return {};
  RefPtr<vfs::File> source = TRY(open_real(*lower_, {}, O_RDONLY));
  RefPtr<vfs::File> target = TRY(open_real(to, {}, O_WRONLY));
  std::vector<u8> buffer(std::min<u64>(kChunk, bytes));
  u64 done = 0;
  while (done < bytes) {
    vfs::KernelSink sink(buffer.data(), std::min<u64>(buffer.size(), bytes - done));
    u64 from = done;
    size_t got = TRY(source->read(sink, &from));
    if (got == 0) break;
    bool zeros = buffer[0] == 0 && std::memcmp(buffer.data(), buffer.data() + 1, got - 1) == 0;
    for (size_t put = 0; !zeros && put < got;) {
      vfs::KernelSource chunk(buffer.data() + put, got - put);
      u64 at = done + put;
      size_t n = TRY(target->write(chunk, &at));
      if (n == 0) return Errno::kNospc;
      put += n;
    }
    done += got;
  }
  SetAttr size;  // zeros at the end were skipped
  size.mask = SetAttr::kSize;
  size.size = done;
  return to.set_attr(size);
}

Result<RefPtr<vfs::File>> Node::open_real(Inode& inode, const vfs::Path& path, u32 flags) const {
  RefPtr<vfs::Dentry> dentry =
      vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(&inode.fs()), RefPtr<Inode>(&inode), name_.empty() ? "/" : name_);
  return inode.open(vfs::Path{path.mount, std::move(dentry)}, flags);
}

}  // namespace sbx::overlay
