// The typed event point of every emulated call: counters, strace and the monitor hang here.
#include <fcntl.h>
#include <sys/syscall.h>

#include "sentry/base/counters.h"
#include "sentry/syscalls/strace.h"
#include "sentry/syscalls/table.h"
#include "sentry/task/kernel.h"
#include "sentry/vfs/walk.h"

namespace sbx::syscalls {
namespace {

enum class Names : u8 { kNone, kLooked, kChanged };

// Whether a call looks for one path and does nothing else, or changes what paths lead to and who may go there. By far
// most are neither.
Names names_of(u32 nr, const u64* args) {
  switch (nr) {
    case SYS_open: return (args[1] & O_CREAT) != 0 ? Names::kChanged : Names::kLooked;
    case SYS_openat: return (args[2] & O_CREAT) != 0 ? Names::kChanged : Names::kLooked;
    case SYS_stat:
    case SYS_lstat:
    case SYS_access:
    case SYS_readlink:
    case SYS_newfstatat:
    case SYS_readlinkat:
    case SYS_faccessat: return Names::kLooked;
    case SYS_openat2:
    case SYS_creat:
    case SYS_rename:
    case SYS_mkdir:
    case SYS_rmdir:
    case SYS_link:
    case SYS_unlink:
    case SYS_symlink:
    case SYS_chmod:
    case SYS_fchmod:
    case SYS_chown:
    case SYS_fchown:
    case SYS_lchown:
    case SYS_mknod:
    case SYS_mkdirat:
    case SYS_mknodat:
    case SYS_fchownat:
    case SYS_unlinkat:
    case SYS_renameat:
    case SYS_linkat:
    case SYS_symlinkat:
    case SYS_fchmodat:
    case SYS_renameat2:
    case 452:  // fchmodat2
    case SYS_setxattr:
    case SYS_lsetxattr:
    case SYS_fsetxattr:
    case SYS_bind:
    case SYS_mount:
    case SYS_umount2:
    case SYS_pivot_root:
    case SYS_chroot:
    case SYS_setns:
    case SYS_unshare:
    case SYS_setuid:
    case SYS_setgid:
    case SYS_setreuid:
    case SYS_setregid:
    case SYS_setgroups:
    case SYS_setresuid:
    case SYS_setresgid:
    case SYS_setfsuid:
    case SYS_setfsgid:
    case SYS_capset:
    case SYS_prctl:
    case SYS_seccomp: return Names::kChanged;
    default: return Names::kNone;
  }
}

// A thread after unshare(CLONE_FS), or a child of vfork; one of clone(CLONE_VM | CLONE_NEWNS) when it mounts.
bool shares_memory_with_another_view(const Task& task) {
  for (const auto& [pid, group] : task::kernel().groups()) {
    for (const auto& other : group->tasks) {
      const bool together = &*other != &task && other->thread && other->thread->memory() == task.thread->memory();
      if (together && (other->fs != task.fs || other->mounts != task.mounts)) return true;
    }
  }
  return false;
}

// What a stub may go by when the same path is asked for again (platform/layout.h, Board).
void tell_of_names(Task& task, u32 nr, const u64* args, i64 result, u64 unsteady) {
  const Names names = names_of(nr, args);
  if (names == Names::kNone) return;
  if (names == Names::kChanged) {
    const bool moves = nr == SYS_chroot || nr == SYS_pivot_root || nr == SYS_setns || nr == SYS_unshare ||
                       nr == SYS_mount || nr == SYS_umount2;
    if (moves && shares_memory_with_another_view(task)) task::kernel().platform->views_differ();
    task::kernel().platform->names_changed();
    return;
  }
  const bool error = result == -static_cast<i64>(Errno::kNoent) || result == -static_cast<i64>(Errno::kNotdir) ||
                     result == -static_cast<i64>(Errno::kInval);
  if (!error || vfs::unsteady_steps != unsteady || (task.seccomp && !task.seccomp->always_allows(nr))) return;
  task.thread->name_is_steady();
}

}  // namespace

i64 dispatch(Task& task) {
  // Copied: the entry changes when the handler lets the thread run (exec, clone).
  const u32 nr = task.entry.nr;
  u64 args[6];
  for (int i = 0; i < 6; ++i) args[i] = task.entry.args[i];
  if (nr >= kRows || kTable[nr].name == nullptr) [[unlikely]] {
    i64 result;
    if (task.seccomp && !task::seccomp_admits(task, nr, args, &result)) return result;
    STUB("syscall", nr);
    return -static_cast<i64>(Errno::kNosys);
  }
  call_counts[nr].fetch_add(1, std::memory_order_relaxed);
  task.fds->reap(*task.thread);
  task.fds->take_used_streams();
  const u64 unsteady = vfs::unsteady_steps;
  const Row& row = kTable[nr];
  const u64 began = trace_flags != 0 ? fiber::now_ns() : 0;
  i64 result;
  if (task.seccomp && !task::seccomp_admits(task, nr, args, &result)) [[unlikely]] {
    // Answered by the filter.
  } else if (row.invoke != nullptr) [[likely]] {
    result = row.invoke(task, args);
  } else {
    STUB(row.name, 0);
    result = -static_cast<i64>(row.refusal);
  }
  tell_of_names(task, nr, args, result, unsteady);
  if (trace_flags != 0) [[unlikely]] {
    if (trace_flags & kTraceStrace) strace_call(task, nr, args, result, fiber::now_ns() - began);
  }
  return result;
}

}  // namespace sbx::syscalls
