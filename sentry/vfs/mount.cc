#include <sys/mount.h>

#include <algorithm>

#include "sentry/vfs/dentry.h"

namespace sbx::vfs {
namespace {

constexpr size_t kMaxMounts = 100000;  // fs.mount-max

struct Key {
  const Mount* parent;
  const Dentry* at;
  bool operator==(const Key&) const = default;
};
struct KeyHash {
  size_t operator()(const Key& k) const {
    return (reinterpret_cast<size_t>(k.parent) >> 4) * 0x9e3779b97f4a7c15ull ^ (reinterpret_cast<size_t>(k.at) >> 4);
  }
};

// All attached mounts of all namespaces: a mount belongs to one namespace, so its address says which.
std::unordered_map<Key, Mount*, KeyHash>& table() {
  static auto* mounts = new std::unordered_map<Key, Mount*, KeyHash>;
  return *mounts;
}

u32 next_id = 1;

}  // namespace

// ---- Mount ----

Mount::Mount(RefPtr<FileSystem> fs, RefPtr<Dentry> root, u64 f, std::string src)
    : flags(f), source(std::move(src)), id_(next_id++), fs_(std::move(fs)), root_(std::move(root)) {
  ++fs_->mount_count_;
}

Mount::~Mount() {
  detach();
  if (--fs_->mount_count_ > 0 || fs_->root_dentry_ == nullptr) return;
  root_.reset();
  if (fs_->root_dentry_ != nullptr) fs_->root_dentry_->drop_tree();
}

bool Mount::read_only() const { return (flags & MS_RDONLY) != 0 || fs_->read_only(); }

Mount* Mount::covering(const Mount& parent, const Dentry& at) {
  auto it = table().find({&parent, &at});
  return it == table().end() ? nullptr : it->second;
}

void Mount::attach(const Path& at) {
  parent_ = at.mount;
  mountpoint_ = at.dentry;
  ++mountpoint_->mount_count_;
  table()[{parent_.get(), mountpoint_.get()}] = this;
}

void Mount::detach() {
  if (!mountpoint_) return;
  table().erase({parent_.get(), mountpoint_.get()});
  --mountpoint_->mount_count_;
  mountpoint_.reset();
  parent_.reset();
}

// ---- MountNamespace ----

RefPtr<MountNamespace> MountNamespace::create(RefPtr<FileSystem> fs, u64 flags, std::string source) {
  RefPtr<MountNamespace> ns(new MountNamespace);
  RefPtr<Dentry> root = Dentry::fs_root(fs);
  ns->root_mount_ = RefPtr<Mount>(new Mount(std::move(fs), std::move(root), flags, std::move(source)));
  ns->mounts_.push_back(ns->root_mount_);
  return ns;
}

MountNamespace::~MountNamespace() {
  // Disconnected even if somebody still holds a path into one of them.
  for (auto& m : mounts_) m->detach();
}

Path MountNamespace::root() const { return {root_mount_, root_mount_->root()}; }

void MountNamespace::cross_down(Path& path) {
  while (path.dentry->mount_count() != 0) {
    Mount* m = Mount::covering(*path.mount, *path.dentry);
    if (m == nullptr) return;
    path = Path{RefPtr<Mount>(m), m->root()};
  }
}

bool MountNamespace::contains(const Mount* mount) const {
  return std::any_of(mounts_.begin(), mounts_.end(), [&](auto& m) { return m.get() == mount; });
}

Result<void> MountNamespace::may_attach(const Dentry& root, const Path& at) const {
  if (mounts_.size() >= kMaxMounts) return Errno::kNospc;
  if (!contains(at.mount.get())) return Errno::kInval;
  if (at.dentry->deleted() || at.dentry->inode() == nullptr) return Errno::kNoent;
  if (root.is_dir() != at.dentry->is_dir()) return Errno::kNotdir;
  return {};
}

Result<RefPtr<Mount>> MountNamespace::add(RefPtr<Mount> mount, const Path& at) {
  Path top = at;
  cross_down(top);
  TRY(may_attach(*mount->root(), top));
  mount->attach(top);
  mounts_.push_back(mount);
  return mount;
}

Result<RefPtr<Mount>> MountNamespace::mount(RefPtr<FileSystem> fs, const Path& at, u64 flags, std::string source) {
  RefPtr<Dentry> root = Dentry::fs_root(fs);
  RefPtr<Mount> m(new Mount(std::move(fs), std::move(root), flags, std::move(source)));
  return add(std::move(m), at);
}

std::vector<RefPtr<Mount>> MountNamespace::below(const Mount& top, const Dentry* within) const {
  std::vector<RefPtr<Mount>> found;
  auto add_children = [&](const Mount& of, const Dentry* dentry) {
    for (auto& m : mounts_)
      if (m->parent_.get() == &of && (dentry == nullptr || m->mountpoint_->is_below(*dentry))) found.push_back(m);
  };
  add_children(top, within);
  for (size_t i = 0; i < found.size(); ++i) {
    RefPtr<Mount> m = found[i];
    add_children(*m, nullptr);
  }
  return found;
}

Result<RefPtr<Mount>> MountNamespace::bind(const Path& from, const Path& at, u64 flags, bool recursive) {
  if (!from.mount || !contains(from.mount.get())) return Errno::kInval;
  if (from.dentry->inode() == nullptr || from.dentry->deleted()) return Errno::kNoent;
  std::vector<RefPtr<Mount>> inner;
  if (recursive) inner = below(*from.mount, from.dentry.get());
  if (mounts_.size() + inner.size() >= kMaxMounts) return Errno::kNospc;
  RefPtr<Mount> fresh(new Mount(from.mount->fs_, from.dentry, flags, from.mount->source));
  RefPtr<Mount> result = TRY(add(std::move(fresh), at));
  std::unordered_map<const Mount*, RefPtr<Mount>> copies{{from.mount.get(), result}};
  for (auto& m : inner) {
    RefPtr<Mount> copy(new Mount(m->fs_, m->root_, m->flags, m->source));
    copy->attach({copies.at(m->parent_.get()), m->mountpoint_});
    mounts_.push_back(copy);
    copies.emplace(m.get(), std::move(copy));
  }
  return result;
}

RefPtr<Mount> MountNamespace::mounted_at(const Path& path) const {
  Path at = path;
  cross_down(at);
  return at.mount == path.mount ? nullptr : at.mount;
}

void MountNamespace::remove(Mount& mount) {
  mount.detach();
  std::erase_if(mounts_, [&](auto& m) { return m.get() == &mount; });
}

Result<void> MountNamespace::unmount(const Path& at, bool detach) {
  RefPtr<Mount> m = mounted_at(at);
  if (!m) {
    if (at.dentry != at.mount->root()) return Errno::kInval;
    m = at.mount;
  }
  if (m == root_mount_ || !contains(m.get()) || m->parent() == nullptr) return Errno::kInval;
  std::vector<RefPtr<Mount>> children = below(*m);
  if (!detach) {
    // Known users: mounts_, `m` here, and `at` if it stands in the mount itself.
    u32 expected = 2 + (at.mount == m ? 1 : 0);
    if (!children.empty() || m->ref_count() > expected) return Errno::kBusy;
  }
  for (auto it = children.rbegin(); it != children.rend(); ++it) remove(**it);
  remove(*m);
  return {};
}

bool MountNamespace::is_under(Path path, const Path& top) {
  while (path.mount != top.mount) {
    if (path.mount->parent() == nullptr) return false;
    path = Path{RefPtr<Mount>(path.mount->parent()), path.mount->mountpoint()};
  }
  return path.dentry->is_below(*top.dentry);
}

Result<void> MountNamespace::move(const Path& from, const Path& at) {
  RefPtr<Mount> m = from.mount;
  if (!m || from.dentry != m->root() || m == root_mount_ || m->parent() == nullptr || !contains(m.get()))
    return Errno::kInval;
  Path top = at;
  cross_down(top);
  TRY(may_attach(*m->root(), top));
  for (const Mount* p = top.mount.get(); p != nullptr; p = p->parent())
    if (p == m.get()) return Errno::kLoop;
  m->detach();
  m->attach(top);
  return {};
}

Result<void> MountNamespace::pivot_root(const Path& new_root, const Path& put_old) {
  RefPtr<Mount> fresh = new_root.mount, old = root_mount_;
  if (!contains(fresh.get()) || !contains(put_old.mount.get())) return Errno::kInval;
  if (!new_root.dentry->is_dir() || !put_old.dentry->is_dir()) return Errno::kNotdir;
  if (fresh == old || put_old.mount == old) return Errno::kBusy;
  if (new_root.dentry != fresh->root()) return Errno::kInval;
  if (put_old.dentry->deleted()) return Errno::kNoent;
  if (!is_under(put_old, new_root)) return Errno::kInval;
  Path where = put_old;
  cross_down(where);
  fresh->detach();
  old->attach(where);
  root_mount_ = fresh;
  return {};
}

RefPtr<MountNamespace> MountNamespace::clone(std::function<Path(const Path&)>* translate) {
  RefPtr<MountNamespace> copy(new MountNamespace);
  auto map = std::make_shared<std::unordered_map<const Mount*, RefPtr<Mount>>>();
  for (auto& m : mounts_) {
    RefPtr<Mount> twin(new Mount(m->fs_, m->root_, m->flags, m->source));
    copy->mounts_.push_back(twin);
    map->emplace(m.get(), std::move(twin));
  }
  // Attached in a second pass: a moved mount may stand before its parent in the list.
  for (auto& m : mounts_)
    if (m->parent() != nullptr) map->at(m.get())->attach({map->at(m->parent()), m->mountpoint_});
  copy->root_mount_ = map->at(root_mount_.get());
  if (translate != nullptr) {
    RefPtr<MountNamespace> source(this);  // keeps the addresses in the map meaningful
    *translate = [map, source](const Path& path) -> Path {
      auto it = map->find(path.mount.get());
      return it == map->end() ? path : Path{it->second, path.dentry};
    };
  }
  return copy;
}

// ---- path_text ----

std::string path_text(const Path& path, const Path& root) {
  if (!path.dentry) return {};
  const Dentry* d = path.dentry.get();
  const Mount* m = path.mount.get();
  if (m == nullptr || (d->is_root() && d->name() != "/")) return d->deleted() ? d->name() + " (deleted)" : d->name();
  std::vector<const std::string*> names;
  bool reachable = true;
  for (;;) {
    if (m == root.mount.get() && d == root.dentry.get()) break;
    if (d == m->root().get()) {
      if (m->parent() == nullptr) {
        reachable = !root.mount;
        break;
      }
      d = m->mountpoint().get();
      m = m->parent();
      continue;
    }
    if (d->parent() == nullptr) {  // moved out of the subtree that is mounted
      reachable = false;
      break;
    }
    names.push_back(&d->name());
    d = d->parent();
  }
  std::string text = reachable ? "" : "(unreachable)";
  for (auto it = names.rbegin(); it != names.rend(); ++it) {
    text += '/';
    text += **it;
  }
  if (names.empty()) text += '/';
  if (path.dentry->deleted()) text += " (deleted)";
  return text;
}

}  // namespace sbx::vfs
