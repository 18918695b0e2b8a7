// /proc/sys and /proc/net. Values that describe something we do are taken from there; the rest are constants that
// programs read at start. A value of config.json's sysctl map comes before the constant.
#include <linux/capability.h>
#include <sys/random.h>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/fs/proc/host_facts.h"
#include "sentry/fs/proc/target.h"

namespace sbx::fs::proc {

using task::kernel;
using task::Task;

namespace {

std::string random_uuid() {
  u8 b[16] = {};
  if (::getrandom(b, sizeof(b), 0) != sizeof(b)) return {};
  b[6] = static_cast<u8>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<u8>((b[8] & 0x3f) | 0x80);
  std::string out;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += str_printf("%02x", b[i]);
  }
  return out;
}

// Read by guests at start; name -> value.
constexpr struct {
  const char *name, *value;
} kConstants[] = {
    {"kernel/ostype", kKernelName},
    {"kernel/osrelease", kKernelRelease},
    {"kernel/version", kKernelVersion},
    {"kernel/arch", kMachine},
    {"kernel/threads-max", "30000"},
    {"kernel/ngroups_max", "65536"},
    {"kernel/cap_last_cap", "40"},
    {"kernel/core_pattern", "core"},
    {"kernel/core_uses_pid", "0"},
    {"kernel/shmmax", "18446744073692774399"},
    {"kernel/shmall", "18446744073692774399"},
    {"kernel/shmmni", "4096"},
    {"kernel/shm_rmid_forced", "0"},
    {"kernel/sem", "32000\t1024000\t500\t32000"},
    {"kernel/msgmax", "8192"},
    {"kernel/msgmnb", "16384"},
    {"kernel/msgmni", "2048"},
    {"kernel/randomize_va_space", "2"},
    {"kernel/yama/ptrace_scope", "0"},
    {"kernel/perf_event_paranoid", "4"},
    {"kernel/kptr_restrict", "2"},
    {"kernel/dmesg_restrict", "1"},
    {"kernel/panic", "0"},
    {"kernel/panic_on_oops", "0"},
    {"kernel/printk", "4\t4\t1\t7"},
    {"kernel/sysrq", "0"},
    {"kernel/tainted", "0"},
    {"kernel/overflowuid", "65534"},
    {"kernel/overflowgid", "65534"},
    {"kernel/sched_child_runs_first", "0"},
    {"kernel/sched_rt_runtime_us", "0"},
    {"kernel/sched_rt_period_us", "1000000"},
    {"kernel/unprivileged_bpf_disabled", "2"},
    {"kernel/unprivileged_userns_clone", "0"},
    {"kernel/io_uring_disabled", "2"},
    {"kernel/seccomp/actions_avail", "kill_process kill_thread trap errno trace log allow"},
    {"kernel/random/entropy_avail", "256"},
    {"kernel/random/poolsize", "256"},
    {"kernel/random/write_wakeup_threshold", "256"},
    {"kernel/random/urandom_min_reseed_secs", "60"},
    {"kernel/keys/root_maxkeys", "0"},
    {"kernel/numa_balancing", "0"},
    {"kernel/hung_task_timeout_secs", "0"},
    {"fs/file-max", "9223372036854775807"},
    {"fs/nr_open", "1048576"},
    {"fs/pipe-max-size", "1048576"},
    {"fs/pipe-user-pages-soft", "16384"},
    {"fs/pipe-user-pages-hard", "0"},
    {"fs/inotify/max_queued_events", "16384"},
    {"fs/inotify/max_user_instances", "128"},
    {"fs/inotify/max_user_watches", "65536"},
    {"fs/epoll/max_user_watches", "1048576"},
    {"fs/mqueue/queues_max", "256"},
    {"fs/mqueue/msg_max", "10"},
    {"fs/mqueue/msgsize_max", "8192"},
    {"fs/suid_dumpable", "0"},
    {"fs/protected_symlinks", "1"},
    {"fs/protected_hardlinks", "1"},
    {"fs/protected_fifos", "1"},
    {"fs/protected_regular", "2"},
    {"fs/leases-enable", "0"},
    {"fs/lease-break-time", "45"},
    {"fs/aio-max-nr", "0"},
    {"fs/aio-nr", "0"},
    {"fs/overflowuid", "65534"},
    {"fs/overflowgid", "65534"},
    {"fs/mount-max", "100000"},
    {"vm/overcommit_memory", "1"},
    {"vm/overcommit_ratio", "50"},
    {"vm/overcommit_kbytes", "0"},
    {"vm/max_map_count", "65530"},
    {"vm/swappiness", "60"},
    {"vm/mmap_min_addr", "65536"},
    {"vm/min_free_kbytes", "67584"},
    {"vm/nr_hugepages", "0"},
    {"vm/drop_caches", "0"},
    {"vm/dirty_ratio", "20"},
    {"vm/dirty_background_ratio", "10"},
    {"vm/vfs_cache_pressure", "100"},
    {"vm/zone_reclaim_mode", "0"},
    {"vm/oom_kill_allocating_task", "0"},
    {"vm/panic_on_oom", "0"},
    {"vm/legacy_va_layout", "0"},
    {"net/core/somaxconn", "4096"},
    {"net/core/rmem_default", "212992"},
    {"net/core/wmem_default", "212992"},
    {"net/core/rmem_max", "212992"},
    {"net/core/wmem_max", "212992"},
    {"net/core/netdev_max_backlog", "1000"},
    {"net/core/optmem_max", "20480"},
    {"net/ipv4/ip_forward", "0"},
    {"net/ipv4/ip_local_port_range", "32768\t60999"},
    {"net/ipv4/ip_unprivileged_port_start", "1024"},
    {"net/ipv4/ip_default_ttl", "64"},
    {"net/ipv4/ping_group_range", "1\t0"},
    {"net/ipv4/tcp_rmem", "4096\t131072\t6291456"},
    {"net/ipv4/tcp_wmem", "4096\t16384\t4194304"},
    {"net/ipv4/tcp_fin_timeout", "60"},
    {"net/ipv4/tcp_keepalive_time", "7200"},
    {"net/ipv4/tcp_keepalive_intvl", "75"},
    {"net/ipv4/tcp_keepalive_probes", "9"},
    {"net/ipv4/tcp_syncookies", "1"},
    {"net/ipv4/tcp_max_syn_backlog", "512"},
    {"net/ipv4/tcp_congestion_control", "cubic"},
    {"net/ipv4/tcp_available_congestion_control", "reno cubic"},
    {"net/ipv4/tcp_fastopen", "1"},
    {"net/ipv4/tcp_tw_reuse", "2"},
    {"net/ipv4/tcp_sack", "1"},
    {"net/ipv4/tcp_timestamps", "1"},
    {"net/ipv4/tcp_window_scaling", "1"},
    {"net/ipv6/bindv6only", "0"},
    {"net/ipv6/conf/all/disable_ipv6", "0"},
    {"net/ipv6/conf/default/disable_ipv6", "0"},
    {"net/unix/max_dgram_qlen", "512"},
    {"user/max_user_namespaces", "0"},
};

std::pair<StaticDir*, std::string> place(StaticDir& sys, std::string_view name) {
  const size_t slash = name.rfind('/');
  return {&sys.dir(name.substr(0, slash)), std::string(name.substr(slash + 1))};
}

// Sysctls are what the container was given; a guest that writes one is told no, except where it has an effect.
Result<void> refuse(const std::string& name) {
  STUB("sysctl write", name.size());
  return Errno::kPerm;
}

// Host names of the reading task's namespace.
Task* reader() {
  Task* t = task::current_task();
  return t != nullptr && t->uts ? t : nullptr;
}

void add_uts(StaticDir& dir, const char* name, std::string task::UtsNamespace::*member) {
  dir.text(
      name,
      [member]() -> Result<std::string> {
        Task* t = reader();
        return (t != nullptr ? *t->uts : *kernel().container->uts).*member + "\n";
      },
      0644,
      [member](std::string_view in) -> Result<void> {
        Task* t = reader();
        if (t == nullptr || !t->creds->capable(CAP_SYS_ADMIN)) return Errno::kPerm;
        std::string_view value = trim(in);
        if (value.size() > 64) return Errno::kInval;
        (*t->uts).*member = std::string(value);
        return {};
      });
}

}  // namespace

void add_sysctls(StaticDir& sys) {
  for (const auto& row : kConstants) {
    auto [dir, name] = place(sys, row.name);
    dir->text(
        name,
        [full = std::string(row.name), value = std::string(row.value)]() -> Result<std::string> {
          const auto& given = kernel().current_container().sysctls;
          auto it = given.find(full);
          return (it != given.end() ? it->second : value) + "\n";
        },
        0644, [full = std::string(row.name)](std::string_view) { return refuse(full); });
  }
  StaticDir& names = sys.dir("kernel");
  add_uts(names, "hostname", &task::UtsNamespace::hostname);
  add_uts(names, "domainname", &task::UtsNamespace::domainname);
  names.text(
      "pid_max", []() -> Result<std::string> { return std::to_string(kernel().pid_max) + "\n"; }, 0644,
      [](std::string_view) { return refuse("kernel/pid_max"); });
  names.text("ns_last_pid", []() -> Result<std::string> {
    const auto& groups = kernel().groups();
    return std::to_string(groups.empty() ? 0 : groups.rbegin()->first) + "\n";
  });
  StaticDir& random = sys.dir("kernel/random");
  random.text("uuid", []() -> Result<std::string> { return random_uuid() + "\n"; });
  random.text("boot_id", []() -> Result<std::string> {
    if (kernel().boot_id.empty()) kernel().boot_id = random_uuid();
    return kernel().boot_id + "\n";
  });
  StaticDir& fs = sys.dir("fs");
  fs.text("file-nr", []() -> Result<std::string> {
    size_t open = 0;
    for (const auto& [pid, group] : kernel().groups()) {
      for (const Task* t : group->tasks) open += t->fds && t == group->leader ? t->fds->open_count() : 0;
    }
    return std::to_string(open) + "\t0\t9223372036854775807\n";
  });
  fs.constant("inode-nr", "1024\t0\n");
  fs.constant("dentry-state", "1024\t0\t45\t0\t0\t0\n");
  sys.dir("fs/binfmt_misc");
  sys.dir("net/ipv4/conf/all").constant("rp_filter", "0\n", 0644);
  sys.dir("net/ipv4/conf/default").constant("rp_filter", "0\n", 0644);
  // Names of config.json that the list above does not know.
  for (const auto& [full, value] : kernel().container->sysctls) {
    if (full.find('/') == std::string::npos) continue;
    auto [dir, name] = place(sys, full);
    if (dir->lookup(name)) continue;
    dir->constant(name, value + "\n", 0644);
  }
}

}  // namespace sbx::fs::proc
