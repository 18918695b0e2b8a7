// fork, vfork, clone, clone3: one function makes the child (kernel/fork.c copy_process).
#include <linux/sched.h>

#include "sentry/base/counters.h"
#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"
#include "sentry/task/signals.h"

namespace sbx::task {

namespace {

constexpr u64 kNamespaceFlags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                CLONE_NEWNET | CLONE_NEWCGROUP | CLONE_NEWTIME;
constexpr u32 kCapSysAdmin = 21, kCapSysResource = 24;

// The new namespaces that can be given: mounts and host name. The others would need state of their own.
Result<void> check_namespaces(const Task& task, u64 flags) {
  const u64 wanted = flags & kNamespaceFlags;
  if (wanted == 0) return {};
  if ((wanted & CLONE_NEWUSER) == 0 && !task.creds->capable(kCapSysAdmin)) return Errno::kPerm;
  if ((wanted & CLONE_NEWNS) != 0) kernel().platform->tell_nobody(platform::Platform::Differ::kTrees);
  if ((wanted & ~static_cast<u64>(CLONE_NEWNS | CLONE_NEWUTS)) != 0) {
    STUB("clone namespace flags", wanted);
    return (wanted & CLONE_NEWUSER) != 0 ? Errno::kPerm : Errno::kInval;
  }
  return {};
}

constexpr u64 kTaskSizeMax = (1ull << 47) - kPageSize;

Result<void> check_flags(const Task& task, const CloneArgs& args) {
  const u64 f = args.flags;
  if ((f & CLONE_SIGHAND) != 0 && (f & CLONE_VM) == 0) return Errno::kInval;
  if ((f & CLONE_THREAD) != 0 && (f & CLONE_SIGHAND) == 0) return Errno::kInval;
  if ((f & CLONE_NEWNS) != 0 && (f & CLONE_FS) != 0) return Errno::kInval;
  if ((f & CLONE_PARENT) != 0 && kernel().reaper() == task.group.get()) return Errno::kInval;
  if ((f & CLONE_CLEAR_SIGHAND) != 0 && (f & CLONE_SIGHAND) != 0) return Errno::kInval;
  // arch_prctl(ARCH_SET_FS)'s rule, do_arch_prctl_64.
  if ((f & CLONE_SETTLS) != 0 && args.tls >= kTaskSizeMax) return Errno::kPerm;
  if (args.exit_signal != 0 && !signal::valid(args.exit_signal)) return Errno::kInval;
  TRY(check_namespaces(task, f));
  return {};
}

// RLIMIT_NPROC counts the tasks of the real user (setrlimit(2)); root and capable tasks are exempt.
bool too_many_tasks(const Task& task) {
  u64 limit = task.group->limit(RLIMIT_NPROC);
  if (limit == RLIM_INFINITY || task.creds->uid == 0 || task.creds->capable(kCapSysResource) ||
      task.creds->capable(kCapSysAdmin)) {
    return false;
  }
  u64 count = 0;
  for (const auto& [pid, group] : kernel().groups()) {
    for (const Task* other : group->tasks) count += other->creds->uid == task.creds->uid ? 1 : 0;
  }
  return count >= limit;
}

}  // namespace

Result<i64> clone_task(Task& task, const CloneArgs& args) {
  TRY(check_flags(task, args));
  const u64 f = args.flags;
  const Container& container = *task.group->container;
  const bool full = container.tasks >= container.max_tasks || kernel().task_count() >= Container::kMostTasks;
  if (too_many_tasks(task) || full) return Errno::kAgain;
  const auto kind = (f & CLONE_THREAD) != 0 ? platform::CloneRequest::Kind::kThread
                    : (f & CLONE_VM) != 0   ? platform::CloneRequest::Kind::kVfork
                                            : platform::CloneRequest::Kind::kFork;
  TRY(task.thread->prepare_clone(kind));
  i32 tid = TRY(kernel().allocate_pid());
  settle_actions(task);
  ThreadGroup& self = *task.group;

  RefPtr<ThreadGroup> group;
  if ((f & CLONE_THREAD) != 0) {
    group = task.group;
  } else {
    group = make_ref<ThreadGroup>(tid);
    group->container = self.container;
    group->actions =
        (f & CLONE_SIGHAND) != 0 ? self.actions : RefPtr<signal::Actions>(new signal::Actions(*self.actions));
    if ((f & CLONE_CLEAR_SIGHAND) != 0) group->actions->reset_for_exec();
    group->limits = self.limits;
    group->memory_limited = self.memory_limited;
    group->image = self.image;
    group->exit_signal = args.exit_signal;
    group->oom_score_adj = self.oom_score_adj;
    group->loginuid = self.loginuid;
    if (self.shm) group->shm = (f & CLONE_VM) != 0 ? self.shm : self.shm->clone();
    if ((f & CLONE_SYSVSEM) != 0) {
      if (!self.sem_undo) self.sem_undo = self.container->ipc->new_undo();
      group->sem_undo = self.sem_undo;
    }
    group->sessionid = self.sessionid;
    group->vfork_done = (f & CLONE_VFORK) == 0;
  }

  auto* child = new Task(tid, group);
  child->creds = task.creds;
  if ((f & CLONE_FILES) != 0 && (f & CLONE_VM) == 0) task.fds->share();
  child->fds = (f & CLONE_FILES) != 0 ? task.fds : task.fds->clone();
  child->fs = (f & CLONE_FS) != 0 ? task.fs : RefPtr<FsContext>(new FsContext(*task.fs));
  child->uts = (f & CLONE_NEWUTS) != 0 ? RefPtr<UtsNamespace>(new UtsNamespace(*task.uts)) : task.uts;
  child->mounts = task.mounts;
  if ((f & CLONE_NEWNS) != 0) {
    std::function<vfs::Path(const vfs::Path&)> translate;
    child->mounts = task.mounts->clone(&translate);
    child->fs->root = translate(task.fs->root);
    child->fs->cwd = translate(task.fs->cwd);
  }
  child->seccomp = task.seccomp;
  child->comm = task.comm;
  child->nice = task.nice;
  child->sched_policy = task.sched_policy;
  child->personality = task.personality;
  child->thread = kernel().platform->new_thread();
  child->thread->set_signal_mask(task.thread->signal_mask());

  platform::CloneRequest request{};
  request.kind = kind;
  request.child_sp = args.stack;
  request.set_tls = (f & CLONE_SETTLS) != 0;
  request.tls = args.tls;
  request.parent_tid_ptr = (f & CLONE_PARENT_SETTID) != 0 ? args.parent_tid : 0;
  request.child_tid_ptr = (f & CLONE_CHILD_SETTID) != 0 ? args.child_tid : 0;
  request.clear_tid_ptr = (f & CLONE_CHILD_CLEARTID) != 0 ? args.child_tid : 0;
  request.guest_tid = tid;
  request.child_tid_value = tid;

  if ((f & CLONE_THREAD) == 0) {
    kernel().add_group(*group);
    ThreadGroup* parent = (f & CLONE_PARENT) != 0 ? self.parent : &self;
    group->parent = parent;
    if (parent != nullptr) {
      parent->children.push_back(group);
      tell_of_children(*parent);
    }
    join_process_group(*group, self.group);
    group->leader = child;
    ++kernel().processes_started;
  }
  kernel().add_task(*child);
  group->tasks.push_back(child);
  child->publish_identity();
  if ((f & (CLONE_THREAD | CLONE_SIGHAND)) != 0) task.publish_identity();  // its actions are no more its own
  child->fiber = fiber::spawn([child] { child->run(); });
  child->fiber->owner = child;
  recalc_pending(*child);

  if (args.made) args.made(*child);
  task.clone_event = trace_child(task, *child, f, args.exit_signal);
  request.report = task.trace != nullptr;
  task.resumed = true;
  task.vfork_child = tid;
  task.thread->resume_clone(request, *child->thread);
  return tid;
}

Result<void> unshare_task(Task& task, u64 flags) {
  constexpr u64 kProcess = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
  constexpr u64 kKnown = kProcess | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | kNamespaceFlags;
  if ((flags & ~kKnown) != 0) return Errno::kInval;
  // A thread cannot leave its process (unshare(2)).
  if ((flags & kProcess) != 0 && task.group->tasks.size() > 1) return Errno::kInval;
  TRY(check_namespaces(task, flags));
  if ((flags & (CLONE_FS | CLONE_NEWNS)) != 0 && task.fs->ref_count() > 1) task.fs = make_ref<FsContext>(*task.fs);
  if ((flags & CLONE_FILES) != 0) task.own_descriptors();
  if ((flags & CLONE_NEWUTS) != 0) task.uts = make_ref<UtsNamespace>(*task.uts);
  if ((flags & CLONE_NEWNS) != 0) {
    std::function<vfs::Path(const vfs::Path&)> translate;
    task.mounts = task.mounts->clone(&translate);
    task.fs->root = translate(task.fs->root);
    task.fs->cwd = translate(task.fs->cwd);
  }
  return {};
}

}  // namespace sbx::task
