#include "sentry/task/ptrace.h"

#include <linux/ptrace.h>
#include <sys/wait.h>

#include <algorithm>

#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::task {

using signal::SigInfo;

namespace {

constexpr int kCapSysPtrace = 19;
constexpr u64 kUntraced = 0x00800000, kPtrace = 0x00002000, kVforkFlag = 0x00004000;  // CLONE_*

SigInfo trap_info(const Task& task, int code) {
  SigInfo info;
  info.signo = SIGTRAP;
  info.code = code;
  info.pid = task.tid;
  info.uid = task.creds->uid;
  return info;
}

// kernel/signal.c do_notify_parent_cldstop.
void tell_tracer(const Task& task, int code, int status) {
  const Task* tracer = task.trace->tracer;
  ThreadGroup& group = *tracer->group;
  if ((group.actions->of[SIGCHLD].flags & SA_NOCLDSTOP) == 0) {
    SigInfo info;
    info.signo = SIGCHLD;
    info.code = code;
    info.pid = task.tid;
    info.uid = task.creds->uid;
    info.status = status;
    send_to_group(group, info);
  }
  group.child_queue.wake_all();
}

bool has_to_end(const Task& task) {
  const ThreadGroup& group = *task.group;
  return group.exiting || (group.exec_task != nullptr && group.exec_task != &task);
}

void link(Task& tracer, Task& target, bool seize, u32 options) {
  target.trace = std::make_unique<Trace>();
  target.trace->tracer = &tracer;
  target.trace->seized = seize;
  target.trace->options = options;
  tracer.tracees.push_back(&target);
  tell_of_children(*tracer.group);
  target.publish_watch();
}

void unlink(Task& target) {
  std::erase(target.trace->tracer->tracees, &target);
  target.trace.reset();
  target.publish_watch();
}

SigInfo stop_signal_of(const Task& tracer) {
  SigInfo info;
  info.signo = SIGSTOP;
  info.code = SI_KERNEL;
  info.uid = tracer.creds->uid;
  return info;
}

// A tracee's end, for its tracer.
void leave_zombie(ThreadGroup& tracers, const TraceZombie& zombie) {
  tracers.trace_zombies.push_back(zombie);
  tell_of_children(tracers);
  SigInfo info;
  info.signo = SIGCHLD;
  info.code = WIFEXITED(zombie.status) ? CLD_EXITED : CLD_KILLED;
  info.status = WIFEXITED(zombie.status) ? WEXITSTATUS(zombie.status) : WTERMSIG(zombie.status);
  info.pid = zombie.tid;
  info.uid = zombie.uid;
  send_to_group(tracers, info);
  tracers.child_queue.wake_all();
}

}  // namespace

Result<void> may_trace(const Task& task, const Task& target) {
  if (task.group == target.group) return {};
  const security::Credentials& from = *task.creds;
  const security::Credentials& to = *target.creds;
  bool same = from.uid == to.uid && from.uid == to.euid && from.uid == to.suid && from.gid == to.gid &&
              from.gid == to.egid && from.gid == to.sgid;
  bool capable = from.capable(kCapSysPtrace);
  if (!same && !capable) return Errno::kPerm;
  if (target.group->image && !target.group->image->dumpable && !capable) return Errno::kPerm;
  // Nor one that can do more (security/commoncap.c cap_ptrace_access_check).
  if (!capable && (to.permitted & ~from.permitted) != 0) return Errno::kPerm;
  return {};
}

bool tracer_may_see_more(const Task& task) {
  const Task* tracer = task.trace ? task.trace->tracer : nullptr;
  return tracer == nullptr || tracer->creds->capable(kCapSysPtrace);
}

Result<Task*> task_with_memory(i32 tid) {
  constexpr u64 kStep = 200'000;  // ns
  for (int tries = 0; tries < 5000; ++tries) {
    Task* target = kernel().find_task(tid);
    if (target == nullptr) return Errno::kSrch;
    if (target->thread->has_memory()) return target;
    fiber::current()->set_wait_reason("new task");
    fiber::park_until(fiber::now_ns() + kStep);
  }
  return Errno::kSrch;
}

Result<void> attach(Task& tracer, Task& target, bool seize, u32 options) {
  if (tracer.group == target.group) return Errno::kPerm;
  TRY(may_trace(tracer, target));
  if (target.trace || target.exited || target.group->exiting) return Errno::kPerm;
  link(tracer, target, seize, options);
  if (!seize) {
    send_to_task(target, stop_signal_of(tracer));
  } else if (target.group->stop_signal != 0) {
    target.group->stop_queue.wake_all();  // it reports that stop
  }
  return {};
}

Result<void> attach_to_parent(Task& task) {
  ThreadGroup* parent = task.group->parent;
  if (task.trace || parent == nullptr) return Errno::kPerm;
  Task* tracer = parent->leader != nullptr ? parent->leader : (parent->tasks.empty() ? nullptr : parent->tasks[0]);
  if (tracer == nullptr) return Errno::kPerm;
  link(*tracer, task, false, 0);
  return {};
}

void resume_tracee(Task& target, int signo, Resume how) {
  Trace& trace = *target.trace;
  trace.inject = signo;
  trace.syscalls = how == Resume::kToCall || how == Resume::kEmulate;
  trace.emulate = how == Resume::kEmulate;
  if (how == Resume::kStep) target.thread->step();
  target.publish_watch();
  trace.listening = false;
  trace.report = false;
  trace.stopped = false;
  trace.queue.wake_all();
}

void detach(Task& target, int signo) {
  Trace& trace = *target.trace;
  trace.inject = signo;
  trace.stopped = false;
  trace.syscalls = false;
  trace.queue.wake_all();
  // The tracee may be parked in the stop: it owns the record until it has seen that it is alone.
  if (target.fiber != nullptr && trace.code != 0) {
    std::erase(trace.tracer->tracees, &target);
    trace.tracer = nullptr;
    target.publish_watch();
  } else {
    unlink(target);
  }
  recalc_pending(target);
}

void interrupt_tracee(Task& target) {
  target.trace->wants_stop = true;
  recalc_pending(target);
  if (!target.thread->in_sentry()) target.thread->kick();
}

namespace {
// The end of its group's stop is a stop of its own.
void report_continued(Task& target) {
  Trace& trace = *target.trace;
  trace.listening = trace.continued = false;
  trace.code = SIGTRAP | (PTRACE_EVENT_STOP << 8);
  trace.report = true;
  tell_tracer(target, CLD_TRAPPED, SIGTRAP);
}
}  // namespace

void listen_tracee(Task& target) {
  target.trace->listening = true;
  if (target.trace->continued) report_continued(target);
}

void trace_stop(Task& task, int code, std::optional<SigInfo> info) {
  if (!task.trace || task.trace->tracer == nullptr || has_to_end(task)) return;
  Trace& trace = *task.trace;
  trace.stopped = true;
  trace.report = true;
  trace.code = code;
  trace.info = std::move(info);
  trace.inject = 0;
  trace.changed = trace.continued = false;
  task.thread->settle_memory();
  tell_tracer(task, CLD_TRAPPED, code & 0x7f);
  auto waited = trace.queue.wait_until([&] { return !trace.stopped || has_to_end(task); }, "ptrace", fiber::kNever,
                                       fiber::Interruptible::kNo);
  (void)waited;
  trace.stopped = trace.report = false;
  trace.code = 0;
}

bool still_traced(Task& task) {
  if (!task.trace) return false;
  if (task.trace->tracer != nullptr) return true;
  task.trace.reset();
  return false;
}

bool trace_signal(Task& task, SigInfo& info) {
  Trace& trace = *task.trace;
  trace_stop(task, info.signo, info);
  int signo = trace.inject;
  const Task* tracer = trace.tracer;
  if (trace.changed && trace.info) info = *trace.info;
  still_traced(task);
  if (has_to_end(task) || signo == 0) return false;
  if (signo != info.signo) {
    SigInfo other;
    other.signo = signo;
    if (tracer != nullptr) {
      other.pid = tracer->pid();
      other.uid = tracer->creds->uid;
    }
    info = other;
  }
  // A blocked one waits until it is not (ptrace_signal in kernel/signal.c).
  if ((task.thread->signal_mask() & signal::bit(signo)) != 0) {
    task.pending.push(info);
    return false;
  }
  return true;
}

namespace {

void call_stop(Task& task, Trace::Phase phase) {
  Trace& trace = *task.trace;
  trace.phase = phase;
  int code = SIGTRAP | ((trace.options & PTRACE_O_TRACESYSGOOD) != 0 ? 0x80 : 0);
  trace_stop(task, code, trap_info(task, code));
  trace.phase = Trace::Phase::kNone;
  if (trace.inject != 0 && trace.tracer != nullptr) {
    SigInfo sent;
    sent.signo = trace.inject;
    sent.pid = trace.tracer->pid();
    sent.uid = trace.tracer->creds->uid;
    send_to_task(task, sent);
  }
}

}  // namespace

std::optional<i64> trace_call_entry(Task& task) {
  Trace& trace = *task.trace;
  trace.result = -static_cast<i64>(Errno::kNosys);
  trace.emulated = trace.emulate;
  call_stop(task, Trace::Phase::kEntry);
  std::optional<i64> skipped;
  if (trace.emulated || (trace.changed && static_cast<i32>(task.entry.nr) < 0)) skipped = trace.result;
  trace.result.reset();
  still_traced(task);
  return skipped;
}

i64 trace_call_exit(Task& task, i64 result) {
  Trace& trace = *task.trace;
  trace.result = result;
  call_stop(task, Trace::Phase::kExit);
  result = trace.result.value_or(result);
  trace.result.reset();
  still_traced(task);
  return result;
}

void trace_event(Task& task, int event, u64 message) {
  if (!task.trace || (task.trace->options & (1u << event)) == 0) return;
  task.trace->message = message;
  int code = SIGTRAP | (event << 8);
  trace_stop(task, code, trap_info(task, code));
  still_traced(task);
}

void trace_exec(Task& task) {
  if (!task.trace) return;
  Trace& trace = *task.trace;
  trace.result = 0;
  if ((trace.options & PTRACE_O_TRACEEXEC) != 0) {
    trace_event(task, PTRACE_EVENT_EXEC, static_cast<u64>(task.tid));
  } else if (!trace.seized) {
    SigInfo info;
    info.signo = SIGTRAP;
    info.pid = task.pid();
    info.uid = task.creds->uid;
    send_to_task(task, info);
  }
  if (task.trace && task.trace->syscalls && !has_to_end(task)) trace_call_exit(task, 0);
  if (task.trace) task.trace->result.reset();
}

int trace_child(Task& parent, Task& child, u64 clone_flags, int exit_signal) {
  if (!parent.trace || parent.trace->tracer == nullptr || (clone_flags & kUntraced) != 0) return 0;
  int event = PTRACE_EVENT_CLONE;
  if ((clone_flags & kVforkFlag) != 0)
    event = PTRACE_EVENT_VFORK;
  else if (exit_signal == SIGCHLD)
    event = PTRACE_EVENT_FORK;
  bool asked = (parent.trace->options & (1u << event)) != 0;
  if (!asked && (clone_flags & kPtrace) == 0) return 0;
  link(*parent.trace->tracer, child, parent.trace->seized, parent.trace->options);
  if (parent.trace->seized) {
    child.trace->wants_stop = true;
  } else {
    child.pending.push(stop_signal_of(*parent.trace->tracer));
  }
  return asked ? event : 0;
}

void trace_exit(Task& task, i32 status) {
  for (Task* tracee : std::vector<Task*>(task.tracees)) {
    bool kill = (tracee->trace->options & PTRACE_O_EXITKILL) != 0;
    detach(*tracee, 0);
    if (kill) exit_group(*tracee->group, SIGKILL);
  }
  if (!task.trace || task.trace->tracer == nullptr) return;
  ThreadGroup& tracers = *task.trace->tracer->group;
  ThreadGroup& group = *task.group;
  if (group.leader != &task) {
    leave_zombie(tracers, {task.tid, group.group ? group.group->pgid : 0, status, task.creds->uid});
  } else if (&tracers != group.parent) {
    group.leader_tracer = tracers.pid;  // told when all of it has ended
  }
  std::erase(task.trace->tracer->tracees, &task);
  task.trace->tracer = nullptr;
}

bool trace_group_end(ThreadGroup& group) {
  for (const TraceZombie& zombie : std::exchange(group.trace_zombies, {})) release_trace_zombie(zombie);
  ThreadGroup* tracers = group.leader_tracer != 0 ? kernel().find_group(group.leader_tracer) : nullptr;
  group.leader_tracer = 0;
  if (tracers == nullptr || tracers->zombie) return false;
  group.tracer_first = true;
  leave_zombie(*tracers, {group.pid, group.group ? group.group->pgid : 0, group.exit_status, group.zombie_uid});
  return true;
}

void release_trace_zombie(const TraceZombie& zombie) {
  ThreadGroup* group = kernel().find_group(zombie.tid);
  if (group == nullptr || !group->zombie || !group->tracer_first) return;
  group->tracer_first = false;
  notify_parent_of_exit(*group);
}

void trace_continued(ThreadGroup& group) {
  for (Task* task : group.tasks) {
    if (!task->trace) continue;
    task->trace->passed_stop = false;
    if (task->trace->tracer == nullptr || !task->trace->stopped) continue;
    if (task->trace->listening)
      report_continued(*task);
    else
      task->trace->continued = true;
  }
}

}  // namespace sbx::task
