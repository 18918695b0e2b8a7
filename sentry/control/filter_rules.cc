#include "sentry/control/filter_rules.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>

#include <iterator>

#include "sentry/base/bpf_export.h"
#include "sentry/base/log.h"
#include "sentry/net/inet_options.h"

namespace sbx::control {

namespace {

struct Rule {
  const char* name;
  const char* why;
};

// Allowed with any arguments. No open, exec, ptrace, mount, setuid: a taken-over sentry reaches what it holds.
constexpr Rule kPlain[] = {
    {"read", "host descriptors"},
    {"readv", "host descriptors"},
    {"pread64", "file data"},
    {"preadv", "file data"},
    {"preadv2", "file data without blocking"},
    {"write", "host descriptors"},
    {"writev", "host descriptors"},
    {"pwrite64", "file data"},
    {"pwritev", "file data"},
    {"pwritev2", "file data without blocking"},
    {"close", "descriptors"},
    {"close_range", "descriptors"},
    {"dup", "descriptors"},
    {"dup3", "descriptors"},
    {"fstat", "attributes of donated descriptors"},
    {"newfstatat", "fstat of the C library; the root is empty"},
    {"fstatfs", "statfs of donated descriptors"},
    {"statx", "attributes of donated descriptors; the root is empty"},
    {"lseek", "SEEK_DATA, SEEK_HOLE, host stdio"},
    {"ftruncate", "file sizes"},
    {"fallocate", "file space"},
    {"fsync", "durability"},
    {"fdatasync", "durability"},
    {"sync_file_range", "durability"},
    {"syncfs", "durability"},
    {"fadvise64", "read-ahead"},
    {"readahead", "read-ahead"},
    {"copy_file_range", "file data"},
    {"sendfile", "file data"},
    {"splice", "file data"},
    {"flock", "donated descriptors"},
    {"pipe2", "wake-ups"},
    {"munmap", "memory"},
    {"mremap", "memory"},
    {"madvise", "memory"},
    {"brk", "memory"},
    {"mincore", "memory"},
    {"memfd_create", "tmpfs files and slots"},
    {"msync", "shared file windows"},
    {"futex", "locks, gofer hand-over"},
    {"sched_yield", "spinning"},
    {"sched_getaffinity", "CPU count"},
    {"sched_setaffinity", "gofer lanes"},
    {"getcpu", "gofer lanes"},
    {"membarrier", "patched code"},
    {"epoll_create1", "reactor"},
    {"epoll_ctl", "reactor"},
    {"epoll_wait", "reactor"},
    {"epoll_pwait", "reactor"},
    {"eventfd2", "reactor"},
    {"timerfd_create", "reactor"},
    {"timerfd_settime", "reactor"},
    {"signalfd4", "SIGCHLD"},
    {"poll", "host stdio"},
    {"ppoll", "host stdio"},
    {"accept4", "control socket"},
    {"recvmsg", "control socket, gofer"},
    {"sendmsg", "control socket, gofer"},
    {"recvfrom", "control socket, gofer, host stdio"},
    {"sendto", "control socket, gofer, host stdio"},
    {"shutdown", "host stdio, network"},
    {"bind", "network"},
    {"connect", "network"},
    {"listen", "network"},
    {"getsockname", "network"},
    {"getpeername", "network"},
    {"process_vm_readv", "guest memory"},
    {"process_vm_writev", "guest memory"},
    {"kill", "stubs (own pid namespace)"},
    {"tgkill", "kicks"},
    {"tkill", "kicks"},
    {"wait4", "stubs"},
    {"waitid", "stubs"},
    {"clock_gettime", "time, CPU clocks of stubs"},
    {"clock_getres", "time"},
    {"clock_nanosleep", "back-off"},
    {"nanosleep", "back-off"},
    {"gettimeofday", "time"},
    {"times", "time"},
    {"getrandom", "cookies, AT_RANDOM, /dev/urandom"},
    {"sysinfo", "/proc/meminfo, sysinfo"},
    {"getrusage", "spin policy"},
    {"uname", "C library"},
    {"getpid", "own id"},
    {"gettid", "own id"},
    {"getppid", "own id"},
    {"getuid", "own id"},
    {"geteuid", "own id"},
    {"getgid", "own id"},
    {"getegid", "own id"},
    {"rt_sigaction", "C library"},
    {"rt_sigprocmask", "C library"},
    {"rt_sigreturn", "C library"},
    {"rt_sigtimedwait", "C library"},
    {"sigaltstack", "C library"},
    {"set_robust_list", "threads"},
    {"rseq", "threads"},
    {"set_tid_address", "threads"},
    {"prlimit64", "C library: stack size of threads"},
    {"getrlimit", "C library"},
    {"restart_syscall", "interrupted sleeps"},
    {"exit", "threads"},
    {"exit_group", "end"},
};

constexpr u64 kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

struct Ioctl {
  u64 number;
  const char* why;
};
constexpr Ioctl kIoctls[] = {
    {TIOCGWINSZ, "size of the host's terminal"},
    {TCGETS, "host terminal"},
    {TCSETS, "host terminal: raw mode"},
    {FIONREAD, "host stdio"},
    {FIONBIO, "host stdio"},
    // SECCOMP_IOCTL_NOTIF_*: the doorbell.
    {0xc0502100, "NOTIF_RECV"},
    {0xc0182101, "NOTIF_SEND"},
    {0x40082102, "NOTIF_ID_VALID"},
    {0x40182103, "NOTIF_ADDFD"},
    {0x40082104, "NOTIF_SET_FLAGS"},
    {TIOCOUTQ, "network"},
    {SIOCATMARK, "network"},
    {SIOCGIFCONF, "network: interfaces of the container's namespace"},
};

// Sockets of the container's network namespace: no others, and none that needs a capability.
struct SocketKind {
  u64 type, protocol;
};
constexpr SocketKind kSocketKinds[] = {
    {SOCK_STREAM, 0},          {SOCK_STREAM, IPPROTO_TCP}, {SOCK_DGRAM, 0},
    {SOCK_DGRAM, IPPROTO_UDP}, {SOCK_DGRAM, IPPROTO_ICMP}, {SOCK_DGRAM, IPPROTO_ICMPV6},
};

}  // namespace

std::vector<std::string> sentry_surface() {
  std::vector<std::string> out;
  for (const Rule& rule : kPlain) out.push_back(str_printf("%s: %s", rule.name, rule.why));
  for (const Ioctl& i : kIoctls)
    out.push_back(str_printf("ioctl %#llx: %s", static_cast<unsigned long long>(i.number), i.why));
  out.emplace_back("mmap, mprotect: never writable and executable together");
  out.emplace_back("fcntl: F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS");
  out.emplace_back("clone: threads only");
  out.emplace_back(
      "socket: AF_INET and AF_INET6; stream (TCP), datagram (UDP, ICMP echo); AF_NETLINK: route, sock_diag");
  out.emplace_back("socket: AF_UNIX, only where a socket of the host is mounted or annotated (the gofer connects it)");
  for (const net::HostOption& o : net::kHostOptions) {
    out.push_back(
        str_printf("%ssockopt level %d, option %d: network", o.settable ? "get, set" : "get", o.level, o.name));
  }
  for (const net::HostOption& o : net::kRawOptions) {
    out.push_back(str_printf("%ssockopt level %d, option %d: raw and packet sockets, only with CAP_NET_RAW",
                             o.settable ? "get, set" : "get", o.level, o.name));
  }
  for (u32 number : net::kInterfaceIoctls) out.push_back(str_printf("ioctl %#x: network interfaces", number));
  out.emplace_back("prctl: PR_SET_NAME");
  return out;
}

HostResult<std::vector<sock_filter>> sentry_program(bool unix_sockets, bool raw_sockets) {
  scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
  if (ctx == nullptr) return Failure("sentry filter: out of memory");
  int bad = 0;
  auto check = [&bad](int rc) { bad = rc != 0 && bad == 0 ? rc : bad; };
  for (const Rule& rule : kPlain) {
    int nr = seccomp_syscall_resolve_name(rule.name);
    if (nr >= 0) check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0));
  }
  for (const Ioctl& i : kIoctls) {
    check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, i.number)));
  }
  for (u32 number : net::kInterfaceIoctls) {
    check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, number)));
  }
  for (u64 family : {AF_INET, AF_INET6}) {
    for (const SocketKind& kind : kSocketKinds) {
      check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3, SCMP_A0(SCMP_CMP_EQ, family),
                             SCMP_A1(SCMP_CMP_EQ, kind.type | SOCK_NONBLOCK | SOCK_CLOEXEC),
                             SCMP_A2(SCMP_CMP_EQ, kind.protocol)));
    }
  }
  for (int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    if (!unix_sockets) break;
    check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3, SCMP_A0(SCMP_CMP_EQ, AF_UNIX),
                           SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(type | SOCK_NONBLOCK | SOCK_CLOEXEC)),
                           SCMP_A2(SCMP_CMP_EQ, 0)));
  }
  for (u64 protocol : {NETLINK_ROUTE, NETLINK_SOCK_DIAG}) {
    check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3, SCMP_A0(SCMP_CMP_EQ, AF_NETLINK),
                           SCMP_A1(SCMP_CMP_EQ, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC),
                           SCMP_A2(SCMP_CMP_EQ, protocol)));
  }
  auto option = [&](int nr, int level, int name) {
    check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 2, SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(level)),
                           SCMP_A2(SCMP_CMP_EQ, static_cast<scmp_datum_t>(name))));
  };
  option(SCMP_SYS(getsockopt), SOL_SOCKET, SO_PEERCRED);  // the control socket's peer
  for (const net::HostOption& o : net::kHostOptions) {
    option(SCMP_SYS(getsockopt), o.level, o.name);
    if (o.settable) option(SCMP_SYS(setsockopt), o.level, o.name);
  }
  for (const net::HostOption& o : net::kRawOptions) {
    if (!raw_sockets) break;
    option(SCMP_SYS(getsockopt), o.level, o.name);
    if (o.settable) option(SCMP_SYS(setsockopt), o.level, o.name);
  }
  for (int cmd : {F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS}) {
    check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                           SCMP_A1(SCMP_CMP_EQ, static_cast<scmp_datum_t>(cmd))));
  }
  for (int nr : {SCMP_SYS(mmap), SCMP_SYS(mprotect)}) {
    check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)));
  }
  check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                         SCMP_A0(SCMP_CMP_MASKED_EQ, kThreadFlags, kThreadFlags)));
  // clone3's flags are out of a filter's sight: the C library falls back to clone.
  check(seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0));
  check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME)));
  check(seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2));
  auto program = export_bpf(ctx);
  seccomp_release(ctx);
  if (bad != 0) return Failure(static_cast<Errno>(-bad), str_printf("sentry filter: error %d", -bad));
  return program;
}

}  // namespace sbx::control
