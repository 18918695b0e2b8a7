// Inside the proc room: which process or thread a node of /proc/PID is about. Nodes keep ids, never pointers: whatever
// parks (a question to the gofer) may find the task gone afterwards.
#pragma once
#include "sentry/fs/proc/node.h"
#include "sentry/task/kernel.h"

namespace sbx::fs::proc {

struct Target {
  RefPtr<task::ThreadGroup> group;
  i32 tid = 0;  // 0: the process as a whole

  // The thread, or for a process its leader (or any thread if the leader is gone); null for zombies.
  task::Task* task() const;
  // kSrch if there is none.
  Result<task::Task*> live_task() const;
  bool alive() const;
  i32 host_pid() const;  // 0: none
  // Who owns the directory: root once the process is not dumpable.
  NodeOwner owner() const;
  // ptrace(2), PTRACE_MODE_READ_FSCREDS of the calling task.
  bool may_read() const;
};

// The texts of /proc/PID/NAME. Errors: kSrch for processes without an image where Linux says so.
using TargetText = Result<std::string> (*)(const Target&);
Result<std::string> stat_text(const Target&);
Result<std::string> status_text(const Target&);
Result<std::string> statm_text(const Target&);
Result<std::string> cmdline_text(const Target&);
Result<std::string> environ_text(const Target&);
Result<std::string> comm_text(const Target&);
Result<std::string> maps_text(const Target&);
Result<std::string> smaps_text(const Target&);
Result<std::string> smaps_rollup_text(const Target&);
Result<std::string> auxv_text(const Target&);
Result<std::string> mounts_text(const Target&);
Result<std::string> mountinfo_text(const Target&);
Result<std::string> mountstats_text(const Target&);
Result<std::string> limits_text(const Target&);
Result<std::string> io_text(const Target&);
Result<std::string> cgroup_text(const Target&);
Result<std::string> wchan_text(const Target&);
Result<std::string> syscall_text(const Target&);
Result<std::string> sched_text(const Target&);
Result<std::string> schedstat_text(const Target&);
Result<std::string> uid_map_text(const Target&);
Result<std::string> personality_text(const Target&);
Result<std::string> oom_score_adj_text(const Target&);
Result<std::string> oom_adj_text(const Target&);

// The whole sandbox.
struct CpuTimes {
  u64 user_ns = 0, system_ns = 0;
};
CpuTimes group_cpu(const task::ThreadGroup& group);
char state_letter(const Target& target);
// Fills the directories: /proc itself, /proc/sys, /proc/net.
void add_system_files(StaticDir& root);
void add_sysctls(StaticDir& sys);
void add_net_files(StaticDir& net);
// "/proc/cpuinfo" for these CPUs, from CPUID.
std::string cpuinfo_text(const std::vector<u32>& cpus);

// The directory /proc/PID (thread: /proc/TGID/task/TID). One inode for one process.
RefPtr<vfs::Inode> pid_directory(PseudoFs& fs, const Target& target, bool is_thread);

}  // namespace sbx::fs::proc
