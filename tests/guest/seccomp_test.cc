// seccomp(2).
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <atomic>
#include <thread>
#include <vector>

#include "guest.h"
using namespace guest;

namespace {

constexpr unsigned kNumber = offsetof(seccomp_data, nr);
sock_filter load(unsigned at) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at); }
sock_filter skip_unless(unsigned value, unsigned char n = 1) {
  return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, n);
}
sock_filter verdict(unsigned value) { return BPF_STMT(BPF_RET | BPF_K, value); }

long install(std::vector<sock_filter> program, unsigned flags = 0) {
  sock_fprog header{static_cast<unsigned short>(program.size()), program.data()};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &header);
}
// One call gets a verdict, the others pass.
std::vector<sock_filter> only(unsigned nr, unsigned what) {
  return {load(kNumber), skip_unless(nr), verdict(what), verdict(SECCOMP_RET_ALLOW)};
}
void no_new_privileges() { OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }
std::string status(const char* key) { return show(field("/proc/self/status", key)); }

volatile sig_atomic_t trapped_nr, trapped_code, trapped_errno;
void on_trap(int, siginfo_t* info, void*) {
  trapped_nr = info->si_syscall;
  trapped_code = info->si_code;
  trapped_errno = info->si_errno;
}

}  // namespace

TEST(seccomp, verdicts) {
  no_new_privileges();
  CHECK_EQ(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 0);
  OK(install(only(SYS_uname, SECCOMP_RET_ERRNO | ENOLINK)));
  utsname u;
  FAILS(uname(&u), ENOLINK);
  OK(chdir("/"));
  CHECK_EQ(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 2);
  CHECK_STR(status("Seccomp:"), "2");
  // The strictest counts, whichever is newer; errors beyond the highest are the highest.
  OK(install(only(SYS_uname, SECCOMP_RET_ALLOW)));
  FAILS(uname(&u), ENOLINK);
  OK(install(only(SYS_chdir, SECCOMP_RET_ERRNO | 0xffff)));
  CHECK_EQ(syscall(SYS_chdir, "/"), -1);
  CHECK_EQ(errno, 4095);
  OK(install(only(SYS_sync, SECCOMP_RET_ERRNO)));
  CHECK_EQ(syscall(SYS_sync), 0);
  OK(install(only(SYS_getcpu, SECCOMP_RET_TRACE)));
  FAILS(syscall(SYS_getcpu, nullptr, nullptr, nullptr), ENOSYS);
}

TEST(seccomp, arguments) {
  no_new_privileges();
  // kill with the signal SIGUSR1, whatever the pid.
  OK(install({load(kNumber), skip_unless(SYS_kill, 3), load(offsetof(seccomp_data, args) + 8), skip_unless(SIGUSR1),
              verdict(SECCOMP_RET_ERRNO | EPERM), verdict(SECCOMP_RET_ALLOW)}));
  FAILS(kill(getpid(), SIGUSR1), EPERM);
  OK(kill(getpid(), 0));
  FAILS(kill(getppid(), SIGUSR1), EPERM);
  // Arithmetic, scratch memory, X: umask of an odd mask.
  OK(install({load(kNumber), skip_unless(SYS_umask, 8), load(offsetof(seccomp_data, args)), BPF_STMT(BPF_ST, 3),
              BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, 2), BPF_STMT(BPF_LD | BPF_W | BPF_MEM, 3),
              BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0), BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, 2),
              BPF_STMT(BPF_LDX | BPF_W | BPF_MEM, 3), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 0, 1),
              verdict(SECCOMP_RET_ALLOW), BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 1000, 0, 0),
              verdict(SECCOMP_RET_ALLOW)}));
  umask(022);
}

TEST(seccomp, trap) {
  no_new_privileges();
  struct sigaction action {};
  action.sa_sigaction = on_trap;
  action.sa_flags = SA_SIGINFO;
  OK(sigaction(SIGSYS, &action, nullptr));
  OK(install(only(SYS_getpriority, SECCOMP_RET_TRAP | 77)));
  syscall(SYS_getpriority, 0, 0);
  CHECK_EQ(trapped_nr, SYS_getpriority);
  CHECK_EQ(trapped_code, 1);
  CHECK_EQ(trapped_errno, 77);
  int status = wait_status(spawn([] {
    signal(SIGSYS, SIG_IGN);
    syscall(SYS_getpriority, 0, 0);
    return 0;
  }));
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

TEST(seccomp, kill) {
  no_new_privileges();
  for (unsigned how : {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, 0x12340000u}) {
    int status = wait_status(spawn([how] {
      OK(install(only(SYS_getpriority, how)));
      signal(SIGSYS, SIG_IGN);
      syscall(SYS_getpriority, 0, 0);
      return 0;
    }));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
  }
  // One thread of two.
  int status = wait_status(spawn([] {
    OK(install(only(SYS_getpriority, SECCOMP_RET_KILL_THREAD)));
    std::thread other([] { syscall(SYS_getpriority, 0, 0); });
    other.join();
    return 3;
  }));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

TEST(seccomp, strict) {
  int status = wait_status(spawn([] {
    OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
    syscall(SYS_write, 1, "", 0);
    syscall(SYS_exit, 5);
    return 0;
  }));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
  status = wait_status(spawn([] {
    OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
    syscall(SYS_uname, 0);
    return 0;
  }));
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(seccomp, inherited) {
  no_new_privileges();
  OK(install(only(SYS_uname, SECCOMP_RET_ERRNO | ENOLINK)));
  WAIT_OK(spawn([] {
    utsname u;
    FAILS(uname(&u), ENOLINK);
    execl(self(), "self", "--helper", "uname-fails", nullptr);
    return 1;
  }));
  std::thread([] {
    utsname u;
    FAILS(uname(&u), ENOLINK);
  }).join();
}

TEST(seccomp, all_threads) {
  no_new_privileges();
  std::atomic<int> step = 0;
  std::thread other([&] {
    while (step == 0) sched_yield();
    utsname u;
    FAILS(uname(&u), ENOLINK);
    step = 2;
  });
  CHECK_EQ(install(only(SYS_uname, SECCOMP_RET_ERRNO | ENOLINK), SECCOMP_FILTER_FLAG_TSYNC), 0);
  step = 1;
  other.join();
  CHECK_EQ(step, 2);
  // A thread with a filter of its own stands in the way.
  std::atomic<int> tid = 0;
  std::thread own([&] {
    OK(install(only(SYS_getcpu, SECCOMP_RET_ERRNO | EPERM)));
    tid = static_cast<int>(syscall(SYS_gettid));
    while (tid != 0) sched_yield();
  });
  while (tid == 0) sched_yield();
  CHECK_EQ(install(only(SYS_chdir, SECCOMP_RET_ERRNO | EPERM), SECCOMP_FILTER_FLAG_TSYNC), tid);
  tid = 0;
  own.join();
  OK(chdir("/"));
}

TEST(seccomp, refused) {
  WAIT_OK(spawn([] {
    OK(setuid(1000));
    FAILS(install(only(SYS_uname, SECCOMP_RET_ALLOW)), EACCES);
    return 0;
  }));
  no_new_privileges();
  FAILS(install({}), EINVAL);
  FAILS(install({load(kNumber)}), EINVAL);                                       // no return
  FAILS(install({load(2), verdict(0)}), EINVAL);                                 // not aligned
  FAILS(install({load(sizeof(seccomp_data)), verdict(0)}), EINVAL);              // outside
  FAILS(install({skip_unless(1, 9), verdict(0)}), EINVAL);                       // jumps out
  FAILS(install({BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), verdict(0)}), EINVAL);   // bytes
  FAILS(install({BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), verdict(0)}), EINVAL);  // by zero
  FAILS(install({BPF_STMT(BPF_ST, 16), verdict(0)}), EINVAL);                    // no such word
  FAILS(install({BPF_STMT(0xffff, 0), verdict(0)}), EINVAL);
  FAILS(install(std::vector<sock_filter>(4097, verdict(SECCOMP_RET_ALLOW))), EINVAL);
  FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, 8), EFAULT);
  FAILS(syscall(SYS_seccomp, 77, 0, 0), EINVAL);
  FAILS(install(only(SYS_uname, SECCOMP_RET_ALLOW), 1u << 20), EINVAL);
  unsigned action = SECCOMP_RET_ERRNO;
  OK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
  action = 0x12340000;
  FAILS(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action), EOPNOTSUPP);
}

// Calls on a process's own memory, threads and clocks, which a sandbox may answer without its kernel.
TEST(seccomp, calls_of_the_process_itself) {
  no_new_privileges();
  constexpr unsigned kProt = offsetof(seccomp_data, args) + 16;
  char* page = (char*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  OK(install({load(kNumber), skip_unless(SYS_mprotect, 4), load(kProt),
              BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1), verdict(SECCOMP_RET_ERRNO | EPERM),
              verdict(SECCOMP_RET_ALLOW), verdict(SECCOMP_RET_ALLOW)}));
  OK(mprotect(page, 4096, PROT_READ));
  FAILS(mprotect(page, 4096, PROT_READ | PROT_EXEC), EPERM);
  OK(mprotect(page, 4096, PROT_READ | PROT_WRITE));
  page[0] = 1;
  OK(install(only(SYS_getpid, SECCOMP_RET_ERRNO | ENOLINK)));
  FAILS(syscall(SYS_getpid), ENOLINK);
  CHECK(syscall(SYS_getppid) > 0);
  OK(install(only(SYS_rt_sigprocmask, SECCOMP_RET_ERRNO | ENOLINK)));
  sigset_t set;
  FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &set, 8), ENOLINK);
  struct sigaction action {};
  action.sa_sigaction = on_trap;
  action.sa_flags = SA_SIGINFO;
  OK(sigaction(SIGSYS, &action, nullptr));
  OK(install(only(SYS_sched_yield, SECCOMP_RET_TRAP | 7)));
  syscall(SYS_sched_yield);
  CHECK_EQ(trapped_nr, SYS_sched_yield);
  CHECK_EQ(trapped_errno, 7);
  OK(install(only(SYS_futex, SECCOMP_RET_KILL_PROCESS)));
  // In children and in new programs too.
  pid_t pid = spawn([&] {
    int word = 0;
    syscall(SYS_futex, &word, 1, 1, nullptr, nullptr, 0);
    return 0;
  });
  CHECK_EQ(WTERMSIG(wait_status(pid)), SIGSYS);
  timespec t{0, 1000};
  OK(nanosleep(&t, nullptr));
}
