#include "sentry/vfs/dentry.h"

#include "sentry/base/log.h"

namespace sbx::vfs {

// Unused dentries wait in a list with second chance: using one only sets its referenced_ flag, so a walk over cached
// names never touches the list. A dentry may sit in the list while in use; eviction then just takes it out.
struct Dentry::Cache {
  Dentry* first = nullptr;  // least recently added
  Dentry* last = nullptr;
  size_t in_list = 0;
  size_t total = 0;
  size_t bound = 32768;
  Dentry* dying = nullptr;  // chained by lru_next_: freeing one may end its parent; a loop instead of recursion
  bool draining = false;

  static Cache& get() {
    static Cache cache;
    return cache;
  }

  void add(Dentry& d) {
    d.in_lru_ = true;
    d.lru_prev_ = last;
    d.lru_next_ = nullptr;
    (last != nullptr ? last->lru_next_ : first) = &d;
    last = &d;
    ++in_list;
  }

  void remove(Dentry& d) {
    if (!d.in_lru_) return;
    (d.lru_prev_ != nullptr ? d.lru_prev_->lru_next_ : first) = d.lru_next_;
    (d.lru_next_ != nullptr ? d.lru_next_->lru_prev_ : last) = d.lru_prev_;
    d.lru_prev_ = d.lru_next_ = nullptr;
    d.in_lru_ = false;
    --in_list;
  }

  // Frees d, which nobody refers to, and whatever only it kept alive.
  void free(Dentry& d) {
    remove(d);
    d.unhash();
    d.lru_next_ = dying;
    dying = &d;
    if (draining) return;
    draining = true;
    while (dying != nullptr) {
      Dentry* next = dying;
      dying = next->lru_next_;
      delete next;
    }
    draining = false;
  }

  // Evicts until at most `keep` are listed; looks at each listed dentry at most twice.
  void evict(size_t keep) {
    for (size_t budget = 2 * in_list; in_list > keep && budget > 0; --budget) {
      Dentry& d = *first;
      remove(d);
      if (d.ref_count() > 0) continue;  // comes back when its last user leaves
      if (d.referenced_) {
        d.referenced_ = false;
        add(d);
        continue;
      }
      free(d);
    }
  }
};

Dentry::Dentry() { ++Cache::get().total; }

Dentry::~Dentry() {
  --Cache::get().total;
  if (fs_->root_dentry_ == this) fs_->root_dentry_ = nullptr;
  inode_.reset();  // before fs_, which it may need to say goodbye to
}

RefPtr<Dentry> Dentry::make_root(RefPtr<FileSystem> fs, RefPtr<Inode> inode, std::string name) {
  RefPtr<Dentry> d(new Dentry);
  d->fs_ = std::move(fs);
  d->name_ = std::move(name);
  d->set_inode(std::move(inode));
  return d;
}

RefPtr<Dentry> Dentry::fs_root(const RefPtr<FileSystem>& fs) {
  if (fs->root_dentry_ != nullptr) return fs->root_dentry_;
  RefPtr<Dentry> root = make_root(fs, fs->root());
  fs->root_dentry_ = root.get();
  return root;
}

void Dentry::set_inode(RefPtr<Inode> inode) {
  inode_ = std::move(inode);
  kind_ = inode_ ? inode_->type() : 0;
  if (inode_ && hashed_ && !pinned_ && fs_->pins_dentries()) {
    pinned_ = true;
    ref();
  }
}

Dentry* Dentry::new_child(std::string_view name, RefPtr<Inode> inode) {
  auto* d = new Dentry;
  d->fs_ = fs_;
  d->name_ = name;
  d->hash_into(*this);
  d->set_inode(std::move(inode));
  return d;
}

Dentry::Directory& Dentry::directory() {
  if (!directory_) directory_ = std::make_unique<Directory>();
  return *directory_;
}

const Dentry::Children& Dentry::children() const {
  static const Children none;
  return directory_ ? directory_->children : none;
}

Dentry* Dentry::hashed_child(std::string_view name) const {
  if (!directory_) return nullptr;
  auto it = directory_->children.find(name);
  return it == directory_->children.end() ? nullptr : it->second;
}

void Dentry::hash_into(Dentry& parent) {
  parent_ = RefPtr<Dentry>(&parent);
  parent.directory().children.emplace(std::string_view(name_), this);
  hashed_ = true;
}

void Dentry::unhash() {
  if (!hashed_) return;
  parent_->directory().children.erase(std::string_view(name_));
  hashed_ = false;
}

void Dentry::unpin() {
  if (!pinned_) return;
  pinned_ = false;
  unref();
}

void Dentry::last_unref() {
  Cache& cache = Cache::get();
  if (!hashed_ || stale_) {
    cache.free(*this);
    return;
  }
  referenced_ = true;
  if (in_lru_) return;
  cache.add(*this);
  if (cache.in_list > cache.bound) cache.evict(cache.bound);
}

size_t Dentry::cached_total() { return Cache::get().total; }
void Dentry::shrink(size_t keep) { Cache::get().evict(keep); }
void Dentry::set_unused_bound(size_t bound) {
  Cache::get().bound = bound;
  shrink(bound);
}

Dentry* Dentry::valid_child(std::string_view name) const {
  Dentry* d = hashed_child(name);
  if (d == nullptr) return nullptr;
  if (d->mount_count_ != 0) return d;  // a mount point stays whatever the filesystem would say now
  if (d->stale_ || !inode_->children_cacheable() || !inode_->child_still_valid(name, d->inode_.get())) return nullptr;
  return d;
}

Result<RefPtr<Dentry>> Dentry::child(std::string_view name) {
  if (!is_dir()) return Errno::kNotdir;
  if (Dentry* d = valid_child(name)) return RefPtr<Dentry>(d);
  DirLock lock(*this);
  return child_locked(name);
}

Result<RefPtr<Dentry>> Dentry::child_locked(std::string_view name) {
  if (!is_dir()) return Errno::kNotdir;
  if (Dentry* d = valid_child(name)) return RefPtr<Dentry>(d);
  if (deleted_) return Errno::kNoent;
  u32 epoch = epoch_;
  auto found = inode_->lookup(name);
  // Forgotten while under way: the answer may be older than the change. A few tries; a host that never rests gets the
  // last answer, to be confirmed at the next use.
  for (int tries = 0; epoch != epoch_ && tries < 3; ++tries) {
    epoch = epoch_;
    found = inode_->lookup(name);
  }
  RefPtr<Dentry> old(hashed_child(name));
  if (!found) {
    if (found.error() != Errno::kNoent) return found.error();
    if (old) {
      if (old->has_mounts_below()) return old;
      if (!old->inode_) {
        old->stale_ = epoch != epoch_;
        return old;
      }
      old->unhash();
      old->deleted_ = true;
      old->unpin();
    }
    if (!inode_->children_cacheable()) return Errno::kNoent;
    RefPtr<Dentry> negative(new_child(name, nullptr));
    negative->stale_ = epoch != epoch_;
    return negative;
  }
  RefPtr<Inode> inode = std::move(*found);
  if (old) {
    if (old->inode_ == inode) {
      old->stale_ = epoch != epoch_;
      return old;
    }
    if (!old->inode_) {
      old->set_inode(std::move(inode));
      old->stale_ = epoch != epoch_;
      return old;
    }
    if (old->has_mounts_below()) return old;
    old->unhash();
    old->unpin();
  }
  RefPtr<Dentry> fresh(new_child(name, std::move(inode)));
  fresh->stale_ = epoch != epoch_;
  return fresh;
}

RefPtr<Dentry> Dentry::cached_child(std::string_view name) { return RefPtr<Dentry>(hashed_child(name)); }

RefPtr<Dentry> Dentry::attach_child(std::string_view name, RefPtr<Inode> inode) {
  RefPtr<Dentry> old = cached_child(name);
  if (old) {
    if (!old->inode_ || old->inode_ == inode) {
      if (!old->inode_) old->set_inode(std::move(inode));
      old->stale_ = false;
      return old;
    }
    old->unhash();
    old->unpin();
  }
  return RefPtr<Dentry>(new_child(name, std::move(inode)));
}

void Dentry::forget_child(std::string_view name) {
  ++epoch_;
  if (RefPtr<Dentry> d = cached_child(name)) d->stale_ = true;  // freed here if nobody uses it
}

void Dentry::forget_children() {
  ++epoch_;
  std::vector<RefPtr<Dentry>> all;
  all.reserve(children().size());
  for (const auto& [name, d] : children()) all.emplace_back(d);
  for (auto& d : all) d->stale_ = true;
}

void Dentry::became_deleted(bool leave_negative) {
  RefPtr<Dentry> self(this);
  deleted_ = true;
  unhash();
  unpin();
  if (leave_negative && parent_ && parent_->is_dir() && parent_->inode_->children_cacheable() &&
      parent_->hashed_child(name_) == nullptr) {
    RefPtr<Dentry> negative(parent_->new_child(name_, nullptr));
  }
}

void Dentry::moved_to(Dentry& new_parent, std::string_view new_name) {
  RefPtr<Dentry> self(this);
  RefPtr<Dentry> target(&new_parent);
  if (RefPtr<Dentry> old = new_parent.cached_child(new_name); old && old.get() != this) {
    old->unhash();
    old->unpin();
  }
  unhash();
  name_ = new_name;
  hash_into(new_parent);
  stale_ = false;
}

void Dentry::exchange_with(Dentry& other) {
  RefPtr<Dentry> self(this), also(&other);
  RefPtr<Dentry> my_parent = parent_, other_parent = other.parent_;
  unhash();
  other.unhash();
  std::swap(name_, other.name_);
  hash_into(*other_parent);
  other.hash_into(*my_parent);
}

bool Dentry::is_below(const Dentry& ancestor) const {
  for (const Dentry* d = this; d != nullptr; d = d->parent_.get())
    if (d == &ancestor) return true;
  return false;
}

bool Dentry::has_mounts_below() const {
  std::vector<const Dentry*> work{this};
  while (!work.empty()) {
    const Dentry* d = work.back();
    work.pop_back();
    if (d->mount_count_ != 0) return true;
    for (const auto& [name, child] : d->children()) work.push_back(child);
  }
  return false;
}

// The last mount of the filesystem is gone: whatever nobody uses goes now, not when the LRU comes by.
void Dentry::drop_tree() {
  std::vector<RefPtr<Dentry>> all{RefPtr<Dentry>(this)};
  for (size_t i = 0; i < all.size(); ++i) {
    Dentry* d = all[i].get();
    for (const auto& [name, child] : d->children()) all.emplace_back(child);
  }
  while (!all.empty()) {
    RefPtr<Dentry> d = std::move(all.back());
    all.pop_back();
    d->unhash();
    d->unpin();
  }
}

}  // namespace sbx::vfs
