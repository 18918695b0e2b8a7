#include "sentry/fs/sys/sysfs.h"

#include <unistd.h>

#include "sentry/base/log.h"
#include "sentry/fs/proc/host_facts.h"
#include "sentry/fs/proc/target.h"
#include "sentry/fs/sys/net_class.h"

namespace sbx::fs::sys {

using proc::host_facts;
using proc::StaticDir;

namespace {

std::string mask_text(const std::vector<u32>& cpus) {
  u64 low = 0;
  for (u32 cpu : cpus) {
    if (cpu < 64) low |= 1ull << cpu;
  }
  return str_printf("%llx\n", static_cast<unsigned long long>(low));
}

void add_cpus(StaticDir& system) {
  const auto& cpus = host_facts().cpus;
  const std::string list = proc::cpu_list(cpus) + "\n";
  StaticDir& dir = system.dir("cpu");
  dir.constant("online", list);
  dir.constant("possible", list);
  dir.constant("present", list);
  dir.constant("offline", "\n");
  dir.constant("isolated", "\n");
  dir.constant("kernel_max", "8191\n");
  dir.dir("smt").constant("active", "0\n");
  dir.dir("smt").constant("control", "notsupported\n");
  dir.dir("vulnerabilities");
  u32 index = 0;
  for (u32 cpu : cpus) {
    const std::string own = std::to_string(cpu);
    StaticDir& one = dir.dir("cpu" + own);
    StaticDir& topology = one.dir("topology");
    topology.constant("core_id", std::to_string(index++) + "\n");
    topology.constant("physical_package_id", "0\n");
    topology.constant("die_id", "0\n");
    topology.constant("thread_siblings", mask_text({cpu}));
    topology.constant("thread_siblings_list", own + "\n");
    topology.constant("core_cpus_list", own + "\n");
    topology.constant("core_siblings", mask_text(cpus));
    topology.constant("core_siblings_list", list);
    topology.constant("package_cpus_list", list);
    if (cpu != 0) one.constant("online", "1\n");
    // What every CPU has had for a decade; sizes programs tune by come from sysconf and CPUID.
    StaticDir& cache = one.dir("cache/index0");
    cache.constant("level", "1\n");
    cache.constant("type", "Data\n");
    cache.constant("coherency_line_size", "64\n");
    cache.constant("shared_cpu_list", own + "\n");
    long size = ::sysconf(_SC_LEVEL1_DCACHE_SIZE);
    if (size > 0) cache.constant("size", std::to_string(size / 1024) + "K\n");
  }
  StaticDir& node = system.dir("node");
  node.constant("online", "0\n");
  node.constant("possible", "0\n");
  node.constant("has_cpu", "0\n");
  node.constant("has_memory", "0\n");
  node.constant("has_normal_memory", "0\n");
  StaticDir& first = node.dir("node0");
  first.constant("cpulist", list);
  first.constant("cpumap", mask_text(cpus));
  first.constant("distance", "10\n");
  first.text("meminfo", []() -> Result<std::string> {
    const proc::MemoryFigures m = proc::memory_figures();
    return str_printf(
        "Node 0 MemTotal:       %8llu kB\nNode 0 MemFree:        %8llu kB\nNode 0 MemUsed:        %8llu kB\n",
        static_cast<unsigned long long>(m.total / 1024), static_cast<unsigned long long>(m.free / 1024),
        static_cast<unsigned long long>((m.total - m.free) / 1024));
  });
}

std::string limit_text(i64 value) { return (value < 0 ? std::string("max") : std::to_string(value)) + "\n"; }

// The container's cgroup, version 2, as far as runtimes size themselves by it.
void add_cgroup(StaticDir& dir) {
  dir.constant("cgroup.controllers", "cpuset cpu memory pids\n");
  dir.constant("cgroup.subtree_control", "\n");
  dir.constant("cgroup.type", "domain\n");
  dir.constant("cgroup.events", "populated 1\nfrozen 0\n");
  dir.text("cgroup.procs", []() -> Result<std::string> {
    std::string out;
    for (const auto& [pid, group] : task::kernel().groups()) out += std::to_string(pid) + "\n";
    return out;
  });
  // Limits change with `update`.
  dir.text("memory.max", []() -> Result<std::string> { return limit_text(host_facts().memory_bytes); });
  dir.constant("memory.high", "max\n");
  dir.constant("memory.min", "0\n");
  dir.constant("memory.low", "0\n");
  dir.text("memory.swap.max", []() -> Result<std::string> {
    const proc::HostFacts& f = host_facts();
    const bool limited = f.memory_swap_bytes >= 0 && f.memory_bytes >= 0;
    return limit_text(limited ? std::max<i64>(f.memory_swap_bytes - f.memory_bytes, 0) : -1);
  });
  dir.text("cpu.max", []() -> Result<std::string> {
    const proc::HostFacts& f = host_facts();
    const i64 period = f.cpu_period_us > 0 ? f.cpu_period_us : 100000;
    return (f.cpu_quota_us > 0 ? std::to_string(f.cpu_quota_us) : std::string("max")) + " " + std::to_string(period) +
           "\n";
  });
  dir.text("cpu.weight", []() -> Result<std::string> {
    const i64 shares = host_facts().cpu_shares > 0 ? host_facts().cpu_shares : 1024;
    return std::to_string(1 + (std::max<i64>(shares, 2) - 2) * 9999 / 262142) + "\n";
  });
  dir.text("cpu.stat", []() -> Result<std::string> {
    u64 user = 0, system = 0;
    for (const auto& [pid, group] : task::kernel().groups()) {
      const proc::CpuTimes t = proc::group_cpu(*group);
      user += t.user_ns / 1000 + group->children_usage.utime_us;
      system += t.system_ns / 1000 + group->children_usage.stime_us;
    }
    return str_printf(
        "usage_usec %llu\nuser_usec %llu\nsystem_usec %llu\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
        static_cast<unsigned long long>(user + system), static_cast<unsigned long long>(user),
        static_cast<unsigned long long>(system));
  });
  for (const char* name : {"cpuset.cpus", "cpuset.cpus.effective"}) {
    dir.text(name, []() -> Result<std::string> { return proc::cpu_list(host_facts().cpus) + "\n"; });
  }
  dir.constant("cpuset.mems.effective", "0\n");
  dir.text("pids.max", []() -> Result<std::string> { return limit_text(host_facts().pids); });
  dir.text("pids.current",
           []() -> Result<std::string> { return std::to_string(task::kernel().current_container().tasks) + "\n"; });
}

}  // namespace

RefPtr<vfs::FileSystem> sys_filesystem() {
  static const auto* instance = [] {
    auto* fs = new RefPtr<proc::PseudoFs>(new proc::PseudoFs("sysfs", 0x62656572));
    auto root = make_ref<StaticDir>(**fs);
    for (const char* empty :
         {"block", "bus", "class/tty", "class/block", "dev/block", "dev/char", "firmware", "module", "power",
          "devices/virtual", "kernel/security", "kernel/debug", "fs/selinux", "kernel/config"}) {
      root->dir(empty);
    }
    add_net_class(**fs, *root);
    add_cpus(root->dir("devices/system"));
    add_cgroup(root->dir("fs/cgroup"));
    StaticDir& huge = root->dir("kernel/mm/transparent_hugepage");
    huge.constant("enabled", "always [madvise] never\n");
    huge.constant("defrag", "always defer defer+madvise [madvise] never\n");
    huge.constant("hpage_pmd_size", "2097152\n");
    huge.constant("shmem_enabled", "always within_size advise [never] deny force\n");
    StaticDir& pages = root->dir("kernel/mm/hugepages/hugepages-2048kB");
    for (const char* name : {"nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages"}) {
      pages.constant(name, "0\n");
    }
    (*fs)->set_root(root);
    return fs;
  }();
  return *instance;
}

}  // namespace sbx::fs::sys
