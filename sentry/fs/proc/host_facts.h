// What the guest is told about machine and kernel. The sentry cannot open files, so texts of the host's /proc are a
// snapshot that whoever starts the sentry took; numbers that move come from sysinfo(2) and clocks.
#pragma once
#include <string>
#include <vector>

#include "sentry/base/types.h"

namespace sbx::fs::proc {

// The kernel we say we are: what we implement is closest to this one. Programs choose features by it (docs/kernel.md).
constexpr char kKernelName[] = "Linux";
constexpr char kKernelRelease[] = "6.1.0-sbx";
constexpr char kKernelVersion[] = "#1 SMP PREEMPT_DYNAMIC sbx";
constexpr char kMachine[] = "x86_64";

struct HostFacts {
  // Whole files of the host's /proc at start; empty: made up from what is known otherwise.
  std::string cpuinfo, meminfo, version, filesystems;
  // Host CPU numbers the sandbox may use, ascending (sched_getaffinity at start, narrowed by the cpuset).
  std::vector<u32> cpus;
  // Limits of the container as the guest sees them; -1: none (control::VisibleLimits).
  i64 memory_bytes = -1, memory_swap_bytes = -1, pids = -1, cpu_quota_us = -1, cpu_period_us = -1, cpu_shares = -1;
};

// The one instance. Filled at boot, before any guest runs; then only the limits and `cpus` change (`update`), under the
// kernel lock.
HostFacts& host_facts();
// cpus from sched_getaffinity if it is empty.
void complete_host_facts();

// Memory of the sandbox in bytes: the machine's, bounded by the container's limits. Free memory is the host's, bounded
// by the total; used counts our guests when a limit exists.
struct MemoryFigures {
  u64 total, free, available, buffers, cached, swap_total, swap_free, shared;
};
MemoryFigures memory_figures();

// "0-3,5" of ascending numbers.
std::string cpu_list(const std::vector<u32>& cpus);
std::vector<u32> parse_cpu_list(std::string_view text);

}  // namespace sbx::fs::proc
