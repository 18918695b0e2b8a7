#include "sentry/task/task.h"

#include <sys/syscall.h>

#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"
#include "sentry/task/signals.h"

namespace sbx::task {

Task::Task(i32 tid_, RefPtr<ThreadGroup> group_) : tid(tid_), group(std::move(group_)) {}

Task::~Task() = default;

Task* current_task() {
  fiber::Fiber* fiber = fiber::current();
  return fiber != nullptr ? static_cast<Task*>(fiber->owner) : nullptr;
}

Result<vfs::WalkContext> Task::walk_context_at(int dirfd, std::string_view path) const {
  vfs::WalkContext ctx = walk_context();
  if (dirfd == AT_FDCWD || (!path.empty() && path[0] == '/')) return ctx;
  vfs::File* file = fds->peek(dirfd);
  if (file == nullptr) return Errno::kBadf;
  if (!file->path() || file->inode() == nullptr) return Errno::kNotdir;
  // With an empty path (AT_EMPTY_PATH) the object itself is meant and may be anything.
  if (!path.empty() && !S_ISDIR(file->inode()->type())) return Errno::kNotdir;
  ctx.cwd = file->path();
  return ctx;
}

void Task::set_creds(security::CredPtr c) {
  creds = std::move(c);
  publish_identity();
}

void Task::publish_watch() {
  const bool traced = trace && trace->tracer != nullptr;
  const bool filtered = seccomp && seccomp->watches_native();
  const bool calls = traced && trace->syscalls;
  bool names = false;
  for (u32 nr : {SYS_open, SYS_openat, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_newfstatat, SYS_readlinkat,
                 SYS_faccessat}) {
    names |= seccomp && !seccomp->always_allows(nr);
  }
  if (seccomp && !seccomp->always_allows(SYS_wait4)) thread->set_childless(false);
  thread->watch_calls({traced || filtered, calls || filtered, calls, traced, names});
}

void Task::own_descriptors() {
  if (fds->ref_count() == 1) return;
  fds = fds->clone();
  publish_watch();  // what its process was lent is of the other table
}

void Task::publish_identity() {
  platform::GuestThread::Identity id{};
  id.pid = group->pid;
  id.tid = tid;
  id.ppid = group->parent != nullptr ? group->parent->pid : 0;
  id.uid = creds->uid;
  id.euid = creds->euid;
  id.gid = creds->gid;
  id.egid = creds->egid;
  if (!seccomp || seccomp->always_allows(SYS_rt_sigaction)) id.unset_actions = group->actions->unset();
  id.may_default = id.unset_actions != 0 && group->tasks.size() <= 1 && group->actions->ref_count() == 1;
  id.has_stack_limit = !seccomp || seccomp->always_allows(SYS_prlimit64);
  id.stack_limit = group->limits[RLIMIT_STACK].rlim_cur;
  id.stack_limit_max = group->limits[RLIMIT_STACK].rlim_max;
  kernel().note_user(*creds);
  thread->set_identity(id);
  publish_watch();
}

}  // namespace sbx::task
