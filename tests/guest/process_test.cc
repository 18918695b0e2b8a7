// fork, vfork, exec, wait, exit.
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>
#include <vector>

#include "guest.h"
using namespace guest;

static volatile int shared_word = 1;

TEST(process, fork_copies_memory) {
  int local = 5;
  int* area = (int*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int* common = (int*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  *area = 10;
  *common = 20;
  pid_t parent = getpid();
  WAIT_OK(spawn([&] {
    CHECK_EQ(getppid(), parent);
    CHECK(getpid() != parent);
    CHECK_EQ(*area, 10);
    shared_word = 99;
    local = *area = 99;
    *common = 21;
    return 0;
  }));
  CHECK_EQ(local, 5);
  CHECK_EQ(*area, 10);
  CHECK_EQ(shared_word, 1);
  CHECK_EQ(*common, 21);
}

TEST(process, exit_statuses) {
  CHECK_EQ(WEXITSTATUS(wait_status(spawn([] { return 0; }))), 0);
  CHECK_EQ(WEXITSTATUS(wait_status(spawn([] { return 255; }))), 255);
  CHECK_EQ(WEXITSTATUS(wait_status(spawn([] { return 256 + 7; }))), 7);
  int status = wait_status(spawn([] {
    syscall(SYS_exit, 3);
    return 0;
  }));
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 3);
  for (int signo : {SIGKILL, SIGTERM, SIGUSR1, SIGPIPE, SIGRTMIN + 3}) {
    status = wait_status(spawn([=] {
      raise(signo);
      return 0;
    }));
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), signo);
  }
  status = wait_status(spawn([] {
    rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    *(volatile int*)16 = 1;
    return 0;
  }));
  CHECK_EQ(WTERMSIG(status), SIGSEGV);
  CHECK_EQ(WCOREDUMP(status), 0);
  status = wait_status(spawn([] {
    rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    abort();
    return 0;
  }));
  CHECK_EQ(WTERMSIG(status), SIGABRT);
}

TEST(process, wait_selects) {
  FAILS(wait(nullptr), ECHILD);
  FAILS(waitpid(1, nullptr, 0), ECHILD);
  pid_t a = spawn([] {
    sleep_ms(50);
    return 1;
  });
  pid_t b = spawn([] { return 2; });
  CHECK_EQ(waitpid(a, nullptr, WNOHANG), 0);
  int status;
  CHECK_EQ(waitpid(-1, &status, 0), b);
  CHECK_EQ(WEXITSTATUS(status), 2);
  FAILS(waitpid(b, &status, 0), ECHILD);
  CHECK_EQ(wait(&status), a);
  CHECK_EQ(WEXITSTATUS(status), 1);
  FAILS(waitpid(-1, &status, 0x1000), EINVAL);
  pid_t c = spawn([] {
    setpgid(0, 0);
    return 4;
  });
  setpgid(c, c);
  CHECK_EQ(waitpid(-c, &status, 0), c);
}

// Who has waited for all his children is told so at once, until there is another: of his own, of another thread of his,
// an orphan, or one that is traced.
TEST(process, wait_for_nobody_and_again) {
  auto nobody = [] {
    FAILS(wait(nullptr), ECHILD);
    FAILS(waitpid(-1, nullptr, WNOHANG), ECHILD);
    FAILS(waitpid(12345, nullptr, WNOHANG | WUNTRACED | WCONTINUED), ECHILD);
    FAILS(waitpid(0, nullptr, 0), ECHILD);
    FAILS(waitpid(-1, nullptr, 0x1000), EINVAL);
    FAILS(waitpid(INT32_MIN, nullptr, 0), ESRCH);
    FAILS(syscall(SYS_wait4, -1, 16, 0, 16), ECHILD);
  };
  auto one = [] { return spawn([] { return 3; }); };
  for (int i = 0; i < 3; ++i) {
    pid_t child = one();
    CHECK_EQ(WEXITSTATUS(wait_status(child)), 3);
    nobody();
  }
  // Of another thread.
  pid_t theirs = 0;
  std::thread([&] { theirs = one(); }).join();
  int status = 0;
  CHECK_EQ(wait(&status), theirs);
  nobody();
  std::atomic<bool> made{false}, waited{false};
  std::thread other([&] {
    theirs = one();
    CHECK_EQ(WEXITSTATUS(wait_status(theirs)), 3);
    theirs = one();
    made = true;
    while (!waited) sched_yield();
    nobody();
  });
  while (!made) sched_yield();
  CHECK_EQ(wait(&status), theirs);
  waited = true;
  other.join();
  // An orphan comes to its subreaper.
  OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
  WAIT_OK(spawn([] {
    pid_t orphan = fork();
    if (orphan == 0) {
      sleep_ms(30);
      _exit(4);
    }
    return orphan > 0 ? 0 : 1;
  }));
  CHECK(wait(&status) > 0);
  CHECK_EQ(WEXITSTATUS(status), 4);
  nobody();
  OK(prctl(PR_SET_CHILD_SUBREAPER, 0));
}

TEST(process, wait_reports_stops) {
  pid_t pid = spawn([] {
    raise(SIGSTOP);
    sleep_ms(100);  // the report of having continued is lost by the next stop
    raise(SIGTSTP);
    return 9;
  });
  int status;
  CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
  CHECK(WIFSTOPPED(status));
  CHECK_EQ(WSTOPSIG(status), SIGSTOP);
  CHECK_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);
  OK(kill(pid, SIGCONT));
  CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
  CHECK(WIFCONTINUED(status));
  // The test's group may be orphaned, where SIGTSTP does nothing: either is Linux.
  CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
  if (WIFSTOPPED(status)) {
    CHECK_EQ(WSTOPSIG(status), SIGTSTP);
    OK(kill(pid, SIGCONT));
    CHECK_EQ(waitpid(pid, &status, 0), pid);
  }
  CHECK_EQ(WEXITSTATUS(status), 9);
}

TEST(process, waitid_and_rusage) {
  pid_t pid = spawn([] { return 6; });
  siginfo_t info = {};
  OK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
  CHECK_EQ(info.si_pid, pid);
  CHECK_EQ(info.si_code, CLD_EXITED);
  CHECK_EQ(info.si_status, 6);
  CHECK_EQ(info.si_signo, SIGCHLD);
  info = {};
  OK(waitid(P_ALL, 0, &info, WEXITED));
  CHECK_EQ(info.si_pid, pid);
  FAILS(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
  FAILS(waitid(P_ALL, 0, &info, 0), EINVAL);
  pid = spawn([] {
    pause();
    return 0;
  });
  info.si_pid = 5;
  OK(waitid(P_PID, pid, &info, WEXITED | WNOHANG));
  CHECK_EQ(info.si_pid, 0);
  kill(pid, SIGUSR2);
  OK(waitid(P_PID, pid, &info, WEXITED));
  CHECK_EQ(info.si_code, CLD_KILLED);
  CHECK_EQ(info.si_status, SIGUSR2);
  pid = spawn([] {
    for (long i = 0; i < 50000000; i++) asm volatile("" : "+r"(i));
    return 0;
  });
  rusage usage;
  int status;
  CHECK_EQ(wait4(pid, &status, 0, &usage), pid);
  CHECK(usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec > 1000);
}

TEST(process, ignored_sigchld_reaps) {
  signal(SIGCHLD, SIG_IGN);
  pid_t pid = spawn([] { return 3; });
  FAILS(waitpid(pid, nullptr, 0), ECHILD);
  CHECK(eventually([&] { return kill(pid, 0) != 0; }));
}

TEST(process, orphans_are_adopted) {
  int p[2];
  OK(pipe(p));
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  pid_t middle = spawn([&] {
    pid_t parent = getpid();
    spawn([&] {
      while (getppid() == parent) sleep_ms(2);
      pid_t now = getppid();
      return write(p[1], &now, sizeof now) != sizeof now;
    });
    return 0;
  });
  WAIT_OK(middle);
  pid_t adopter;
  CHECK_EQ(read(p[0], &adopter, sizeof adopter), (long)sizeof adopter);
  CHECK_EQ(adopter, getpid());
  WAIT_OK(wait(nullptr) > 0 ? spawn([] { return 0; }) : -1);
}

TEST(process, many_children) {
  std::vector<pid_t> pids;
  for (int i = 0; i < 64; i++) pids.push_back(spawn([i] { return i; }));
  for (int i = 0; i < 64; i++) CHECK_EQ(WEXITSTATUS(wait_status(pids[i])), i);
  for (int i = 0; i < 200; i++) CHECK_EQ(WEXITSTATUS(wait_status(spawn([i] { return i & 127; }))), i & 127);
}

TEST(process, grandchildren_tree) {
  std::function<int(int)> grow = [&](int depth) -> int {
    if (depth == 0) return 1;
    int sum = 0;
    for (int i = 0; i < 3; i++) sum += WEXITSTATUS(wait_status(spawn([&] { return grow(depth - 1); })));
    return sum;
  };
  CHECK_EQ(grow(4), 81);
}

TEST(process, vfork_shares_and_waits) {
  static volatile int seen = 0;
  seen = 0;
  pid_t pid = vfork();
  if (pid == 0) {
    seen = 1;
    _exit(4);
  }
  CHECK(pid > 0);
  CHECK_EQ(seen, 1);
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 4);
  pid = vfork();
  if (pid == 0) {
    execl(self(), "self", "--helper", "exit", "11", nullptr);
    _exit(1);
  }
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 11);
  pid = vfork();
  if (pid == 0) {
    execl("/absent", "x", nullptr);
    _exit(errno == ENOENT ? 42 : 1);
  }
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 42);
}

static std::string run_and_read(std::vector<std::string> argv, std::vector<std::string> env = {},
                                const char* path = nullptr) {
  int p[2];
  OK(pipe(p));
  pid_t pid = spawn([&] {
    dup2(p[1], 1);
    close(p[0]);
    close(p[1]);
    std::vector<char*> a, e;
    for (auto& s : argv) a.push_back(s.data());
    for (auto& s : env) e.push_back(s.data());
    a.push_back(nullptr);
    e.push_back(nullptr);
    execve(path ? path : argv[0].c_str(), a.data(), e.data());
    return 100 + (errno & 127);
  });
  close(p[1]);
  std::string out;
  char b[4096];
  for (ssize_t n; (n = read(p[0], b, sizeof b)) > 0;) out.append(b, n);
  close(p[0]);
  int status = wait_status(pid);
  if (status != 0) out += "(status " + show(status) + ")";
  return out;
}

TEST(exec, arguments_and_environment) {
  CHECK_STR(run_and_read({self(), "--helper", "print-args", "a b", "", "c"}, {"GUEST_X=1", "OTHER=2", "GUEST_Y="}),
            "[a b][][c]{GUEST_X=1}{GUEST_Y=}\n");
  std::string big(100000, 'z');
  CHECK_STR(run_and_read({self(), "--helper", "print-args", big}), "[" + big + "]\n");
}

static int exec_errno(const char* path, std::vector<std::string> argv = {"x"}) {
  std::vector<char*> a;
  for (auto& s : argv) a.push_back(s.data());
  a.push_back(nullptr);
  char* env[] = {nullptr};
  pid_t pid = spawn([&] {
    execve(path, a.data(), env);
    return errno;
  });
  return WEXITSTATUS(wait_status(pid));
}

TEST(exec, failures) {
  CHECK_EQ(exec_errno("absent"), ENOENT);
  spew("f", "not a program");
  CHECK_EQ(exec_errno("f"), EACCES);
  OK(chmod("f", 0755));
  CHECK_EQ(exec_errno("f"), ENOEXEC);
  CHECK_EQ(exec_errno("f/x"), ENOTDIR);
  CHECK_EQ(exec_errno("."), EACCES);
  CHECK_EQ(exec_errno(""), ENOENT);
  OK(symlink("loop", "loop"));
  CHECK_EQ(exec_errno("loop"), ELOOP);
  spew("empty", "");
  OK(chmod("empty", 0755));
  CHECK_EQ(exec_errno("empty"), ENOEXEC);
  spew("elf", std::string("\x7f") + "ELF" + std::string(100, '\0'));
  OK(chmod("elf", 0755));
  CHECK_EQ(exec_errno("elf"), ENOEXEC);
  CHECK_EQ(exec_errno((const char*)8), EFAULT);
  // One string longer than 32 pages, and a list longer than a quarter of the stack limit.
  CHECK_EQ(exec_errno(self(), {"x", std::string(131073, 'a')}), E2BIG);
  CHECK_EQ(exec_errno(self(), std::vector<std::string>(100, std::string(100000, 'a'))), E2BIG);
  int fd = OK(open(self(), O_RDONLY));
  int w = open("f", O_WRONLY);
  CHECK(fd >= 0 && w >= 0);
}

TEST(exec, scripts) {
  std::string interpreter = self();
  spew("s1", "#!" + interpreter + " --helper\nrest is ignored\n");
  OK(chmod("s1", 0755));
  // argv: interpreter, the one optional argument, the script's path, then the caller's arguments.
  CHECK_EQ(exec_errno("./s1", {"x"}), 99);
  spew("echo.sh", "#!/bin/sh\necho \"$0|$1|$2\"\n");
  OK(chmod("echo.sh", 0755));
  CHECK_STR(run_and_read({"./echo.sh", "a b", "c"}), "./echo.sh|a b|c\n");
  spew("args", "#!/bin/sh -e\nfalse\necho not reached\n");
  OK(chmod("args", 0755));
  CHECK_STR(run_and_read({"./args"}), "(status 256)");
  spew("nested", "#!./echo.sh one two\n");
  OK(chmod("nested", 0755));
  CHECK_STR(run_and_read({"./nested", "three"}), "./echo.sh|one two|./nested\n");
  spew("missing", "#!/no/such/interpreter\n");
  OK(chmod("missing", 0755));
  CHECK_EQ(exec_errno("./missing"), ENOENT);
  spew("recursive", "#!./recursive\n");
  OK(chmod("recursive", 0755));
  CHECK_EQ(exec_errno("./recursive"), ELOOP);
  spew("blank", "#!   \n");
  OK(chmod("blank", 0755));
  CHECK_EQ(exec_errno("./blank"), ENOEXEC);
  spew("spaces", "#!  /bin/sh  \necho spaces\n");
  OK(chmod("spaces", 0755));
  CHECK_STR(run_and_read({"./spaces"}), "spaces\n");
}

TEST(exec, close_on_exec) {
  int keep = OK(open("/dev/null", O_RDONLY)), drop = OK(open("/dev/null", O_RDONLY | O_CLOEXEC));
  int set = OK(dup(keep));
  OK(fcntl(set, F_SETFD, FD_CLOEXEC));
  int copy = OK(dup(drop));  // dup clears the flag
  pid_t pid = spawn([&] {
    execl(self(), "x", "--helper", "open-fds", show(keep).c_str(), show(drop).c_str(), show(set).c_str(),
          show(copy).c_str(), nullptr);
    return 100;
  });
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 1 | 8);
  CHECK_EQ(fcntl(drop, F_GETFD), FD_CLOEXEC);
}

TEST(exec, signals_across_exec) {
  auto state = [](int signo, const std::function<void()>& before) {
    pid_t pid = spawn([&] {
      before();
      execl(self(), "x", "--helper", "signal-state", show(signo).c_str(), nullptr);
      return 100;
    });
    return WEXITSTATUS(wait_status(pid));
  };
  CHECK_EQ(state(SIGUSR1, [] { signal(SIGUSR1, SIG_IGN); }), 2);
  CHECK_EQ(state(SIGUSR1, [] { signal(SIGUSR1, [](int) {}); }), 0);
  CHECK_EQ(state(SIGUSR1,
                 [] {
                   sigset_t set;
                   sigemptyset(&set);
                   sigaddset(&set, SIGUSR1);
                   sigprocmask(SIG_BLOCK, &set, nullptr);
                   raise(SIGUSR1);
                 }),
           1 | 4);
}

TEST(exec, affinity_survives) {
  cpu_set_t all;
  OK(sched_getaffinity(0, sizeof(all), &all));
  auto cpus_of_a_new_program = [] {
    return WEXITSTATUS(wait_status(spawn([] { return execl(self(), "x", "--helper", "cpus", nullptr); })));
  };
  for (int i = 0; i < 30; i++) CHECK_EQ(cpus_of_a_new_program(), CPU_COUNT(&all));
  WAIT_OK(spawn([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++)
      if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    OK(sched_setaffinity(0, sizeof(one), &one));
    for (int i = 0; i < 5; i++) CHECK_EQ(cpus_of_a_new_program(), 1);
    return 0;
  }));
}

TEST(exec, ids_survive) {
  pid_t pid = spawn([] {
    setsid();
    std::string p = show(getpid());
    execl(self(), "x", "--helper", "ids", p.c_str(), p.c_str(), p.c_str(), nullptr);
    return 100;
  });
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 0);
}

TEST(exec, from_a_thread_ends_the_others) {
  pid_t pid = spawn([] {
    static pid_t leader;
    leader = getpid();
    for (int i = 0; i < 3; i++) {
      pthread_t t;
      pthread_create(
          &t, nullptr,
          [](void*) -> void* {
            for (;;) pause();
          },
          nullptr);
    }
    pthread_t t;
    pthread_create(
        &t, nullptr,
        [](void*) -> void* {
          if (syscall(SYS_gettid) == leader) _exit(90);
          execl(self(), "x", "--helper", "ids", show(leader).c_str(), show(getpgrp()).c_str(), show(getsid(0)).c_str(),
                nullptr);
          _exit(91);
        },
        nullptr);
    pause();
    return 92;
  });
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 0);
  pid = spawn([] {
    pthread_t t;
    pthread_create(
        &t, nullptr,
        [](void*) -> void* {
          for (;;) pause();
        },
        nullptr);
    execl(self(), "x", "--helper", "threads", nullptr);
    return 100;
  });
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 1);
}

TEST(exec, by_descriptor) {
  int fd = OK(open(self(), O_RDONLY | O_CLOEXEC));
  pid_t pid = spawn([&] {
    const char* argv[] = {"x", "--helper", "exit", "12", nullptr};
    fexecve(fd, (char**)argv, environ);
    return 100;
  });
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 12);
}

TEST(exec, running_program_is_busy) {
  spew("prog", slurp(self()));
  OK(chmod("prog", 0755));
  pid_t pid = spawn([] {
    execl("./prog", "prog", "--helper", "sleep", "3000", nullptr);
    return 100;
  });
  CHECK(eventually([&] {
    char target[4096];
    ssize_t n = readlink(("/proc/" + show(pid) + "/exe").c_str(), target, sizeof target);
    return n > 5 && !strncmp(target + n - 5, "/prog", 5);
  }));
  FAILS(open("prog", O_WRONLY), ETXTBSY);
  OK(unlink("prog"));
  kill(pid, SIGKILL);
  CHECK_EQ(WTERMSIG(wait_status(pid)), SIGKILL);
  spew("held", slurp(self()));
  OK(chmod("held", 0755));
  int w = OK(open("held", O_WRONLY));
  CHECK_EQ(exec_errno("./held"), ETXTBSY);
  close(w);
}

TEST(process, posix_clone_variants) {
  // CLONE_PARENT_SETTID and CLONE_CHILD_SETTID write the child's id on either side.
  pid_t parent_word = 0, child_word = 0;
  long pid =
      syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, nullptr, &parent_word, &child_word, 0);
  if (pid == 0) _exit(child_word == getpid() ? 0 : 1);
  CHECK(pid > 0);
  CHECK_EQ(parent_word, pid);
  CHECK_EQ(child_word, 0);
  WAIT_OK(pid);
  FAILS(syscall(SYS_clone, CLONE_THREAD, nullptr, nullptr, nullptr, 0), EINVAL);
  FAILS(syscall(SYS_clone, CLONE_SIGHAND, nullptr, nullptr, nullptr, 0), EINVAL);
  FAILS(syscall(SYS_clone, CLONE_FS | CLONE_NEWNS, nullptr, nullptr, nullptr, 0), EINVAL);
  // CLONE_FILES: one descriptor table.
  pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, 0);
  if (pid == 0) _exit(dup2(0, 77) == 77 ? 0 : 1);
  WAIT_OK(pid);
  OK(fcntl(77, F_GETFD));
  // A child that announces its end with another signal is waited for with __WCLONE.
  pid = syscall(SYS_clone, 0, nullptr, nullptr, nullptr, 0);
  if (pid == 0) _exit(5);
  int status;
  FAILS(waitpid(pid, &status, 0), ECHILD);
  CHECK_EQ(waitpid(pid, &status, __WCLONE), pid);
  CHECK_EQ(WEXITSTATUS(status), 5);
}

TEST(process, parent_death_signal) {
  int p[2];
  OK(pipe(p));
  pid_t middle = spawn([&] {
    pid_t child = spawn([&] {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      char c = 'r';
      CHECK_EQ(write(p[1], &c, 1), 1);
      for (;;) pause();
      return 0;
    });
    close(p[1]);
    char c;
    CHECK_EQ(read(p[0], &c, 1), 1);
    return child > 0 ? 0 : 1;
  });
  close(p[1]);
  WAIT_OK(middle);
  char c;
  CHECK_EQ(read(p[0], &c, 1), 0);  // end of file: the grandchild died and with it the last writer
}

TEST(process, names) {
  char name[16] = {};
  OK(prctl(PR_SET_NAME, "a-name-that-is-too-long"));
  OK(prctl(PR_GET_NAME, name));
  CHECK_STR(name, "a-name-that-is-");
  CHECK_STR(slurp("/proc/self/comm"), "a-name-that-is-\n");
}

// pam_loginuid(8): whoever is not logged in yet may say who they are.
TEST(process, login_uid) {
  if (access("/proc/self/loginuid", F_OK) != 0) SKIP("no auditing");
  if (slurp("/proc/self/loginuid") != "4294967295") SKIP("logged in");
  CHECK_STR(slurp("/proc/self/sessionid"), "4294967295");
  int fd = OK(open("/proc/self/loginuid", O_RDWR));
  CHECK_EQ(write(fd, "7", 1), 1);
  CHECK_STR(slurp("/proc/self/loginuid"), "7");
  CHECK(slurp("/proc/self/sessionid") != "4294967295");
  WAIT_OK(spawn([] { return slurp("/proc/self/loginuid") == "7" ? 0 : 1; }));
  FAILS(write(fd, "x", 1), EINVAL);
  std::string other = "/proc/" + show(getppid()) + "/loginuid";
  int their = open(other.c_str(), O_RDWR);
  if (their >= 0) FAILS(write(their, "7", 1), EPERM);
}

TEST(process, pidfd) {
  pid_t pid = spawn([] {
    pause();
    return 0;
  });
  int fd = syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) FAIL("pidfd_open: " + show_errno(errno));
  OK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, nullptr, 0));
  siginfo_t info;
  OK(waitid((idtype_t)3 /* P_PIDFD */, fd, &info, WEXITED));
  CHECK_EQ(info.si_status, SIGTERM);
  FAILS(syscall(SYS_pidfd_open, 0, 0), EINVAL);
  FAILS(syscall(SYS_pidfd_open, pid, 0), ESRCH);
}

// CLONE_PIDFD (clone(2), pidfd_open(2)).
TEST(process, clone_with_a_pidfd) {
  struct {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
  } args{};
  int pidfd = -1;
  args.flags = CLONE_PIDFD;
  args.pidfd = (uint64_t)&pidfd;
  args.exit_signal = SIGCHLD;
  pid_t child = (pid_t)OK(syscall(SYS_clone3, &args, sizeof args));
  if (child == 0) {
    // The child has no copy of it.
    _exit(fcntl(pidfd, F_GETFD) == -1 ? 7 : 1);
  }
  CHECK(pidfd >= 0);
  CHECK_EQ(OK(fcntl(pidfd, F_GETFD)), FD_CLOEXEC);
  pollfd p{pidfd, POLLIN, 0};
  CHECK_EQ(OK(poll(&p, 1, 5000)), 1);
  siginfo_t info{};
  OK(waitid((idtype_t)3 /* P_PIDFD */, (id_t)pidfd, &info, WEXITED));
  CHECK_EQ(info.si_pid, child);
  CHECK_EQ(info.si_status, 7);
  FAILS(syscall(SYS_clone3, &(args.pidfd = 1, args), sizeof args), EFAULT);
  args.flags = CLONE_PIDFD | CLONE_DETACHED;
  FAILS(syscall(SYS_clone3, &args, sizeof args), EINVAL);
  // The old form tells it where the parent's copy of the id would go.
  child = (pid_t)OK(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &pidfd, 0, 0));
  if (child == 0) _exit(0);
  CHECK(pidfd >= 0);
  WAIT_OK(child);
  FAILS(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, 0, &pidfd, 0, 0), EINVAL);
}

// A child that has ended is nothing to wait for without WEXITED.
TEST(process, waitid_without_ended_ones) {
  pid_t child = spawn([] { return 0; });
  siginfo_t info{};
  OK(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
  FAILS(waitid(P_ALL, 0, &info, WSTOPPED), ECHILD);
  pid_t other = spawn([] {
    sleep_ms(50);
    return 0;
  });
  FAILS(waitid(P_PID, (id_t)other, &info, WSTOPPED | WCONTINUED), ECHILD);  // found when it ends
  WAIT_OK(child);
  WAIT_OK(other);
}

namespace {

// Microseconds of CPU time that the child is said to have used.
int64_t cpu_of(pid_t pid) {
  rusage usage{};
  int status;
  CHECK_EQ(OK(wait4(pid, &status, 0, &usage)), pid);
  auto us = [](const timeval& t) { return t.tv_sec * 1000000 + t.tv_usec; };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

int64_t own_cpu() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

constexpr int64_t kWork = 200 * 1000;

void work() {
  while (own_cpu() < kWork) continue;
}

}  // namespace

// Whoever of its threads has worked, and however it ends.
TEST(process, time_of_a_killed_child) {
  int done[2];
  OK(pipe(done));
  pid_t pid = OK(fork());
  if (pid == 0) {
    std::thread([&] {
      work();
      (void)!write(done[1], "x", 1);
      for (;;) pause();
    }).join();
  }
  char byte;
  CHECK_EQ(read(done[0], &byte, 1), 1);
  OK(kill(pid, SIGKILL));
  CHECK(cpu_of(pid) >= kWork / 2);
}

TEST(process, time_of_other_threads) {
  pid_t pid = OK(fork());
  if (pid == 0) {
    std::thread([] {
      work();
      _exit(0);
    }).join();
  }
  CHECK(cpu_of(pid) >= kWork / 2);
}

TEST(process, time_before_exec) {
  pid_t pid = OK(fork());
  if (pid == 0) {
    work();
    execl(self(), self(), "--helper", "exit", "0", nullptr);
    _exit(1);
  }
  CHECK(cpu_of(pid) >= kWork / 2);
}
