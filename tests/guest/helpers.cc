// What tests execute: `guest_tests --helper NAME ARGS...`.
#include <sys/resource.h>

#include "guest.h"

extern char** environ;

namespace guest {

int run_helper(int argc, char** argv) {
  std::string name = argc > 0 ? argv[0] : "";
  if (name == "exit") return atoi(argv[1]);
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
  if (name == "threads") return (int)field("/proc/self/status", "Threads:");
  if (name == "sleep") {
    sleep_ms(atoi(argv[1]));
    return 0;
  }
  return 99;
}

}  // namespace guest
