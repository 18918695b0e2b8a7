#include "sentry/task/thread_group.h"

#include <algorithm>

#include "sentry/task/kernel.h"

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

Usage group_usage(const ThreadGroup& group) {
  Usage total = group.usage;
  if (group.zombie || group.tasks.empty()) return total;
  // The stub's report covers the whole host process, so one live task speaks for all.
  platform::StubUsage u = group.tasks[0]->thread->usage();
  total.add(Usage{u.utime_us, u.stime_us, u.maxrss_kb, u.minflt, u.majflt, u.nvcsw, u.nivcsw});
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
