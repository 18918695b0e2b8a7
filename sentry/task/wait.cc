// wait4 and waitid: finding a child with news (wait(2), kernel/exit.c do_wait).
#include <sys/syscall.h>
#include <sys/wait.h>

#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"

namespace sbx::task {

namespace {

constexpr u32 kWall = 0x40000000, kWclone = 0x80000000;

bool names(const Task& task, const WaitRequest& request, i32 id, i32 pgid) {
  switch (request.who) {
    case WaitRequest::Who::kAny: return true;
    case WaitRequest::Who::kPid: return id == request.id;
    case WaitRequest::Who::kGroup: return pgid == (request.id == 0 ? task.group->group->pgid : request.id);
  }
  return false;
}

// Stops and ends of tracees, which are seen whatever the options say of clone children and stops.
bool look_at_tracees(Task& task, const WaitRequest& request, bool* any, WaitReport* report) {
  const bool leave = (request.options & WNOWAIT) != 0;
  auto& zombies = task.group->trace_zombies;
  for (auto it = zombies.begin(); it != zombies.end() && (request.options & WEXITED) != 0; ++it) {
    if (!names(task, request, it->tid, it->pgid)) continue;
    *report = {it->tid, it->status, it->uid, {}};
    if (!leave) {
      TraceZombie seen = *it;
      zombies.erase(it);
      release_trace_zombie(seen);
    }
    return true;
  }
  for (Task* tracer : task.group->tasks) {
    for (Task* tracee : tracer->tracees) {
      const auto& group = tracee->group->group;
      if (!names(task, request, tracee->tid, group ? group->pgid : 0)) continue;
      *any = true;
      Trace& trace = *tracee->trace;
      if (!trace.report) continue;
      *report = {tracee->tid, (trace.code << 8) | 0x7f, tracee->creds->uid, {}};
      report->traced = true;
      if (!leave) trace.report = false;
      return true;
    }
  }
  return false;
}

bool matches(const Task& task, const ThreadGroup& child, const WaitRequest& request) {
  if (!names(task, request, child.pid, child.group ? child.group->pgid : 0)) return false;
  // Children whose exit signal is not SIGCHLD are "clone children": seen with __WALL or __WCLONE only.
  bool is_clone = child.exit_signal != SIGCHLD;
  return (request.options & kWall) != 0 || is_clone == ((request.options & kWclone) != 0);
}

// After a child was waited for: whether there is anybody else.
void tell_if_childless(Task& task) {
  ThreadGroup& self = *task.group;
  if (!self.children.empty() || !self.trace_zombies.empty()) return;
  if (task.seccomp && !task.seccomp->always_allows(SYS_wait4)) return;
  for (const Task* thread : self.tasks) {
    if (!thread->tracees.empty()) return;
  }
  self.told_childless = true;
  task.thread->set_childless(true);
}

}  // namespace

void tell_of_children(ThreadGroup& group) {
  if (!group.told_childless) return;
  group.told_childless = false;
  for (Task* task : group.tasks) task->thread->set_childless(false);
}

Result<WaitReport> wait_for_child(Task& task, const WaitRequest& request) {
  ThreadGroup& self = *task.group;
  WaitReport report;
  bool any = false;

  auto look = [&]() -> bool {
    any = false;
    if (look_at_tracees(task, request, &any, &report)) return true;
    for (const auto& entry : self.children) {
      ThreadGroup& child = *entry;
      if (!matches(task, child, request)) continue;
      // One that has ended has no other news (wait_consider_task).
      if (child.zombie && (request.options & WEXITED) == 0) continue;
      any = true;
      if (child.tracer_first) continue;
      if (child.zombie && (request.options & WEXITED) != 0) {
        RefPtr<ThreadGroup> keep(&child);
        report = {child.pid, child.exit_status, child.zombie_uid, child.usage};
        report.usage.add(child.children_usage);
        if ((request.options & WNOWAIT) == 0) {
          self.children_usage.add(report.usage);
          reap(child);
          tell_if_childless(task);
        }
        return true;
      }
      if (child.stop_report && (request.options & WUNTRACED) != 0) {
        report = {child.pid, (child.stop_signal << 8) | 0x7f, 0, group_usage(child)};
        if (child.leader != nullptr) report.uid = child.leader->creds->uid;
        if ((request.options & WNOWAIT) == 0) child.stop_report = false;
        return true;
      }
      if (child.continue_report && (request.options & WCONTINUED) != 0) {
        report = {child.pid, 0xffff, 0, group_usage(child)};
        if (child.leader != nullptr) report.uid = child.leader->creds->uid;
        if ((request.options & WNOWAIT) == 0) child.continue_report = false;
        return true;
      }
    }
    return false;
  };

  if (look()) return report;
  if (!any) return Errno::kChild;
  if ((request.options & WNOHANG) != 0) return WaitReport{};
  bool found = false;
  TRY(self.child_queue.wait_until(
      [&] {
        found = look();
        return found || !any;
      },
      "wait"));
  if (!found) return Errno::kChild;
  return report;
}

}  // namespace sbx::task
