// ptrace(2): stops, what the tracer sees and changes in them, and who hears of them; process_vm_readv(2).
#include <elf.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>

#include <atomic>
#include <thread>

#include "guest.h"
using namespace guest;

namespace {

long trace(int request, pid_t pid, unsigned long addr = 0, unsigned long data = 0) {
  return syscall(SYS_ptrace, request, pid, addr, data);
}

// The wait status of the next stop or end of `pid`.
int next(pid_t pid) {
  int status = 0;
  CHECK_EQ(waitpid(pid, &status, __WALL), pid);
  return status;
}

void stops_with(pid_t pid, int code) {
  int status = next(pid);
  CHECK(WIFSTOPPED(status));
  CHECK_EQ(status >> 8, code);
}

user_regs_struct registers(pid_t pid) {
  user_regs_struct r;
  OK(trace(PTRACE_GETREGS, pid, 0, (unsigned long)&r));
  return r;
}

// A child that asks to be traced and stops; what it does then is `body`.
pid_t traced(const std::function<int()>& body) {
  pid_t pid = spawn([&] {
    OK(trace(PTRACE_TRACEME, 0));
    raise(SIGSTOP);
    return body();
  });
  stops_with(pid, SIGSTOP);
  return pid;
}

constexpr int kCallStop = SIGTRAP | 0x80;

// On to the entry of the call `nr`.
user_regs_struct to_call(pid_t pid, long nr) {
  for (int i = 0; i < 1000; ++i) {
    OK(trace(PTRACE_SYSCALL, pid));
    stops_with(pid, kCallStop);
    user_regs_struct r = registers(pid);
    if ((long)r.rax == -ENOSYS && (long)r.orig_rax == nr) return r;
  }
  fail(__FILE__, __LINE__, "no such call");
}

user_regs_struct to_exit(pid_t pid) {
  OK(trace(PTRACE_SYSCALL, pid));
  stops_with(pid, kCallStop);
  return registers(pid);
}

volatile long shared_word = 41;
char text[] = "before";

}  // namespace

TEST(ptrace, calls) {
  int p[2];
  OK(pipe(p));
  pid_t pid = traced([&] {
    if (syscall(SYS_write, p[1], text, 6) != 6) return 1;
    if (syscall(SYS_getpgid, 0) != 77) return 2;                // as the tracer wills
    if (syscall(SYS_write, p[1], "nothing", 7) != 5) return 3;  // not made
    if (syscall(SYS_lseek, -1, 0, 0) != -1 || errno != EBADF) return 4;
    return shared_word == 42 ? 0 : 5;
  });
  OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
  FAILS(trace(PTRACE_SETOPTIONS, pid, 0, 1ul << 30), EINVAL);
  user_regs_struct r = to_call(pid, SYS_write);
  CHECK_EQ(r.rdi, (unsigned long)p[1]);
  CHECK_EQ(r.rsi, (unsigned long)text);
  CHECK_EQ(r.rdx, 6ul);
  // Memory, by words; and what is written is what the call finds.
  long word = 0;
  OK(trace(PTRACE_PEEKDATA, pid, r.rsi, (unsigned long)&word));
  CHECK(memcmp(&word, "before", 6) == 0);
  memcpy(&word, "behind", 6);
  OK(trace(PTRACE_POKEDATA, pid, r.rsi, (unsigned long)word));
  FAILS(trace(PTRACE_PEEKDATA, pid, 8, (unsigned long)&word), EIO);
  OK(trace(PTRACE_POKEDATA, pid, (unsigned long)&shared_word, 42));
  ptrace_syscall_info info;
  CHECK(trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), (unsigned long)&info) >= 80);
  CHECK_EQ(info.op, PTRACE_SYSCALL_INFO_ENTRY);
  CHECK_EQ(info.entry.nr, (unsigned)SYS_write);
  CHECK_EQ(info.entry.args[2], 6u);
  CHECK_EQ((long)to_exit(pid).rax, 6);
  char b[8] = {};
  CHECK_EQ(read(p[0], b, 8), 6);
  CHECK(memcmp(b, "behind", 6) == 0);
  // The result.
  to_call(pid, SYS_getpgid);
  r = to_exit(pid);
  CHECK(r.rax != 77);
  CHECK_EQ((long)r.orig_rax, SYS_getpgid);
  r.rax = 77;
  OK(trace(PTRACE_SETREGS, pid, 0, (unsigned long)&r));
  // The call.
  r = to_call(pid, SYS_write);
  r.orig_rax = -1;
  r.rax = 5;
  OK(trace(PTRACE_SETREGS, pid, 0, (unsigned long)&r));
  CHECK_EQ((long)to_exit(pid).rax, 5);
  OK(fcntl(p[0], F_SETFL, O_NONBLOCK));
  FAILS(read(p[0], b, 8), EAGAIN);
  to_call(pid, SYS_lseek);
  r = to_exit(pid);
  CHECK_EQ((long)r.rax, -EBADF);
  CHECK(trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), (unsigned long)&info) >= 33);
  CHECK_EQ(info.op, PTRACE_SYSCALL_INFO_EXIT);
  CHECK_EQ(info.exit.rval, -EBADF);
  CHECK_EQ(info.exit.is_error, 1);
  siginfo_t si;
  OK(trace(PTRACE_GETSIGINFO, pid, 0, (unsigned long)&si));
  CHECK_EQ(si.si_signo, SIGTRAP);
  CHECK_EQ(si.si_code, kCallStop);
  iovec v{&r, sizeof(r)};
  OK(trace(PTRACE_GETREGSET, pid, NT_PRSTATUS, (unsigned long)&v));
  CHECK_EQ(v.iov_len, sizeof(r));
  CHECK_EQ((long)r.rax, -EBADF);
  OK(trace(PTRACE_CONT, pid));
  CHECK_EQ(next(pid), 0);
}

TEST(ptrace, mmap_and_blocking_calls) {
  int p[2];
  OK(pipe(p));
  pid_t pid = traced([&] {
    int fd = open("/proc/self/exe", O_RDONLY);
    void* at = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED || memcmp(at, "\177ELF", 4) != 0) return 1;
    char c;
    return read(p[0], &c, 1) == 1 ? 0 : 2;
  });
  OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
  user_regs_struct r;
  do r = to_call(pid, SYS_mmap);
  while ((long)r.r8 < 0 || (r.r10 & MAP_ANONYMOUS) != 0);
  unsigned long at = to_exit(pid).rax;
  long word = 0;
  OK(trace(PTRACE_PEEKDATA, pid, at, (unsigned long)&word));
  CHECK(memcmp(&word, "\177ELF", 4) == 0);
  to_call(pid, SYS_read);
  OK(trace(PTRACE_SYSCALL, pid));
  sleep_ms(50);
  FAILS(trace(PTRACE_GETREGS, pid, 0, (unsigned long)&r), ESRCH);  // it runs
  int status = 0;
  CHECK_EQ(waitpid(pid, &status, WNOHANG | __WALL), 0);
  CHECK_EQ(write(p[1], "x", 1), 1);
  stops_with(pid, kCallStop);
  CHECK_EQ((long)registers(pid).rax, 1);
  OK(trace(PTRACE_DETACH, pid));
  CHECK_EQ(next(pid), 0);
}

namespace {
volatile sig_atomic_t caught = 0, caught_other = 0;
void on_usr1(int) { caught = caught + 1; }
void on_usr2(int) { caught_other = caught_other + 1; }
}  // namespace

TEST(ptrace, signals) {
  pid_t pid = traced([] {
    signal(SIGUSR1, on_usr1);
    signal(SIGUSR2, on_usr2);
    raise(SIGUSR1);  // passes
    raise(SIGUSR1);  // dropped
    raise(SIGUSR1);  // becomes another
    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR1);  // ignored, but shown
    if (caught != 1 || caught_other != 1) return 1;
    volatile char* null = nullptr;
    *null = 1;
    return 2;
  });
  OK(trace(PTRACE_CONT, pid));
  stops_with(pid, SIGUSR1);
  siginfo_t info;
  OK(trace(PTRACE_GETSIGINFO, pid, 0, (unsigned long)&info));
  CHECK_EQ(info.si_signo, SIGUSR1);
  CHECK_EQ(info.si_pid, pid);
  OK(trace(PTRACE_CONT, pid, 0, SIGUSR1));
  stops_with(pid, SIGUSR1);
  OK(trace(PTRACE_CONT, pid, 0, 0));
  stops_with(pid, SIGUSR1);
  OK(trace(PTRACE_CONT, pid, 0, SIGUSR2));
  stops_with(pid, SIGUSR1);
  FAILS(trace(PTRACE_CONT, pid, 0, 65), EIO);
  OK(trace(PTRACE_CONT, pid, 0, SIGUSR1));
  stops_with(pid, SIGSEGV);
  OK(trace(PTRACE_GETSIGINFO, pid, 0, (unsigned long)&info));
  CHECK_EQ(info.si_addr, (void*)nullptr);
  CHECK_EQ(info.si_code, SEGV_MAPERR);
  CHECK_EQ((long)registers(pid).orig_rax, -1);
  OK(trace(PTRACE_CONT, pid, 0, SIGSEGV));
  int status = next(pid);
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(WTERMSIG(status), SIGSEGV);
}

TEST(ptrace, attach_and_detach) {
  auto* word = (std::atomic<long>*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t busy = spawn([&] {
    for (;;) word->fetch_add(1);
    return 0;
  });
  pid_t asleep = spawn([] {
    pause();
    return 0;
  });
  FAILS(trace(PTRACE_ATTACH, getpid()), EPERM);
  FAILS(trace(PTRACE_ATTACH, 999999), ESRCH);
  FAILS(trace(PTRACE_CONT, busy), ESRCH);
  sleep_ms(20);
  for (pid_t pid : {busy, asleep}) {
    OK(trace(PTRACE_ATTACH, pid));
    stops_with(pid, SIGSTOP);
    FAILS(trace(PTRACE_ATTACH, pid), EPERM);
    std::string status = slurp("/proc/" + std::to_string(pid) + "/status");
    CHECK(status.find("TracerPid:\t" + std::to_string(getpid()) + "\n") != std::string::npos);
    CHECK(status.find("State:\tt (tracing stop)") != std::string::npos);
  }
  long before = word->load();
  sleep_ms(30);
  CHECK_EQ(word->load(), before);
  CHECK(registers(busy).rip != 0);
  // Its own stop is the tracer's to decide about, and so is the end.
  OK(trace(PTRACE_DETACH, busy));
  CHECK(eventually([&] { return word->load() != before; }));
  CHECK_EQ(field("/proc/" + std::to_string(busy) + "/status", "TracerPid:"), 0);
  OK(kill(busy, SIGKILL));
  CHECK_EQ(WTERMSIG(next(busy)), SIGKILL);
  OK(trace(PTRACE_DETACH, asleep, 0, SIGTERM));
  CHECK_EQ(WTERMSIG(next(asleep)), SIGTERM);
  // Killed while it is stopped.
  pid_t third = traced([] { return 0; });
  OK(kill(third, SIGKILL));
  CHECK_EQ(WTERMSIG(next(third)), SIGKILL);
}

TEST(ptrace, seize_interrupt_listen) {
  pid_t pid = spawn([] {
    for (;;) pause();
    return 0;
  });
  OK(trace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD));
  int status = 0;
  CHECK_EQ(waitpid(pid, &status, WNOHANG | __WALL), 0);
  OK(trace(PTRACE_INTERRUPT, pid));
  stops_with(pid, SIGTRAP | PTRACE_EVENT_STOP << 8);
  OK(trace(PTRACE_CONT, pid));
  OK(kill(pid, SIGSTOP));
  stops_with(pid, SIGSTOP);  // the signal
  OK(trace(PTRACE_CONT, pid, 0, SIGSTOP));
  stops_with(pid, SIGSTOP | PTRACE_EVENT_STOP << 8);  // the stop of its group
  OK(trace(PTRACE_LISTEN, pid));
  OK(kill(pid, SIGCONT));
  stops_with(pid, SIGTRAP | PTRACE_EVENT_STOP << 8);
  OK(trace(PTRACE_CONT, pid));
  stops_with(pid, SIGCONT);
  OK(trace(PTRACE_CONT, pid, 0, SIGCONT));
  FAILS(trace(PTRACE_LISTEN, pid), ESRCH);
  OK(kill(pid, SIGKILL));
  CHECK_EQ(WTERMSIG(next(pid)), SIGKILL);
}

TEST(ptrace, exec_and_fork_events) {
  pid_t pid = traced([] {
    pid_t child = fork();
    if (child == 0) _exit(3);
    int status = 0;
    if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 3) return 1;
    execl(self(), self(), "--helper", "exit", "7", (char*)nullptr);
    return 2;
  });
  OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT));
  OK(trace(PTRACE_CONT, pid));
  stops_with(pid, SIGTRAP | PTRACE_EVENT_FORK << 8);
  unsigned long child = 0;
  OK(trace(PTRACE_GETEVENTMSG, pid, 0, (unsigned long)&child));
  OK(trace(PTRACE_CONT, pid));
  stops_with((pid_t)child, SIGSTOP);
  OK(trace(PTRACE_CONT, (pid_t)child));
  stops_with((pid_t)child, SIGTRAP | PTRACE_EVENT_EXIT << 8);
  OK(trace(PTRACE_CONT, (pid_t)child));
  CHECK_EQ(next((pid_t)child), 3 << 8);  // the tracer hears of it, and then its parent
  int status = next(pid);
  while (status >> 8 == SIGCHLD) {
    OK(trace(PTRACE_CONT, pid, 0, SIGCHLD));
    status = next(pid);
  }
  CHECK_EQ(status >> 8, SIGTRAP | PTRACE_EVENT_EXEC << 8);
  // Nothing of the new program has run; the registers are at its beginning.
  user_regs_struct r = registers(pid);
  long argc = 0;
  OK(trace(PTRACE_PEEKDATA, pid, r.rsp, (unsigned long)&argc));
  CHECK_EQ(argc, 4);
  OK(trace(PTRACE_CONT, pid));
  stops_with(pid, SIGTRAP | PTRACE_EVENT_EXIT << 8);
  unsigned long code = 0;
  OK(trace(PTRACE_GETEVENTMSG, pid, 0, (unsigned long)&code));
  CHECK_EQ(code, 7ul << 8);
  OK(trace(PTRACE_CONT, pid));
  CHECK_EQ(next(pid), 7 << 8);
  // Without options an exec is a SIGTRAP.
  pid = traced([] {
    execl(self(), self(), "--helper", "exit", "0", (char*)nullptr);
    return 2;
  });
  OK(trace(PTRACE_CONT, pid));
  stops_with(pid, SIGTRAP);
  OK(trace(PTRACE_CONT, pid));
  CHECK_EQ(next(pid), 0);
}

TEST(ptrace, threads) {
  pid_t pid = traced([] {
    std::thread a([] { sleep_ms(5); }), b([] { sleep_ms(10); });
    a.join();
    b.join();
    return 0;
  });
  OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL));
  OK(trace(PTRACE_CONT, pid));
  int events = 0, stops = 0, ends = 0;
  for (;;) {
    int status = 0;
    pid_t who = OK(waitpid(-1, &status, __WALL));
    if (WIFEXITED(status)) {
      CHECK_EQ(status, 0);
      if (who == pid) break;
      ++ends;
      continue;
    }
    CHECK(WIFSTOPPED(status));
    if (status >> 8 == (SIGTRAP | PTRACE_EVENT_CLONE << 8))
      ++events;
    else if (WSTOPSIG(status) == SIGSTOP)
      ++stops;
    OK(trace(PTRACE_CONT, who));
  }
  CHECK_EQ(events, 2);
  CHECK_EQ(stops, 2);
  CHECK_EQ(ends, 2);
}

TEST(ptrace, the_end_of_the_tracer) {
  int p[2];
  OK(pipe(p));
  for (unsigned long options : {0ul, (unsigned long)PTRACE_O_EXITKILL}) {
    pid_t target = spawn([] {
      pause();
      return 0;
    });
    pid_t tracer = spawn([&] {
      OK(trace(PTRACE_SEIZE, target, 0, options));
      OK(trace(PTRACE_INTERRUPT, target));
      stops_with(target, SIGTRAP | PTRACE_EVENT_STOP << 8);
      return 0;
    });
    wait_ok(tracer, __FILE__, __LINE__);
    if (options == 0) {
      sleep_ms(20);
      int status = 0;
      CHECK_EQ(waitpid(target, &status, WNOHANG), 0);
      CHECK_EQ(field("/proc/" + std::to_string(target) + "/status", "TracerPid:"), 0);
      OK(kill(target, SIGTERM));
      CHECK_EQ(WTERMSIG(next(target)), SIGTERM);
    } else {
      CHECK_EQ(WTERMSIG(next(target)), SIGKILL);
    }
  }
}

TEST(ptrace, other_memory) {
  char* page = (char*)mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(page, 'a', 3 * 4096);
  OK(munmap(page + 2 * 4096, 4096));
  pid_t pid = spawn([&] {
    while (page[0] != 'z') sleep_ms(1);
    return memcmp(page, "zyx", 3);
  });
  char b[8192] = {};
  iovec mine{b, sizeof(b)}, theirs[2] = {{page, 100}, {page + 4096, 100}};
  CHECK_EQ(process_vm_readv(pid, &mine, 1, theirs, 2, 0), 200);
  CHECK(b[0] == 'a' && b[199] == 'a' && b[200] == 0);
  theirs[0] = {page + 4096, 8192};  // ends in the middle
  CHECK_EQ(process_vm_readv(pid, &mine, 1, theirs, 1, 0), 4096);
  theirs[0] = {(void*)8, 10};
  FAILS(process_vm_readv(pid, &mine, 1, theirs, 1, 0), EFAULT);
  FAILS(process_vm_readv(999999, &mine, 1, theirs, 1, 0), ESRCH);
  FAILS(process_vm_readv(pid, &mine, 1, theirs, 1, 1), EINVAL);
  std::string path = "/proc/" + std::to_string(pid) + "/mem";
  int fd = OK(open(path.c_str(), O_RDWR));
  CHECK_EQ(pread(fd, b, 10, (off_t)(uintptr_t)page), 10);
  CHECK_EQ(pwrite(fd, "zyx" + 1, 2, (off_t)(uintptr_t)(page + 1)), 2);
  FAILS(pread(fd, b, 10, 8), EIO);
  char own[4] = {};
  int mem = OK(open("/proc/self/mem", O_RDONLY));
  CHECK_EQ(pread(mem, own, 3, (off_t)(uintptr_t) "abc"), 3);
  CHECK(memcmp(own, "abc", 3) == 0);
  memcpy(b, "zyx", 3);
  mine = {b, 3};
  theirs[0] = {page, 3};
  CHECK_EQ(process_vm_writev(pid, &mine, 1, theirs, 1, 0), 3);
  wait_ok(pid, __FILE__, __LINE__);
  CHECK_EQ(page[0], 'a');
}

namespace {
// Four instructions of known length, a call of the kernel among them.
extern "C" long stepped();
extern "C" char stepped_syscall[], stepped_end[];
asm(R"(
  .text
  .globl stepped, stepped_syscall, stepped_end
stepped:
  nop
  mov $110, %eax
stepped_syscall:
  syscall
  nop
stepped_end:
  ret
)");
extern "C" void broken();
asm(R"(
  .text
  .globl broken
broken:
  nop
  ret
)");
}  // namespace

TEST(ptrace, breakpoints_and_steps) {
  pid_t pid = traced([] {
    for (int i = 0; i < 3; ++i) {
      broken();
      if (stepped() != getppid()) return 1;
    }
    return 0;
  });
  const auto at = (unsigned long)&broken;
  long word = 0;
  OK(trace(PTRACE_PEEKTEXT, pid, at, (unsigned long)&word));
  CHECK_EQ(word & 0xff, 0x90);
  // A breakpoint, as debuggers set it: in text, which is not writable.
  OK(trace(PTRACE_POKETEXT, pid, at, (unsigned long)((word & ~0xffl) | 0xcc)));
  for (int round = 0; round < 3; ++round) {
    OK(trace(PTRACE_CONT, pid));
    stops_with(pid, SIGTRAP);
    user_regs_struct r = registers(pid);
    CHECK_EQ(r.rip, at + 1);
    siginfo_t info;
    OK(trace(PTRACE_GETSIGINFO, pid, 0, (unsigned long)&info));
    CHECK_EQ(info.si_code, SI_KERNEL);
    // Over it: the instruction is put back, one step, and the breakpoint again.
    OK(trace(PTRACE_POKETEXT, pid, at, (unsigned long)word));
    r.rip = at;
    OK(trace(PTRACE_SETREGS, pid, 0, (unsigned long)&r));
    OK(trace(PTRACE_SINGLESTEP, pid));
    stops_with(pid, SIGTRAP);
    CHECK_EQ(registers(pid).rip, at + 1);
    OK(trace(PTRACE_GETSIGINFO, pid, 0, (unsigned long)&info));
    CHECK_EQ(info.si_code, TRAP_TRACE);
    OK(trace(PTRACE_POKETEXT, pid, at, (unsigned long)((word & ~0xffl) | 0xcc)));
    // On by steps until it is through the call and out again. (What loads the number may be one step with it.)
    bool seen_behind = false;
    for (int i = 0; i < 200 && !seen_behind; ++i) {
      OK(trace(PTRACE_SINGLESTEP, pid));
      stops_with(pid, SIGTRAP);
      unsigned long ip = registers(pid).rip;
      seen_behind = ip == (unsigned long)stepped_syscall + 2;
    }
    CHECK(seen_behind);
    CHECK_EQ((long)registers(pid).rax, getpid());
    OK(trace(PTRACE_SINGLESTEP, pid));
    stops_with(pid, SIGTRAP);
    CHECK_EQ(registers(pid).rip, (unsigned long)stepped_end);
  }
  OK(trace(PTRACE_CONT, pid));
  CHECK_EQ(next(pid), 0);
}

TEST(ptrace, floating_point) {
  pid_t pid = traced([] {
    double x = 1.5;
    asm volatile("movsd %0, %%xmm7" ::"m"(x) : "xmm7");
    long ret;
    asm volatile("syscall" : "=a"(ret) : "a"(SYS_getpgid), "D"(0) : "rcx", "r11", "memory");
    double y;
    asm volatile("movsd %%xmm7, %0" : "=m"(y));
    if (y != 2.5) return 1;
    asm volatile("movsd %0, %%xmm7" ::"m"(x) : "xmm7");
    asm volatile("int3");
    asm volatile("movsd %%xmm7, %0" : "=m"(y));
    return y == 3.5 ? 0 : 2;
  });
  OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
  for (double value : {2.5, 3.5}) {
    if (value == 2.5) {
      to_call(pid, SYS_getpgid);
    } else {
      OK(trace(PTRACE_CONT, pid));
      stops_with(pid, SIGTRAP);
    }
    user_fpregs_struct f;
    OK(trace(PTRACE_GETFPREGS, pid, 0, (unsigned long)&f));
    double now = 0;
    memcpy(&now, &f.xmm_space[7 * 4], 8);
    CHECK(now == 1.5);
    CHECK_EQ(f.cwd, 0x37f);
    memcpy(&f.xmm_space[7 * 4], &value, 8);
    OK(trace(PTRACE_SETFPREGS, pid, 0, (unsigned long)&f));
    static char whole[16384];
    iovec v{whole, sizeof(whole)};
    OK(trace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (unsigned long)&v));
    CHECK(v.iov_len > 576 && v.iov_len < sizeof(whole));
    memcpy(&now, whole + 160 + 7 * 16, 8);
    CHECK(now == value);
    OK(trace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (unsigned long)&v));
  }
  OK(trace(PTRACE_CONT, pid));
  CHECK_EQ(next(pid), 0);
}

TEST(ptrace, rights) {
  if (getuid() != 0) skip("needs root");
  // A copy of this program that anybody runs as root.
  OK(chmod(".", 0755));
  std::string program = slurp(self());
  spew("suid", program);
  OK(chmod("suid", 04755));
  char where[4096];
  CHECK(getcwd(where, sizeof(where)) != nullptr);
  std::string path = std::string(where) + "/suid";
  pid_t rooted = spawn([] {
    pause();
    return 0;
  });
  wait_ok(spawn([&] {
            OK(setgid(1000));
            OK(setuid(1000));
            FAILS(trace(PTRACE_ATTACH, rooted), EPERM);
            FAILS(trace(PTRACE_SEIZE, rooted), EPERM);
            char b[8];
            iovec mine{b, 8}, theirs{text, 8};
            FAILS(process_vm_readv(rooted, &mine, 1, &theirs, 1, 0), EPERM);
            FAILS(open(("/proc/" + std::to_string(rooted) + "/mem").c_str(), O_RDONLY), EACCES);
            // Under a tracer that is no root it stays what its caller is.
            for (bool by_tracer : {true, false}) {
              pid_t pid = spawn([&] {
                if (by_tracer) OK(trace(PTRACE_TRACEME, 0));
                execl(path.c_str(), path.c_str(), "--helper", "euid", (char*)nullptr);
                return 99;
              });
              int status = next(pid);
              if (by_tracer) {
                CHECK(WIFSTOPPED(status));
                OK(trace(PTRACE_CONT, pid));
                status = next(pid);
              }
              CHECK(WIFEXITED(status));
              CHECK_EQ(WEXITSTATUS(status), by_tracer ? 1 : 0);
            }
            return 0;
          }),
          __FILE__, __LINE__);
  OK(kill(rooted, SIGKILL));
  next(rooted);
}

// Calls on memory, time and futexes, which a sandbox may answer without its kernel.
TEST(ptrace, calls_of_the_process_itself) {
  auto* word = (std::atomic<int>*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t pid = traced([&] {
    signal(SIGUSR1, on_usr1);
    timespec t{0, 1'000'000};
    if (syscall(SYS_nanosleep, &t, nullptr) != 0) return 1;
    void* at = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(at, 1, 8192);
    if (syscall(SYS_munmap, at, 8192) != 5) return 2;  // not made: the memory is still there
    memset(at, 2, 8192);
    if (syscall(SYS_futex, word, 1 /* WAKE */, 1, nullptr, nullptr, 0) != 0) return 3;
    t = {5, 0};
    if (syscall(SYS_nanosleep, &t, nullptr) != -1 || errno != EINTR || caught != 1) return 4;
    if (syscall(SYS_futex, word, 0 /* WAIT */, 0, nullptr, nullptr, 0) != -1 || errno != EAGAIN) return 5;
    return 0;
  });
  OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
  to_call(pid, SYS_nanosleep);
  CHECK_EQ((long)to_exit(pid).rax, 0);
  user_regs_struct r = to_call(pid, SYS_mmap);
  CHECK_EQ(r.rsi, 8192ul);
  unsigned long at = to_exit(pid).rax;
  r = to_call(pid, SYS_munmap);
  CHECK_EQ(r.rdi, at);
  r.orig_rax = -1;
  r.rax = 5;
  OK(trace(PTRACE_SETREGS, pid, 0, (unsigned long)&r));
  CHECK_EQ((long)to_exit(pid).rax, 5);
  r = to_call(pid, SYS_futex);
  CHECK_EQ(r.rdi, (unsigned long)word);
  CHECK_EQ((long)to_exit(pid).rax, 0);
  // Interrupted: first by what the tracer drops, then by a handler.
  to_call(pid, SYS_nanosleep);
  for (bool drop : {true, false}) {
    OK(trace(PTRACE_SYSCALL, pid));
    sleep_ms(20);
    OK(kill(pid, SIGUSR1));
    stops_with(pid, kCallStop);
    long result = (long)registers(pid).rax;
    CHECK(result <= -512 && result >= -516);
    OK(trace(PTRACE_SYSCALL, pid));
    stops_with(pid, SIGUSR1);
    OK(trace(PTRACE_SYSCALL, pid, 0, drop ? 0 : SIGUSR1));
    if (!drop) break;
    stops_with(pid, kCallStop);  // it begins again
  }
  stops_with(pid, kCallStop);  // the handler's return, where that is shown
  if ((long)registers(pid).orig_rax != SYS_futex) to_call(pid, SYS_futex);
  word->store(1);
  CHECK_EQ((long)to_exit(pid).rax, -EAGAIN);
  OK(trace(PTRACE_CONT, pid));
  CHECK_EQ(next(pid), 0);
}
