#include "gofer/server/confine.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "sentry/base/bpf_program.h"

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

namespace {

#include "gofer/server/gofer_filter.inc"

}  // namespace

HostResult<void> load_filter(bool sockets, bool raw_sockets) {
  if (sockets) return raw_sockets ? load_bpf(kSocketsAndRaw) : load_bpf(kSockets);
  return raw_sockets ? load_bpf(kRaw) : load_bpf(kPlain);
}

}  // namespace sbx::gofer
