// Creation and removal of names; rename has a file of its own.
#include <linux/capability.h>

#include "sentry/vfs/notify.h"
#include "sentry/vfs/walker.h"

namespace sbx::vfs {

using security::Credentials;

namespace {

u32 dir_bit(u32 type) { return type == S_IFDIR ? u32{IN_ISDIR} : 0; }

// The place for a new name: its directory, after the checks that come before permissions (filename_create). The order
// of errors is Linux's: an existing name is kExist even where writing is forbidden.
Result<ParentPath> place_for(const WalkContext& ctx, std::string_view path, bool for_dir) {
  ParentPath at = TRY(resolve_parent(ctx, path));
  if (at.name == "." || at.name == "..") return Errno::kExist;
  auto found = at.dir.dentry->child(at.name);
  if (!found && found.error() != Errno::kNoent) return found.error();
  if (found && (*found)->inode() != nullptr) return Errno::kExist;
  if (at.trailing_slash && !for_dir) return Errno::kNoent;
  if (at.dir.mount->read_only()) return Errno::kRofs;
  return at;
}

enum class Removal : bool { kFile, kDirectory };

// Removes the name at which the walk ended.
Result<void> remove(const WalkContext& ctx, Walker& walker, Removal what) {
  const Path& at = walker.at();
  std::string_view name = walker.name();
  bool directory = what == Removal::kDirectory;
  if (at.mount->read_only()) return Errno::kRofs;
  Dentry& dir = *at.dentry;
  RefPtr<Dentry> victim;
  {
    DirLock lock(dir);
    victim = TRY(dir.child_locked(name));
    if (victim->inode() == nullptr) return Errno::kNoent;
    if (!directory && walker.trailing_slash()) return victim->is_dir() ? Errno::kIsdir : Errno::kNotdir;
    TRY(may_delete(*ctx.creds, at, *victim, directory));
    if (victim->mount_count() != 0) return Errno::kBusy;
    Inode& parent = *dir.inode();
    TRY(directory ? parent.rmdir(name, *victim->inode()) : parent.unlink(name, *victim->inode()));
    name_changes.touched.emplace_back(name);
    victim->became_deleted(true);
  }
  notify_removed(*victim);
  return {};
}

}  // namespace

Result<Path> make_node(const WalkContext& ctx, std::string_view path, const NewNode& asked) {
  NewNode node = asked;
  u32 type = node.mode & S_IFMT;
  ParentPath at = TRY(place_for(ctx, path, type == S_IFDIR));
  TRY(may_change_dir(*ctx.creds, at.dir));
  // A character device 0:0 is a whiteout, which anybody may make (mknod(2)).
  if ((type == S_IFBLK || (type == S_IFCHR && node.rdev != 0)) && !ctx.creds->capable(CAP_MKNOD)) return Errno::kPerm;
  TRY(inherit_owner(*ctx.creds, *at.dir.inode(), node));
  Dentry& dir = *at.dir.dentry;
  Path made{at.dir.mount, nullptr};
  {
    DirLock lock(dir);
    if (dir.deleted()) return Errno::kNoent;
    auto inode = dir.inode()->create(at.name, node);
    if (!inode) {
      if (inode.error() == Errno::kExist) dir.forget_child(at.name);
      return inode.error();
    }
    made.dentry = dir.attach_child(at.name, std::move(*inode));
    name_changes.touched.emplace_back(at.name);
  }
  notify_child(*dir.inode(), IN_CREATE | dir_bit(type), at.name);
  return made;
}

Result<void> link_path(const Path& old_path, const WalkContext& to, std::string_view new_path) {
  RefPtr<Inode> target(old_path.inode());
  ParentPath at = TRY(place_for(to, new_path, false));
  if (at.dir.mount != old_path.mount) return Errno::kXdev;
  TRY(may_hard_link(*to.creds, *target));
  TRY(may_change_dir(*to.creds, at.dir));
  if (target->type() == S_IFDIR) return Errno::kPerm;
  if (&old_path.dentry->fs() != &at.dir.dentry->fs()) return Errno::kXdev;
  Dentry& dir = *at.dir.dentry;
  {
    DirLock lock(dir);
    if (dir.deleted()) return Errno::kNoent;
    auto linked = dir.inode()->link(at.name, *target);
    if (!linked) {
      if (linked.error() == Errno::kExist) dir.forget_child(at.name);
      return linked.error();
    }
    dir.attach_child(at.name, target);
    name_changes.touched.emplace_back(at.name);
  }
  notify_self(*target, IN_ATTRIB);
  notify_child(*dir.inode(), IN_CREATE, at.name);
  return {};
}

Result<void> link(const WalkContext& from, std::string_view old_path, bool follow, const WalkContext& to,
                  std::string_view new_path) {
  WalkFlags how;
  how.follow_last = follow;
  Path old = TRY(resolve(from, old_path, how));
  return link_path(old, to, new_path);
}

Result<void> unlink(const WalkContext& ctx, std::string_view path) {
  Walker walker(ctx, 0);
  TRY(walker.begin(path));
  TRY(walker.parents(path));
  if (walker.last() != Walker::Last::kNormal) return Errno::kIsdir;
  return remove(ctx, walker, Removal::kFile);
}

Result<void> rmdir(const WalkContext& ctx, std::string_view path) {
  Walker walker(ctx, 0);
  TRY(walker.begin(path));
  TRY(walker.parents(path));
  switch (walker.last()) {
    case Walker::Last::kDot: return Errno::kInval;
    case Walker::Last::kDotDot: return Errno::kNotempty;
    case Walker::Last::kRoot: return Errno::kBusy;
    case Walker::Last::kNormal: break;
  }
  return remove(ctx, walker, Removal::kDirectory);
}

}  // namespace sbx::vfs
