// wait4 and waitid: finding a child with news (wait(2), kernel/exit.c do_wait).
#include <sys/wait.h>

#include "sentry/task/kernel.h"

namespace sbx::task {

namespace {

constexpr u32 kWall = 0x40000000, kWclone = 0x80000000;

bool matches(const Task& task, const ThreadGroup& child, const WaitRequest& request) {
  switch (request.who) {
    case WaitRequest::Who::kAny: break;
    case WaitRequest::Who::kPid:
      if (child.pid != request.id) return false;
      break;
    case WaitRequest::Who::kGroup: {
      i32 id = request.id == 0 ? task.group->group->pgid : request.id;
      if (!child.group || child.group->pgid != id) return false;
      break;
    }
  }
  // Children whose exit signal is not SIGCHLD are "clone children": seen with __WALL or __WCLONE only.
  bool is_clone = child.exit_signal != SIGCHLD;
  return (request.options & kWall) != 0 || is_clone == ((request.options & kWclone) != 0);
}

}  // namespace

Result<WaitReport> wait_for_child(Task& task, const WaitRequest& request) {
  ThreadGroup& self = *task.group;
  WaitReport report;
  bool any = false;

  auto look = [&]() -> bool {
    any = false;
    for (const auto& entry : self.children) {
      ThreadGroup& child = *entry;
      if (!matches(task, child, request)) continue;
      // One that has ended has no other news (wait_consider_task).
      if (child.zombie && (request.options & WEXITED) == 0) continue;
      any = true;
      if (child.zombie && (request.options & WEXITED) != 0) {
        RefPtr<ThreadGroup> keep(&child);
        report = {child.pid, child.exit_status, child.zombie_uid, child.usage};
        report.usage.add(child.children_usage);
        if ((request.options & WNOWAIT) == 0) {
          self.children_usage.add(report.usage);
          reap(child);
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
