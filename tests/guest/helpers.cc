// What tests execute: `guest_tests --helper NAME ARGS...`.
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <ucontext.h>

#include "guest.h"

extern char** environ;
extern "C" {
extern char __executable_start, etext;
// getpgid(0) and getppid(), called in two ways.
long helper_getpgid();
long helper_getppid();
}
asm(R"(
  .text
helper_getpgid:
  mov $121, %eax
  mov $0, %edi
  syscall
  ret
helper_getppid:
  mov $110, %eax
  syscall
  ret
)");

namespace guest {
namespace {

volatile sig_atomic_t interruptions, outside;

// Calls from sites that signals interrupt at every instruction: 0 when each call answered right and no handler saw the
// program anywhere but in its own code.
int interrupted(int ms) {
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  action.sa_sigaction = [](int, siginfo_t*, void* context) {
    auto rip = static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
    interruptions = interruptions + 1;
    bool inside = rip >= reinterpret_cast<uintptr_t>(&__executable_start) && rip < reinterpret_cast<uintptr_t>(&etext);
    if (!inside) outside = outside + 1;
  };
  sigaction(SIGALRM, &action, nullptr);
  const long group = getpgrp(), parent = getppid();
  const int64_t end = now_ms() + ms;  // before the timer: the clock may be read in the vDSO
  itimerval timer{{0, 100}, {0, 100}}, off{};
  int wrong = 0;
  for (bool more = true; more && wrong == 0;) {
    setitimer(ITIMER_REAL, &timer, nullptr);
    for (int i = 0; i < 20000; i++) {
      if (helper_getpgid() != group) wrong |= 1;
      if (helper_getppid() != parent) wrong |= 2;
    }
    setitimer(ITIMER_REAL, &off, nullptr);
    more = now_ms() < end;
  }
  if (outside != 0) wrong |= 4;
  if (interruptions == 0) wrong |= 8;
  return wrong;
}

}  // namespace

int run_helper(int argc, char** argv) {
  std::string name = argc > 0 ? argv[0] : "";
  if (name == "exit") return atoi(argv[1]);
  if (name == "actions-unset") {
    for (int s : {SIGHUP, SIGUSR1, SIGALRM, SIGRTMAX}) {
      uint64_t now[4] = {1, 1, 1, 1};
      if (syscall(SYS_rt_sigaction, s, nullptr, now, 8) != 0 || (now[0] | now[1] | now[2] | now[3]) != 0) return s;
    }
    return 0;
  }
  if (name == "euid") return geteuid() == 0 ? 0 : 1;
  if (name == "uname-fails") {
    utsname u;
    return uname(&u) == -1 && errno == ENOLINK ? 0 : 1;
  }
  // So many bytes of standard input to standard output, one by one.
  if (name == "copy") {
    for (int i = atoi(argv[1]); i > 0; --i) {
      char byte;
      if (read(0, &byte, 1) != 1 || write(1, &byte, 1) != 1) return 1;
    }
    return 0;
  }
  if (name == "read-stdin") {
    char byte = 0;
    return read(0, &byte, 1) == 1 ? byte : 0;
  }
  if (name == "interrupted") return interrupted(atoi(argv[1]));
  if (name == "print-args") {
    for (int i = 1; i < argc; i++) printf("[%s]", argv[i]);
    for (char** e = environ; *e; e++)
      if (!strncmp(*e, "GUEST_", 6)) printf("{%s}", *e);
    printf("\n");
    return 0;
  }
  // Exit status is a bit mask: which of the given descriptors are open.
  if (name == "open-fds") {
    int mask = 0;
    for (int i = 1; i < argc; i++)
      if (fcntl(atoi(argv[i]), F_GETFD) >= 0) mask |= 1 << (i - 1);
    return mask;
  }
  // 1: the signal is blocked, 2: ignored, 4: pending.
  if (name == "signal-state") {
    int signo = atoi(argv[1]), bits = 0;
    sigset_t set;
    sigprocmask(SIG_BLOCK, nullptr, &set);
    if (sigismember(&set, signo)) bits |= 1;
    struct sigaction action;
    sigaction(signo, nullptr, &action);
    if (action.sa_handler == SIG_IGN) bits |= 2;
    sigpending(&set);
    if (sigismember(&set, signo)) bits |= 4;
    return bits;
  }
  // 0 when pid, pgid and sid are the given ones.
  if (name == "ids") return !(getpid() == atoi(argv[1]) && getpgrp() == atoi(argv[2]) && getsid(0) == atoi(argv[3]));
  if (name == "cpus") {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
  }
  if (name == "threads") return (int)field("/proc/self/status", "Threads:");
  if (name == "sleep") {
    sleep_ms(atoi(argv[1]));
    return 0;
  }
  return 99;
}

}  // namespace guest
