#include "sentry/task/signals.h"

#include <linux/ptrace.h>

#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"

namespace sbx::task {

using signal::bit;
using signal::SigInfo;
using signal::SigSet;

namespace {

constexpr SigSet kStopSignals = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);

bool is_init(const ThreadGroup& group) { return kernel().reaper() == &group; }

// Whether sending has no effect at all (kernel/signal.c sig_ignored): blocked signals are kept, their action may
// change.
bool ignored(const ThreadGroup& group, const Task* target, int signo) {
  if (target != nullptr && (target->thread->signal_mask() & bit(signo)) != 0) return false;
  if (target != nullptr && target->trace) return false;  // its tracer sees all of them
  const signal::Action& action = group.actions->of[static_cast<size_t>(signo)];
  if (action.is_ignored()) return true;
  if (!action.is_default()) return false;
  // The init process gets only signals for which it has a handler (pid_namespaces(7)); stops included.
  if (is_init(group) && signo != SIGKILL) return true;
  return signal::default_action(signo) == signal::DefaultAction::kIgnore;
}

void notify(Task& task) {
  recalc_pending(task);
  if (signal_pending(task) && !task.thread->in_sentry()) task.thread->kick();
}

void tell_parent(ThreadGroup& group, int code, int status) {
  ThreadGroup* parent = group.parent;
  if (parent == nullptr) return;
  if ((parent->actions->of[SIGCHLD].flags & SA_NOCLDSTOP) == 0) {
    SigInfo info;
    info.signo = SIGCHLD;
    info.code = code;
    info.pid = group.pid;
    info.uid = group.leader != nullptr ? group.leader->creds->uid : 0;
    info.status = status;
    send_to_group(*parent, info);
  }
  parent->child_queue.wake_all();
}

void continue_group(ThreadGroup& group) {
  group.pending.discard(kStopSignals);
  for (Task* task : group.tasks) task->pending.discard(kStopSignals);
  if (group.stop_signal == 0) return;
  group.stop_signal = 0;
  group.stop_report = false;
  group.continue_report = true;
  trace_continued(group);
  tell_parent(group, CLD_CONTINUED, SIGCONT);
  group.stop_queue.wake_all();
}

void stop_group(ThreadGroup& group, int signo) {
  if (group.stop_signal != 0) return;
  group.stop_signal = signo;
  group.stop_report = true;
  group.continue_report = false;
  for (Task* task : group.tasks) notify(*task);
  tell_parent(group, CLD_STOPPED, signo);
}

// Which thread gets a signal sent to the process: the leader if it does not block it, else any that does not.
Task* choose_target(ThreadGroup& group, int signo) {
  if (group.leader != nullptr && (group.leader->thread->signal_mask() & bit(signo)) == 0) return group.leader;
  for (Task* task : group.tasks) {
    if ((task->thread->signal_mask() & bit(signo)) == 0) return task;
  }
  return nullptr;
}

// Common to both ways of sending: what happens at the time of sending, whether or not it is delivered.
// False: nothing more to do.
bool prepare(ThreadGroup& group, const Task* target, const SigInfo& info, bool force) {
  if (group.zombie || group.exiting) return false;
  const int signo = info.signo;
  if (signo == SIGKILL) {
    if (is_init(group) && !force) return false;
    exit_group(group, SIGKILL);
    return false;
  }
  if (signo == SIGCONT) {
    continue_group(group);
  } else if ((bit(signo) & kStopSignals) != 0) {
    group.pending.discard(bit(SIGCONT));
    for (Task* task : group.tasks) task->pending.discard(bit(SIGCONT));
    if (signo == SIGSTOP && force && is_init(group)) {
      stop_group(group, SIGSTOP);
      return false;
    }
  }
  return !ignored(group, target, signo);
}

}  // namespace

void send_to_group(ThreadGroup& group, const SigInfo& info, bool force) {
  if (!prepare(group, group.leader != nullptr ? group.leader : (group.tasks.empty() ? nullptr : group.tasks[0]), info,
               force)) {
    return;
  }
  group.pending.push(info);
  for (Task* task : group.tasks) {
    if ((task->waiting_for & bit(info.signo)) != 0) task->fiber->wake();
  }
  group.signal_queue.wake_all();
  Task* target = choose_target(group, info.signo);
  for (Task* task : group.tasks) {
    if (task != target) recalc_pending(*task);  // mirrors: it may unblock the signal by itself
  }
  if (target != nullptr) notify(*target);
}

void send_to_task(Task& task, const SigInfo& info) {
  if (!prepare(*task.group, &task, info, false)) return;
  task.pending.push(info);
  if ((task.waiting_for & bit(info.signo)) != 0) task.fiber->wake();
  task.group->signal_queue.wake_all();
  notify(task);
}

void actions_changed(const Task& task) {
  for (auto& [pid, group] : kernel().groups()) {
    if (group->actions != task.group->actions) continue;
    for (Task* t : group->tasks) t->publish_identity();
  }
}

void settle_actions(Task& task) {
  constexpr u64 kRestorer = 0x04000000;  // SA_RESTORER
  u64 restorer = 0;
  const u64 set = task.thread->take_defaulted(&restorer);
  bool any = false;
  for (i32 signo = 1; set != 0 && signo <= 64; ++signo) {
    signal::Action& action = task.group->actions->of[static_cast<size_t>(signo)];
    // The stub's word is not to be trusted for more than it may do.
    if ((set & bit(signo)) == 0 || (bit(signo) & signal::kUnblockable) != 0 || action != signal::Action{}) continue;
    action.flags = kRestorer;
    action.restorer = restorer;
    any = true;
  }
  if (any) actions_changed(task);
}

void force_to_task(Task& task, SigInfo info) {
  signal::Action& action = task.group->actions->of[static_cast<size_t>(info.signo)];
  bool blocked = (task.thread->signal_mask() & bit(info.signo)) != 0;
  if (blocked || action.is_ignored() || action.is_default()) {
    exit_group(*task.group, info.signo);
    return;
  }
  task.pending.push(info);
  notify(task);
}

bool may_signal(const Task& sender, const ThreadGroup& target, int signo) {
  const security::Credentials& from = *sender.creds;
  if (from.capable(5 /* CAP_KILL */)) return true;
  const Task* any = target.leader != nullptr ? target.leader : (target.tasks.empty() ? nullptr : target.tasks[0]);
  if (any == nullptr) return true;  // a zombie: nothing happens, and nothing is learnt
  const security::Credentials& to = *any->creds;
  if (from.euid == to.suid || from.euid == to.uid || from.uid == to.suid || from.uid == to.uid) return true;
  return signo == SIGCONT && &sender.group->session() == &target.session();
}

SigInfo user_siginfo(const Task& sender, int signo, int code) {
  SigInfo info;
  info.signo = signo;
  info.code = code;
  info.pid = sender.pid();
  info.uid = sender.creds->uid;
  return info;
}

bool signal_pending(const Task& task) {
  const ThreadGroup& group = *task.group;
  if (group.exiting || (group.stop_signal != 0 && !(task.trace && task.trace->passed_stop))) return true;
  if (task.trace && task.trace->wants_stop) return true;
  if (group.exec_task != nullptr && group.exec_task != &task) return true;
  SigSet set = task.pending.set() | group.pending.set();
  return set != 0 && (set & ~task.thread->signal_mask()) != 0;
}

void recalc_pending(Task& task) {
  task.thread->set_pending(task.pending.set() | task.group->pending.set());
  if (task.fiber == nullptr) return;
  if (signal_pending(task))
    task.fiber->interrupt();
  else
    task.fiber->clear_interrupt();
}

void set_temporary_mask(Task& task, SigSet mask) {
  if (!task.has_saved_mask) {
    task.saved_mask = task.thread->signal_mask();
    task.has_saved_mask = true;
  }
  task.thread->set_signal_mask(mask & ~signal::kUnblockable);
  recalc_pending(task);
}

namespace {

// Parks while the group is stopped. The task counts as stopped only here, so it never runs guest code meanwhile.
void wait_while_stopped(Task& task) {
  ThreadGroup& group = *task.group;
  while (group.stop_signal != 0 && !group.exiting) {
    if (task.trace) {
      if (task.trace->passed_stop) return;
      task.trace->passed_stop = true;  // let go on it runs, whatever the group does
      trace_stop(task, group.stop_signal | (task.trace->seized ? PTRACE_EVENT_STOP << 8 : 0));
      if (!still_traced(task)) continue;
      return;
    }
    auto waited = group.stop_queue.wait_until([&] { return group.stop_signal == 0 || group.exiting || task.trace; },
                                              "stopped", fiber::kNever, fiber::Interruptible::kNo);
    (void)waited;
  }
}

}  // namespace

std::optional<Chosen> next_signal(Task& task) {
  ThreadGroup& group = *task.group;
  for (;;) {
    if (task.trace && task.trace->wants_stop) {
      task.trace->wants_stop = false;
      trace_stop(task, SIGTRAP | (PTRACE_EVENT_STOP << 8));
      still_traced(task);
    }
    if (group.stop_signal != 0) wait_while_stopped(task);
    if (group.exiting || (group.exec_task != nullptr && group.exec_task != &task)) return std::nullopt;
    SigSet wanted = ~task.thread->signal_mask() | signal::kUnblockable;
    auto info = task.pending.take(wanted);
    if (!info) info = group.pending.take(wanted);
    if (!info) {
      recalc_pending(task);
      return std::nullopt;
    }
    if (task.trace && !trace_signal(task, *info)) continue;
    const int signo = info->signo;
    const signal::Action action = group.actions->of[static_cast<size_t>(signo)];
    if (action.is_ignored()) continue;
    if (!action.is_default()) {
      recalc_pending(task);
      return Chosen{*info, action};
    }
    if (is_init(group)) continue;
    switch (signal::default_action(signo)) {
      case signal::DefaultAction::kIgnore:
      case signal::DefaultAction::kContinue: break;
      case signal::DefaultAction::kStop:
        // Terminal stops make no sense where nobody could continue the group again.
        if (signo != SIGSTOP && group.group->orphaned()) break;
        stop_group(group, signo);
        break;
      case signal::DefaultAction::kTerminate:
      case signal::DefaultAction::kCore: exit_group(group, signo); return std::nullopt;
    }
  }
}

platform::SignalDelivery make_delivery(Task& task, const Chosen& chosen) {
  platform::SignalDelivery d{};
  const int signo = chosen.info.signo;
  d.signo = signo;
  chosen.info.encode(d.siginfo);
  d.handler = chosen.action.handler;
  d.restorer = chosen.action.restorer;
  d.sa_flags = chosen.action.flags;
  SigSet current = task.thread->signal_mask();
  d.frame_mask = task.has_saved_mask ? task.saved_mask : current;
  task.has_saved_mask = false;
  d.new_mask = current | chosen.action.mask;
  if ((chosen.action.flags & SA_NODEFER) == 0) d.new_mask |= bit(signo);
  d.new_mask &= ~signal::kUnblockable;
  if ((chosen.action.flags & SA_RESETHAND) != 0) task.group->actions->of[static_cast<size_t>(signo)] = signal::Action{};
  task.thread->set_signal_mask(d.new_mask);
  recalc_pending(task);
  return d;
}

void exit_group(ThreadGroup& group, i32 wait_status) {
  if (group.exiting || group.zombie) return;
  group.exiting = true;
  group.exit_status = wait_status;
  group.stop_signal = 0;
  for (Task* task : group.tasks) {
    task->thread->kill_host_process();
    if (task->fiber != nullptr) task->fiber->interrupt();
    if (task->trace) task->trace->queue.wake_all();
  }
  group.stop_queue.wake_all();
}

}  // namespace sbx::task
