#include "gofer/server/filter_rules.h"

#include <fcntl.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <utility>

#include "gofer/server/socket_kinds.h"
#include "sentry/base/bpf_export.h"

namespace sbx::gofer {

HostResult<std::vector<sock_filter>> gofer_program(bool sockets, bool raw_sockets) {
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
  int error = 0;
  auto allow = [&](int number, auto... comparisons) {
    if (error == 0) error = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, number, sizeof...(comparisons), comparisons...);
  };
  for (int number : kAllowed) allow(number);
  allow(SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  allow(SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  allow(SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_GETFL));
  allow(SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_DUPFD_CLOEXEC));
  allow(SCMP_SYS(getsockopt), SCMP_A1(SCMP_CMP_EQ, SOL_SOCKET), SCMP_A2(SCMP_CMP_EQ, SO_DOMAIN));
  for (const SocketKind& kind : kSocketKinds) {
    if (!(kind.raw ? raw_sockets : sockets)) continue;
    const scmp_arg_cmp family = SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(kind.family));
    const scmp_arg_cmp type = SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(kind.type | SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (kind.protocol < 0)
      allow(SCMP_SYS(socket), family, type);
    else
      allow(SCMP_SYS(socket), family, type, SCMP_A2(SCMP_CMP_EQ, static_cast<scmp_datum_t>(kind.protocol)));
  }
  auto program = export_bpf(ctx);
  seccomp_release(ctx);
  if (error != 0) return Failure(static_cast<Errno>(-error), "the gofer's system call filter");
  return program;
}

}  // namespace sbx::gofer
