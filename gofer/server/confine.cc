#include "gofer/server/confine.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace sbx::gofer {

HostResult<void> drop_privileges(bool raw_sockets) {
  // Owners of new files are set by the file system ids; that must not take CAP_DAC_OVERRIDE and friends away. Refused
  // where CAP_SETPCAP is missing, and then there are no such capabilities either.
  (void)prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_NOROOT, 0, 0, 0);
  (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  const u64 kept = 1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_DAC_READ_SEARCH | 1ull << CAP_FOWNER |
                   1ull << CAP_FSETID | 1ull << CAP_SETFCAP | 1ull << CAP_SETUID | 1ull << CAP_SETGID |
                   (raw_sockets ? 1ull << CAP_NET_RAW : 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return Failure::from_errno("reading the gofer's capabilities");
  for (int i = 0; i < 2; ++i) {
    data[i].permitted &= static_cast<u32>(kept >> (32 * i));
    data[i].effective = data[i].permitted;
    data[i].inheritable = 0;
  }
  if (syscall(SYS_capset, &header, data) != 0) return Failure::from_errno("dropping the gofer's capabilities");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Failure::from_errno("no_new_privs");
  return {};
}

HostResult<void> enter_empty_root() {
  // A child that shares our root directory makes it the directory of its own descriptors; when it is gone, so is
  // everything in there.
  alignas(16) static char stack[16 * 1024];
  pid_t child = clone([](void*) -> int { return chroot("/proc/self/fdinfo") == 0 ? 0 : errno; }, stack + sizeof(stack),
                      CLONE_FS | CLONE_VM | CLONE_VFORK | SIGCHLD, nullptr);
  if (child < 0) return Failure::from_errno("starting the chroot helper");
  int status = 0;
  if (waitpid(child, &status, 0) != child) return Failure::from_errno("waiting for the chroot helper");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return Failure(static_cast<Errno>(WEXITSTATUS(status)), "making the gofer's root directory empty");
  return {};
}

HostResult<void> load_filter(bool raw_sockets) {
  static constexpr int kAllowed[] = {
      // the channel
      SCMP_SYS(futex),
      SCMP_SYS(poll),
      SCMP_SYS(recvmsg),
      SCMP_SYS(sendmsg),
      SCMP_SYS(close),
      // looking
      SCMP_SYS(statx),
      SCMP_SYS(fstat),
      SCMP_SYS(newfstatat),
      SCMP_SYS(openat),
      SCMP_SYS(openat2),
      SCMP_SYS(getdents64),
      SCMP_SYS(lseek),
      SCMP_SYS(readlinkat),
      SCMP_SYS(fstatfs),
      SCMP_SYS(fchdir),
      SCMP_SYS(getxattr),
      SCMP_SYS(fgetxattr),
      SCMP_SYS(listxattr),
      SCMP_SYS(flistxattr),
      SCMP_SYS(read),  // HostProc
      // changing
      SCMP_SYS(mkdirat),
      SCMP_SYS(symlinkat),
      SCMP_SYS(mknodat),
      SCMP_SYS(linkat),
      SCMP_SYS(unlinkat),
      SCMP_SYS(renameat),
      SCMP_SYS(renameat2),
      SCMP_SYS(fchownat),
      SCMP_SYS(fchmod),
      SCMP_SYS(fchmodat),
      SCMP_SYS(ftruncate),
      SCMP_SYS(utimensat),
      SCMP_SYS(setxattr),
      SCMP_SYS(fsetxattr),
      SCMP_SYS(removexattr),
      SCMP_SYS(fremovexattr),
      SCMP_SYS(fsync),
      SCMP_SYS(syncfs),
      SCMP_SYS(setfsuid),
      SCMP_SYS(setfsgid),
      SCMP_SYS(setresuid),
      SCMP_SYS(setresgid),
      SCMP_SYS(geteuid),
      SCMP_SYS(getegid),
      // socket files: sockets are made by the sentry
      SCMP_SYS(bind),
      SCMP_SYS(connect),
      // news of changes on the host
      SCMP_SYS(inotify_add_watch),
      SCMP_SYS(inotify_rm_watch),
      // the C and C++ libraries, the log
      SCMP_SYS(brk),
      SCMP_SYS(munmap),
      SCMP_SYS(mremap),
      SCMP_SYS(madvise),
      SCMP_SYS(write),
      SCMP_SYS(writev),
      SCMP_SYS(clock_gettime),
      SCMP_SYS(gettid),
      SCMP_SYS(getpid),
      SCMP_SYS(tgkill),
      SCMP_SYS(rt_sigprocmask),
      SCMP_SYS(rt_sigreturn),
      SCMP_SYS(restart_syscall),
      SCMP_SYS(exit),
      SCMP_SYS(exit_group),
      SCMP_SYS(getrandom),
#ifdef __SANITIZE_ADDRESS__
      // the sanitizer's runtime, in test builds: it clears its shadow of the stack before a function that does not
      // return
      SCMP_SYS(sigaltstack),
      SCMP_SYS(sched_yield),
#endif
  };
  scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
  if (ctx == nullptr) return Failure(Errno::kNomem, "the gofer's system call filter");
  int error = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
  auto allow = [&](int number, auto... comparisons) {
    if (error == 0) error = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, number, sizeof...(comparisons), comparisons...);
  };
  for (int number : kAllowed) allow(number);
  allow(SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  allow(SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  allow(SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_GETFL));
  allow(SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_DUPFD_CLOEXEC));
  allow(SCMP_SYS(getsockopt), SCMP_A1(SCMP_CMP_EQ, SOL_SOCKET), SCMP_A2(SCMP_CMP_EQ, SO_DOMAIN));
  for (auto [family, type] : {std::pair(AF_INET, SOCK_RAW), std::pair(AF_INET6, SOCK_RAW),
                              std::pair(AF_PACKET, SOCK_RAW), std::pair(AF_PACKET, SOCK_DGRAM)}) {
    if (!raw_sockets) break;
    allow(SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(family)),
          SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(type | SOCK_NONBLOCK | SOCK_CLOEXEC)));
  }
  if (error == 0) error = seccomp_load(ctx);
  seccomp_release(ctx);
  if (error != 0) return Failure(static_cast<Errno>(-error), "loading the gofer's system call filter");
  return {};
}

}  // namespace sbx::gofer
