#include "gofer/server/node_table.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

namespace sbx::gofer {
namespace {

// A client cannot make us remember more than this (about 200 bytes each).
constexpr size_t kMostNodes = 4'000'000;
// Deeper trees are not reopened; the kernel's own path walks end far earlier.
constexpr size_t kDeepest = 100'000;

}  // namespace

Result<UniqueFd> open_beneath(int dir, const char* name, u64 flags, u32 mode, bool cross_mounts) {
  flags |= O_NOFOLLOW | O_CLOEXEC;
  if ((flags & O_PATH) == 0) flags |= O_NOCTTY | O_NONBLOCK;
  static bool no_openat2 = false;
  if (!no_openat2) {
    open_how how{};
    how.flags = flags;
    how.mode = mode;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | (cross_mounts ? 0 : RESOLVE_NO_XDEV);
    for (int tries = 0;; ++tries) {
      int fd = static_cast<int>(syscall(SYS_openat2, dir, name, &how, sizeof(how)));
      if (fd >= 0) return UniqueFd(fd);
      // EAGAIN: a rename somewhere while the walk ran (openat2(2)).
      if ((errno == EAGAIN || errno == EINTR) && tries < 64) continue;
      break;
    }
    if (errno != ENOSYS) return last_errno();
    no_openat2 = true;
  }
  // One validated component with O_NOFOLLOW leaves only mount points to be refused.
  UniqueFd fd(openat(dir, name, static_cast<int>(flags), mode));
  if (!fd) return last_errno();
  if (!cross_mounts) {
    u64 here = 0, there = 0;
    TRY(stat_at(dir, "", &here));
    TRY(stat_at(fd.get(), "", &there));
    if (here != there) return Errno::kXdev;
  }
  return fd;
}

Result<Attr> stat_at(int dir, const char* name, u64* mount_id) {
  struct statx sx;
  int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_SYNC_AS_STAT | (*name == '\0' ? AT_EMPTY_PATH : 0);
  if (statx(dir, name, flags, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &sx) != 0) return last_errno();
  Attr a;
  a.dev = makedev(sx.stx_dev_major, sx.stx_dev_minor);
  a.ino = sx.stx_ino;
  a.rdev = makedev(sx.stx_rdev_major, sx.stx_rdev_minor);
  a.size = sx.stx_size;
  a.blocks = sx.stx_blocks;
  a.mode = sx.stx_mode;
  a.nlink = sx.stx_nlink;
  a.uid = sx.stx_uid;
  a.gid = sx.stx_gid;
  a.atime = {sx.stx_atime.tv_sec, sx.stx_atime.tv_nsec};
  a.mtime = {sx.stx_mtime.tv_sec, sx.stx_mtime.tv_nsec};
  a.ctime = {sx.stx_ctime.tv_sec, sx.stx_ctime.tv_nsec};
  if ((sx.stx_mask & STATX_BTIME) != 0) a.btime = {sx.stx_btime.tv_sec, sx.stx_btime.tv_nsec};
  a.blksize = sx.stx_blksize;
  if (mount_id != nullptr) *mount_id = sx.stx_mnt_id;
  return a;
}

NodeTable::Entry* NodeTable::find(NodeId node) {
  auto it = nodes_.find(node);
  return it == nodes_.end() ? nullptr : &it->second;
}

Result<NodeId> NodeTable::attach(u32 mount, const Attr& attr) {
  if (mount >= mounts_.size()) return Errno::kNxio;
  ServedMount& m = mounts_[mount];
  if (m.node != kNoNode) return m.node;
  NodeId id = next_++;
  Entry& e = nodes_[id];
  e.mount = mount;
  e.dev = attr.dev;
  e.ino = attr.ino;
  m.node = id;
  return id;
}

Result<NodeId> NodeTable::intern(NodeId parent, const std::string& name, const Attr& attr) {
  Entry* p = find(parent);
  if (p == nullptr) return Errno::kBadf;
  auto it = p->children.find(name);
  if (it != p->children.end()) {
    Entry* known = find(it->second);
    if (known->dev == attr.dev && known->ino == attr.ino) return it->second;
    unlink_from_parent(it->second, *known);
  }
  if (nodes_.size() >= kMostNodes) return Errno::kNfile;
  NodeId id = next_++;
  p->children[name] = id;
  u32 mount = p->mount;
  Entry& e = nodes_[id];  // may move nothing: unordered_map keeps references
  e.parent = parent;
  e.name = name;
  e.mount = mount;
  e.dev = attr.dev;
  e.ino = attr.ino;
  e.linked = true;
  return id;
}

void NodeTable::touch(Entry& e) {
  if (!e.pinned) open_.splice(open_.begin(), open_, e.lru);
}

Result<int> NodeTable::descriptor(NodeId node) {
  // Up to the nearest ancestor that is open, then down again.
  std::vector<NodeId> chain;
  NodeId at = node;
  int fd = -1;
  for (;;) {
    Entry* e = find(at);
    if (e == nullptr) return chain.empty() ? Errno::kBadf : Errno::kStale;
    if (e->parent == kNoNode) {
      fd = mounts_[e->mount].root.get();
      break;
    }
    if (e->fd.valid()) {
      fd = e->fd.get();
      touch(*e);
      break;
    }
    if (!e->linked) return Errno::kStale;
    chain.push_back(at);
    if (chain.size() > kDeepest) return Errno::kLoop;
    at = e->parent;
  }
  while (!chain.empty()) {
    at = chain.back();
    chain.pop_back();
    Entry& e = *find(at);
    ServedMount& m = mounts_[e.mount];
    auto opened = open_beneath(fd, e.name.c_str(), O_PATH | O_DIRECTORY, 0, m.recursive);
    if (!opened) {
      Errno error = opened.error();
      bool moved = error == Errno::kNoent || error == Errno::kNotdir || error == Errno::kLoop;
      return moved ? Errno::kStale : error;
    }
    struct stat st;
    if (fstat(opened->get(), &st) != 0) return last_errno();
    if (st.st_dev != e.dev || st.st_ino != e.ino) return Errno::kStale;
    e.fd = std::move(*opened);
    open_.push_front(at);
    e.lru = open_.begin();
    fd = e.fd.get();
  }
  return fd;
}

Result<ServedMount*> NodeTable::mount_of(NodeId node) {
  Entry* e = find(node);
  if (e == nullptr) return Errno::kBadf;
  return &mounts_[e->mount];
}

bool NodeTable::is_root(NodeId node) const {
  auto it = nodes_.find(node);
  return it != nodes_.end() && it->second.parent == kNoNode;
}

NodeId NodeTable::child(NodeId parent, const std::string& name) const {
  auto it = nodes_.find(parent);
  if (it == nodes_.end()) return kNoNode;
  auto found = it->second.children.find(name);
  return found == it->second.children.end() ? kNoNode : found->second;
}

bool NodeTable::is_below(NodeId node, NodeId ancestor) {
  if (ancestor == kNoNode) return false;
  for (NodeId at = node; at != kNoNode;) {
    if (at == ancestor) return true;
    Entry* e = find(at);
    at = e == nullptr ? kNoNode : e->parent;
  }
  return false;
}

void NodeTable::unlink_from_parent(NodeId node, Entry& e) {
  if (!e.linked) return;
  if (Entry* p = find(e.parent)) {
    auto it = p->children.find(e.name);
    if (it != p->children.end() && it->second == node) p->children.erase(it);
  }
  e.linked = false;
  if (e.fd.valid() && !e.pinned) {
    open_.erase(e.lru);
    // It cannot be reopened by name. Bounded too: beyond that it becomes stale.
    if (pinned_ < open_limit_ / 2) {
      e.pinned = true;
      ++pinned_;
    } else {
      e.fd.reset();
    }
  }
}

void NodeTable::removed(NodeId parent, const std::string& name) {
  NodeId id = child(parent, name);
  if (id != kNoNode) unlink_from_parent(id, *find(id));
}

void NodeTable::renamed(NodeId parent, const std::string& name, NodeId new_parent, const std::string& new_name,
                        bool exchange) {
  NodeId moved = child(parent, name);
  NodeId other = child(new_parent, new_name);
  auto detach = [&](NodeId id) {
    if (id == kNoNode) return;
    Entry& e = *find(id);
    find(e.parent)->children.erase(e.name);
  };
  auto put = [&](NodeId id, NodeId to, const std::string& as) {
    if (id == kNoNode) return;
    Entry& e = *find(id);
    e.parent = to;
    e.name = as;
    find(to)->children[as] = id;
  };
  if (moved == other && moved != kNoNode) return;  // renamed to itself
  // Renames by the host that we have not seen could make a loop of what we remember; then it is forgotten instead.
  if (is_below(new_parent, moved) || (exchange && is_below(parent, other))) {
    for (NodeId id : {moved, other})
      if (id != kNoNode) unlink_from_parent(id, *find(id));
    return;
  }
  if (!exchange && other != kNoNode) {
    unlink_from_parent(other, *find(other));
    other = kNoNode;
  }
  detach(moved);
  detach(other);
  put(moved, new_parent, new_name);
  put(other, parent, name);
}

void NodeTable::forget(NodeId node) {
  std::vector<NodeId> todo{node};
  while (!todo.empty()) {
    NodeId id = todo.back();
    todo.pop_back();
    Entry* e = find(id);
    if (e == nullptr || e->parent == kNoNode) continue;  // roots stay
    for (auto& [name, sub] : e->children) {
      Entry* below = find(sub);
      if (below == nullptr) continue;
      below->linked = false;
      todo.push_back(sub);
    }
    Entry* parent = e->linked ? find(e->parent) : nullptr;
    if (parent != nullptr) parent->children.erase(e->name);
    if (e->pinned)
      --pinned_;
    else if (e->fd.valid())
      open_.erase(e->lru);
    nodes_.erase(id);
  }
}

void NodeTable::trim() {
  while (open_.size() > open_limit_) {
    Entry* e = find(open_.back());
    e->fd.reset();
    open_.pop_back();
  }
}

}  // namespace sbx::gofer
