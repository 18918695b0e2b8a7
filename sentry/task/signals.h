// Sending and delivering signals (kernel/signal.c is the specification).
#pragma once
#include "sentry/task/task.h"

namespace sbx::task {

// From kill(2) and the kernel: to the process / to one thread. Handles ignore, stop, continue, kill and wake-ups.
// `force`: from outside the container: SIGKILL and SIGSTOP then work on init too.
void send_to_group(ThreadGroup& group, const signal::SigInfo& info, bool force = false);
void send_to_task(Task& task, const signal::SigInfo& info);
// A synchronous fault: blocked or ignored means death, as force_sig.
void force_to_task(Task& task, signal::SigInfo info);
// kill(2) permission: same uid or CAP_KILL, or SIGCONT within the session.
bool may_signal(const Task& sender, const ThreadGroup& target, int signo);
signal::SigInfo user_siginfo(const Task& sender, int signo, int code = SI_USER);

// True if a signal would be delivered (or the task must stop or die) at the next return to the guest.
bool signal_pending(const Task& task);
// Recomputes the mirror in the slot and the fiber's interrupt flag; after changes of pending sets, masks or actions.
void recalc_pending(Task& task);
// An action of the task is set that was not before: the stubs of all that share the actions must know.
void actions_changed(const Task& task);
// Takes over what the task's stub answered by itself: default actions for signals that had them. Before anybody looks
// at their flags or copies them.
void settle_actions(Task& task);
// sigsuspend, ppoll, pselect, epoll_pwait: installs `mask` until the handler's frame or the end of the call restores
// it.
void set_temporary_mask(Task& task, signal::SigSet mask);

// Takes the next deliverable signal with a handler; performs ignores, stops (parks), continues by the way. nullopt:
// none. Fatal signals mark the group exiting and answer nullopt with group->exiting set.
struct Chosen {
  signal::SigInfo info;
  signal::Action action;
};
std::optional<Chosen> next_signal(Task& task);
// Builds what the stub needs, sets the masks, applies SA_RESETHAND.
platform::SignalDelivery make_delivery(Task& task, const Chosen& chosen);

// Starts the end of the whole group with this wait status (exit_group, fatal signal): every task leaves.
void exit_group(ThreadGroup& group, i32 wait_status);

}  // namespace sbx::task
