// A guest that attacks what it shares with the sentry. The stub's code, its stack and the slots lie in the guest's own
// memory, so hostile code can write to them, jump into the stub with registers of its choice, and ring the doorbell as
// it likes: that is the attacker docs/security.md speaks of. Each child does it in one way for a moment; the parent
// stays honest and counts. hostile_guest SECONDS [SEED]
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// sentry/platform/layout.h; written down again, because this program knows only what an attacker knows.
static char* const kSlots = (char*)0x68000000;
static char* const kStub = (char*)0x70000000;
static char* const kStacks = (char*)0x71000000;
enum {
  kSlotBytes = 65536,
  kBoard = 0x70080000,
  kBoardBytes = 0x33000,
  kStubBytes = 0x20000,
  kStackBytes = 32768,
  kDoorbell = 1000,
  kCookieAt = 88,
  kNotPrepared = 99
};

static char* gadget_at;  // "syscall; ret" in the stub: calls from there pass the filter

static long gadget(long nr, long a, long b, long c, long d, long e, long f) {
  long ret;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  // The red zone is not ours to push into.
  asm volatile("sub $128,%%rsp; call *%[at]; add $128,%%rsp"
               : "=a"(ret), "+r"(r10), "+r"(r8), "+r"(r9)
               : "a"(nr), "D"(a), "S"(b), "d"(c), [at] "b"(gadget_at)
               : "rcx", "r11", "memory");
  return ret;
}

static uint64_t state;
static uint64_t next(uint64_t* s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}

static volatile int over;
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t value(uint64_t* s) {
  static const uint64_t kEdges[] = {0,
                                    1,
                                    2,
                                    3,
                                    4,
                                    5,
                                    7,
                                    8,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    ~0ull,
                                    4095,
                                    4096,
                                    65536,
                                    0x68000000,
                                    0x70000000,
                                    0x7ffffffff000,
                                    0x8000000000000000ull};
  uint64_t r = next(s);
  return (r & 7) < 5 ? kEdges[(r >> 8) % (sizeof kEdges / sizeof *kEdges)] : next(s);
}

// Random words into the headers of the first slots, or into their windows.
static void* scribble(void* arg) {
  uint64_t s = (uint64_t)arg;
  int header = s & 1;
  while (!over) {
    uint64_t r = next(&s);
    char* slot = kSlots + (r % 6) * kSlotBytes;
    uint32_t at = header ? (uint32_t)(r >> 8) % 1024 : 4096 + (uint32_t)(r >> 8) % 4096;
    if (header && (r >> 40) % 3 == 0) at %= 256;
    *(volatile uint32_t*)(slot + (at & ~3u)) = (uint32_t)value(&s);
    // What is lent of the first open files: positions, lengths, windows.
    *(volatile uint64_t*)(kSlots + 2047 * kSlotBytes + ((r >> 48) % 8) * 256 + (r >> 56) % 8 * 8) = value(&s);
    // What is posted of an epoll: who may, of which descriptors, how much, and what.
    *(volatile uint32_t*)(kSlots + 2047 * kSlotBytes + 52 * 1024 + (next(&s) % 400) * 4) = (uint32_t)value(&s);
    // What is written to pipes and sockets: how far, by whom, and the lengths and times of it.
    r = next(&s);
    *(volatile uint64_t*)(kSlots + 2047 * kSlotBytes + 60 * 1024 + (r % 4) * 64 + (r >> 8) % 3 * 8) = value(&s);
    *(volatile uint32_t*)(kSlots + 2047 * kSlotBytes + 62 * 1024) = (uint32_t)(r >> 32 & 1);
    *(volatile uint32_t*)(kSlots + 2047 * kSlotBytes + 62 * 1024 + 64) = (uint32_t)(r >> 33 & 3);
    *(volatile uint64_t*)(kSlots + (2014 + r % 4) * kSlotBytes + (r >> 16) % 512 * 8) = value(&s);
  }
  return NULL;
}

// The state words: a request there and gone again, for a sentry that looks at them.
static void* flip(void* arg) {
  uint64_t s = (uint64_t)arg;
  while (!over) {
    volatile uint32_t* word = (volatile uint32_t*)(kSlots + (next(&s) % 6) * kSlotBytes);
    for (int i = 0; i < 100000 && !over; i++) *word = (uint32_t)(i & 1);
  }
  return NULL;
}

static void* ring(void* arg) {
  uint64_t s = (uint64_t)arg;
  while (!over) {
    uint64_t r = next(&s);
    // The cookie is the doorbell's second argument: that of a slot, or any.
    uint64_t cookie = (r & 3) ? *(volatile uint64_t*)(kSlots + ((r >> 8) % 6) * kSlotBytes + kCookieAt) : next(&s);
    gadget(kDoorbell, (long)((r >> 16) % 12), (long)cookie, 0, 0, 0, 0);
  }
  return NULL;
}

static void* honest_calls(void* arg) {
  uint64_t s = (uint64_t)arg;
  char buf[4096];
  while (!over) {
    switch (next(&s) % 12) {
      case 11: {
        // A reader that sleeps for each write.
        int p[2];
        if (pipe(p) != 0) break;
        pid_t pid = fork();
        if (pid == 0) {
          close(p[1]);
          while (read(p[0], buf, sizeof buf) > 0) {
          }
          _exit(0);
        }
        close(p[0]);
        fcntl(p[1], F_SETFL, O_NONBLOCK);
        for (int i = 0; i < 60; i++) {
          (void)!write(p[1], buf, 1 + next(&s) % 300);
          if (i % 8 == 0) sched_yield();
        }
        close(p[1]);
        waitpid(pid, NULL, WNOHANG);
        break;
      }
      case 10: {
        int p[2], q[2];
        if (pipe2(p, O_NONBLOCK) != 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, q) != 0) break;
        for (int i = 0; i < 60; i++) {
          (void)!write(p[1], buf, 1 + next(&s) % 300);
          (void)!write(q[0], buf, 1 + next(&s) % 300);
          if (i % 4 != 3) continue;
          (void)!read(p[0], buf, next(&s) % 2000);
          (void)!read(q[1], buf, next(&s) % 100);
        }
        for (int i = 0; i < 2; i++) {
          close(p[i]);
          close(q[i]);
        }
        break;
      }
      case 8: {
        int ep = epoll_create1(0), p[2];
        if (ep < 0 || pipe(p) != 0) break;
        struct epoll_event e = {EPOLLIN, {0}}, out[4];
        for (int i = 0; i < 40; i++) {
          epoll_ctl(ep, EPOLL_CTL_ADD, p[i % 2], &e);
          if (i % 8 == 7) epoll_wait(ep, out, 4, 0);
          epoll_ctl(ep, EPOLL_CTL_DEL, p[i % 2], NULL);
        }
        close(p[0]);
        close(p[1]);
        close(ep);
        break;
      }
      case 9: {
        // Bytes of a socket that come with the event.
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t n = sizeof a;
        int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0), ep = epoll_create1(0);
        struct epoll_event e = {.events = EPOLLIN}, out[4];
        if (bind(l, (void*)&a, n) == 0 && listen(l, 1) == 0 && getsockname(l, (void*)&a, &n) == 0 &&
            connect(c, (void*)&a, n) == 0) {
          int fd = accept(l, NULL, NULL);
          epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
          for (int i = 0; i < 32; i++) {
            (void)!send(c, buf, 1 + next(&s) % sizeof buf, MSG_DONTWAIT);
            if (i % 3 == 0) (void)!send(fd, buf, 1 + next(&s) % 20, MSG_DONTWAIT);
            epoll_wait(ep, out, 4, 0);
            (void)!recv(fd, buf, next(&s) % 100, MSG_DONTWAIT);
            (void)!recv(fd, buf, sizeof buf, MSG_DONTWAIT);
          }
          close(fd);
        }
        close(l);
        close(c);
        close(ep);
        break;
      }
      case 0: {
        int fd = open("/etc/passwd", O_RDONLY);
        for (int i = 0; i < 8; i++) (void)!pread(fd, buf, 100, i);
        lseek(fd, (long)(next(&s) % 8192), SEEK_SET);
        (void)!read(fd, buf, sizeof buf);
        lseek(fd, 0, SEEK_CUR);
        (void)!write(fd, buf, 1);
        int null = open("/dev/null", O_WRONLY), zeros = open("/tmp/zeros", O_RDWR | O_CREAT, 0600);
        void* big = mmap(NULL, 300000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (big != MAP_FAILED) {
          (void)!write(null, big, 1 + next(&s) % 300000);
          (void)!pwrite(zeros, big, 1 + next(&s) % 300000, 0);
          munmap(big, 300000);
        }
        close(null);
        close(zeros);
        break;
      }
      case 1: {
        struct stat st;
        stat("/usr/bin", &st);
        break;
      }
      case 2: {
        int p[2];
        if (pipe(p) == 0) {
          (void)!write(p[1], buf, 100);
          close(p[0]);
          close(p[1]);
        }
        break;
      }
      case 3: getpgid(0); break;
      case 4: {
        void* m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(m, 8192);
        break;
      }
      case 5: close((int)(next(&s) % 64) + 3); break;
      case 6: {
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        waitpid(pid, NULL, WNOHANG);
        break;
      }
      case 7: kill(getpid(), SIGUSR1); break;
    }
  }
  return NULL;
}

// The calls the filter lets through, with wild arguments.
static void* wild_natives(void* arg) {
  uint64_t s = (uint64_t)arg;
  static const int kCalls[] = {SYS_mmap,           SYS_munmap, SYS_mprotect,     SYS_mremap,          SYS_madvise,
                               SYS_mincore,        SYS_futex,  SYS_rt_sigaction, SYS_sigaltstack,     SYS_close_range,
                               SYS_clone,          SYS_prctl,  SYS_brk,          SYS_set_tid_address, SYS_getrusage,
                               SYS_rt_sigprocmask, SYS_open,   SYS_execve,       SYS_ptrace,          SYS_socket,
                               SYS_kill,           SYS_seccomp};
  while (!over) {
    int nr = kCalls[next(&s) % (sizeof kCalls / sizeof *kCalls)];
    long flags = (long)value(&s);
    if (nr == SYS_clone) flags = (long[]){0x108011, 0x308011, 0x108111, 0x350f00}[next(&s) & 3];
    long ret = gadget(nr, nr == SYS_mmap ? (long)((next(&s) & 0xffff) << 12) : flags, (long)value(&s), (long)value(&s),
                      (long)value(&s), (long)value(&s), (long)value(&s));
    if (nr == SYS_clone && ret == 0) {  // a child nobody told the sentry of
      gadget(kDoorbell, 0, (long)next(&s), 0, 0, 0, 0);
      gadget(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    }
  }
  return NULL;
}

// A child nobody told the sentry of, which keeps the slots mapped and writes to them when this process is long gone.
static void* linger(void* arg) {
  uint64_t s = (uint64_t)arg;
  static int tid;
  if (gadget(SYS_clone, 0x108011, 0, (long)&tid, 0, 0, 0) != 0) return NULL;
  double until = now() + 0.3;
  while (now() < until) {
    uint64_t r = next(&s);
    *(volatile uint32_t*)(kSlots + (r % 6) * kSlotBytes + ((r >> 8) % 256 & ~3u)) = (uint32_t)value(&s);
  }
  for (;;) gadget(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}

// The stub's own code and stacks.
static void* rewrite_stub(void* arg) {
  uint64_t s = (uint64_t)arg;
  if (gadget(SYS_mprotect, (long)kStub, kStubBytes, 7, 0, 0, 0) != 0) return NULL;
  while (!over) {
    uint64_t r = next(&s);
    if (r & 1)
      *(volatile uint8_t*)(kStacks + (r >> 8) % (4 * kStackBytes)) = (uint8_t)(r >> 40);
    else if ((r & 0xfe) == 0)
      *(volatile uint8_t*)(kStub + 64 + (r >> 8) % 0x5000) = (uint8_t)(r >> 40);
  }
  return NULL;
}

static void* (*const kWays[])(void*) = {scribble, ring, honest_calls, wild_natives, rewrite_stub, flip, linger};
enum { kWayCount = sizeof kWays / sizeof *kWays };

// With nobody else about, quick calls get the sentry to look at the slot; then the state word plays with it.
static void flip_alone(void) {
  for (int slot = 0; slot < 4; slot++) {
    for (int i = 0; i < 2000; i++) getpgid(0);
    volatile uint32_t* word = (volatile uint32_t*)(kSlots + slot * kSlotBytes);
    for (int i = 0; i < 20000000; i++) *word = (uint32_t)(i & 1);
    *word = 0;
  }
  _exit(0);
}

static void nothing(int signo) { (void)signo; }

static void attack(uint64_t seed) {
  state = seed | 1;
  // Whatever calls the sentry takes for ours are made as a user who may kill nobody else.
  if (setresgid(1000, 1000, 1000) != 0 || setresuid(1000, 1000, 1000) != 0) _exit(kNotPrepared);
  signal(SIGUSR1, nothing);
  // Always honest calls in one thread, for something to be there to disturb; two more ways at random.
  uint64_t mix = next(&state);
  if ((mix >> 20) % 4 == 0) flip_alone();
  pthread_t t;
  pthread_create(&t, NULL, honest_calls, (void*)(next(&state) | 1));
  for (int i = 0; i < 2; i++) {
    pthread_create(&t, NULL, kWays[(mix >> (8 * i)) % kWayCount], (void*)(next(&state) | 1));
  }
  double until = now() + 0.05 + (double)(mix >> 40 & 0xff) / 1000;
  while (now() < until) sched_yield();
  over = 1;
  _exit(0);
}

int main(int argc, char** argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 5;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 1000003 | 1;
  for (char* at = kStub; at < kStub + 0x8000 && gadget_at == NULL; at++) {
    if (memcmp(at, "\x0f\x05\xc3", 3) == 0) gadget_at = at;
  }
  if (gadget_at == NULL) return printf("no gadget in the stub\n"), 1;
  if (gadget(SYS_getpid, 0, 0, 0, 0, 0, 0) != -EPERM) return printf("the filter lets getpid through\n"), 1;
  // What all stubs of the sandbox believe.
  for (uint64_t page = kBoard; page < kBoard + kBoardBytes; page += 4096) {
    if (gadget(SYS_mprotect, page, 4096, PROT_READ | PROT_WRITE, 0, 0, 0) != -EACCES) {
      return printf("the board can be made writable\n"), 1;
    }
  }
  printf("seed %llu\n", (unsigned long long)seed);
  fflush(stdout);
  int ended = 0, killed = 0, slow = 0;
  double until = now() + seconds;
  while (now() < until) {
    next(&seed);
    pid_t pid = fork();
    if (pid < 0) {
      usleep(1000);
      continue;
    }
    if (pid == 0) attack(seed);
    int status = 0;
    double give_up = now() + 2;
    pid_t got;
    while ((got = waitpid(pid, &status, WNOHANG)) == 0 && now() < give_up) usleep(2000);
    if (got == 0) {  // it broke its own way back; it must still be possible to kill
      slow++;
      kill(pid, SIGKILL);
      got = waitpid(pid, &status, 0);
    }
    if (got != pid) return printf("waitpid gave %d (%s)\n", got, strerror(errno)), 1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == kNotPrepared) return printf("cannot change the user\n"), 1;
    ended += WIFEXITED(status);
    killed += WIFSIGNALED(status);
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
  }
  printf("%d ended by themselves, %d were killed, %d of them by hand\n", ended, killed, slow);
  return ended + killed < 5;
}
