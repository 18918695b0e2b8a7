// ThreadGroup: a process. What threads share; children; exit status; waiting. Kernel lock throughout.
#pragma once
#include <sys/resource.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sentry/fiber/fiber.h"
#include "sentry/ipc/namespace.h"
#include "sentry/signal/signal.h"
#include "sentry/task/session.h"
#include "sentry/vfs/file.h"

namespace sbx::task {

class Task;
class Container;
class PosixTimers;

struct Usage {
  u64 utime_us = 0, stime_us = 0, maxrss_kb = 0, minflt = 0, majflt = 0, nvcsw = 0, nivcsw = 0;
  void add(const Usage& o);
};

// What exec learnt of the image; for /proc. Replaced as a whole by exec.
struct ImageInfo : public RefCounted {
  vfs::Path exe;
  RefPtr<vfs::File> exe_file;                                  // /proc/PID/exe
  std::unique_ptr<vfs::WriteDenial> text_busy;                 // nobody may write to it (ETXTBSY)
  u64 arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;  // guest addresses
  u64 stack_start = 0, brk_start = 0;
  std::string auxv;          // raw bytes
  bool interpreted = false;  // loader::LoadedProgram
  bool dumpable = true;
};

// A tracee that ended, for its tracer's wait; of a thread that is not its group's leader nobody else hears.
struct TraceZombie {
  i32 tid, pgid, status;
  u32 uid;
};

class ThreadGroup : public RefCounted {
 public:
  explicit ThreadGroup(i32 pid);
  const i32 pid;

  Task* leader = nullptr;                     // null once the leader's task is gone
  std::vector<Task*> tasks;                   // alive ones
  ThreadGroup* parent = nullptr;              // null for the root of the pid namespace and for exec'd-in processes
  std::vector<RefPtr<ThreadGroup>> children;  // alive and zombies
  RefPtr<ProcessGroup> group;
  Session& session() const { return *group->session; }

  RefPtr<Container> container;

  RefPtr<signal::Actions> actions;
  signal::PendingSignals pending;
  std::array<rlimit, RLIM_NLIMITS> limits{};
  bool memory_limited = false;
  RefPtr<ImageInfo> image;
  std::string comm_of_leader() const;
  std::string zombie_comm;  // once no task is left
  u32 zombie_uid = 0;

  // --- life ---
  bool exiting = false;  // exit_group or a fatal signal: every task leaves
  i32 exit_status = 0;   // wait status, valid when zombie (or exiting)
  bool zombie = false;
  bool child_subreaper = false;
  bool has_execed = false;    // setpgid(2) EACCES
  int exit_signal = SIGCHLD;  // to the parent
  i32 parent_death_signal = 0;
  Task* exec_task = nullptr;  // the one that survives a running exec
  // vfork: the parent waits here until the child execs or exits.
  bool vfork_done = true;
  fiber::WaitQueue vfork_queue;

  // Job control: stop_signal != 0 while stopped; reports for wait4(WUNTRACED|WCONTINUED).
  int stop_signal = 0;
  bool stop_report = false, continue_report = false;
  fiber::WaitQueue stop_queue;  // stopped tasks park here

  std::vector<TraceZombie> trace_zombies;  // not waited for yet
  bool tracer_first = false;               // ended, and its parent does not know yet: trace_group_end()
  i32 leader_tracer = 0;                   // pid of the group that traced the leader, which has ended

  fiber::WaitQueue child_queue;   // wait4: something about a child changed
  fiber::WaitQueue exit_queue;    // pidfd readiness, `sbx exec` waiters: became a zombie
  fiber::WaitQueue signal_queue;  // signalfd, sigtimedwait: a signal became pending for the group

  Usage usage;                  // of exited threads and, when zombie, of the whole process
  Usage children_usage;         // of waited-for children
  bool told_childless = false;  // its stubs were
  u64 start_time_ns = 0;        // CLOCK_MONOTONIC

  std::unique_ptr<fiber::Timer> real_timer;  // ITIMER_REAL / alarm
  u64 real_interval_ns = 0;
  // POSIX timers (timer_create) live in syscalls/time.cc; opaque here.
  std::shared_ptr<void> posix_timers;
  i32 oom_score_adj = 0;
  u32 loginuid = ~0u, sessionid = ~0u;  // of the audit system (pam_loginuid(8)): not set

  RefPtr<ipc::Attachments> shm;   // null: none
  RefPtr<ipc::SemUndo> sem_undo;  // null: nothing to undo

  // Called once when the group became a zombie (stand-ins of `sbx exec`, container init).
  std::function<void(i32 status)> on_exit;

  // RLIMIT_AS and RLIMIT_DATA to the host, which keeps them: after a change, and after exec.
  void apply_memory_limits();
  u64 limit(int resource) const { return limits[static_cast<size_t>(resource)].rlim_cur; }
  bool alive() const { return !zombie; }

 private:
  ~ThreadGroup() override;
};

}  // namespace sbx::task
