// The typed event point of every emulated call: counters, strace and the monitor hang here.
#include <fcntl.h>
#include <linux/prctl.h>
#include <sys/syscall.h>

#include <optional>

#include "sentry/base/counters.h"
#include "sentry/platform/name_table.h"
#include "sentry/syscalls/strace.h"
#include "sentry/syscalls/table.h"
#include "sentry/task/kernel.h"
#include "sentry/vfs/walk.h"

namespace sbx::syscalls {
namespace {

// Whether a call changes what paths lead to and who may go there. By far most do not. Of names that are made, moved or
// removed, and of directories' rights, vfs keeps note (vfs/walk.h).
bool changes_names(u32 nr, const u64* args) {
  switch (nr) {
    case SYS_prctl:
      switch (args[0]) {
        case PR_SET_NAME:
        case PR_GET_NAME:
        case PR_SET_PDEATHSIG:
        case PR_GET_PDEATHSIG:
        case PR_GET_DUMPABLE:
        case PR_CAPBSET_READ:
        case PR_SET_VMA: return false;
        default: return true;
      }
    case SYS_setxattr:
    case SYS_lsetxattr:
    case SYS_fsetxattr:
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
    case SYS_seccomp: return true;
    default: return false;
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

bool changes_root(u32 nr) { return nr == SYS_chroot || nr == SYS_pivot_root || nr == SYS_setns; }

// What a walk met, since the call began.
struct Walks {
  u64 unsteady = vfs::unsteady_steps;
  vfs::WalkFailures failures = vfs::walk_failures;
  u64 changes = task::kernel().platform->name_changes();
};

// What stubs may go by when the same path is asked for again (platform/name_table.h).
void tell_of_error(Task& task, u32 nr, const u64* args, i64 result, const Walks& before) {
  const bool error = result == -static_cast<i64>(Errno::kNoent) || result == -static_cast<i64>(Errno::kNotdir) ||
                     (result == -static_cast<i64>(Errno::kInval) && (nr == SYS_readlink || nr == SYS_readlinkat));
  if (!error || task.looked_at.empty() || vfs::unsteady_steps != before.unsteady ||
      (task.seccomp && !task.seccomp->always_allows(nr)))
    return;
  task.thread->name_is_steady();
  platform::Platform& platform = *task::kernel().platform;
  const vfs::WalkFailures& failures = vfs::walk_failures;
  if (failures.seen != before.failures.seen && failures.restricted == before.failures.restricted &&
      platform.name_changes() == before.changes)
    platform.tell_all(nr, args, task.looked_at, result);
}

// After the call, before it returns. changed: it is one that changes_names().
void tell_of_changes(Task& task, bool changed, u32 nr) {
  platform::Platform& platform = *task::kernel().platform;
  for (const std::string& name : vfs::name_changes.touched) platform.name_touched(name);
  vfs::name_changes.touched.clear();
  if (!std::exchange(vfs::name_changes.trees, false) && !changed) return;
  const bool moves = changes_root(nr) || nr == SYS_unshare || nr == SYS_mount || nr == SYS_umount2;
  if (moves && shares_memory_with_another_view(task)) platform.views_differ();
  platform.names_changed();
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
  task.thread->send_posted();
  const bool changes = changes_names(nr, args);
  std::optional<Walks> before;
  if (platform::name_call(nr, args).looks) {
    before.emplace();
    task.looked_at.clear();
  }
  if (changes && changes_root(nr)) {  // before anybody sees another tree
    task::kernel().platform->tell_nobody(platform::Platform::Differ::kTrees);
  }
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
  if (before && result < 0) tell_of_error(task, nr, args, result, *before);
  if (changes || vfs::name_changes.any()) tell_of_changes(task, changes, nr);
  if (trace_flags != 0) [[unlikely]] {
    if (trace_flags & kTraceStrace) strace_call(task, nr, args, result, fiber::now_ns() - began);
  }
  return result;
}

}  // namespace sbx::syscalls
