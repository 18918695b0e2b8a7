#include "sentry/task/thread_group.h"

#include <algorithm>

#include "sentry/task/kernel.h"
#include "sentry/time/clock.h"

namespace sbx::task {

void Usage::add(const Usage& o) {
  utime_us += o.utime_us;
  stime_us += o.stime_us;
  maxrss_kb = std::max(maxrss_kb, o.maxrss_kb);
  minflt += o.minflt;
  majflt += o.majflt;
  nvcsw += o.nvcsw;
  nivcsw += o.nivcsw;
}

ThreadGroup::ThreadGroup(i32 pid_) : pid(pid_), start_time_ns(fiber::now_ns()) {}

ThreadGroup::~ThreadGroup() { kernel().remove_group(*this); }

std::string ThreadGroup::comm_of_leader() const { return leader != nullptr ? leader->comm : zombie_comm; }

Usage host_usage(const Task& task) {
  const platform::StubUsage u = task.thread->usage();
  Usage usage{u.utime_us, u.stime_us, u.maxrss_kb, u.minflt, u.majflt, u.nvcsw, u.nivcsw};
  // The stub's report is of the last call of this thread that asked for one: it may be killed, and others went on.
  if (auto space = task.thread->address_space()) {
    const u64 user = time::host_process_cpu_ns(space->host_pid(), time::CpuKind::kUser) / 1000;
    const u64 total = time::host_process_cpu_ns(space->host_pid(), time::CpuKind::kTotal) / 1000;
    if (total > usage.utime_us + usage.stime_us) {
      usage.utime_us = user;
      usage.stime_us = total - std::min(total, user);
    }
  }
  return usage;
}

Usage group_usage(const ThreadGroup& group) {
  Usage total = group.usage;
  if (group.zombie || group.tasks.empty()) return total;
  // The host process is that of all its tasks.
  total.add(host_usage(*group.tasks[0]));
  return total;
}

void ThreadGroup::apply_memory_limits() {
  u64 address_space = limit(RLIMIT_AS), data = limit(RLIMIT_DATA);
  // The usual case costs nothing: a fresh stub has no limits, and a child has its parent's.
  if (address_space == RLIM_INFINITY && data == RLIM_INFINITY && !memory_limited) return;
  if (tasks.empty()) return;
  memory_limited = true;
  tasks.front()->thread->limit_memory(address_space, data);
}

}  // namespace sbx::task
