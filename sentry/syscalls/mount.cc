// The mount table: mount(2), umount2(2), pivot_root(2).
#include <linux/capability.h>
#include <sys/mount.h>

#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/path_args.h"
#include "sentry/task/kernel.h"
#include "sentry/vfs/fs_types.h"

namespace sbx::syscalls {
namespace {

constexpr u64 kMagicMask = 0xffff0000, kMagic = 0xc0ed0000;  // MS_MGC_VAL, what old programs put in the high half
constexpr u64 kPropagation = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;
// Flags a mount keeps (the others are the superblock's or commands).
constexpr u64 kKept =
    MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS | MS_NOATIME | MS_NODIRATIME | MS_RELATIME;

u64 mount_flags(u64 flags) {
  u64 kept = flags & kKept;
  if (!(flags & (MS_NOATIME | MS_STRICTATIME))) kept |= MS_RELATIME;
  if (flags & MS_STRICTATIME) kept &= ~u64{MS_NOATIME | MS_RELATIME};
  return kept;
}

Result<void> may_mount(const Task& task) {
  if (!task.creds->capable(CAP_SYS_ADMIN)) return Errno::kPerm;
  return {};
}

// All mounts are private and nothing propagates: private, slave and unbindable ask for what is so, shared cannot be
// had.
Result<i64> change_propagation(const vfs::Path& at, u64 flags) {
  const u64 kind = flags & kPropagation;
  if ((flags & ~(kPropagation | MS_REC | MS_SILENT)) || (kind & (kind - 1))) return Errno::kInval;
  if (at.dentry != at.mount->root()) return Errno::kInval;
  if (kind == MS_SHARED) {
    STUB("mount", kind);
    return Errno::kInval;
  }
  return 0;
}

Result<i64> remount(const vfs::Path& at, u64 flags) {
  if (at.dentry != at.mount->root()) return Errno::kInval;
  u64 kept = mount_flags(flags);
  // Without a word about access times a remount leaves them as they are (do_mount in fs/namespace.c).
  constexpr u64 kTimes = MS_NOATIME | MS_NODIRATIME | MS_RELATIME;
  if (!(flags & (kTimes | MS_STRICTATIME))) kept = (kept & ~kTimes) | (at.mount->flags & kTimes);
  at.mount->flags = (at.mount->flags & ~kKept) | kept;
  return 0;
}

Result<std::string> optional_string(Task& task, u64 addr) {
  if (addr == 0) return std::string();
  return task.memory().read_string(addr, 4095);
}

Result<vfs::Path> find(Task& task, u64 addr) {
  if (addr == 0) return Errno::kInval;
  auto text = TRY(task.memory().read_string(addr, 4095));
  return vfs::resolve(task.walk_context(), text);
}

Result<i64> new_mount(Task& task, UserString source, const vfs::Path& at, UserString type, u64 flags, u64 data) {
  if (type.addr == 0) return Errno::kInval;
  auto type_name = TRY(optional_string(task, type.addr));
  auto source_text = TRY(optional_string(task, source.addr));
  auto options = TRY(optional_string(task, data));
  const vfs::FsType* found = vfs::find_fs_type(type_name);
  if (found == nullptr) {
    STUB("mount type", 0);
    return Errno::kNodev;
  }
  auto fs = TRY(found->make(source_text, options));
  (void)TRY(task.mounts->mount(std::move(fs), at, mount_flags(flags), source_text.empty() ? "none" : source_text));
  return 0;
}

// Every task that stood at the old root stands at the new one (fs/fs_struct.c, chroot_fs_refs).
void move_tasks(const task::Task& caller, const vfs::Path& from, const vfs::Path& to) {
  for (const auto& [pid, group] : task::kernel().groups()) {
    for (task::Task* task : group->tasks) {
      if (!task->fs || task->mounts != caller.mounts) continue;
      if (task->fs->root == from) task->fs->root = to;
      if (task->fs->cwd == from) task->fs->cwd = to;
    }
  }
}

}  // namespace

Result<i64> sys_mount(Task& task, UserString source, UserPath target, UserString type, Hex raw_flags, UserAddr data) {
  u64 flags = raw_flags.v;
  if ((flags & kMagicMask) == kMagic) flags &= ~kMagicMask;
  vfs::Path at = TRY(find(task, target.addr));
  TRY(may_mount(task));
  if (flags & MS_REMOUNT) return remount(at, flags);
  if (flags & MS_BIND) {
    vfs::Path from = TRY(find(task, source.addr));
    // The copy has the flags of the original, whatever else was asked for (mount(2)).
    (void)TRY(task.mounts->bind(from, at, from.mount ? from.mount->flags : 0, flags & MS_REC));
    return 0;
  }
  if (flags & kPropagation) return change_propagation(at, flags);
  if (flags & MS_MOVE) {
    vfs::Path from = TRY(find(task, source.addr));
    TRY(task.mounts->move(from, at));
    return 0;
  }
  return new_mount(task, source, at, type, flags, data.addr);
}

Result<i64> sys_umount2(Task& task, UserPath target, Hex flags) {
  if (flags.v & ~u64{MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW}) return Errno::kInval;
  auto text = TRY(target.read(task));
  vfs::WalkFlags walk;
  walk.follow_last = !(flags.v & UMOUNT_NOFOLLOW);
  vfs::Path at = TRY(vfs::resolve(task.walk_context(), text, walk));
  if (!at.mount || at.dentry != at.mount->root()) return Errno::kInval;
  TRY(may_mount(task));
  if (flags.v & MNT_EXPIRE) {
    STUB("umount2", flags.v);
    return Errno::kInval;
  }
  task::reap_all_closes();  // or what is closed already would keep it busy
  TRY(task.mounts->unmount(at, flags.v & MNT_DETACH));
  return 0;
}

Result<i64> sys_pivot_root(Task& task, UserPath new_root, UserPath put_old) {
  TRY(may_mount(task));
  vfs::Path fresh = TRY(find(task, new_root.addr));
  vfs::Path where = TRY(find(task, put_old.addr));
  if (!fresh.mount || !where.mount) return Errno::kInval;
  vfs::Path old = task.mounts->root();
  TRY(task.mounts->pivot_root(fresh, where));
  move_tasks(task, old, fresh);
  return 0;
}

}  // namespace sbx::syscalls
