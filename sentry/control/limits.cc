#include "sentry/control/limits.h"

#include "sentry/fs/proc/host_facts.h"
#include "sentry/task/kernel.h"

namespace sbx::control {

void set_pids_limit(task::Container& container, i64 limit) {
  if (limit == VisibleLimits::kUnchanged) return;
  container.max_tasks = limit > 0 ? static_cast<size_t>(limit) : task::Container::kMostTasks;
}

void set_limits(const VisibleLimits& limits) {
  fs::proc::HostFacts& facts = fs::proc::host_facts();
  auto set = [](i64& to, i64 value) {
    if (value != VisibleLimits::kUnchanged) to = value;
  };
  set(facts.memory_bytes, limits.memory_bytes);
  set(facts.memory_swap_bytes, limits.memory_swap_bytes);
  set(facts.pids, limits.pids);
  set(facts.cpu_quota_us, limits.cpu_quota_us);
  set(facts.cpu_period_us, limits.cpu_period_us);
  set(facts.cpu_shares, limits.cpu_shares);
  if (!limits.cpuset_cpus.empty()) facts.cpus = fs::proc::parse_cpu_list(limits.cpuset_cpus);
  set_pids_limit(*task::kernel().container, facts.pids);
}

}  // namespace sbx::control
