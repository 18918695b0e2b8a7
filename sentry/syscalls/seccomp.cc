// seccomp(2) and the prctl(2) forms of it.
#include "sentry/syscalls/seccomp.h"

#include <linux/capability.h>
#include <linux/seccomp.h>

#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"

namespace sbx::syscalls {

namespace {

constexpr u32 kReturn = BPF_RET | BPF_K, kLoad = BPF_LD | BPF_W | BPF_ABS, kEqual = BPF_JMP | BPF_JEQ | BPF_K;

// read, write, exit, rt_sigreturn; all else kills.
const std::vector<sock_filter>& strict_program() {
  static const std::vector<sock_filter> program = {{kLoad, 0, 0, 0},
                                                   {kEqual, 4, 0, 0},
                                                   {kEqual, 3, 0, 1},
                                                   {kEqual, 2, 0, 60},
                                                   {kEqual, 1, 0, 15},
                                                   {kReturn, 0, 0, SECCOMP_RET_KILL_THREAD},
                                                   {kReturn, 0, 0, SECCOMP_RET_ALLOW}};
  return program;
}

// SECCOMP_FILTER_FLAG_TSYNC: all threads get the filter; the first that has another history is answered.
Result<i64> synchronise(Task& task, const RefPtr<task::SeccompFilter>& filter) {
  for (Task* other : task.group->tasks) {
    const task::SeccompFilter* theirs = other->seccomp.get();
    if (theirs != nullptr && theirs != task.seccomp.get()) return other->tid;
  }
  for (Task* other : task.group->tasks) {
    other->seccomp = filter;
    if (other->fds->watcher() != nullptr) other->fds->watcher()->copied();
    other->publish_identity();
    if (!task.creds->no_new_privs || other->creds->no_new_privs) continue;
    RefPtr<security::Credentials> next(new security::Credentials(*other->creds));
    next->no_new_privs = true;
    other->set_creds(next);
  }
  return 0;
}

Result<i64> set_filter(Task& task, u32 flags, u64 program_at) {
  constexpr u32 kKnown = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW |
                         SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
  if ((flags & ~kKnown) != 0) {
    STUB("seccomp flags", flags);
    return Errno::kInval;
  }
  const auto header = TRY(In<sock_fprog>{program_at}.read(task));
  if (header.len == 0 || header.len > BPF_MAXINSNS) return Errno::kInval;
  if (!task.creds->no_new_privs && !task.creds->capable(CAP_SYS_ADMIN)) return Errno::kAcces;
  std::vector<sock_filter> program(header.len);
  TRY(task.memory().read(reinterpret_cast<u64>(header.filter), program.data(), program.size() * sizeof(sock_filter)));
  auto filter = TRY(task::bpf_filter(std::move(program), task.seccomp));
  if ((flags & SECCOMP_FILTER_FLAG_TSYNC) != 0) {
    i64 stranger = TRY(synchronise(task, filter));
    if (stranger == 0) return 0;
    return (flags & SECCOMP_FILTER_FLAG_TSYNC_ESRCH) != 0 ? Result<i64>(Errno::kSrch) : Result<i64>(stranger);
  }
  task.seccomp = filter;
  if (task.fds->watcher() != nullptr) task.fds->watcher()->copied();
  task.publish_identity();
  return 0;
}

Result<i64> set_strict(Task& task) {
  if (task.seccomp) return Errno::kInval;  // the mode does not change
  auto filter = TRY(task::bpf_filter(strict_program(), nullptr));
  filter->strict = true;
  task.seccomp = filter;
  if (task.fds->watcher() != nullptr) task.fds->watcher()->copied();
  task.publish_identity();
  return 0;
}

}  // namespace

Result<i64> set_seccomp_mode(Task& task, u64 mode, u64 program) {
  if (mode == SECCOMP_MODE_STRICT) return set_strict(task);
  if (mode == SECCOMP_MODE_FILTER) return set_filter(task, 0, program);
  return Errno::kInval;
}

Result<i64> sys_seccomp(Task& task, Int operation, Hex flags, UserAddr args) {
  switch (operation) {
    case SECCOMP_SET_MODE_STRICT:
      if (flags.v != 0 || args.addr != 0) return Errno::kInval;
      return set_strict(task);
    case SECCOMP_SET_MODE_FILTER:
      if (flags.v > ~0u) return Errno::kInval;
      return set_filter(task, static_cast<u32>(flags.v), args.addr);
    case SECCOMP_GET_ACTION_AVAIL: {
      if (flags.v != 0) return Errno::kInval;
      switch (TRY(In<u32>{args.addr}.read(task))) {
        case SECCOMP_RET_KILL_PROCESS:
        case SECCOMP_RET_KILL_THREAD:
        case SECCOMP_RET_TRAP:
        case SECCOMP_RET_ERRNO:
        case SECCOMP_RET_TRACE:
        case SECCOMP_RET_LOG:
        case SECCOMP_RET_ALLOW: return 0;
        default: return Errno::kOpnotsupp;
      }
    }
    case SECCOMP_GET_NOTIF_SIZES: STUB("seccomp notification", 0); return Errno::kInval;
    default: return Errno::kInval;
  }
}

}  // namespace sbx::syscalls
