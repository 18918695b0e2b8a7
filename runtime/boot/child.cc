#include "runtime/boot/child.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/boot/launch.h"
#include "runtime/boot/stand_in.h"
#include "runtime/host/files.h"
#include "sentry/base/descriptors.h"
#include "sentry/control/boot_config.h"

namespace sbx::boot {
namespace {

[[noreturn]] void give_up(const ChildPlan& plan, const std::string& text) {
  control::send_boot_report(plan.sync_fd, {false, text});
  ::_exit(1);
}

[[noreturn]] void give_up_errno(const ChildPlan& plan, const std::string& what) {
  give_up(plan, what + ": " + std::strerror(errno));
}

void tell(const ChildPlan& plan, char what) {
  if (::write(plan.sync_fd, &what, 1) != 1) ::_exit(1);
}

void await(const ChildPlan& plan, char what) {
  char got = 0;
  ssize_t n;
  do {
    n = ::read(plan.sync_fd, &got, 1);
  } while (n < 0 && errno == EINTR);
  if (n != 1 || got != what) ::_exit(1);  // the runtime is gone or has changed its mind
}

void loopback_up(const ChildPlan& plan) {
  int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;  // a kernel without IPv4
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  if (::ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
    request.ifr_flags |= IFF_UP;
    if (::ioctl(fd, SIOCSIFFLAGS, &request) < 0) give_up_errno(plan, "bringing the loopback interface up");
  }
  ::close(fd);
}

// Leaves the process with an empty read-only directory as root and nothing else mounted.
void empty_root(const ChildPlan& plan) {
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) give_up_errno(plan, "making mounts private");
  int context = static_cast<int>(::syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  if (context < 0) give_up_errno(plan, "fsopen tmpfs");
  ::syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "size", "4096", 0);
  ::syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "nr_inodes", "2", 0);
  ::syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "mode", "0555", 0);
  if (::syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) give_up_errno(plan, "empty root");
  int fd = static_cast<int>(::syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC,
                                      MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (fd < 0) give_up_errno(plan, "empty root");
  // Attached over "/", so that no other directory of the host has to be reachable for us; then made the root itself.
  if (::syscall(SYS_move_mount, fd, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0) give_up_errno(plan, "empty root");
  if (::fchdir(fd) < 0) give_up_errno(plan, "empty root");
  if (::syscall(SYS_pivot_root, ".", ".") == 0) {
    if (::umount2(".", MNT_DETACH) < 0) give_up_errno(plan, "leaving the old root");
  } else {
    // The host's root is its first file system (an initramfs), which cannot be pivoted away: it stays, out of reach.
    if (::chroot(".") < 0) give_up_errno(plan, "empty root");
  }
  if (::chdir("/") < 0) give_up_errno(plan, "empty root");
  ::close(fd);
  ::close(context);
}

// The sentry's sockets are made without capabilities; what the guest may bind the sentry decides
// (net::InetSocket::bind). Never in the host's own network namespace.
void open_ports() {
  (void)host::write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
  (void)host::write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
}

ino_t network_namespace() {
  struct stat s {};
  return ::stat("/proc/self/ns/net", &s) == 0 ? s.st_ino : 0;
}

void write_sysctls(const ChildPlan& plan) {
  for (const auto& [name, value] : plan.sysctls) {
    std::string path = name;
    if (path.find('/') == std::string::npos) std::replace(path.begin(), path.end(), '.', '/');
    auto done = host::write_file("/proc/sys/" + path, value);
    if (!done) give_up(plan, "linux.sysctl[\"" + name + "\"]: " + done.error().message);
  }
}

void inherit(const ChildPlan& plan, const std::vector<int>& fds) {
  ::dup2(plan.null_fd, 0);
  ::dup2(plan.log_fd >= 0 ? plan.log_fd : plan.null_fd, 1);
  ::dup2(plan.log_fd >= 0 ? plan.log_fd : plan.null_fd, 2);
  ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  for (int fd : fds) {
    if (fd >= 0) ::fcntl(fd, F_SETFD, 0);
  }
}

// Replaces the process image by our own binary under another name.
[[noreturn]] void become(const ChildPlan& plan, const char* name, int boot_fd) {
  char number[16];
  std::snprintf(number, sizeof(number), "%d", boot_fd);
  char* argv[] = {const_cast<char*>(name), number, nullptr};
  char* env[] = {nullptr};
#ifdef SBX_STATIC
  ::syscall(SYS_execveat, plan.exe_fd, "", argv, env, AT_EMPTY_PATH);
  give_up_errno(plan, std::string("re-executing as ") + name);
#else
  // A dynamic build (sanitizers) would not find its loader in the empty root: it goes on in the forked image.
  (void)env;
  for (int fd = 3; fd < 1024; ++fd) {
    int flags = ::fcntl(fd, F_GETFD);
    if (flags >= 0 && (flags & FD_CLOEXEC) != 0 && fd != plan.sync_fd) ::close(fd);
  }
  bool gofer = std::strcmp(name, kGoferName) == 0;
  ::_exit(gofer ? run_gofer(2, argv) : run_sentry(2, argv));
#endif
}

// The container's `pid` where another's sentry runs it: waits for the end of its init. Holds nothing but the connection
// and its terminal, and has no capability; that namespace's end is its own.
[[noreturn]] void stand_in_for_init(const ChildPlan& plan) {
  UniqueFd signals = block_passed_signals();
  if (!signals) give_up_errno(plan, "signalfd");
  for (int fd = 0; fd < 3; ++fd) ::dup2(plan.null_fd, fd);
  ::prctl(PR_SET_NAME, "sbx-joined");
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) give_up_errno(plan, "dropping capabilities");
  control::send_boot_report(plan.sync_fd, {true, ""});
  close_all_but({0, 1, 2, plan.stand_in_fd, signals.get(), plan.tty});
  ::_exit(stand_in(plan.stand_in_fd, signals.get(), plan.tty, 0));
}

}  // namespace

void child_main(const ChildPlan& plan) {
  ::close(plan.parent_sync_fd);
  ::setsid();
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signo = 1; signo < 32; ++signo) ::signal(signo, SIG_DFL);

  if (plan.wait_for_maps) {
    tell(plan, 'M');
    await(plan, 'M');
  }
  const ino_t host_network = network_namespace();
  for (const auto& [fd, kind] : plan.join) {
    if (::setns(fd, kind) < 0) give_up_errno(plan, "joining a namespace of linux.namespaces");
  }
  if (plan.unshare_flags != 0 && ::unshare(plan.unshare_flags) < 0) give_up_errno(plan, "making namespaces");
  if (plan.set_ids) {
    (void)::setgroups(0, nullptr);  // refused where setgroups is denied: then there is nothing to drop
    if (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0)
      give_up_errno(plan, "becoming root of the user namespace");
    ::prctl(PR_SET_DUMPABLE, 1);
  }
  if (!plan.hostname.empty() && ::sethostname(plan.hostname.c_str(), plan.hostname.size()) < 0) {
    give_up_errno(plan, "hostname");
  }
  if (!plan.domainname.empty() && ::setdomainname(plan.domainname.c_str(), plan.domainname.size()) < 0) {
    give_up_errno(plan, "domainname");
  }
  if (plan.own_net) loopback_up(plan);
  write_sysctls(plan);
  if (plan.own_net || network_namespace() != host_network) open_ports();
  if (plan.has_oom_score_adj) (void)host::write_file("/proc/self/oom_score_adj", std::to_string(plan.oom_score_adj));
  if (plan.tty >= 0 && ::ioctl(plan.tty, TIOCSCTTY, 0) < 0) give_up_errno(plan, "taking the terminal");
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  // What is forked from here on is in the container's cgroup.
  await(plan, 'A');
  // A mount namespace of its own from the first moment: this one is about to be emptied. It needs /proc and /dev/null
  // to come up and then empties its own root.
  auto gofer = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD | CLONE_NEWNS, nullptr, nullptr, nullptr, nullptr));
  if (gofer < 0) give_up_errno(plan, "making the gofer's process");
  if (gofer == 0) {
    ::setsid();
    ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    inherit(plan, plan.gofer_fds);
    become(plan, kGoferName, plan.gofer_boot_fd);
  }
  empty_root(plan);
  tell(plan, 'P');
  await(plan, 'G');
  if (plan.stand_in_fd >= 0) stand_in_for_init(plan);
  inherit(plan, plan.sentry_fds);
  become(plan, kSentryName, plan.sentry_boot_fd);
}

}  // namespace sbx::boot
