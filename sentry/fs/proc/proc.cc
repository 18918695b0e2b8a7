// The root of /proc and the files about the whole system.
#include "sentry/fs/proc/proc.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <charconv>

#include "sentry/base/log.h"
#include "sentry/fs/proc/host_facts.h"
#include "sentry/fs/proc/target.h"
#include "sentry/time/clock.h"
#include "sentry/vfs/fs_types.h"

namespace sbx::fs::proc {

using task::kernel;
using task::Task;
using time::kNsPerSec;
using time::kNsPerTick;
using ull = unsigned long long;

namespace {

HostProcReader& host_reader() {
  static auto* instance = new HostProcReader;
  return *instance;
}

class RootDir final : public StaticDir {
 public:
  explicit RootDir(PseudoFs& fs) : StaticDir(fs) {}
  bool children_cacheable() const override { return false; }
  Result<RefPtr<vfs::Inode>> lookup(std::string_view name) override {
    if (!name.empty() && name[0] >= '0' && name[0] <= '9') return lookup_pid(name);
    return StaticDir::lookup(name);
  }
  Result<std::vector<vfs::DirEntry>> list() override {
    auto out = TRY(StaticDir::list());
    // Positions of processes lie behind those of files, by pid: stable while processes come and go.
    for (const auto& [pid, group] : kernel().groups()) {
      out.push_back(
          {std::to_string(pid), kPidInos + static_cast<u64>(pid), 4 /* DT_DIR */, 4096 + static_cast<u64>(pid)});
    }
    return out;
  }

 protected:
  u32 links() const override { return 2 + static_cast<u32>(kernel().groups().size()); }

 private:
  static constexpr u64 kPidInos = 1ull << 40;
  Result<RefPtr<vfs::Inode>> lookup_pid(std::string_view name) {
    i32 pid = 0;
    auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size() || name[0] == '0') return Errno::kNoent;
    if (task::ThreadGroup* group = kernel().find_group(pid)) {
      return pid_directory(pseudo_fs(), Target{RefPtr<task::ThreadGroup>(group), 0}, false);
    }
    // Threads are not listed, but can be named (proc(5)).
    if (Task* t = kernel().find_task(pid)) return pid_directory(pseudo_fs(), Target{t->group, 0}, false);
    return Errno::kNoent;
  }
};

CpuTimes all_cpu() {
  CpuTimes total;
  for (const auto& [pid, group] : kernel().groups()) {
    CpuTimes t = group_cpu(*group);
    total.user_ns += t.user_ns + group->children_usage.utime_us * 1000;
    total.system_ns += t.system_ns + group->children_usage.stime_us * 1000;
  }
  // The sentry's own work is what the kernel does for them.
  total.system_ns += time::host_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  return total;
}

size_t running_count() {
  size_t running = 0;
  for (const auto& [pid, group] : kernel().groups()) {
    for (const Task* t : group->tasks) running += t->thread->in_sentry() ? 0 : 1;
  }
  return std::max<size_t>(1, running);
}

Result<std::string> stat_file() {
  const auto& cpus = host_facts().cpus;
  const u64 boot = time::host_clock_ns(CLOCK_BOOTTIME), n = cpus.size();
  // A counter never goes back, also when a process disappears with its time.
  static u64 user = 0, system = 0, idle = 0;
  const CpuTimes cpu = all_cpu();
  user = std::max(user, cpu.user_ns / kNsPerTick);
  system = std::max(system, cpu.system_ns / kNsPerTick);
  const u64 all = boot / kNsPerTick * n;
  idle = std::max(idle, all > user + system ? all - user - system : 0);
  std::string out = str_printf("cpu  %llu 0 %llu %llu 0 0 0 0 0 0\n", static_cast<ull>(user), static_cast<ull>(system),
                               static_cast<ull>(idle));
  for (u32 number : cpus) {
    out += str_printf("cpu%u %llu 0 %llu %llu 0 0 0 0 0 0\n", number, static_cast<ull>(user / n),
                      static_cast<ull>(system / n), static_cast<ull>(idle / n));
  }
  out += str_printf(
      "intr 0\nctxt 0\nbtime %llu\nprocesses %llu\nprocs_running %zu\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 "
      "0 0 0 0 0\n",
      static_cast<ull>((time::host_clock_ns(CLOCK_REALTIME) - boot) / kNsPerSec),
      static_cast<ull>(kernel().processes_started), running_count());
  return out;
}

Result<std::string> uptime_file() {
  const u64 boot = time::host_clock_ns(CLOCK_BOOTTIME) / 10'000'000;
  const CpuTimes cpu = all_cpu();
  const u64 busy = (cpu.user_ns + cpu.system_ns) / 10'000'000, all = boot * host_facts().cpus.size();
  const u64 idle = all > busy ? all - busy : 0;
  return str_printf("%llu.%02llu %llu.%02llu\n", static_cast<ull>(boot / 100), static_cast<ull>(boot % 100),
                    static_cast<ull>(idle / 100), static_cast<ull>(idle % 100));
}

Result<std::string> loadavg_file() {
  struct sysinfo info {};
  ::sysinfo(&info);
  i32 last = 0;
  if (!kernel().groups().empty()) last = kernel().groups().rbegin()->first;
  std::string out;
  for (unsigned long load : info.loads) {
    out += str_printf("%lu.%02lu ", load >> 16, ((load & 0xffff) * 100) >> 16);
  }
  return out + str_printf("%zu/%zu %d\n", running_count(), kernel().task_count(), last);
}

Result<std::string> meminfo_file() {
  if (auto fresh = read_host_proc(0, "meminfo")) host_facts().meminfo = std::move(*fresh);
  const MemoryFigures m = memory_figures();
  std::string out;
  auto row = [&](const char* name, u64 bytes) {
    out += str_printf("%-15s %8llu kB\n", (std::string(name) + ":").c_str(), static_cast<ull>(bytes / 1024));
  };
  row("MemTotal", m.total);
  row("MemFree", m.free);
  row("MemAvailable", m.available);
  row("Buffers", m.buffers);
  row("Cached", m.cached);
  for (const char* name : {"SwapCached"}) row(name, 0);
  const u64 used = m.total - std::min(m.total, m.free + m.buffers + m.cached);
  row("Active", used + m.cached / 2);
  row("Inactive", m.cached / 2);
  row("Active(anon)", used);
  row("Inactive(anon)", 0);
  row("Active(file)", m.cached / 2);
  row("Inactive(file)", m.cached / 2);
  row("Unevictable", 0);
  row("Mlocked", 0);
  row("SwapTotal", m.swap_total);
  row("SwapFree", m.swap_free);
  row("Dirty", 0);
  row("Writeback", 0);
  row("AnonPages", used);
  row("Mapped", 0);
  row("Shmem", m.shared);
  for (const char* name : {"KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables",
                           "NFS_Unstable", "Bounce", "WritebackTmp"}) {
    row(name, 0);
  }
  row("CommitLimit", m.total / 2 + m.swap_total);
  row("Committed_AS", used);
  row("VmallocTotal", 34359738367ull * 1024);
  for (const char* name : {"VmallocUsed", "VmallocChunk", "Percpu", "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped",
                           "FileHugePages", "FilePmdMapped"}) {
    row(name, 0);
  }
  out +=
      "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n"
      "Hugepagesize:       2048 kB\nHugetlb:               0 kB\n";
  return out;
}

Result<std::string> vmstat_file() {
  const MemoryFigures m = memory_figures();
  return str_printf(
      "nr_free_pages %llu\nnr_zone_inactive_anon 0\nnr_zone_active_anon 0\nnr_file_pages %llu\npgpgin "
      "0\npgpgout 0\npswpin 0\npswpout 0\npgfault 0\npgmajfault 0\noom_kill 0\n",
      static_cast<ull>(m.free / kPageSize), static_cast<ull>(m.cached / kPageSize));
}

Result<std::string> version_file() {
  return str_printf("%s version %s (sbx@sandbox) (g++ %d.%d) %s\n", kKernelName, kKernelRelease, __GNUC__,
                    __GNUC_MINOR__, kKernelVersion);
}

Result<std::string> filesystems_file() {
  std::string out;
  for (const vfs::FsType& type : vfs::fs_types()) out += std::string("nodev\t") + type.name + "\n";
  return out + "\text4\n";
}

Result<std::string> self_link() {
  const Task* t = task::current_task();
  if (t == nullptr) return Errno::kNoent;
  return std::to_string(t->pid());
}

Result<std::string> thread_self_link() {
  const Task* t = task::current_task();
  if (t == nullptr) return Errno::kNoent;
  return str_printf("%d/task/%d", t->pid(), t->tid);
}

constexpr char kDevices[] =
    "Character devices:\n  1 mem\n  4 tty\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n 10 misc\n128 ptm\n136 "
    "pts\n\nBlock devices:\n";

}  // namespace

void set_host_proc_reader(HostProcReader reader) { host_reader() = std::move(reader); }

Result<std::string> read_host_proc(i32 host_pid, const char* kind) {
  if (!host_reader()) return Errno::kNosys;
  return host_reader()(host_pid, kind);
}

void add_system_files(StaticDir& root) {
  root.add("self", make_ref<SimpleLink>(root.pseudo_fs(), self_link));
  root.add("thread-self", make_ref<SimpleLink>(root.pseudo_fs(), thread_self_link));
  root.link("mounts", "self/mounts");
  root.text("stat", stat_file);
  root.text("uptime", uptime_file);
  StaticDir& sysvipc = root.dir("sysvipc");
  sysvipc.text("shm", []() -> Result<std::string> { return ipc::shm_table(*kernel().current_container().ipc); });
  sysvipc.text("sem", []() -> Result<std::string> { return ipc::sem_table(*kernel().current_container().ipc); });
  sysvipc.text("msg", []() -> Result<std::string> { return ipc::msg_table(*kernel().current_container().ipc); });
  root.text("loadavg", loadavg_file);
  root.text("meminfo", meminfo_file);
  root.text("vmstat", vmstat_file);
  root.text("version", version_file);
  root.text("filesystems", filesystems_file);
  root.text("cpuinfo", []() -> Result<std::string> {
    static const std::string text = cpuinfo_text(host_facts().cpus);
    return text;
  });
  root.constant("cmdline", "quiet\n");
  root.constant("devices", kDevices);
  root.constant("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
  root.constant("partitions", "major minor  #blocks  name\n\n");
  root.constant("diskstats", "");
  root.constant("modules", "");
  root.constant("misc", "");
  root.constant("locks", "");
  root.constant("crypto", "");
  root.constant("cgroups",
                "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\n"
                "blkio\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n");
  root.constant("kcore", "", 0400);
  root.constant("keys", "");
  root.constant("key-users", "");
  root.constant("kmsg", "", 0400);
  root.constant("kallsyms", "");
  root.constant("sysrq-trigger", "", 0200);
  root.constant("timer_list", "", 0400);
  root.constant("softirqs", "");
  root.constant("buddyinfo", "");
  root.constant("slabinfo", "", 0400);
  root.constant("execdomains", "0-0\tLinux           \t[kernel]\n");
  root.constant("fb", "");
  root.constant("dma", " 4: cascade\n");
  root.constant("iomem", "", 0400);
  root.constant("ioports", "", 0400);
  root.constant("consoles", "");
  root.constant("interrupts", "");
  root.constant("zoneinfo", "Node 0, zone   Normal\n  pages free     0\n");
  root.dir("bus");
  root.dir("fs");
  root.dir("irq");
  root.dir("driver");
  root.dir("tty");
  root.constant("sched_debug", "", 0400);
  root.dir("pressure");
}

RefPtr<vfs::FileSystem> proc_filesystem() {
  static const auto* instance = [] {
    auto* fs = new RefPtr<PseudoFs>(new PseudoFs("proc", 0x9fa0));
    auto root = make_ref<RootDir>(**fs);
    add_system_files(*root);
    add_sysctls(root->dir("sys"));
    add_net_files(root->dir("net"));
    (*fs)->set_root(root);
    return fs;
  }();
  return *instance;
}

}  // namespace sbx::fs::proc
