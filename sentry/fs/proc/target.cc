#include "sentry/fs/proc/target.h"

#include <linux/capability.h>

#include "sentry/task/ptrace.h"
#include "sentry/time/clock.h"

namespace sbx::fs::proc {

using task::Task;
using task::ThreadGroup;

Task* Target::task() const {
  if (tid != 0) {
    Task* found = task::kernel().find_task(tid);
    return found != nullptr && found->group == group ? found : nullptr;
  }
  if (group->leader != nullptr) return group->leader;
  return group->tasks.empty() ? nullptr : group->tasks[0];
}

Result<Task*> Target::live_task() const {
  Task* found = task();
  if (found == nullptr) return Errno::kSrch;
  return found;
}

bool Target::alive() const {
  if (tid != 0) return task() != nullptr;
  return task::kernel().find_group(group->pid) == group.get();
}

i32 Target::host_pid() const {
  const Task* t = task();
  if (t == nullptr) return 0;
  auto space = t->thread->address_space();
  return space ? space->host_pid() : 0;
}

NodeOwner Target::owner() const {
  const Task* t = task();
  if (t == nullptr) return {group->zombie_uid, 0};
  if (group->image && !group->image->dumpable) return {};
  return {t->creds->euid, t->creds->egid};
}

bool Target::may_read() const {
  const Task* caller = task::current_task();
  if (caller == nullptr || caller->group == group) return true;
  if (caller->creds->capable(CAP_SYS_PTRACE)) return true;
  const Task* t = task();
  if (t == nullptr) return false;
  const security::Credentials &from = *caller->creds, &to = *t->creds;
  if (from.fsuid != to.euid || from.fsuid != to.suid || from.fsuid != to.uid) return false;
  if (from.fsgid != to.egid || from.fsgid != to.sgid || from.fsgid != to.gid) return false;
  if (group->image && !group->image->dumpable) return false;
  return (to.permitted & ~from.permitted) == 0;
}

CpuTimes group_cpu(const ThreadGroup& group) {
  CpuTimes t{group.usage.utime_us * 1000, group.usage.stime_us * 1000};
  if (group.zombie || group.tasks.empty()) return t;
  auto space = group.tasks[0]->thread->address_space();
  if (!space) return t;
  const u64 user = time::host_process_cpu_ns(space->host_pid(), time::CpuKind::kUser);
  const u64 total = time::host_process_cpu_ns(space->host_pid(), time::CpuKind::kTotal);
  t.user_ns += user;
  t.system_ns += total > user ? total - user : 0;
  return t;
}

// What cannot be seen from here: whether a thread in guest code waits natively (futex, sleep). It counts as sleeping
// unless its process used the CPU within the last clock tick or so; see the one use of CPU clocks below.
char state_letter(const Target& target) {
  const Task* t = target.task();
  if (t == nullptr || target.group->zombie) return 'Z';
  if (t->trace && t->trace->stopped) return 't';
  if (target.group->stop_signal != 0) return 'T';
  if (t == task::current_task()) return 'R';
  if (t->thread->in_sentry()) return t->fiber != nullptr && t->fiber->parked_since() != 0 ? 'S' : 'R';
  return '?';
}

}  // namespace sbx::fs::proc
