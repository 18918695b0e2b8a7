// How tasks and processes end (kernel/exit.c), and how parents learn of it.
#include <sys/wait.h>

#include <algorithm>

#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"
#include "sentry/task/signals.h"

namespace sbx::task {

namespace {

constexpr int kCldExited = 1, kCldKilled = 2, kCldDumped = 3;

bool ignores_children(const ThreadGroup& parent) {
  const signal::Action& action = parent.actions->of[SIGCHLD];
  return action.is_ignored() || (action.flags & SA_NOCLDWAIT) != 0;
}

ThreadGroup* new_parent_for_orphans(ThreadGroup& dying) {
  for (ThreadGroup* p = dying.parent; p != nullptr; p = p->parent) {
    if (p->child_subreaper && p->alive() && !p->exiting) return p;
  }
  ThreadGroup* reaper = kernel().reaper();
  return reaper != &dying ? reaper : nullptr;
}

void reparent_children(ThreadGroup& dying) {
  ThreadGroup* heir = new_parent_for_orphans(dying);
  std::vector<RefPtr<ThreadGroup>> children = std::move(dying.children);
  dying.children.clear();
  for (auto& child : children) {
    child->parent = heir;
    if (child->parent_death_signal != 0 && child->alive()) {
      signal::SigInfo info;
      info.signo = child->parent_death_signal;
      info.pid = dying.pid;
      send_to_group(*child, info);
    }
    for (Task* task : child->tasks) task->publish_identity();
    if (heir != nullptr) {
      heir->children.push_back(child);
      tell_of_children(*heir);
    }
    if (child->zombie && !child->tracer_first) notify_parent_of_exit(*child);
  }
}

// Groups that lose their last link to the session's other groups get SIGHUP, SIGCONT if they hold stopped members.
void hang_up_orphaned_groups(ThreadGroup& dying) {
  std::vector<RefPtr<ProcessGroup>> touched;
  for (const auto& child : dying.children) {
    if (child->group && child->group != dying.group) touched.push_back(child->group);
  }
  // Its own only if it was a link: that its parent is in another group of the session (kill_orphaned_pgrp).
  const ThreadGroup* parent = dying.parent;
  if (parent != nullptr && parent->group && parent->group != dying.group &&
      parent->group->session == dying.group->session) {
    touched.push_back(dying.group);
  }
  for (const auto& group : touched) {
    bool stopped = std::any_of(group->members.begin(), group->members.end(),
                               [&](ThreadGroup* m) { return m != &dying && m->stop_signal != 0; });
    if (!stopped || !group->orphaned()) continue;
    signal::SigInfo hup, cont;
    hup.signo = SIGHUP;
    hup.code = SI_KERNEL;
    cont.signo = SIGCONT;
    cont.code = SI_KERNEL;
    group->send(hup);
    group->send(cont);
  }
}

void leave_session(ThreadGroup& group) {
  Session& session = group.session();
  if (session.leader != &group) return;
  session.leader = nullptr;
  if (!session.tty) return;
  RefPtr<ControllingTty> tty = std::move(session.tty);
  session.tty = nullptr;
  // The leader's end hangs up on the foreground group (tty/tty_jobctrl.c disassociate_ctty).
  if (ProcessGroup* foreground = kernel().find_process_group(tty->foreground_pgid())) {
    signal::SigInfo hup, cont;
    hup.signo = SIGHUP;
    hup.code = SI_KERNEL;
    cont.signo = SIGCONT;
    cont.code = SI_KERNEL;
    RefPtr<ProcessGroup> keep(foreground);
    foreground->send(hup);
    foreground->send(cont);
  }
  tty->session_lost();
}

void end_group(ThreadGroup& group, Task& last, i32 wait_status) {
  RefPtr<ThreadGroup> keep(&group);
  group.exit_status = wait_status;
  group.exiting = true;
  group.zombie_comm = last.comm;
  group.zombie_uid = last.creds->uid;
  if (group.real_timer) group.real_timer->cancel();
  group.posix_timers.reset();
  group.image = nullptr;
  leave_memory(group);
  if (group.sem_undo && group.sem_undo->ref_count() == 1) group.sem_undo->undo_all(group.pid);
  group.sem_undo = nullptr;
  group.vfork_done = true;
  group.vfork_queue.wake_all();
  hang_up_orphaned_groups(group);
  leave_session(group);
  bool is_init = kernel().init == &group;
  if (is_init) {
    kernel().kill_all();
    for (auto& child : group.children) child->parent = nullptr;
    group.children.clear();
  } else {
    reparent_children(group);
  }
  group.zombie = true;
  group.pending.discard(~0ull);
  if (group.on_exit) {
    auto callback = std::move(group.on_exit);
    callback(group.exit_status);
  }
  group.exit_queue.wake_all();
  const bool tracer_first = trace_group_end(group);
  if (is_init) {
    if (kernel().on_init_exit) kernel().on_init_exit(group.exit_status);
    return;
  }
  if (!tracer_first) notify_parent_of_exit(group);
}

}  // namespace

void notify_parent_of_exit(ThreadGroup& group) {
  ThreadGroup* parent = group.parent;
  if (parent == nullptr) {
    reap(group);
    return;
  }
  bool auto_reap = group.exit_signal == SIGCHLD && ignores_children(*parent);
  if (group.exit_signal != 0) {
    signal::SigInfo info;
    info.signo = group.exit_signal;
    int status = group.exit_status;
    info.code = WIFEXITED(status) ? kCldExited : (WCOREDUMP(status) ? kCldDumped : kCldKilled);
    info.status = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
    info.pid = group.pid;
    info.uid = group.zombie_uid;
    info.utime = static_cast<i64>(group.usage.utime_us / 10'000);
    info.stime = static_cast<i64>(group.usage.stime_us / 10'000);
    if (!parent->actions->of[static_cast<size_t>(group.exit_signal)].is_ignored() || !auto_reap) {
      send_to_group(*parent, info);
    }
  }
  RefPtr<ThreadGroup> keep(&group);
  if (auto_reap) reap(group);
  parent->child_queue.wake_all();
}

void leave_memory(ThreadGroup& group) {
  // A vfork child shares its parent's.
  if (group.shm && group.shm->ref_count() == 1) group.shm->detach_all(group.pid);
  group.shm = nullptr;
}

void exit_task(Task& task, i32 wait_status) {
  task.exited = true;
  ThreadGroup& group = *task.group;
  trace_exit(task, group.exiting ? group.exit_status : wait_status);
  RefPtr<ThreadGroup> keep(&group);
  // Dropped first: closing pipes and terminals must be seen by others before the parent hears of the end.
  task.fds = nullptr;
  task.fs = nullptr;
  kernel().remove_task(task);
  std::erase(group.tasks, &task);
  bool last = group.tasks.empty();
  if (last) {
    group.usage.add(host_usage(task));
    task.thread->kill_host_process();
  } else if (!group.exiting && group.exec_task == nullptr && task.entry.kind == platform::EntryKind::kSyscall) {
    task.thread->resume_exit();
  }
  if (group.leader == &task) {
    group.zombie_comm = task.comm;
    group.zombie_uid = task.creds->uid;
    group.leader = nullptr;
  }
  if (group.exec_task != nullptr && group.exec_task != &task) group.exec_task->fiber->wake();
  if (last) end_group(group, task, group.exiting ? group.exit_status : wait_status);
}

void reap(ThreadGroup& child) {
  RefPtr<ThreadGroup> keep(&child);
  kernel().remove_group(child);
  join_process_group(child, nullptr);
  if (child.parent != nullptr) {
    ThreadGroup* parent = child.parent;
    child.parent = nullptr;
    std::erase_if(parent->children, [&](const RefPtr<ThreadGroup>& c) { return c == &child; });
  }
}

}  // namespace sbx::task
