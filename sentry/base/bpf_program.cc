#include "sentry/base/bpf_program.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace sbx {

HostResult<void> load_bpf(std::span<const sock_filter> program) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Failure::from_errno("no_new_privs");
  sock_fprog text{static_cast<unsigned short>(program.size()), const_cast<sock_filter*>(program.data())};
  const long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &text);
  if (result < 0) return Failure::from_errno("loading the system call filter");
  if (result > 0) return Failure(Errno::kSrch, "loading the system call filter: a thread has another one");
  return {};
}

}  // namespace sbx
