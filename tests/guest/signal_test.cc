// Signals: delivery, masks, queues, frames, interruption of blocking calls.
#include <asm/sockios.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>

#include <atomic>
#include <thread>

#include "guest.h"
using namespace guest;

static volatile sig_atomic_t hits, last_signo;
static siginfo_t last_info;
static void count(int signo) {
  hits = hits + 1;
  last_signo = signo;
}
static void count_info(int signo, siginfo_t* info, void*) {
  count(signo);
  last_info = *info;
}

static void install(int signo, void (*handler)(int), int flags = 0) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  OK(sigaction(signo, &action, nullptr));
}
static void install_info(int signo, void (*handler)(int, siginfo_t*, void*), int flags = 0) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = flags | SA_SIGINFO;
  OK(sigaction(signo, &action, nullptr));
}
static sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int s : signals) sigaddset(&set, s);
  return set;
}
static void mask(int how, std::initializer_list<int> signals) {
  sigset_t set = set_of(signals);
  OK(sigprocmask(how, &set, nullptr));
}
static bool pending(int signo) {
  sigset_t set;
  sigpending(&set);
  return sigismember(&set, signo) == 1;
}

TEST(signals, handler_runs) {
  install(SIGUSR1, count);
  OK(raise(SIGUSR1));
  CHECK_EQ(hits, 1);
  OK(kill(getpid(), SIGUSR1));
  CHECK_EQ(hits, 2);
  CHECK_EQ(last_signo, SIGUSR1);
  OK(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1));
  CHECK_EQ(hits, 3);
  struct sigaction now;
  OK(sigaction(SIGUSR1, nullptr, &now));
  CHECK(now.sa_handler == count);
}

TEST(signals, bad_arguments) {
  struct sigaction action = {};
  FAILS(sigaction(SIGKILL, &action, nullptr), EINVAL);
  FAILS(syscall(SYS_rt_sigaction, SIGSTOP, (void*)&action, nullptr, 8), EINVAL);
  FAILS(syscall(SYS_rt_sigaction, 65, nullptr, nullptr, 8), EINVAL);
  FAILS(syscall(SYS_rt_sigaction, SIGUSR1, nullptr, nullptr, 4), EINVAL);
  FAILS(kill(getpid(), 65), EINVAL);
  FAILS(kill(999999, SIGUSR1), ESRCH);
  OK(kill(getpid(), 0));
  FAILS(sigprocmask(77, &action.sa_mask, nullptr), EINVAL);
  // The mask cannot hold SIGKILL and SIGSTOP.
  mask(SIG_BLOCK, {SIGKILL, SIGSTOP, SIGUSR1});
  sigset_t set;
  sigprocmask(SIG_BLOCK, nullptr, &set);
  CHECK(!sigismember(&set, SIGKILL) && !sigismember(&set, SIGSTOP) && sigismember(&set, SIGUSR1));
}

TEST(signals, mask_and_pending) {
  install(SIGUSR1, count);
  mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  raise(SIGUSR1);
  CHECK_EQ(hits, 0);
  CHECK(pending(SIGUSR1));
  mask(SIG_UNBLOCK, {SIGUSR1});
  CHECK_EQ(hits, 1);  // standard signals do not queue
  CHECK(!pending(SIGUSR1));
  mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  signal(SIGUSR1, SIG_IGN);  // setting to ignore discards
  CHECK(!pending(SIGUSR1));
}

TEST(signals, handler_mask_and_nodefer) {
  static int depth, deepest, runs;
  depth = deepest = runs = 0;
  auto nested = [](int s) {
    depth++;
    if (depth > deepest) deepest = depth;
    if (++runs < 3) raise(s);
    depth--;
  };
  install(SIGUSR1, nested);
  raise(SIGUSR1);
  CHECK_EQ(deepest, 1);
  CHECK_EQ(runs, 3);
  depth = deepest = runs = 0;
  install(SIGUSR1, nested, SA_NODEFER);
  raise(SIGUSR1);
  CHECK_EQ(deepest, 3);
  static bool other_blocked;
  struct sigaction action = {};
  action.sa_handler = [](int) {
    sigset_t set;
    sigprocmask(SIG_BLOCK, nullptr, &set);
    other_blocked = sigismember(&set, SIGUSR2) && sigismember(&set, SIGUSR1);
  };
  action.sa_mask = set_of({SIGUSR2});
  OK(sigaction(SIGUSR1, &action, nullptr));
  raise(SIGUSR1);
  CHECK(other_blocked);
  sigset_t set;
  sigprocmask(SIG_BLOCK, nullptr, &set);
  CHECK(!sigismember(&set, SIGUSR1) && !sigismember(&set, SIGUSR2));
}

TEST(signals, resethand) {
  install(SIGUSR1, count, SA_RESETHAND);
  raise(SIGUSR1);
  CHECK_EQ(hits, 1);
  struct sigaction now;
  OK(sigaction(SIGUSR1, nullptr, &now));
  CHECK(now.sa_handler == SIG_DFL);
}

TEST(signals, default_actions) {
  for (int s : {SIGCHLD, SIGURG, SIGWINCH, SIGCONT}) OK(raise(s));
  CHECK_EQ(WTERMSIG(wait_status(spawn([] { return raise(SIGHUP); }))), SIGHUP);
  CHECK_EQ(WTERMSIG(wait_status(spawn([] {
             signal(SIGALRM, SIG_DFL);
             alarm(1);
             for (;;) pause();
             return 0;
           }))),
           SIGALRM);
}

TEST(signals, siginfo) {
  install_info(SIGUSR1, count_info);
  OK(kill(getpid(), SIGUSR1));
  CHECK_EQ(last_info.si_code, SI_USER);
  CHECK_EQ(last_info.si_pid, getpid());
  CHECK_EQ(last_info.si_uid, getuid());
  raise(SIGUSR1);
  CHECK_EQ(last_info.si_code, SI_TKILL);
  sigval value;
  value.sival_int = 4711;
  OK(sigqueue(getpid(), SIGUSR1, value));
  CHECK_EQ(last_info.si_code, SI_QUEUE);
  CHECK_EQ(last_info.si_value.sival_int, 4711);
  install_info(SIGCHLD, count_info);
  pid_t pid = spawn([] { return 5; });
  CHECK(eventually([&] { return last_info.si_signo == SIGCHLD; }));
  CHECK_EQ(last_info.si_pid, pid);
  CHECK_EQ(last_info.si_code, CLD_EXITED);
  CHECK_EQ(last_info.si_status, 5);
  wait_status(pid);
}

TEST(signals, realtime_queue_in_order) {
  static int order[20], n;
  n = 0;
  auto note = [](int, siginfo_t* info, void*) {
    if (n < 20) order[n++] = info->si_value.sival_int;
  };
  install_info(SIGRTMIN, note);
  install_info(SIGRTMIN + 1, note);
  mask(SIG_BLOCK, {SIGRTMIN, SIGRTMIN + 1});
  sigval value;
  for (int i = 0; i < 5; i++) {
    value.sival_int = 100 + i;
    OK(sigqueue(getpid(), SIGRTMIN + 1, value));
    value.sival_int = i;
    OK(sigqueue(getpid(), SIGRTMIN, value));
  }
  // Taken one by one: lowest number first, in the order sent.
  for (int i = 0; i < 10; i++) {
    sigset_t both = set_of({SIGRTMIN, SIGRTMIN + 1});
    siginfo_t info;
    CHECK_EQ(sigwaitinfo(&both, &info), i < 5 ? SIGRTMIN : SIGRTMIN + 1);
    CHECK_EQ(info.si_value.sival_int, i < 5 ? i : 95 + i);
  }
  for (int i = 0; i < 5; i++) {
    value.sival_int = i;
    OK(sigqueue(getpid(), SIGRTMIN, value));
  }
  mask(SIG_UNBLOCK, {SIGRTMIN});
  CHECK_EQ(n, 5);
  for (int i = 0; i < 5; i++) CHECK_EQ(order[i], i);
}

TEST(signals, sigsuspend) {
  install(SIGUSR1, count);
  mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  sigset_t none;
  sigemptyset(&none);
  FAILS(sigsuspend(&none), EINTR);
  CHECK_EQ(hits, 1);
  sigset_t now;
  sigprocmask(SIG_BLOCK, nullptr, &now);
  CHECK(sigismember(&now, SIGUSR1));
  pid_t parent = getpid();
  pid_t pid = spawn([=] {
    sleep_ms(30);
    return kill(parent, SIGUSR1);
  });
  FAILS(sigsuspend(&none), EINTR);
  CHECK_EQ(hits, 2);
  WAIT_OK(pid);
}

TEST(signals, sigtimedwait) {
  mask(SIG_BLOCK, {SIGUSR1, SIGUSR2, SIGCHLD});
  sigset_t set = set_of({SIGUSR1});
  timespec limit{0, 20000000};
  FAILS(sigtimedwait(&set, nullptr, &limit), EAGAIN);
  raise(SIGUSR1);
  siginfo_t info;
  CHECK_EQ(sigtimedwait(&set, &info, &limit), SIGUSR1);
  CHECK_EQ(info.si_pid, getpid());
  pid_t parent = getpid();
  pid_t pid = spawn([=] {
    sleep_ms(30);
    return kill(parent, SIGUSR1);
  });
  limit.tv_sec = 5;
  CHECK_EQ(sigtimedwait(&set, &info, &limit), SIGUSR1);
  CHECK_EQ(info.si_pid, pid);
  WAIT_OK(pid);
  install(SIGUSR2, count);
  mask(SIG_UNBLOCK, {SIGUSR2});
  pid = spawn([=] {
    sleep_ms(30);
    return kill(parent, SIGUSR2);
  });
  FAILS(sigtimedwait(&set, &info, &limit), EINTR);
  CHECK_EQ(hits, 1);
  WAIT_OK(pid);
}

TEST(signals, alternate_stack) {
  static char* base;
  static bool inside;
  size_t size = 65536;
  base = (char*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  stack_t stack{base, 0, size}, now;
  OK(sigaltstack(&stack, nullptr));
  install(
      SIGUSR1,
      [](int) {
        char here;
        stack_t s;
        sigaltstack(nullptr, &s);
        inside = &here > base && &here < base + 65536 && (s.ss_flags & SS_ONSTACK);
        stack_t other = {base, 0, 65536};
        if (sigaltstack(&other, nullptr) != -1 || errno != EPERM) inside = false;
      },
      SA_ONSTACK);
  raise(SIGUSR1);
  CHECK(inside);
  OK(sigaltstack(nullptr, &now));
  CHECK_EQ(now.ss_flags, 0);
  CHECK(now.ss_sp == base);
  stack.ss_size = 100;
  FAILS(sigaltstack(&stack, nullptr), ENOMEM);
  stack.ss_flags = SS_DISABLE;
  OK(sigaltstack(&stack, nullptr));
  OK(sigaltstack(nullptr, &now));
  CHECK_EQ(now.ss_flags, SS_DISABLE);
}

static sigjmp_buf back;
static void* fault_address;

TEST(signals, fault_handler_and_longjmp) {
  install_info(SIGSEGV, [](int, siginfo_t* info, void*) {
    last_info = *info;
    siglongjmp(back, 1);
  });
  char* page = (char*)mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 50; i++) {
    if (sigsetjmp(back, 1) == 0) {
      page[100] = 1;
      FAIL("the write went through");
    }
    CHECK_EQ(last_info.si_code, SEGV_ACCERR);
    CHECK(last_info.si_addr == page + 100);
    if (sigsetjmp(back, 1) == 0) {
      *(volatile char*)24 = 1;
      FAIL("the write went through");
    }
    CHECK_EQ(last_info.si_code, SEGV_MAPERR);
    CHECK(last_info.si_addr == (void*)24);
  }
  sigset_t now;
  sigprocmask(SIG_BLOCK, nullptr, &now);
  CHECK(!sigismember(&now, SIGSEGV));
}

TEST(signals, fault_handler_repairs) {
  static char* page;
  page = (char*)mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  install_info(SIGSEGV, [](int, siginfo_t* info, void*) {
    fault_address = info->si_addr;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    hits = hits + 1;
  });
  page[7] = 42;
  CHECK_EQ(page[7], 42);
  CHECK(fault_address == page + 7);
  CHECK_EQ(hits, 1);
}

TEST(signals, synchronous_faults) {
  auto code = [](int signo, void (*act)()) {
    install_info(signo, [](int, siginfo_t* info, void*) {
      last_info = *info;
      siglongjmp(back, 1);
    });
    if (sigsetjmp(back, 1) == 0) {
      act();
      FAIL("no signal came");
    }
    CHECK_EQ(last_info.si_signo, signo);
    return last_info.si_code;
  };
  CHECK_EQ(code(SIGFPE,
                [] {
                  volatile int zero = 0, one = 1;
                  zero = one / zero;
                }),
           FPE_INTDIV);
  CHECK_EQ(code(SIGILL, [] { asm volatile("ud2"); }), ILL_ILLOPN);
  CHECK_EQ(code(SIGTRAP, [] { asm volatile("int3"); }), SI_KERNEL);
  spew("f", "");
  CHECK_EQ(code(SIGBUS,
                [] {
                  int fd = open("f", O_RDWR);
                  char* map = (char*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                  *(volatile char*)map = 1;
                }),
           BUS_ADRERR);
  // Ignoring or blocking a synchronous fault does not help.
  CHECK_EQ(WTERMSIG(wait_status(spawn([] {
             signal(SIGSEGV, SIG_IGN);
             *(volatile char*)24 = 1;
             return 0;
           }))),
           SIGSEGV);
  CHECK_EQ(WTERMSIG(wait_status(spawn([] {
             install(SIGSEGV, count);
             mask(SIG_BLOCK, {SIGSEGV});
             *(volatile char*)24 = 1;
             return 0;
           }))),
           SIGSEGV);
}

TEST(signals, handler_sees_and_changes_registers) {
  install_info(SIGILL, [](int, siginfo_t*, void* context) {
    auto* uc = (ucontext_t*)context;
    if (uc->uc_mcontext.gregs[REG_RBX] != 0x1234) _exit(9);
    uc->uc_mcontext.gregs[REG_RBX] = 0x5678;
    uc->uc_mcontext.gregs[REG_RIP] += 2;
  });
  long rbx = 0x1234;
  asm volatile("ud2" : "+b"(rbx));
  CHECK_EQ(rbx, 0x5678);
}

TEST(signals, context_holds_the_mask) {
  static bool seen;
  mask(SIG_BLOCK, {SIGUSR2});
  install_info(SIGUSR1, [](int, siginfo_t*, void* context) {
    auto* uc = (ucontext_t*)context;
    seen = sigismember(&uc->uc_sigmask, SIGUSR2) && !sigismember(&uc->uc_sigmask, SIGUSR1);
    sigaddset(&uc->uc_sigmask, SIGHUP);
  });
  raise(SIGUSR1);
  CHECK(seen);
  sigset_t now;
  sigprocmask(SIG_BLOCK, nullptr, &now);
  CHECK(sigismember(&now, SIGHUP) && sigismember(&now, SIGUSR2));
}

// Vector and x87 state survives handlers that use both, with an asynchronous signal at any instruction.
TEST(signals, floating_point_is_preserved) {
  install(SIGALRM, [](int) {
    volatile double x = 1;
    for (int i = 0; i < 20; i++) x = sqrt(x + i) * 1.7;
    volatile long double y = x;
    y = y * y;
    hits = hits + 1;
  });
  itimerval every{{0, 500}, {0, 500}}, off = {};
  OK(setitimer(ITIMER_REAL, &every, nullptr));
  int64_t end = now_ms() + 500;
  while (now_ms() < end) {
    double a[4] = {1.5, 2.5, 3.5, 4.5};
    long double e = 1.0L / 3;
    asm volatile("" : "+m"(a), "+m"(e));
    double s0 = a[0], s1 = a[1], s2 = a[2], s3 = a[3];
    for (int i = 0; i < 20000; i++) {
      asm volatile("" : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3));
      asm volatile("" : "+t"(e));
    }
    CHECK(s0 == 1.5 && s1 == 2.5 && s2 == 3.5 && s3 == 4.5 && e == 1.0L / 3);
  }
  setitimer(ITIMER_REAL, &off, nullptr);
  CHECK(hits > 20);
}

TEST(signals, registers_survive_at_syscalls) {
  install(SIGALRM, count);
  itimerval every{{0, 300}, {0, 300}}, off = {};
  OK(setitimer(ITIMER_REAL, &every, nullptr));
  int64_t end = now_ms() + 500;
  pid_t pid = getpid(), parent = getppid();
  while (now_ms() < end)
    for (int i = 0; i < 500; i++) {
      CHECK_EQ(getppid(), parent);
      CHECK_EQ(syscall(SYS_getpid), pid);
      struct stat st;
      OK(stat("/", &st));
      register long r12 asm("r12") = 0x1212;
      register long r15 asm("r15") = 0x1515;
      long result = SYS_getppid;
      asm volatile("syscall" : "+a"(result), "+r"(r12), "+r"(r15) : : "rcx", "r11", "memory");
      CHECK_EQ(result, parent);
      CHECK_EQ(r12, 0x1212);
      CHECK_EQ(r15, 0x1515);
    }
  setitimer(ITIMER_REAL, &off, nullptr);
  CHECK(hits > 10);
}

TEST(signals, timers) {
  install(SIGALRM, count);
  itimerval t{{0, 0}, {0, 20000}}, old;
  OK(setitimer(ITIMER_REAL, &t, nullptr));
  CHECK(eventually([] { return hits == 1; }));
  t = {{0, 10000}, {0, 10000}};
  OK(setitimer(ITIMER_REAL, &t, nullptr));
  CHECK(eventually([] { return hits >= 4; }));
  t = {};
  OK(setitimer(ITIMER_REAL, &t, &old));
  CHECK_EQ(old.it_interval.tv_usec, 10000);
  CHECK_EQ(alarm(100), 0);
  unsigned left = alarm(0);
  CHECK(left >= 99 && left <= 100);
  install(SIGVTALRM, count);
  hits = 0;
  t = {{0, 0}, {0, 20000}};
  OK(setitimer(ITIMER_VIRTUAL, &t, nullptr));
  int64_t end = now_ms() + 5000;
  while (!hits && now_ms() < end) {
    for (int i = 0; i < 100000; i++) asm volatile("" : "+r"(i));
  }
  CHECK_EQ(hits, 1);
}

TEST(signals, posix_timer) {
  install_info(SIGRTMIN + 2, count_info);
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN + 2;
  event.sigev_value.sival_int = 77;
  timer_t timer;
  OK(timer_create(CLOCK_MONOTONIC, &event, &timer));
  itimerspec when{{0, 10000000}, {0, 10000000}}, now;
  OK(timer_settime(timer, 0, &when, nullptr));
  CHECK(eventually([] { return hits >= 3; }));
  CHECK_EQ(last_info.si_code, SI_TIMER);
  CHECK_EQ(last_info.si_value.sival_int, 77);
  OK(timer_gettime(timer, &now));
  CHECK_EQ(now.it_interval.tv_nsec, 10000000);
  OK(timer_delete(timer));
}

TEST(signals, to_a_thread) {
  static std::atomic<pid_t> ran_in{0};
  install(SIGUSR1, [](int) { ran_in = syscall(SYS_gettid); });
  std::atomic<pid_t> tid{0};
  std::atomic<bool> stop{false};
  std::thread t([&] {
    tid = syscall(SYS_gettid);
    while (!stop) sched_yield();
  });
  CHECK(eventually([&] { return tid != 0; }));
  OK(syscall(SYS_tgkill, getpid(), tid.load(), SIGUSR1));
  CHECK(eventually([&] { return ran_in == tid; }));
  // A process signal goes to a thread that does not block it.
  mask(SIG_BLOCK, {SIGUSR1});
  ran_in = 0;
  OK(kill(getpid(), SIGUSR1));
  CHECK(eventually([&] { return ran_in == tid; }));
  FAILS(syscall(SYS_tgkill, getpid(), 999999, SIGUSR1), ESRCH);
  stop = true;
  t.join();
}

TEST(signals, spinning_thread_is_reached) {
  install(SIGUSR1, count);
  pid_t parent = getpid();
  pid_t pid = spawn([=] {
    for (int i = 0; i < 50; i++) {
      kill(parent, SIGUSR1);
      sleep_ms(2);
    }
    return 0;
  });
  int64_t end = now_ms() + 8000;
  while (hits < 20 && now_ms() < end) {
    for (int i = 0; i < 10000; i++) asm volatile("" : "+r"(i));
  }
  CHECK(hits >= 20);  // some of the 50 may meet one still pending
  WAIT_OK(pid);
}

// Blocking calls, interrupted by a handler: which return EINTR and which restart with SA_RESTART (signal(7)).
TEST(signals, interrupted_calls) {
  static int pipe_fds[2], pair[2], epoll_fd, never[2];
  OK(pipe(pipe_fds));
  OK(pipe(never));
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  epoll_fd = OK(epoll_create1(0));
  struct Call {
    const char* name;
    long (*make)();
    bool restarts;
  };
  const Call calls[] = {
      {"read pipe",
       [] {
         char c;
         return (long)read(pipe_fds[0], &c, 1);
       },
       true},
      {"recv socket",
       [] {
         char c;
         return (long)recv(pair[0], &c, 1, 0);
       },
       true},
      {"wait4", [] { return (long)waitpid(-1, nullptr, 0); }, true},
      {"poll",
       [] {
         pollfd p{never[0], POLLIN, 0};
         return (long)poll(&p, 1, 400);
       },
       false},
      {"select",
       [] {
         fd_set s;
         FD_ZERO(&s);
         FD_SET(never[0], &s);
         timeval t{0, 400000};
         return (long)select(never[0] + 1, &s, nullptr, nullptr, &t);
       },
       false},
      {"epoll_wait",
       [] {
         epoll_event e;
         return (long)epoll_wait(epoll_fd, &e, 1, 400);
       },
       false},
      {"nanosleep",
       [] {
         timespec t{0, 400000000};
         return (long)nanosleep(&t, nullptr);
       },
       false},
      {"pause", [] { return (long)pause(); }, false},
  };
  for (const Call& call : calls)
    for (int flags : {0, SA_RESTART}) {
      install(SIGUSR1, count, flags);
      hits = 0;
      pid_t me = getpid();
      // The child sends the signal, then makes the call complete.
      pid_t child = spawn([=] {
        sleep_ms(60);
        kill(me, SIGUSR1);
        sleep_ms(60);
        char c = 'x';
        if (!strcmp(call.name, "read pipe")) CHECK_EQ(write(pipe_fds[1], &c, 1), 1);
        if (!strcmp(call.name, "recv socket")) CHECK_EQ(write(pair[1], &c, 1), 1);
        return 0;
      });
      errno = 0;
      long result = call.make();
      int error = errno;
      std::string where = std::string(call.name) + (flags ? " with SA_RESTART" : "");
      if (hits != 1) FAIL(where + ": the handler ran " + show(hits) + " times");
      if (flags && call.restarts) {
        if (result < 0) FAIL(where + " did not restart: " + show_errno(error));
        if (!strcmp(call.name, "wait4")) continue;  // it has taken the child
      } else if (result != -1 || error != EINTR) {
        FAIL(where + " gave " + show(result) + " " + show_errno(error));
      }
      WAIT_OK(child);
      // What the child wrote after an EINTR is still there.
      char drain[8];
      fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
      while (read(pipe_fds[0], drain, 8) > 0) {
      }
      fcntl(pipe_fds[0], F_SETFL, 0);
      while (recv(pair[0], drain, 8, MSG_DONTWAIT) > 0) {
      }
    }
}

TEST(signals, ppoll_and_pselect_masks) {
  install(SIGUSR1, count);
  mask(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  sigset_t none;
  sigemptyset(&none);
  timespec limit{2, 0};
  FAILS(ppoll(nullptr, 0, &limit, &none), EINTR);
  CHECK_EQ(hits, 1);
  raise(SIGUSR1);
  FAILS(pselect(0, nullptr, nullptr, nullptr, &limit, &none), EINTR);
  CHECK_EQ(hits, 2);
  raise(SIGUSR1);
  int e = OK(epoll_create1(0));
  epoll_event event;
  FAILS(epoll_pwait(e, &event, 1, 2000, &none), EINTR);
  CHECK_EQ(hits, 3);
}

TEST(signals, restart_after_stop) {
  int p[2];
  OK(pipe(p));
  pid_t pid = spawn([&] {
    char c;
    return read(p[0], &c, 1) == 1 && c == 'k' ? 0 : 1;
  });
  sleep_ms(30);
  OK(kill(pid, SIGSTOP));
  int status;
  CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
  CHECK(WIFSTOPPED(status));
  CHECK_EQ(write(p[1], "k", 1), 1);
  sleep_ms(30);
  CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
  OK(kill(pid, SIGCONT));
  WAIT_OK(pid);
}

TEST(signals, storms_lose_nothing) {
  static std::atomic<int> got;
  got = 0;
  install(
      SIGRTMIN + 5, [](int) { got++; }, SA_RESTART);
  pid_t parent = getpid();
  const int kSenders = 3, kEach = 300;
  pid_t senders[kSenders];
  for (pid_t& sender : senders)
    sender = spawn([=] {
      sigval value = {};
      for (int i = 0; i < kEach; i++)
        while (sigqueue(parent, SIGRTMIN + 5, value) != 0) sleep_ms(1);
      return 0;
    });
  char buffer[100];
  int fd = OK(open("/dev/zero", O_RDONLY));
  CHECK(eventually(
      [&] {
        for (int i = 0; i < 200; i++) CHECK_EQ(read(fd, buffer, 100), 100);
        return got == kSenders * kEach;
      },
      20000));
  for (pid_t sender : senders) WAIT_OK(sender);
}

TEST(signals, exec_keeps_pending_alarm) {
  pid_t pid = spawn([] {
    itimerval t{{0, 0}, {0, 100000}};
    setitimer(ITIMER_REAL, &t, nullptr);
    execl(self(), "x", "--helper", "sleep", "5000", nullptr);
    return 1;
  });
  CHECK_EQ(WTERMSIG(wait_status(pid)), SIGALRM);
}

TEST(signals, sigpipe) {
  int p[2];
  OK(pipe(p));
  close(p[0]);
  install(SIGPIPE, count);
  FAILS(write(p[1], "x", 1), EPIPE);
  CHECK_EQ(hits, 1);
  signal(SIGPIPE, SIG_IGN);
  FAILS(write(p[1], "x", 1), EPIPE);
  int s[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  close(s[0]);
  install(SIGPIPE, count);
  hits = 0;
  FAILS(send(s[1], "x", 1, MSG_NOSIGNAL), EPIPE);
  CHECK_EQ(hits, 0);
  FAILS(send(s[1], "x", 1, 0), EPIPE);
  CHECK_EQ(hits, 1);
}

// ---- the floating-point state ----

static uint64_t entry_xmm;
static uint32_t entry_mxcsr;

// "Signal handlers begin with a clean state" (fpu__clear_user_states), and what was interrupted gets its own back.
static void look_at_fp(int) {
  asm volatile("movq %%xmm3, %0; stmxcsr %1" : "=r"(entry_xmm), "=m"(entry_mxcsr));
  asm volatile("movq %0, %%xmm3" : : "r"(0x55ull) : "xmm3");
}

TEST(signals, clean_fp_state) {
  install(SIGUSR1, look_at_fp);
  pid_t pid = getpid(), tid = (pid_t)syscall(SYS_gettid);
  uint32_t mxcsr = 0x9f80, default_mxcsr = 0x1f80, mxcsr_after;  // flush to zero
  uint64_t before = 0xdeadbeeffacefeed, after;
  long ret;
  asm volatile("ldmxcsr %3; movq %4, %%xmm3; syscall; movq %%xmm3, %1; stmxcsr %2; ldmxcsr %8"
               : "=a"(ret), "=&r"(after), "=m"(mxcsr_after)
               : "m"(mxcsr), "r"(before), "0"(SYS_tgkill), "D"(pid), "S"(tid), "m"(default_mxcsr), "d"(SIGUSR1)
               : "rcx", "r11", "xmm3", "memory");
  CHECK_EQ(ret, 0);
  CHECK_EQ(entry_xmm, 0);
  CHECK_EQ(entry_mxcsr, 0x1f80);
  CHECK_EQ(after, before);
  CHECK_EQ(mxcsr_after, 0x9f80);
}

// ---- what a temporary mask holds back ----

TEST(signals, held_back_by_a_temporary_mask) {
  install(SIGALRM, count);
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  sigaddset(&blocked, SIGALRM);
  itimerval soon{{0, 0}, {0, 30000}};
  OK(setitimer(ITIMER_REAL, &soon, nullptr));
  timespec longer{0, 120'000'000};
  CHECK_EQ(ppoll(nullptr, 0, &longer, &blocked), 0);
  CHECK_EQ(hits, 1);  // delivered as soon as the old mask is back
  OK(setitimer(ITIMER_REAL, &soon, nullptr));
  int e = OK(epoll_create1(0));
  epoll_event event;
  CHECK_EQ(epoll_pwait(e, &event, 1, 120, &blocked), 0);
  CHECK_EQ(hits, 2);
}

// ---- O_ASYNC ----

static volatile sig_atomic_t async_fd, async_code;
static volatile long async_band;

static void on_async(int, siginfo_t* info, void*) {
  hits = hits + 1;
  async_fd = info->si_fd;
  async_code = info->si_code;
  async_band = info->si_band;
}

TEST(signals, async_descriptors) {
  struct sigaction action {};
  action.sa_sigaction = on_async;
  action.sa_flags = SA_SIGINFO;
  OK(sigaction(SIGUSR2, &action, nullptr));
  OK(sigaction(SIGIO, &action, nullptr));
  int p[2];
  OK(pipe(p));
  OK(fcntl(p[0], F_SETOWN, getpid()));
  CHECK_EQ(write(p[1], "a", 1), 1);
  CHECK_EQ(hits, 0);  // not yet asked for
  OK(fcntl(p[0], F_SETFL, O_ASYNC));
  CHECK(OK(fcntl(p[0], F_GETFL)) & O_ASYNC);
  CHECK_EQ(write(p[1], "b", 1), 1);
  CHECK(eventually([] { return hits == 1; }));
  OK(fcntl(p[0], F_SETSIG, SIGUSR2));
  CHECK_EQ(write(p[1], "c", 1), 1);
  CHECK(eventually([] { return hits == 2; }));
  CHECK_EQ(async_fd, p[0]);
  CHECK_EQ(async_code, POLL_IN);
  CHECK_EQ(async_band, POLLIN | POLLRDNORM);
  OK(fcntl(p[0], F_SETFL, 0));
  CHECK_EQ(write(p[1], "d", 1), 1);
  sleep_ms(20);
  CHECK_EQ(hits, 2);
  int pair[2], on = 1, owner = 0;
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  pid_t self = getpid();
  OK(ioctl(pair[0], FIOSETOWN, &self));
  OK(ioctl(pair[0], SIOCGPGRP, &owner));
  CHECK_EQ(owner, self);
  OK(ioctl(pair[0], FIOASYNC, &on));
  CHECK_EQ(write(pair[1], "x", 1), 1);
  CHECK(eventually([] { return hits >= 3; }));
}

// A stopped member of the caller's own group is none of an orphaned group's when another member ends.
TEST(signals, siblings_do_not_hang_up) {
  if (setpgid(0, 0) != 0 && errno != EPERM) FAIL("setpgid");
  for (int i = 0; i < 20; i++) {
    pid_t stopped = spawn([] {
      for (;;) pause();
      return 0;
    });
    OK(kill(stopped, SIGSTOP));
    WAIT_OK(spawn([] { return 0; }));
    OK(kill(stopped, SIGTERM));
    OK(kill(stopped, SIGCONT));
    int status = wait_status(stopped);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), SIGTERM);
  }
}
