// Tracing: how one task stops another, sees what it does and lets it go on (ptrace(2), kernel/ptrace.c). A tracee stops
// in its own fiber, at the points below; the requests are in syscalls/ptrace.cc. Kernel lock throughout.
#pragma once
#include "sentry/task/task.h"

namespace sbx::task {

// The tracee's side of it.
struct Trace {
  Task* tracer;
  bool seized;
  u32 options = 0;  // PTRACE_O_*
  // --- a stop ---
  bool stopped = false;
  int code = 0;         // signal, event << 8
  bool report = false;  // not waited for yet
  u64 message = 0;      // PTRACE_GETEVENTMSG
  std::optional<signal::SigInfo> info;
  enum class Phase : u8 { kNone, kEntry, kExit } phase = Phase::kNone;  // syscall stops
  // What rax means while a call is under way; the registers hold its number.
  std::optional<i64> result;
  bool changed = false;    // the tracer has set registers or the signal
  bool moved = false;      // and leads it elsewhere: an interrupted call is not begun again
  bool listening = false;  // PTRACE_LISTEN: stopped with its group
  bool continued = false;  // its group went on since it stopped
  fiber::WaitQueue queue;  // the tracee parks here
  // --- how to go on ---
  int inject = 0;            // the signal it gets
  bool syscalls = false;     // stop at calls
  bool emulate = false;      // which are not made then
  bool emulated = false;     // the call under way is not
  bool wants_stop = false;   // PTRACE_INTERRUPT
  bool passed_stop = false;  // goes on although its group is stopped
};

// Whether `task` may look at and change `target` (__ptrace_may_access with PTRACE_MODE_ATTACH_REALCREDS). kPerm.
Result<void> may_trace(const Task& task, const Task& target);
// Whether `task` may gain rights by an exec, as far as its tracer goes: that one would have them too (ptracer_capable).
bool tracer_may_see_more(const Task& task);
// The task `tid` once its memory can be looked at; may park for one that was made just now. kSrch.
Result<Task*> task_with_memory(i32 tid);
// PTRACE_ATTACH, PTRACE_SEIZE. kPerm: it is traced already, or as may_trace().
Result<void> attach(Task& tracer, Task& target, bool seize, u32 options);
// PTRACE_TRACEME. kPerm.
Result<void> attach_to_parent(Task& task);
// Lets it run untraced; signo (0: none) is what it gets.
void detach(Task& target, int signo);
// Lets a stopped tracee go on.
enum class Resume : u8 { kRun, kToCall, kEmulate, kStep };  // kEmulate: PTRACE_SYSEMU
void resume_tracee(Task& target, int signo, Resume how);
void interrupt_tracee(Task& target);
void listen_tracee(Task& target);

// --- for the tracee's fiber; each returns when it may go on, or is to end ---
void trace_stop(Task& task, int code, std::optional<signal::SigInfo> info = {});
// To be asked after each stop: its tracer may have let it go for good.
bool still_traced(Task& task);
// The tracer may replace or drop it. False: dropped.
bool trace_signal(Task& task, signal::SigInfo& info);
// Before task.entry is dispatched. A result: the call is not made.
std::optional<i64> trace_call_entry(Task& task);
// `result`: as the call ended; the tracer may change it.
i64 trace_call_exit(Task& task, i64 result);
// PTRACE_EVENT_*, if the tracer asked for it.
void trace_event(Task& task, int event, u64 message);
// With exec's success.
void trace_exec(Task& task);
// A new task of `parent`: traced as well, where the tracer asked for it. The event it has to be told with, or 0.
int trace_child(Task& parent, Task& child, u64 clone_flags, int exit_signal);

// --- when tasks end ---
void trace_exit(Task& task, i32 status);
// True: its tracer, another process than its parent, is told first, and leaves it to the parent by waiting.
bool trace_group_end(ThreadGroup& group);
// The tracer has waited for it, or will not any more.
void release_trace_zombie(const TraceZombie& zombie);
// The group got SIGCONT.
void trace_continued(ThreadGroup& group);

}  // namespace sbx::task
