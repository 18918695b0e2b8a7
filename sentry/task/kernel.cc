#include "sentry/task/kernel.h"

#include <algorithm>

#include "sentry/base/log.h"
#include "sentry/task/signals.h"

namespace sbx::task {

Kernel& kernel() {
  static auto* instance = new Kernel;
  return *instance;
}

bool Kernel::pid_in_use(i32 pid) const {
  if (tasks_.count(pid) > 0 || groups_.count(pid) > 0 || process_groups_.count(pid) > 0) return true;
  return std::any_of(process_groups_.begin(), process_groups_.end(),
                     [pid](const auto& entry) { return entry.second->session->sid == pid; });
}

Container& Kernel::current_container() const {
  const Task* task = current_task();
  return task != nullptr ? *task->group->container : *container;
}

void Kernel::number_as_host(i32 pid, u32 host_pid_max) {
  numbered_as_host_ = true;
  init_pid_ = last_pid_ = pid;
  pid_max = host_pid_max;
}

Result<i32> Kernel::allocate_pid() {
  constexpr i32 kReserved = 300;  // after a wrap, as Linux: low pids are not reused
  for (u32 tries = 0; tries < pid_max; ++tries) {
    i32 pid = last_pid_ + 1;
    if (static_cast<u32>(pid) >= pid_max) pid = kReserved;
    last_pid_ = pid;
    if (!pid_in_use(pid)) return pid;
  }
  return Errno::kAgain;
}

Task* Kernel::find_task(i32 tid) const {
  auto it = tasks_.find(tid);
  return it != tasks_.end() ? it->second : nullptr;
}

ThreadGroup* Kernel::find_group(i32 pid) const {
  auto it = groups_.find(pid);
  return it != groups_.end() ? it->second : nullptr;
}

ProcessGroup* Kernel::find_process_group(i32 pgid) const {
  auto it = process_groups_.find(pgid);
  return it != process_groups_.end() ? it->second : nullptr;
}

Session* Kernel::find_session(i32 sid) const {
  for (const auto& [pgid, group] : process_groups_) {
    if (group->session->sid == sid) return group->session.get();
  }
  return nullptr;
}

void Kernel::note_user(const security::Credentials& creds) {
  if (!user_) user_ = creds.uid;
  const u32 user = *user_;
  if (creds.uid != user || creds.euid != user || creds.suid != user || creds.fsuid != user) {
    platform->tell_nobody(platform::Platform::Differ::kUsers);
  }
}

void Kernel::add_task(Task& task) {
  tasks_[task.tid] = &task;
  ++task.group->container->tasks;
}

void Kernel::remove_task(Task& task) {
  auto it = tasks_.find(task.tid);
  if (it == tasks_.end() || it->second != &task) return;
  tasks_.erase(it);
  --task.group->container->tasks;
}

void Kernel::add_group(ThreadGroup& group) { groups_[group.pid] = &group; }

void Kernel::remove_group(ThreadGroup& group) {
  auto it = groups_.find(group.pid);
  if (it != groups_.end() && it->second == &group) groups_.erase(it);
}

void Kernel::add_process_group(ProcessGroup& group) { process_groups_[group.pgid] = &group; }

void Kernel::remove_process_group(ProcessGroup& group) {
  auto it = process_groups_.find(group.pgid);
  if (it != process_groups_.end() && it->second == &group) process_groups_.erase(it);
}

void Kernel::kill_all() {
  std::vector<RefPtr<ThreadGroup>> all;
  for (const auto& [pid, group] : groups_) all.emplace_back(group);
  for (const auto& group : all) {
    if (group != init) exit_group(*group, SIGKILL);
  }
}

void reap_all_closes() {
  std::vector<RefPtr<FdTable>> tables;  // to close may park, and processes may come and go
  for (const auto& [pid, group] : kernel().groups()) {
    for (const auto& task : group->tasks) {
      if (task->fds) tables.push_back(task->fds);
    }
  }
  for (const auto& table : tables) table->reap();
}

void reap_closes_soon() {
  constexpr u64 kLatestNs = 1'000'000'000;
  static auto* timer = new fiber::Timer([] { fiber::spawn([] { reap_all_closes(); }); });
  if (!timer->armed()) timer->arm(fiber::now_ns() + kLatestNs);
}

}  // namespace sbx::task
