// Processes: clone, exec, exit, wait, process groups and sessions, prctl.
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "sentry/base/counters.h"
#include "sentry/fs/anon/pidfd.h"
#include "sentry/loader/elf.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/seccomp.h"
#include "sentry/syscalls/usage.h"
#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

using task::kernel;
using task::ThreadGroup;

namespace {

// --- clone ---

Result<i64> do_clone(Task& task, const task::CloneArgs& args) { return task::clone_task(task, args); }

// One task's memory where many small things lie together, the arguments of a new program: each page is read once.
class PagedMemory {
 public:
  explicit PagedMemory(Task& task) : task_(task) {}
  Result<u64> word(u64 addr) {
    u64 value = 0;
    if (const char* from = at(addr); from != nullptr && addr % kPageSize <= kPageSize - sizeof(value)) {
      memcpy(&value, from, sizeof(value));
      return value;
    }
    TRY(task_.memory().read(addr, &value, sizeof(value)));
    return value;
  }
  Result<std::string> string(u64 addr, size_t max) {
    if (const char* from = at(addr); from != nullptr) {
      const size_t room = kPageSize - addr % kPageSize;
      const size_t length = strnlen(from, room);
      if (length < room && length <= max) return std::string(from, length);
    }
    return task_.memory().read_string(addr, max);
  }

 private:
  struct Page {
    u64 addr = 1;  // of none
    bool readable = false;
    std::unique_ptr<char[]> bytes;
  };
  // Null: not readable.
  const char* at(u64 addr) {
    const u64 wanted = addr - addr % kPageSize;
    auto page = std::find_if(pages_.begin(), pages_.end(), [&](const Page& p) { return p.addr == wanted; });
    if (page == pages_.end()) {
      page = pages_.begin() + next_++ % pages_.size();
      page->addr = wanted;
      if (!page->bytes) page->bytes = std::make_unique<char[]>(kPageSize);
      page->readable = task_.memory().read(wanted, page->bytes.get(), kPageSize).has_value();
    }
    return page->readable ? page->bytes.get() + (addr - wanted) : nullptr;
  }

  Task& task_;
  std::array<Page, 4> pages_;
  size_t next_ = 0;
};

// Strings of argv or envp; kTooBig beyond what exec could use.
Result<std::vector<std::string>> read_strings(PagedMemory& memory, u64 array, u64& budget) {
  std::vector<std::string> out;
  if (array == 0) return out;  // Linux takes a null argv and envp for empty lists
  for (;; array += sizeof(u64)) {
    const u64 pointer = TRY(memory.word(array));
    if (pointer == 0) return out;
    constexpr u64 kMaxString = 128 * 1024;  // MAX_ARG_STRLEN
    auto text = memory.string(pointer, kMaxString);
    if (!text) return text.error() == Errno::kNametoolong ? Errno::kTooBig : text.error();
    u64 cost = text->size() + 1 + sizeof(u64);
    if (cost > budget) return Errno::kTooBig;
    budget -= cost;
    out.push_back(std::move(*text));
  }
}

Result<void> read_arguments(Task& task, u64 argv, u64 envp, task::ExecArgs& args) {
  u64 budget = loader::argument_limit(task.group->limit(RLIMIT_STACK));
  PagedMemory memory(task);
  args.argv = TRY(read_strings(memory, argv, budget));
  args.envp = TRY(read_strings(memory, envp, budget));
  return {};
}

Result<i64> do_exec(Task& task, int dirfd, const std::string& path, u64 argv, u64 envp, u32 flags) {
  task::ExecArgs args;
  TRY(read_arguments(task, argv, envp, args));
  args.filename = path;
  if (path.empty()) {
    if ((flags & AT_EMPTY_PATH) == 0) return Errno::kNoent;
    RefPtr<vfs::File> file = TRY(task.fds->get(dirfd, true));
    if (!file->path()) return Errno::kAcces;
    args.file = file->path();
    args.opened = file;
    args.filename = "/dev/fd/" + std::to_string(dirfd);
  } else {
    vfs::WalkContext ctx = TRY(task.walk_context_at(dirfd, path));
    args.file = TRY(vfs::resolve(ctx, path, {.follow_last = (flags & AT_SYMLINK_NOFOLLOW) == 0}));
    if (S_ISLNK(args.file.inode()->type())) return Errno::kLoop;
    if (dirfd != AT_FDCWD && path[0] != '/') args.filename = "/dev/fd/" + std::to_string(dirfd) + "/" + path;
  }
  return task::exec_task(task, std::move(args));
}

// CLONE_PIDFD: the descriptor is there, and its number written, before the child can run (clone(2)).
Result<i64> clone_with_pidfd(Task& task, task::CloneArgs& args, u64 number_addr) {
  if ((args.flags & (CLONE_THREAD | CLONE_DETACHED)) != 0) return Errno::kInval;
  auto pidfd = make_ref<fs::anon::PidFd>(nullptr, 0u);
  const i32 fd = TRY(task.fds->add(pidfd, true, task.nofile_limit()));
  args.made = [&](Task& child) {
    pidfd->set_group(child.group);
    if (child.fds != task.fds) (void)child.fds->close(fd);  // it was copied with the others
  };
  // A write may be left to the stub and fail there: looked at first.
  Result<i64> result = Errno::kFault;
  if (In<i32>{number_addr}.read(task) && Out<i32>{number_addr}.write(task, fd)) result = do_clone(task, args);
  if (!result) (void)task.fds->close(fd);
  return result;
}

}  // namespace

Result<i64> sys_clone(Task& task, Hex flags, UserAddr stack, UserAddr parent_tid, UserAddr child_tid, ULong tls) {
  task::CloneArgs args;
  args.exit_signal = static_cast<int>(flags.v & CSIGNAL);
  args.flags = flags.v & ~static_cast<u64>(CSIGNAL) & 0xffffffff;
  args.stack = stack.addr;
  args.parent_tid = parent_tid.addr;
  args.child_tid = child_tid.addr;
  args.tls = tls;
  if ((args.flags & CLONE_PIDFD) == 0) return do_clone(task, args);
  if ((args.flags & CLONE_PARENT_SETTID) != 0) return Errno::kInval;  // both are told by parent_tid
  return clone_with_pidfd(task, args, parent_tid.addr);
}

Result<i64> sys_fork(Task& task) {
  task::CloneArgs args;
  args.exit_signal = SIGCHLD;
  return do_clone(task, args);
}

Result<i64> sys_vfork(Task& task) {
  task::CloneArgs args;
  args.exit_signal = SIGCHLD;
  args.flags = CLONE_VFORK | CLONE_VM;
  return do_clone(task, args);
}

Result<i64> sys_clone3(Task& task, UserAddr user_args, Size size) {
  if (size > kPageSize) return Errno::kTooBig;
  if (size < CLONE_ARGS_SIZE_VER0) return Errno::kInval;
  clone_args in{};
  TRY(task.memory().read(user_args.addr, &in, std::min<u64>(size, sizeof(in))));
  for (u64 at = sizeof(in); at < size; at += 8) {  // a newer caller's fields must be zero (clone3: E2BIG)
    u64 word = 0;
    TRY(task.memory().read(user_args.addr + at, &word, std::min<u64>(8, size - at)));
    if (word != 0) return Errno::kTooBig;
  }
  constexpr u64 kKnown = 0xffffffff | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP;
  if ((in.flags & ~kKnown) != 0 || (in.flags & CLONE_DETACHED) != 0) return Errno::kInval;
  if ((in.flags & CLONE_INTO_CGROUP) != 0 || in.set_tid_size != 0) {
    STUB("clone3", in.flags);
    return in.set_tid_size != 0 ? Errno::kPerm : Errno::kInval;
  }
  if ((in.flags & CSIGNAL) != 0 || (in.exit_signal & ~static_cast<u64>(CSIGNAL)) != 0) return Errno::kInval;
  if ((in.stack == 0) != (in.stack_size == 0)) return Errno::kInval;
  task::CloneArgs args;
  args.flags = in.flags;
  args.exit_signal = static_cast<int>(in.exit_signal);
  args.stack = in.stack + in.stack_size;
  args.parent_tid = in.parent_tid;
  args.child_tid = in.child_tid;
  args.tls = in.tls;
  return (in.flags & CLONE_PIDFD) != 0 ? clone_with_pidfd(task, args, in.pidfd) : do_clone(task, args);
}

Result<i64> sys_unshare(Task& task, Hex flags) {
  TRY(task::unshare_task(task, flags.v));
  return 0;
}

Result<i64> sys_execve(Task& task, UserPath path, UserAddr argv, UserAddr envp) {
  std::string name = TRY(path.read(task));
  return do_exec(task, AT_FDCWD, name, argv.addr, envp.addr, 0);
}

Result<i64> sys_execveat(Task& task, DirFd dir, UserPath path, UserAddr argv, UserAddr envp, Hex flags) {
  if ((flags.v & ~static_cast<u64>(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) != 0) return Errno::kInval;
  std::string name = TRY(path.read(task));
  return do_exec(task, dir.n, name, argv.addr, envp.addr, static_cast<u32>(flags.v));
}

Result<i64> sys_exit(Task& task, Int code) {
  task::trace_event(task, PTRACE_EVENT_EXIT, static_cast<u64>((code & 0xff) << 8));
  if (task.group->tasks.size() == 1)
    task::exit_group(*task.group, (code & 0xff) << 8);
  else
    task::exit_task(task, (code & 0xff) << 8);
  return 0;
}

Result<i64> sys_exit_group(Task& task, Int code) {
  task::trace_event(task, PTRACE_EVENT_EXIT, static_cast<u64>((code & 0xff) << 8));
  task::exit_group(*task.group, (code & 0xff) << 8);
  return 0;
}

// --- wait ---

Result<i64> sys_wait4(Task& task, Pid pid, OutBuf status, Hex options, OutBuf rusage) {
  constexpr u32 kAllowed = WNOHANG | WUNTRACED | WCONTINUED | 0xe0000000;  // __WNOTHREAD, __WALL, __WCLONE
  auto bits = static_cast<u32>(options.v);
  if ((bits & ~kAllowed) != 0) return Errno::kInval;
  task::WaitRequest request;
  request.options = bits | WEXITED;
  if (pid.n == INT32_MIN) return Errno::kSrch;
  if (pid.n > 0) {
    request.who = task::WaitRequest::Who::kPid;
    request.id = pid.n;
  } else if (pid.n != -1) {
    request.who = task::WaitRequest::Who::kGroup;
    request.id = -pid.n;
  }
  task::WaitReport report = TRY(task::wait_for_child(task, request));
  if (report.pid == 0) return 0;
  if (status.addr != 0) TRY(task.memory().write(status.addr, &report.status, sizeof(report.status)));
  if (rusage.addr != 0) {
    struct rusage r = to_rusage(report.usage);
    TRY(task.memory().write(rusage.addr, &r, sizeof(r)));
  }
  return report.pid;
}

Result<i64> sys_waitid(Task& task, Int which, Pid id, OutBuf info, Hex options, OutBuf rusage) {
  constexpr u32 kAllowed = WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | 0xe0000000;
  auto bits = static_cast<u32>(options.v);
  if ((bits & ~kAllowed) != 0 || (bits & (WEXITED | WSTOPPED | WCONTINUED)) == 0) return Errno::kInval;
  task::WaitRequest request;
  request.options = bits;
  switch (which) {
    case P_ALL: break;
    case P_PID:
      if (id.n <= 0) return Errno::kInval;
      request.who = task::WaitRequest::Who::kPid;
      request.id = id.n;
      break;
    case P_PGID:
      if (id.n < 0) return Errno::kInval;
      request.who = task::WaitRequest::Who::kGroup;
      request.id = id.n;
      break;
    case P_PIDFD: {
      RefPtr<vfs::File> file = TRY(task.fds->get(id.n));
      auto* pidfd = dynamic_cast<task::PidReference*>(file.get());
      if (pidfd == nullptr) return Errno::kBadf;
      request.who = task::WaitRequest::Who::kPid;
      request.id = pidfd->pid();
      if (file->nonblocking()) request.options |= WNOHANG;
      break;
    }
    default: return Errno::kInval;
  }
  task::WaitReport report = TRY(task::wait_for_child(task, request));
  if (report.pid == 0 && which == P_PIDFD && (bits & WNOHANG) == 0) return Errno::kAgain;
  if (info.addr != 0) {
    u8 bytes[128] = {};
    if (report.pid != 0) {
      signal::SigInfo child;
      child.signo = SIGCHLD;
      child.pid = report.pid;
      child.uid = report.uid;
      if (report.status == 0xffff)
        child.code = CLD_CONTINUED, child.status = SIGCONT;
      else if (WIFSTOPPED(report.status))
        child.code = report.traced ? CLD_TRAPPED : CLD_STOPPED, child.status = report.status >> 8;
      else if (WIFEXITED(report.status))
        child.code = CLD_EXITED, child.status = WEXITSTATUS(report.status);
      else
        child.code = WCOREDUMP(report.status) ? CLD_DUMPED : CLD_KILLED, child.status = WTERMSIG(report.status);
      child.encode(bytes);
    }
    TRY(task.memory().write(info.addr, bytes, sizeof(bytes)));
  }
  if (rusage.addr != 0) {
    struct rusage r = to_rusage(report.usage);
    TRY(task.memory().write(rusage.addr, &r, sizeof(r)));
  }
  return 0;
}

// --- ids of processes, groups, sessions ---

Result<i64> sys_getpid(Task& task) { return task.pid(); }
Result<i64> sys_gettid(Task& task) { return task.tid; }
Result<i64> sys_getppid(Task& task) { return task.group->parent != nullptr ? task.group->parent->pid : 0; }
Result<i64> sys_getpgrp(Task& task) { return task.group->group->pgid; }

Result<i64> sys_getpgid(Task& task, Pid pid) {
  ThreadGroup* group = pid.n == 0 ? task.group.get() : kernel().find_group(pid.n);
  if (group == nullptr || !group->group) return Errno::kSrch;
  return group->group->pgid;
}

Result<i64> sys_getsid(Task& task, Pid pid) {
  ThreadGroup* group = pid.n == 0 ? task.group.get() : kernel().find_group(pid.n);
  if (group == nullptr || !group->group) return Errno::kSrch;
  return group->session().sid;
}

Result<i64> sys_setpgid(Task& task, Pid pid, Pid pgid) {
  if (pid.n < 0) return Errno::kSrch;
  TRY(task::set_process_group(task, pid.n, pgid.n));
  return 0;
}

Result<i64> sys_setsid(Task& task) { return TRY(task::set_session(task)); }

// --- prctl ---

namespace {

Result<i64> cap_ambient(Task& task, u64 op, u64 cap) {
  if (op == PR_CAP_AMBIENT_CLEAR_ALL) {
    RefPtr<security::Credentials> next(new security::Credentials(*task.creds));
    next->ambient = 0;
    task.set_creds(next);
    return 0;
  }
  if (cap > security::kLastCap) return Errno::kInval;
  u64 bit = 1ull << cap;
  if (op == PR_CAP_AMBIENT_IS_SET) return (task.creds->ambient & bit) != 0 ? 1 : 0;
  if (op != PR_CAP_AMBIENT_RAISE && op != PR_CAP_AMBIENT_LOWER) return Errno::kInval;
  RefPtr<security::Credentials> next(new security::Credentials(*task.creds));
  if (op == PR_CAP_AMBIENT_LOWER) {
    next->ambient &= ~bit;
  } else {
    if ((next->permitted & next->inheritable & bit) == 0 || (next->securebits & SECBIT_NO_CAP_AMBIENT_RAISE) != 0) {
      return Errno::kPerm;
    }
    next->ambient |= bit;
  }
  task.set_creds(next);
  return 0;
}

Result<i64> set_securebits(Task& task, u64 bits) {
  const security::Credentials& old = *task.creds;
  constexpr u32 kAllLocks = SECURE_ALL_LOCKS;
  u32 locked_before = old.securebits & kAllLocks;
  if ((((locked_before >> 1) & (old.securebits ^ bits)) != 0) || (locked_before & ~bits) != 0 ||
      (bits & ~static_cast<u64>(SECURE_ALL_LOCKS | SECURE_ALL_BITS)) != 0 || !old.capable(CAP_SETPCAP)) {
    return Errno::kPerm;
  }
  RefPtr<security::Credentials> next(new security::Credentials(old));
  next->securebits = static_cast<u32>(bits);
  task.set_creds(next);
  return 0;
}

Result<i64> set_mm(Task& task, u64 what, u64 value) {
  if (!task.creds->capable(CAP_SYS_RESOURCE)) return Errno::kPerm;
  task::ImageInfo& image = *task.group->image;
  switch (what) {
    case PR_SET_MM_ARG_START: image.arg_start = value; return 0;
    case PR_SET_MM_ARG_END: image.arg_end = value; return 0;
    case PR_SET_MM_ENV_START: image.env_start = value; return 0;
    case PR_SET_MM_ENV_END: image.env_end = value; return 0;
    default: STUB("prctl PR_SET_MM", what); return Errno::kInval;
  }
}

}  // namespace

Result<i64> sys_prctl(Task& task, Int option, ULong a, ULong b, ULong c, ULong d) {
  ThreadGroup& group = *task.group;
  switch (option) {
    case PR_SET_PDEATHSIG:
      if (a > signal::kMaxSignal) return Errno::kInval;
      group.parent_death_signal = static_cast<i32>(a);
      return 0;
    case PR_GET_PDEATHSIG: {
      i32 value = group.parent_death_signal;
      TRY(task.memory().write(a, &value, sizeof(value)));
      return 0;
    }
    case PR_SET_PTRACER:  // of Yama, whose scope is 0: anybody with the right may trace anyway
      if (a != 0 && a != PR_SET_PTRACER_ANY && task::kernel().find_task(static_cast<i32>(a)) == nullptr) {
        return Errno::kInval;
      }
      return 0;
    case PR_GET_DUMPABLE: return group.image->dumpable ? 1 : 0;
    case PR_SET_DUMPABLE:
      if (a > 1) return Errno::kInval;
      group.image->dumpable = a == 1;
      return 0;
    case PR_GET_KEEPCAPS: return (task.creds->securebits & SECBIT_KEEP_CAPS) != 0 ? 1 : 0;
    case PR_SET_KEEPCAPS: {
      if (a > 1) return Errno::kInval;
      if ((task.creds->securebits & SECBIT_KEEP_CAPS_LOCKED) != 0) return Errno::kPerm;
      RefPtr<security::Credentials> next(new security::Credentials(*task.creds));
      next->securebits =
          a == 1 ? next->securebits | SECBIT_KEEP_CAPS : next->securebits & ~static_cast<u32>(SECBIT_KEEP_CAPS);
      task.set_creds(next);
      return 0;
    }
    case PR_SET_NAME: {
      char name[16] = {};
      for (size_t i = 0; i < 15; ++i) {
        TRY(task.memory().read(a + i, &name[i], 1));
        if (name[i] == '\0') break;
      }
      task.comm = name;
      return 0;
    }
    case PR_GET_NAME: {
      char name[16] = {};
      task.comm.copy(name, 15);
      TRY(task.memory().write(a, name, sizeof(name)));
      return 0;
    }
    case PR_CAPBSET_READ:
      if (a > security::kLastCap) return Errno::kInval;
      return (task.creds->bounding >> a) & 1;
    case PR_CAPBSET_DROP: {
      if (a > security::kLastCap) return Errno::kInval;
      if (!task.creds->capable(CAP_SETPCAP)) return Errno::kPerm;
      RefPtr<security::Credentials> next(new security::Credentials(*task.creds));
      next->bounding &= ~(1ull << a);
      task.set_creds(next);
      return 0;
    }
    case PR_CAP_AMBIENT:
      if (c != 0 || d != 0) return Errno::kInval;
      return cap_ambient(task, a, b);
    case PR_GET_SECUREBITS: return task.creds->securebits;
    case PR_SET_SECUREBITS: return set_securebits(task, a);
    case PR_SET_NO_NEW_PRIVS: {
      if (a != 1 || b != 0 || c != 0 || d != 0) return Errno::kInval;
      RefPtr<security::Credentials> next(new security::Credentials(*task.creds));
      next->no_new_privs = true;
      task.set_creds(next);
      return 0;
    }
    case PR_GET_NO_NEW_PRIVS:
      if (a != 0 || b != 0 || c != 0 || d != 0) return Errno::kInval;
      return task.creds->no_new_privs ? 1 : 0;
    case PR_SET_CHILD_SUBREAPER: group.child_subreaper = a != 0; return 0;
    case PR_GET_CHILD_SUBREAPER: {
      i32 value = group.child_subreaper ? 1 : 0;
      TRY(task.memory().write(a, &value, sizeof(value)));
      return 0;
    }
    case PR_SET_TIMERSLACK: return 0;  // slack is the host's: a hint without an observable promise
    case PR_GET_TIMERSLACK: return 50'000;
    case PR_GET_TIMING: return PR_TIMING_STATISTICAL;
    case PR_SET_TIMING: return a == PR_TIMING_STATISTICAL ? Result<i64>(0) : Result<i64>(Errno::kInval);
    case PR_GET_TSC: {
      i32 value = PR_TSC_ENABLE;
      TRY(task.memory().write(a, &value, sizeof(value)));
      return 0;
    }
    case PR_GET_SECCOMP: return task.seccomp ? 2 : 0;
    case PR_SET_SECCOMP: return set_seccomp_mode(task, a, b);
    case PR_GET_THP_DISABLE: return 0;
    case PR_SET_MM: return set_mm(task, a, b);
    case PR_SET_VMA:  // names of anonymous memory: Linux without CONFIG_ANON_VMA_NAME answers so
    default: STUB("prctl", option); return Errno::kInval;
  }
}

}  // namespace sbx::syscalls
