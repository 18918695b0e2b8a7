// Kernel: the one instance that ties tasks, ids and namespaces together. Kernel lock throughout.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "sentry/platform/platform.h"
#include "sentry/task/container.h"
#include "sentry/task/task.h"

namespace sbx::task {

// A process to start from outside: the container's init, `sbx exec`, hooks.
struct ProcessSpec {
  std::vector<std::string> args, env;
  std::string cwd = "/";
  security::CredPtr creds;
  u32 umask = 022;
  std::array<rlimit, RLIM_NLIMITS> limits{};
  RefPtr<FdTable> fds;
  RefPtr<ControllingTty> tty;  // becomes the controlling terminal of its new session
  i32 oom_score_adj = 0;
  std::function<void(i32 wait_status)> on_exit;
  RefPtr<Container> container;  // whose process it is; null: the first's
  bool init = false;            // the sandbox's: with it all end
};

class Kernel {
 public:
  std::unique_ptr<platform::Platform> platform;
  RefPtr<Container> container = make_ref<Container>();  // the one the sandbox was made for
  u64 boot_time_ns = 0;                                 // CLOCK_MONOTONIC at start
  std::string boot_id;                                  // /proc/sys/kernel/random/boot_id
  RefPtr<ThreadGroup> init;                             // the first process, with which all end; null before start
  u32 pid_max = 32768;
  u64 processes_started = 0;  // "processes" of /proc/stat

  // The syscall table's entry point (syscalls/dispatch.cc): returns the value for rax or -errno (may be a restart
  // code).
  i64 (*dispatch)(Task& task) = nullptr;
  // Of task.file_read the stub could copy so many bytes only (hostile): does the rest, and returns what the call does.
  i64 (*finish_file_read)(Task& task, u64 copied) = nullptr;

  // The container's pid namespace is to be the host's: its init gets the number that it has there, the others follow,
  // and it is an ordinary process. There is no pid 1 to be seen, nor anybody else of the host.
  void number_as_host(i32 pid, u32 host_pid_max);
  // Whom the kernel protects from signals, and who inherits orphans: init, or null if the host's is not to be seen.
  ThreadGroup* reaper() const { return numbered_as_host_ ? nullptr : init.get(); }
  Result<i32> allocate_pid();
  Task* find_task(i32 tid) const;
  ThreadGroup* find_group(i32 pid) const;  // alive or zombie
  ProcessGroup* find_process_group(i32 pgid) const;
  Session* find_session(i32 sid) const;
  // All thread groups by pid.
  const std::map<i32, ThreadGroup*>& groups() const { return groups_; }
  size_t task_count() const { return tasks_.size(); }

  // The calling task's; the first outside of tasks.
  Container& current_container() const;

  // Looks the command up as runc does (PATH of spec.env, cwd), without starting it: errors must come from `create`.
  // kNoent, kAcces (a directory, not executable).
  Result<std::string> find_command(const ProcessSpec& spec);
  // Starts it. Before init there may be others of the first container (startContainer hooks); of one that joins: kSrch.
  // On a fiber.
  Result<RefPtr<ThreadGroup>> start_process(ProcessSpec spec);
  // Every guest process gets SIGKILL; used when init ends and by delete.
  void kill_all();
  // Called when the init process became a zombie, after all others are dead.
  std::function<void(i32 wait_status)> on_init_exit;

  // Stubs tell each other of paths while there is one user (Platform::tell_all): these credentials are somebody's now.
  void note_user(const security::Credentials& creds);

  void add_task(Task& task);
  void remove_task(Task& task);
  void add_group(ThreadGroup& group);
  void remove_group(ThreadGroup& group);
  void add_process_group(ProcessGroup& group);
  void remove_process_group(ProcessGroup& group);

 private:
  std::unordered_map<i32, Task*> tasks_;
  std::map<i32, ThreadGroup*> groups_;
  std::map<i32, ProcessGroup*> process_groups_;
  i32 init_pid_ = 1, last_pid_ = 1;
  bool numbered_as_host_ = false;
  std::optional<u32> user_;
  bool pid_in_use(i32 pid) const;
};

Kernel& kernel();
// Makes up for what all processes have closed by themselves (FdTable::reap).
void reap_all_closes();
// The same within a second, even if they make no call till then: what is closed is to be gone (the space of a file that
// has no name any more). Nothing is left to them from then on, until the next call that leaves it.
void reap_closes_soon();

// --- process life, used by syscalls/process.cc ---
struct CloneArgs {
  u64 flags = 0;  // CLONE_*
  int exit_signal = 0;
  u64 stack = 0;  // new stack pointer or 0
  u64 parent_tid = 0, child_tid = 0, tls = 0;
  // Called when the child is made and before it or the caller goes on; cannot fail.
  std::function<void(Task& child)> made = {};
};
// Makes the child and resumes the caller's thread with it (task.resumed). Returns the child's tid.
Result<i64> clone_task(Task& task, const CloneArgs& args);
// unshare(2): flags CLONE_FS, CLONE_FILES, CLONE_NEWNS, CLONE_NEWUTS; other namespaces as clone_task.
Result<void> unshare_task(Task& task, u64 flags);

struct ExecArgs {
  vfs::Path file;            // already resolved
  RefPtr<vfs::File> opened;  // O_PATH fexecve form or null
  std::string filename;      // as given, for AT_EXECFN and scripts
  std::vector<std::string> argv, envp;
};
// On success the task runs the new image (task.resumed).
Result<i64> exec_task(Task& task, ExecArgs args);

// The calling task ends with this code (exit); the last one ends the group. Marks task.exited.
void exit_task(Task& task, i32 wait_status);
// exec and exit: what hangs on the old address space (System V segments) is left.
void leave_memory(ThreadGroup& group);

struct WaitRequest {
  enum class Who : u8 { kAny, kPid, kGroup } who = Who::kAny;
  i32 id = 0;
  u32 options = 0;  // WNOHANG WUNTRACED WCONTINUED WEXITED WNOWAIT __WALL __WCLONE
};
struct WaitReport {
  i32 pid = 0;  // 0: nothing yet (WNOHANG)
  i32 status = 0;
  u32 uid = 0;
  Usage usage;
  bool traced = false;  // a stop of a tracee: CLD_TRAPPED
};
Result<WaitReport> wait_for_child(Task& task, const WaitRequest& request);
// The group got a child or a tracee: its stubs ask again who wait for one.
void tell_of_children(ThreadGroup& group);
// Leaves the zombie to the parent's wait, or removes it at once if nobody will wait. Sends the exit signal.
void notify_parent_of_exit(ThreadGroup& group);
// A zombie (or a stopped child) disappears from its parent.
void reap(ThreadGroup& child);

Result<i32> set_session(Task& task);                            // setsid
Result<void> set_process_group(Task& task, i32 pid, i32 pgid);  // setpgid

// Files that name a process (pidfds) implement it: waitid(P_PIDFD) and others look for it.
class PidReference {
 public:
  virtual ~PidReference() = default;
  virtual i32 pid() const = 0;
};

// What the host process of the task has used so far; its memory and faults as of its last getrusage(2) or exit.
Usage host_usage(const Task& task);
// Usage so far of a live or dead group.
Usage group_usage(const ThreadGroup& group);

}  // namespace sbx::task
