// Small loops over one operation each. micro NAME... prints "NAME nanoseconds" for each; without arguments, all of them.
// Static and without libraries beyond libc, so that it runs the same in every root filesystem.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void must(int ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "micro: %s: %s\n", what, strerror(errno));
  exit(1);
}

static long clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void do_getpid(long n) { while (n--) syscall(SYS_getpid); }
// getppid changes when a parent dies, so it has to be asked: a call that does nothing.
static void do_null(long n) { while (n--) getppid(); }
static void do_clock(long n) { struct timespec t; while (n--) clock_gettime(CLOCK_REALTIME, &t); }

static void do_cpu(long n) {
  unsigned long x = 1;
  while (n--) {
    x = x * 6364136223846793005UL + 1442695040888963407UL;
    __asm__ volatile("" : "+r"(x));
  }
}

static void do_mmap(long n) {
  while (n--) {
    char *p = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED, "mmap");
    for (int i = 0; i < 65536; i += 4096) p[i] = 1;
    munmap(p, 65536);
  }
}

static void do_fault(long n) {
  char *p = mmap(0, n * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(p != MAP_FAILED, "mmap");
  madvise(p, n * 4096, MADV_NOHUGEPAGE);
  for (long i = 0; i < n; i++) p[i * 4096] = 1;
  munmap(p, n * 4096);
}

static int turn;
static void pass(int me, long n) {
  while (n--) {
    while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != me) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !me, 0, 0, 0);
    __atomic_store_n(&turn, !me, __ATOMIC_RELEASE);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
  }
}
static void *second_player(void *n) { pass(1, (long)n); return 0; }
static void do_futex(long n) {
  pthread_t t;
  turn = 0;
  must(pthread_create(&t, 0, second_player, (void *)n) == 0, "pthread_create");
  pass(0, n);
  pthread_join(t, 0);
}

static void *nothing(void *p) { return p; }
static void do_thread(long n) {
  while (n--) {
    pthread_t t;
    must(pthread_create(&t, 0, nothing, 0) == 0, "pthread_create");
    pthread_join(t, 0);
  }
}

static void do_fork(long n) {
  while (n--) {
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) _exit(0);
    must(waitpid(pid, 0, 0) == pid, "waitpid");
  }
}
static void do_exec(long n) {
  while (n--) {
    int status = 0;
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
      execl("/bin/true", "true", (char *)0);
      _exit(1);
    }
    must(waitpid(pid, &status, 0) == pid && status == 0, "/bin/true");
  }
}

static void do_pipe(long n) {
  int a[2], b[2];
  char c = 0;
  must(pipe(a) == 0 && pipe(b) == 0, "pipe");
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0) {
    close(a[1]);
    while (read(a[0], &c, 1) == 1)
      if (write(b[1], &c, 1) != 1) break;
    _exit(0);
  }
  while (n--) must(write(a[1], &c, 1) == 1 && read(b[0], &c, 1) == 1, "pipe");
  close(a[1]);
  waitpid(pid, 0, 0);
}

static void do_open(long n) {
  while (n--) {
    int fd = open("/etc/passwd", O_RDONLY);
    must(fd >= 0, "open");
    close(fd);
  }
}
static void do_stat(long n) { struct stat st; while (n--) must(stat("/etc/passwd", &st) == 0, "stat"); }
static void do_read(long n) {
  char b[4096];
  int fd = open("/bin/true", O_RDONLY);
  must(fd >= 0, "open");
  while (n--) must(pread(fd, b, sizeof b, 0) == sizeof b, "pread");
  close(fd);
}
static void do_create(long n) {
  char name[40];
  snprintf(name, sizeof name, "/tmp/micro.%d", getpid());
  while (n--) {
    int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
    must(fd >= 0 && write(fd, name, 10) == 10, "create");
    close(fd);
    unlink(name);
  }
}

static const struct { const char *name; void (*run)(long); long start; } kRows[] = {
    {"getpid", do_getpid, 1000},    {"null-call", do_null, 1000},  {"clock", do_clock, 1000},
    {"cpu", do_cpu, 100000},        {"mmap-touch", do_mmap, 50},   {"page-fault", do_fault, 1000},
    {"futex-pingpong", do_futex, 500}, {"thread", do_thread, 50},  {"fork-wait", do_fork, 20},
    {"fork-exec-wait", do_exec, 10}, {"pipe-pingpong", do_pipe, 200}, {"open-close", do_open, 200},
    {"stat", do_stat, 200},         {"pread-4k", do_read, 200},    {"create-unlink", do_create, 50},
};

int main(int argc, char **argv) {
  for (size_t i = 0; i < sizeof kRows / sizeof *kRows; i++) {
    int wanted = argc == 1;
    for (int a = 1; a < argc; a++) wanted |= !strcmp(argv[a], kRows[i].name);
    if (!wanted) continue;
    // Enough repetitions for a tenth of a second, found by doubling; the first runs are the warm-up.
    for (long n = kRows[i].start;; n *= 2) {
      long from = clock_ns();
      kRows[i].run(n);
      long took = clock_ns() - from;
      if (took < 50000000 && n < 1L << 32 && !(kRows[i].run == do_fault && n >= 1 << 17)) continue;
      printf("%s %.2f\n", kRows[i].name, (double)took / n);
      fflush(stdout);
      break;
    }
  }
  return 0;
}
