// What rt_sigaction(2) tells of signals: queries, and defaults for what has its default already, both of which a
// sandbox may answer without looking far.
#include <signal.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "guest.h"
using namespace guest;

static void count(int) {}
static void install(int signo, void (*handler)(int), int flags = 0) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  OK(sigaction(signo, &action, nullptr));
}

// What rt_sigaction(2) tells of a signal: as asked by this thread, or by a process that shares the table.
struct KernelAction {
  uint64_t handler, flags, restorer, mask;
};
static KernelAction told(int signo) {
  KernelAction now = {~0ull, ~0ull, ~0ull, ~0ull};
  OK(syscall(SYS_rt_sigaction, signo, nullptr, &now, 8));
  return now;
}
static bool unset(int signo) {
  KernelAction now = told(signo);
  return now.handler == 0 && now.flags == 0 && now.restorer == 0 && now.mask == 0;
}

TEST(signals, queries) {
  for (int s : {SIGHUP, SIGKILL, SIGSTOP, SIGUSR2, SIGRTMAX}) CHECK(unset(s));
  FAILS(syscall(SYS_rt_sigaction, SIGHUP, nullptr, 16, 8), EFAULT);
  OK(syscall(SYS_rt_sigaction, SIGHUP, nullptr, nullptr, 8));
  // Set by one thread, seen by all, and by who shares the table without being one.
  std::atomic<int> step{0};
  uint64_t seen = 0;
  std::thread other([&] {
    CHECK(unset(SIGUSR1));
    step = 1;
    while (step != 2) sched_yield();
    seen = told(SIGUSR1).handler;
  });
  while (step != 1) sched_yield();
  install(SIGUSR1, count, SA_RESTART);
  step = 2;
  other.join();
  CHECK_EQ(seen, reinterpret_cast<uint64_t>(count));
  static char stack[65536] __attribute__((aligned(16)));
  static std::atomic<bool> ready, set;
  auto sharer = [](void*) {
    bool was_unset = unset(SIGUSR2);
    ready = true;
    while (!set) sched_yield();
    return was_unset && told(SIGUSR2).handler == reinterpret_cast<uint64_t>(count) ? 0 : 1;
  };
  // CLONE_VFORK it must not be: both run.
  int pid = clone(sharer, stack + sizeof(stack), CLONE_VM | CLONE_SIGHAND | SIGCHLD, nullptr);
  CHECK(pid > 0);
  while (!ready) sched_yield();
  install(SIGUSR2, count);
  set = true;
  WAIT_OK(pid);
  // Default, but not as it was.
  install(SIGUSR1, SIG_DFL, SA_RESTART);
  CHECK_EQ(told(SIGUSR1).flags & SA_RESTART, static_cast<uint64_t>(SA_RESTART));
  WAIT_OK(spawn([] { return (told(SIGUSR1).flags & SA_RESTART) != 0 && unset(SIGHUP) ? 0 : 1; }));
}

// As posix_spawn does for each signal in the child: the default for what has it already.
static bool made_default(int signo, uint64_t restorer) {
  KernelAction now = told(signo);
  return now.handler == 0 && now.flags == 0x04000000 && now.restorer == restorer && now.mask == 0;
}

TEST(signals, default_for_what_is_default) {
  static constexpr uint64_t kRestorer = 0x04000000;
  auto make = [](int signo, uint64_t restorer, KernelAction* old = nullptr, uint64_t flags = 0x04000000) {
    const KernelAction action = {0, flags, restorer, 0};
    return syscall(SYS_rt_sigaction, signo, &action, old, 8);
  };
  KernelAction old = {1, 1, 1, 1};
  for (int s = 1; s <= 64; ++s) {
    if (s == SIGKILL || s == SIGSTOP) {
      FAILS(make(s, 0x1000), EINVAL);
      continue;
    }
    if (!unset(s)) continue;  // the C library's own
    OK(make(s, 0x1000, &old));
    CHECK(old.handler == 0 && old.flags == 0 && old.restorer == 0 && old.mask == 0);
    if (s % 3 == 0) CHECK(made_default(s, 0x1000));
  }
  for (int s : {SIGHUP, SIGCHLD, SIGUSR1, SIGRTMAX}) CHECK(made_default(s, 0x1000));
  WAIT_OK(spawn([] { return made_default(SIGUSR2, 0x1000) && made_default(SIGTERM, 0x1000) ? 0 : 1; }));
  FAILS(syscall(SYS_rt_sigaction, SIGHUP, 16, nullptr, 8), EFAULT);
  CHECK(made_default(SIGHUP, 0x1000));
  OK(make(SIGHUP, 0x2000, &old));
  CHECK(old.restorer == 0x1000 && made_default(SIGHUP, 0x2000));
  OK(make(SIGHUP, 0x2000, nullptr, kRestorer | SA_RESTART));
  CHECK_EQ(told(SIGHUP).flags, kRestorer | SA_RESTART);

  // In children that begin with all unset, and end with what they were left with.
  WAIT_OK(spawn([&] {
    if (!made_default(SIGALRM, 0x1000)) return 1;
    // A new image has none of it.
    execl("/proc/self/exe", "guest_tests", "--helper", "actions-unset", nullptr);
    return 2;
  }));
  // Another thread sees what one has set; another process that shares the table, too.
  WAIT_OK(spawn([&] {
    uint64_t restorer = 0x3000;
    make(SIGUSR1, restorer);
    std::atomic<int> step{0};
    bool seen = false, later = false;
    std::thread other([&] {
      seen = made_default(SIGUSR1, 0x3000);
      step = 1;
      while (step != 2) sched_yield();
      later = made_default(SIGUSR2, 0x4000);
    });
    while (step != 1) sched_yield();
    make(SIGUSR2, 0x4000);
    step = 2;
    other.join();
    return seen && later ? 0 : 1;
  }));
}

// What is ignored by default and pending is discarded by setting the default again (POSIX 3.3.1.3).
TEST(signals, default_discards_pending) {
  sigset_t set, pending;
  sigemptyset(&set);
  sigaddset(&set, SIGURG);
  sigaddset(&set, SIGUSR1);
  OK(sigprocmask(SIG_BLOCK, &set, nullptr));
  OK(raise(SIGURG));
  OK(raise(SIGUSR1));
  sigpending(&pending);
  const KernelAction action = {0, 0x04000000, 0x1000, 0};
  OK(syscall(SYS_rt_sigaction, SIGURG, &action, nullptr, 8));
  OK(syscall(SYS_rt_sigaction, SIGUSR1, &action, nullptr, 8));
  sigpending(&pending);
  CHECK_EQ(sigismember(&pending, SIGURG), 0);
  CHECK_EQ(sigismember(&pending, SIGUSR1), 1);
}
