// The life of a task's fiber: entries from the guest in, resumes out; interrupted calls, signal delivery on the way
// back.
#include <linux/ptrace.h>

#include "sentry/base/log.h"
#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"
#include "sentry/task/signals.h"

namespace sbx::task {

namespace {

// Nothing delivered: a temporary mask (sigsuspend, ppoll) ends here.
void restore_mask(Task& task) {
  if (!task.has_saved_mask) return;
  task.has_saved_mask = false;
  task.thread->set_signal_mask(task.saved_mask);
  recalc_pending(task);
}

}  // namespace

void Task::run() {
  using platform::EntryKind;
  while (!exited) {
    entry = thread->wait_entry();
    if (!group->exiting) {
      if (fds && fds->watcher() != nullptr) fds->watcher()->call_begins();
      if (entry.kind != EntryKind::kSyscall) thread->send_posted();
      switch (entry.kind) {
        case EntryKind::kStarted:
          if (trace && signal_pending(*this)) {  // its first stop, before anything has run
            handle_signal_check();
            break;
          }
          thread->resume_continue();
          if (signal_pending(*this)) thread->kick();
          break;
        case EntryKind::kSyscall: handle_syscall(); break;
        case EntryKind::kSignalCheck: handle_signal_check(); break;
        case EntryKind::kFault: handle_fault(); break;
        case EntryKind::kCloned: {
          const int event = std::exchange(clone_event, 0);
          if (event != 0) trace_event(*this, event, static_cast<u64>(vfork_child));
          ThreadGroup* child = kernel().find_group(vfork_child);
          RefPtr<ThreadGroup> keep(child);
          // Uninterruptible save for death, as Linux's wait_for_vfork_done.
          while (child != nullptr && !child->vfork_done && !group->exiting) {
            auto waited = child->vfork_queue.wait_until([&] { return child->vfork_done || group->exiting; }, "vfork",
                                                        fiber::kNever, fiber::Interruptible::kNo);
            (void)waited;
          }
          if (event == PTRACE_EVENT_VFORK) {
            trace_event(*this, PTRACE_EVENT_VFORK_DONE, static_cast<u64>(vfork_child));
          }
          if (group->exiting || (group->exec_task != nullptr && group->exec_task != this)) break;
          finish_syscall(trace && trace->syscalls ? trace_call_exit(*this, vfork_child) : vfork_child);
          break;
        }
        case EntryKind::kNativeCall: show_native_call(); break;
        case EntryKind::kNativeDone: show_native_result(); break;
        case EntryKind::kFileShort: thread->resume(kernel().finish_file_read(*this, entry.args[0])); break;
        case EntryKind::kMapped:  // nobody asked: not our stub any more
        case EntryKind::kLost:
          // Killed from outside (the host's OOM killer, an administrator). Another task's exec ends this one quietly.
          if (group->exec_task == nullptr || group->exec_task == this)
            exit_group(*group, SIGKILL);
          else
            exit_task(*this, SIGKILL);
          break;
      }
    }
    if (!exited && (group->exiting || (group->exec_task != nullptr && group->exec_task != this))) {
      exit_task(*this, group->exit_status);
    }
  }
  fiber->owner = nullptr;
  delete this;
}

void Task::handle_syscall() {
  restarting = false;
  restart_deadline = 0;
  const u32 nr = entry.nr;
  for (;;) {
    resumed = false;
    i64 result = 0;
    std::optional<i64> skipped;
    // One that the stub meant to answer was shown already.
    if (trace && trace->syscalls && !(entry.seen && !restarting)) skipped = trace_call_entry(*this);
    if (!group->exiting) result = skipped ? *skipped : kernel().dispatch(*this);
    if (exited || group->exiting) return;
    // Another thread's exec ends this one: an interrupted call must not be begun again.
    if (group->exec_task != nullptr && group->exec_task != this) return;
    if (resumed) {
      if (signal_pending(*this)) thread->kick();
      return;
    }
    if (trace && trace->syscalls && !(skipped && trace->emulated)) {
      result = trace_call_exit(*this, result);
      if (group->exiting || (group->exec_task != nullptr && group->exec_task != this)) return;
    }
    if (result > -512 || result < -516) {
      finish_syscall(result);
      return;
    }
    auto code = static_cast<Errno>(-result);
    if (trace) trace->result = result;
    auto chosen = next_signal(*this);
    if (group->exiting) return;
    if (trace) {
      auto given = std::exchange(trace->result, std::nullopt);
      if (std::exchange(trace->moved, false) && !chosen) {
        restore_mask(*this);
        thread->resume(given.value_or(-static_cast<i64>(Errno::kIntr)));
        return;
      }
    }
    if (!chosen) {
      // No handler ran. The interrupting signal was ignored or only stopped us: go on with the call.
      restore_mask(*this);
      restarting = true;
      continue;
    }
    bool restart =
        code == Errno::kRestartNoIntr || (code == Errno::kRestartSys && (chosen->action.flags & SA_RESTART) != 0);
    platform::SignalDelivery delivery = make_delivery(*this, *chosen);
    thread->resume_signal(restart ? static_cast<i64>(nr) : -static_cast<i64>(Errno::kIntr), restart, delivery);
    return;
  }
}

void Task::finish_syscall(i64 result) {
  // First, as Linux does unless a signal ended the call (restore_saved_sigmask_unless): what only the temporary mask
  // held back is delivered now, what only it let through has to wait again.
  if (result != -static_cast<i64>(Errno::kIntr)) restore_mask(*this);
  if (signal_pending(*this)) {
    if (trace) trace->result = result;
    auto chosen = next_signal(*this);
    if (trace) result = std::exchange(trace->result, std::nullopt).value_or(result);
    if (group->exiting) return;
    if (chosen) {
      platform::SignalDelivery delivery = make_delivery(*this, *chosen);
      thread->resume_signal(result, false, delivery);
      return;
    }
  }
  restore_mask(*this);
  thread->resume(result);
}

void Task::show_native_call() {
  std::optional<i64> skipped;
  if (trace && trace->syscalls) skipped = trace_call_entry(*this);
  if (group->exiting || (group->exec_task != nullptr && group->exec_task != this)) return;
  i64 result = skipped.value_or(0);
  if (!skipped && (!seccomp || seccomp_admits(*this, entry.nr, entry.args, &result))) {
    thread->resume_continue();
    return;
  }
  if (exited || group->exiting) return;
  if (trace && trace->syscalls && !trace->emulated) result = trace_call_exit(*this, result);
  if (group->exiting || (group->exec_task != nullptr && group->exec_task != this)) return;
  finish_syscall(result);
}

void Task::show_native_result() {
  const i64 kInterrupted = -static_cast<i64>(Errno::kRestartNoHand);
  bool interrupted = entry.args[1] != 0;
  i64 result = interrupted ? kInterrupted : static_cast<i64>(entry.args[0]);
  if (trace && trace->syscalls) result = trace_call_exit(*this, result);
  if (group->exiting || (group->exec_task != nullptr && group->exec_task != this)) return;
  if (!interrupted || result != kInterrupted) {
    finish_syscall(result);
    return;
  }
  auto chosen = next_signal(*this);
  if (group->exiting || (group->exec_task != nullptr && group->exec_task != this)) return;
  if (!chosen) {
    thread->resume_continue();
    return;
  }
  bool restart = entry.args[2] != 0 && (chosen->action.flags & SA_RESTART) != 0;
  platform::SignalDelivery delivery = make_delivery(*this, *chosen);
  thread->resume_signal(-static_cast<i64>(Errno::kIntr), restart, delivery);
}

void Task::handle_signal_check() {
  auto chosen = next_signal(*this);
  if (group->exiting || (group->exec_task != nullptr && group->exec_task != this)) return;
  if (!chosen) {
    thread->resume_continue();
    return;
  }
  bool restart = (chosen->action.flags & SA_RESTART) != 0;
  platform::SignalDelivery delivery = make_delivery(*this, *chosen);
  thread->resume_signal(0, restart, delivery);
}

void Task::handle_fault() {
  const int signo = entry.fault.signo;
  if (!signal::valid(signo)) {
    exit_group(*group, SIGKILL);
    return;
  }
  signal::SigInfo info;
  info.signo = signo;
  info.code = entry.fault.code;
  info.addr = entry.fault.addr;
  if (trace && !trace_signal(*this, info)) {
    if (!group->exiting && (group->exec_task == nullptr || group->exec_task == this)) thread->resume_continue();
    return;
  }
  const signal::Action action = group->actions->of[static_cast<size_t>(info.signo)];
  if (action.is_default() || action.is_ignored() || (thread->signal_mask() & signal::bit(info.signo)) != 0) {
    LOG_DEBUG("task %d: fatal %s at ip %#llx, address %#llx", tid, signal::signal_name(signo),
              static_cast<unsigned long long>(entry.ip), static_cast<unsigned long long>(entry.fault.addr));
    exit_group(*group, info.signo);
    return;
  }
  platform::SignalDelivery delivery = make_delivery(*this, Chosen{info, action});
  thread->resume_signal(0, false, delivery);
}

}  // namespace sbx::task
