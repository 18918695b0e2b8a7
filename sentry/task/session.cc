#include "sentry/task/session.h"

#include <algorithm>

#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::task {

ProcessGroup::ProcessGroup(i32 id, RefPtr<Session> s) : pgid(id), session(std::move(s)) {
  kernel().add_process_group(*this);
}

ProcessGroup::~ProcessGroup() { kernel().remove_process_group(*this); }

bool ProcessGroup::orphaned() const {
  return std::none_of(members.begin(), members.end(), [this](const ThreadGroup* member) {
    const ThreadGroup* parent = member->parent;
    return !member->zombie && parent != nullptr && parent->group && parent->group.get() != this &&
           parent->group->session == session;
  });
}

void ProcessGroup::send(const signal::SigInfo& info) {
  RefPtr<ProcessGroup> keep(this);
  std::vector<RefPtr<ThreadGroup>> targets;
  for (ThreadGroup* member : members) targets.emplace_back(member);
  for (const auto& target : targets) send_to_group(*target, info);
}

void join_process_group(ThreadGroup& member, RefPtr<ProcessGroup> group) {
  if (member.group) std::erase(member.group->members, &member);
  member.group = std::move(group);
  if (member.group) member.group->members.push_back(&member);
}

Result<i32> set_session(Task& task) {
  ThreadGroup& self = *task.group;
  // setsid(2): EPERM if the caller leads a process group, i.e. some group has its id.
  if (kernel().find_process_group(self.pid) != nullptr) return Errno::kPerm;
  auto session = make_ref<Session>(self.pid);
  session->leader = &self;
  join_process_group(self, make_ref<ProcessGroup>(self.pid, std::move(session)));
  return self.pid;
}

Result<void> set_process_group(Task& task, i32 pid, i32 pgid) {
  if (pgid < 0) return Errno::kInval;
  ThreadGroup& self = *task.group;
  ThreadGroup* target = pid == 0 ? &self : kernel().find_group(pid);
  if (target == nullptr) return Errno::kSrch;
  if (target != &self) {
    if (target->parent != &self) return Errno::kSrch;
    if (&target->session() != &self.session()) return Errno::kPerm;
    if (target->has_execed) return Errno::kAcces;
  }
  if (target->session().leader == target) return Errno::kPerm;
  if (pgid == 0) pgid = target->pid;
  if (target->group->pgid == pgid) return {};
  if (pgid == target->pid) {
    join_process_group(*target, make_ref<ProcessGroup>(pgid, target->group->session));
    return {};
  }
  ProcessGroup* group = kernel().find_process_group(pgid);
  if (group == nullptr || group->session.get() != &self.session()) return Errno::kPerm;
  join_process_group(*target, RefPtr<ProcessGroup>(group));
  return {};
}

}  // namespace sbx::task
