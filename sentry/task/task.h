// Task: a guest thread: its fiber, its hardware side (platform::GuestThread), identity and private signal state.
//
// Life: made by clone (task/clone.cc) or start_process (task/kernel.h); its fiber runs Task::run() (task/run.cc) until
// it exits (task/exit.cc), which frees it. Signals: task/signals.h. exec: task/exec.cc.
#pragma once
#include <memory>
#include <string>

#include "sentry/platform/platform.h"
#include "sentry/security/credentials.h"
#include "sentry/task/fd_table.h"
#include "sentry/task/fs_context.h"
#include "sentry/task/seccomp.h"
#include "sentry/task/thread_group.h"
#include "sentry/vfs/walk.h"

namespace sbx::task {

class UtsNamespace;
struct Trace;

// A read whose bytes the stub copies out of a file window, for the case that it cannot.
struct FileRead {
  const vfs::File* file;  // compared only
  i32 fd;
  bool at_position;  // the file's position moved
  u64 offset, addr;
  size_t n;  // 0: none
};

class Task {
 public:
  const i32 tid;
  RefPtr<ThreadGroup> group;
  std::unique_ptr<platform::GuestThread> thread;
  fiber::Fiber* fiber = nullptr;

  security::CredPtr creds;
  RefPtr<FdTable> fds;
  RefPtr<FsContext> fs;
  RefPtr<vfs::MountNamespace> mounts;
  RefPtr<UtsNamespace> uts;
  RefPtr<const SeccompFilter> seccomp;  // newest filter; null: none
  std::string comm;
  std::string looked_at;  // the path that the call names, as it was read

  signal::PendingSignals pending;
  // sigsuspend, ppoll...: the mask to restore when the handler returns (frame) or when no handler ran.
  bool has_saved_mask = false;
  signal::SigSet saved_mask = 0;
  // sigtimedwait: signals it waits for although blocked; they do not end other waits.
  signal::SigSet waiting_for = 0;

  // Restart bookkeeping of the current syscall (restart_syscall(2) style calls keep an absolute deadline here).
  u64 restart_deadline = 0;
  bool restarting = false;  // the current dispatch repeats an interrupted call

  std::unique_ptr<Trace> trace;  // null: nobody traces it (task/ptrace.h)
  std::vector<Task*> tracees;

  platform::Entry entry{};  // what brought it in last
  i32 tid_in_ns() const { return tid; }
  i32 pid() const { return group->pid; }
  i32 nice = 0;
  u32 sched_policy = 0;  // SCHED_OTHER, SCHED_BATCH or SCHED_IDLE: shown, not enforced
  u32 personality = 0;   // personality(2)
  bool resumed = false;  // the handler has resumed the thread by itself (clone, exec, mmap): run() must not
  FileRead file_read{};  // what the stub was last told to copy out of a file
  bool exited = false;
  i32 vfork_child = 0;  // pid of the child a vfork waits for
  int clone_event = 0;  // what the tracer is to hear of it

  // --- memory ---
  platform::GuestThread& memory() { return *thread; }

  // --- convenience for handlers ---
  vfs::WalkContext walk_context() const { return {fs->root, fs->cwd, creds.get(), mounts.get()}; }
  // As walk_context with the start at dirfd (AT_FDCWD: cwd; else kBadf, kNotdir; absolute paths ignore dirfd).
  Result<vfs::WalkContext> walk_context_at(int dirfd, std::string_view path) const;
  u64 nofile_limit() const { return group->limit(RLIMIT_NOFILE); }
  void set_creds(security::CredPtr c);
  // Mirrors ids into the stub; after changes of creds, parent, exec.
  void publish_identity();
  // Tells the stub which calls are to come in: after changes of trace and seccomp.
  void publish_watch();
  // A table of its own if it shares one (unshare(2), CLONE_FILES).
  void own_descriptors();

  Task(i32 tid, RefPtr<ThreadGroup> group);
  ~Task();
  // The fiber's body.
  void run();

 private:
  void handle_syscall();
  void finish_syscall(i64 result);
  void handle_signal_check();
  void show_native_call();
  void show_native_result();
  void handle_fault();
};

// The task whose fiber runs; null on other fibers.
Task* current_task();

}  // namespace sbx::task
