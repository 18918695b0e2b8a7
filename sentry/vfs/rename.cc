// rename(2) and renameat2(2).
#include <linux/fs.h>

#include "sentry/vfs/notify.h"
#include "sentry/vfs/walker.h"

namespace sbx::vfs {

using security::Credentials;

namespace {

// One rename at a time: two that move directories in opposite directions could otherwise make a loop.
fiber::SleepLock& rename_lock() {
  static auto* lock = new fiber::SleepLock;
  return *lock;
}

// Both directories locked, the ancestor (or else the lower address) first.
class BothDirs {
 public:
  BothDirs(Dentry& a, Dentry& b) : first_(&a), second_(&b) {
    rename_lock().lock();
    if (&a == &b)
      second_ = nullptr;
    else if (a.is_below(b) || (!b.is_below(a) && &b < &a))
      std::swap(first_, second_);
    first_->dir_lock().lock();
    if (second_) second_->dir_lock().lock();
  }
  ~BothDirs() {
    if (second_) second_->dir_lock().unlock();
    first_->dir_lock().unlock();
    rename_lock().unlock();
  }
  BothDirs(const BothDirs&) = delete;
  BothDirs& operator=(const BothDirs&) = delete;

 private:
  RefPtr<Dentry> first_, second_;
};

struct Rename {
  const Credentials& creds;
  const ParentPath& from;
  const ParentPath& to;
  u32 flags;
  RefPtr<Dentry> source, target{};  // target: what the new name was; maybe negative

  bool exchange() const { return (flags & RENAME_EXCHANGE) != 0; }

  Result<void> look_up() {
    source = TRY(from.dir.dentry->child_locked(from.name));
    if (source->inode() == nullptr) return Errno::kNoent;
    auto found = to.dir.dentry->child_locked(to.name);
    if (found)
      target = std::move(*found);
    else if (found.error() != Errno::kNoent)
      return found.error();
    bool exists = target && target->inode() != nullptr;
    if ((flags & RENAME_NOREPLACE) != 0 && exists) return Errno::kExist;
    if (exchange()) {
      if (!exists) return Errno::kNoent;
      if (!target->is_dir() && to.trailing_slash) return Errno::kNotdir;
    }
    if (!source->is_dir() && (from.trailing_slash || (!exchange() && to.trailing_slash))) return Errno::kNotdir;
    if (!exists) target.reset();
    return {};
  }

  Result<void> check() const {
    // Into itself, or over one of its own ancestors.
    if (to.dir.dentry->is_below(*source)) return Errno::kInval;
    if (target && from.dir.dentry->is_below(*target)) return exchange() ? Errno::kInval : Errno::kNotempty;
    if (target && target->inode() == source->inode()) return {};
    TRY(may_delete(creds, from.dir, *source, source->is_dir()));
    if (target)
      TRY(may_delete(creds, to.dir, *target, exchange() ? target->is_dir() : source->is_dir()));
    else
      TRY(may_change_dir(creds, to.dir));
    if (from.dir.dentry != to.dir.dentry) {
      // Its ".." changes, so it must be writable itself.
      if (source->is_dir()) TRY(check_access(creds, *source->inode(), kMayWrite));
      if (exchange() && target->is_dir()) TRY(check_access(creds, *target->inode(), kMayWrite));
    }
    if (source->mount_count() != 0 || (target && target->mount_count() != 0)) return Errno::kBusy;
    return {};
  }

  void tell() const {
    if (!notify_active()) return;
    auto moved = [](const ParentPath& a, const ParentPath& b, Dentry& d) {
      u32 cookie = next_notify_cookie(), dir = d.is_dir() ? u32{IN_ISDIR} : 0;
      notify_child(*a.dir.inode(), IN_MOVED_FROM | dir, a.name, cookie);
      notify_child(*b.dir.inode(), IN_MOVED_TO | dir, b.name, cookie);
      notify_self(*d.inode(), IN_MOVE_SELF | dir);
    };
    moved(from, to, *source);
    if (exchange())
      moved(to, from, *target);
    else if (target)
      notify_replaced();
  }

  // The replaced object lost a name without an IN_DELETE in the directory.
  void notify_replaced() const {
    Inode& gone = *target->inode();
    if (!gone.notify_state) return;
    auto attr = gone.attr();
    bool last = target->is_dir() || !attr || attr->nlink == 0;
    if (last)
      notify_detail::lost_last_name(gone);
    else
      notify_self(gone, IN_ATTRIB);
  }
};

}  // namespace

Result<void> rename(const WalkContext& from_ctx, std::string_view old_path, const WalkContext& to_ctx,
                    std::string_view new_path, u32 flags) {
  if ((flags & ~u32{RENAME_NOREPLACE | RENAME_EXCHANGE}) != 0) return Errno::kInval;  // RENAME_WHITEOUT included
  if (flags == (RENAME_NOREPLACE | RENAME_EXCHANGE)) return Errno::kInval;
  ParentPath from = TRY(resolve_parent(from_ctx, old_path));
  ParentPath to = TRY(resolve_parent(to_ctx, new_path));
  if (from.dir.mount != to.dir.mount) return Errno::kXdev;
  if (from.name == "." || from.name == "..") return Errno::kBusy;
  if (to.name == "." || to.name == "..") return (flags & RENAME_NOREPLACE) != 0 ? Errno::kExist : Errno::kBusy;
  if (from.dir.mount->read_only()) return Errno::kRofs;
  Rename op{*from_ctx.creds, from, to, flags, {}};
  {
    BothDirs locks(*from.dir.dentry, *to.dir.dentry);
    TRY(op.look_up());
    TRY(op.check());
    if (op.target && op.target->inode() == op.source->inode()) return {};  // two names of one object: nothing to do
    TRY(from.dir.inode()->rename(from.name, *op.source->inode(), *to.dir.inode(), to.name,
                                 op.target ? op.target->inode() : nullptr, flags));
    if (op.source->is_dir() || (op.target && op.target->is_dir())) name_changes.trees = true;
    name_changes.touched.insert(name_changes.touched.end(), {from.name, to.name});
    if (op.exchange()) {
      op.source->exchange_with(*op.target);
    } else {
      if (op.target) op.target->became_deleted(false);
      op.source->moved_to(*to.dir.dentry, to.name);
      if (from.dir.inode()->children_cacheable()) from.dir.dentry->attach_child(from.name, nullptr);
    }
  }
  op.tell();
  return {};
}

}  // namespace sbx::vfs
