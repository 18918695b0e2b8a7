// micro [ROW...]: nanoseconds of single operations, one line `name ns_per_op operations` each (all rows without
// arguments). `operations` counts everything the row did, so that a caller can divide the CPU time it saw.
// micro time PROGRAM [ARGUMENT...]: the wall time of one program, its output thrown away, as `time ns 1`.
// micro again PROGRAM [ARGUMENT...]: the same, of its second run.
// micro spin: keeps a processor busy until killed. One static file, so that it runs in any root filesystem.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kPage = 4096, kMap = 64 << 10, kFaultPages = 1024, kChunk = 64 << 10, kBatches = 3 };
static const double kBatchNs = 30e6;               // long against the clock and a time slice, short against a round
static const char* const kFile = "/bench/file1m";  // 1 MiB, put there by bench/run
static const char* const kOut = "/bench/x/out";

static const char* self;  // this program, for exec
static char buffer[kChunk];
static volatile uint64_t sink;

static void die(const char* what) {
  fprintf(stderr, "micro: %s: %s\n", what, strerror(errno));
  exit(1);
}

// Every operation must do its work: a refused call would be a fast one.
static long need(long result, const char* what) {
  if (result < 0) die(what);
  return result;
}

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void cpu(long n) {
  uint64_t x = 88172645463325252u;
  for (long i = 0; i < n; i++) x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  sink = x;
}

static void libc_getpid(long n) {
  for (long i = 0; i < n; i++) need(getpid(), "getpid");
}

static void libc_getppid(long n) {
  for (long i = 0; i < n; i++) need(getppid(), "getppid");
}

static void null_call(long n) {
  for (long i = 0; i < n; i++) need(getpgid(0), "getpgid");
}

static void clock_read(long n) {
  struct timespec t;
  for (long i = 0; i < n; i++) need(clock_gettime(CLOCK_MONOTONIC, &t), "clock_gettime");
}

static char* anonymous(size_t size) {
  char* p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) die("mmap");
  return p;
}

static void mmap_touch(long n) {
  for (long i = 0; i < n; i++) {
    char* p = anonymous(kMap);
    for (int at = 0; at < kMap; at += kPage) p[at] = 1;
    need(munmap(p, kMap), "munmap");
  }
}

// One operation is one page; dropping the pages again is a 1024th of a call.
static void page_fault(long n) {
  static char* area;
  if (!area) {
    area = anonymous((size_t)kFaultPages * kPage);
    madvise(area, (size_t)kFaultPages * kPage, MADV_NOHUGEPAGE);
  }
  while (n > 0) {
    long pages = n < kFaultPages ? n : kFaultPages;
    for (long i = 0; i < pages; i++) area[i * kPage] = 1;
    need(madvise(area, (size_t)kFaultPages * kPage, MADV_DONTNEED), "madvise");
    n -= pages;
  }
}

static int turn;  // whose turn it is: 0 the measuring thread's, 1 the other's

static void futex_wait_for(int value) {
  int seen;
  while ((seen = __atomic_load_n(&turn, __ATOMIC_ACQUIRE)) != value)
    if (syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0) < 0 && errno != EAGAIN && errno != EINTR)
      die("futex wait");
}

static void futex_give(int value) {
  __atomic_store_n(&turn, value, __ATOMIC_RELEASE);
  need(syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), "futex wake");
}

static void* futex_partner(void* count) {
  for (long i = *(long*)count; i > 0; i--) {
    futex_wait_for(1);
    futex_give(0);
  }
  return NULL;
}

static void start_thread(pthread_t* thread, void* (*body)(void*), void* argument) {
  errno = pthread_create(thread, NULL, body, argument);
  if (errno) die("pthread_create");
}

static void futex_pingpong(long n) {
  pthread_t thread;
  start_thread(&thread, futex_partner, &n);
  for (long i = 0; i < n; i++) {
    futex_give(1);
    futex_wait_for(0);
  }
  pthread_join(thread, NULL);
}

// What one cache line needs from one processor to another and back: below that no call that another processor serves
// can be. It depends on where the host of a virtual machine puts the two.
static struct {
  _Atomic unsigned word;
  char rest[60];
} line __attribute__((aligned(64)));

static void* line_partner(void* argument) {
  long n = *(long*)argument;
  for (long i = 0; i < n; i++) {
    while (line.word != 1) __builtin_ia32_pause();
    line.word = 0;
  }
  return NULL;
}

static void line_round_trip(long n) {
  pthread_t thread;
  start_thread(&thread, line_partner, &n);
  for (long i = 0; i < n; i++) {
    line.word = 1;
    while (line.word != 0) __builtin_ia32_pause();
  }
  pthread_join(thread, NULL);
}

static void* nothing(void* argument) { return argument; }

static void thread_join(long n) {
  for (long i = 0; i < n; i++) {
    pthread_t thread;
    start_thread(&thread, nothing, NULL);
    pthread_join(thread, NULL);
  }
}

static void wait_for(pid_t child) {
  int status;
  need(waitpid(child, &status, 0), "waitpid");
  if (status != 0) {
    fprintf(stderr, "micro: the child ended with status %#x\n", status);
    exit(1);
  }
}

static void fork_wait(long n) {
  for (long i = 0; i < n; i++) {
    pid_t child = need(fork(), "fork");
    if (child == 0) _exit(0);
    wait_for(child);
  }
}

static void fork_exec(long n) {
  for (long i = 0; i < n; i++) {
    pid_t child = need(fork(), "fork");
    if (child == 0) {
      execl(self, self, "exit", NULL);
      _exit(127);
    }
    wait_for(child);
  }
}

static void spawn_wait(long n) {
  char* arguments[] = {(char*)self, "exit", NULL};
  for (long i = 0; i < n; i++) {
    pid_t child;
    errno = posix_spawn(&child, self, NULL, NULL, arguments, environ);
    if (errno) die("posix_spawn");
    wait_for(child);
  }
}

static void stat_file(long n) {
  struct stat s;
  for (long i = 0; i < n; i++) need(stat(kFile, &s), "stat");
}

static void open_close(long n) {
  for (long i = 0; i < n; i++) close(need(open(kFile, O_RDONLY), "open"));
}

static void pread_file(long n, size_t size) {
  int fd = need(open(kFile, O_RDONLY), "open");
  for (long i = 0; i < n; i++)
    if (pread(fd, buffer, size, i % 16 * kChunk) != (ssize_t)size) die("pread");
  close(fd);
}

static void pread_4k(long n) { pread_file(n, kPage); }
static void pread_64k(long n) { pread_file(n, kChunk); }

static void pwrite_file(long n, size_t size) {
  int fd = need(open(kOut, O_RDWR | O_CREAT | O_TRUNC, 0600), "open");
  for (long i = 0; i < n; i++)
    if (pwrite(fd, buffer, size, i % 16 * kChunk) != (ssize_t)size) die("pwrite");
  close(fd);
  unlink(kOut);
}

static void pwrite_4k(long n) { pwrite_file(n, kPage); }
static void pwrite_64k(long n) { pwrite_file(n, kChunk); }

static void create_unlink(long n) {
  for (long i = 0; i < n; i++) {
    close(need(open(kOut, O_WRONLY | O_CREAT | O_EXCL, 0600), "open"));
    need(unlink(kOut), "unlink");
  }
}

static void read_1m(long n) {
  for (long i = 0; i < n; i++) {
    int fd = need(open(kFile, O_RDONLY), "open");
    long total = 0, got;
    while ((got = need(read(fd, buffer, kChunk), "read")) > 0) total += got;
    if (total != 1 << 20) die("short read");
    close(fd);
  }
}

static void pipe_write_read(long n) {
  int ends[2];
  need(pipe(ends), "pipe");
  for (long i = 0; i < n; i++)
    if (write(ends[1], buffer, 64) != 64 || read(ends[0], buffer, 64) != 64) die("pipe");
  close(ends[0]);
  close(ends[1]);
}

// One byte to another process and back, n times; `mine` are the ends this process reads and writes.
static void pingpong(long n, const int mine[2], const int its[2]) {
  char byte = 0;
  pid_t child = need(fork(), "fork");
  if (child == 0) {
    close(mine[1]);
    close(mine[0]);
    while (read(its[0], &byte, 1) == 1 && write(its[1], &byte, 1) == 1) continue;
    _exit(0);
  }
  close(its[0]);
  if (its[1] != its[0]) close(its[1]);
  for (long i = 0; i < n; i++)
    if (write(mine[1], &byte, 1) != 1 || read(mine[0], &byte, 1) != 1) die("ping-pong");
  close(mine[1]);
  if (mine[0] != mine[1]) close(mine[0]);
  wait_for(child);
}

static void pipe_pingpong(long n) {
  int there[2], back[2];
  need(pipe(there), "pipe");
  need(pipe(back), "pipe");
  pingpong(n, (int[]){back[0], there[1]}, (int[]){there[0], back[1]});
}

static void unix_pingpong(long n) {
  int pair[2];
  need(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
  pingpong(n, (int[]){pair[0], pair[0]}, (int[]){pair[1], pair[1]});
}

static void tcp_pingpong(long n) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listener = need(socket(AF_INET, SOCK_STREAM, 0), "socket"),
      client = need(socket(AF_INET, SOCK_STREAM, 0), "socket");
  need(bind(listener, (struct sockaddr*)&address, size), "bind");
  need(listen(listener, 1), "listen");
  need(getsockname(listener, (struct sockaddr*)&address, &size), "getsockname");
  need(connect(client, (struct sockaddr*)&address, size), "connect");
  int server = need(accept(listener, NULL, NULL), "accept");
  close(listener);
  pingpong(n, (int[]){client, client}, (int[]){server, server});
}

// What an event loop does for one event.
static void epoll_loop(long n) {
  int epoll = need(epoll_create1(0), "epoll_create1"), event = need(eventfd(0, EFD_NONBLOCK), "eventfd");
  struct epoll_event interest = {.events = EPOLLIN}, ready;
  uint64_t value = 1;
  need(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &interest), "epoll_ctl");
  for (long i = 0; i < n; i++) {
    if (write(event, &value, sizeof value) != sizeof value) die("eventfd");
    if (epoll_wait(epoll, &ready, 1, -1) != 1) die("epoll_wait");
    if (read(event, &value, sizeof value) != sizeof value) die("eventfd");
  }
  close(event);
  close(epoll);
}

static volatile sig_atomic_t signals;

static void on_signal(int number) {
  (void)number;
  signals++;
}

static void signal_self(long n) {
  signal(SIGUSR1, on_signal);
  pid_t me = getpid();
  int before = signals;
  for (long i = 0; i < n; i++) need(kill(me, SIGUSR1), "kill");
  if (signals - before != n) die("a signal was lost");
}

static const struct {
  const char* name;
  void (*body)(long n);
} kRows[] = {
    {"cpu", cpu},
    {"getpid", libc_getpid},
    {"getppid", libc_getppid},
    {"null-call", null_call},
    {"clock_gettime", clock_read},
    {"mmap-touch-munmap-64k", mmap_touch},
    {"page-fault", page_fault},
    {"futex-pingpong", futex_pingpong},
    {"line-round-trip", line_round_trip},
    {"thread-create-join", thread_join},
    {"fork-wait", fork_wait},
    {"fork-exec-wait", fork_exec},
    {"spawn-wait", spawn_wait},
    {"stat", stat_file},
    {"open-close", open_close},
    {"pread-4k", pread_4k},
    {"pread-64k", pread_64k},
    {"read-1m", read_1m},
    {"pwrite-4k", pwrite_4k},
    {"pwrite-64k", pwrite_64k},
    {"create-unlink", create_unlink},
    {"pipe-write-read", pipe_write_read},
    {"pipe-pingpong", pipe_pingpong},
    {"unix-pingpong", unix_pingpong},
    {"tcp-pingpong", tcp_pingpong},
    {"epoll-loop", epoll_loop},
    {"signal-self", signal_self},
};

static int ascending(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

// Doubles the batch until it is long enough, then takes the median of a few.
static void measure(const char* name, void (*body)(long n)) {
  long n = 1, total = 0;
  double took = 0;
  while (took < kBatchNs) {  // the shorter of two: one that lost its processor says nothing
    n *= 2;
    for (int i = 0; i < 2; i++) {
      double start = now_ns();
      body(n);
      double this = now_ns() - start;
      if (i == 0 || this < took) took = this;
      total += n;
    }
  }
  double batch[kBatches];
  for (int i = 0; i < kBatches; i++) {
    double start = now_ns();
    body(n);
    batch[i] = (now_ns() - start) / n;
    total += n;
  }
  qsort(batch, kBatches, sizeof batch[0], ascending);
  printf("%s %.2f %ld\n", name, batch[kBatches / 2], total);
  fflush(stdout);
}

static double run_program(char** argv) {
  double start = now_ns();
  pid_t child = need(fork(), "fork");
  if (child == 0) {
    int null = open("/dev/null", O_WRONLY);
    if (null < 0 || dup2(null, STDOUT_FILENO) < 0) _exit(126);
    execvp(argv[0], argv);
    _exit(127);
  }
  wait_for(child);
  return now_ns() - start;
}

int main(int argc, char** argv) {
  self = argv[0];
  if (argc == 2 && strcmp(argv[1], "exit") == 0) _exit(0);
  if (argc == 2 && strcmp(argv[1], "spin") == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) cpu(1 << 20);
  }
  int again = argc > 2 && strcmp(argv[1], "again") == 0;
  if (again || (argc > 2 && strcmp(argv[1], "time") == 0)) {
    if (again) run_program(argv + 2);
    printf("time %.0f 1\n", run_program(argv + 2));
    return 0;
  }
  int known = argc == 1;
  for (size_t row = 0; row < sizeof kRows / sizeof kRows[0]; row++) {
    int wanted = argc == 1;
    for (int i = 1; i < argc; i++) wanted |= strcmp(argv[i], kRows[row].name) == 0;
    known |= wanted;
    if (wanted) measure(kRows[row].name, kRows[row].body);
  }
  if (!known) fprintf(stderr, "micro: no such row\n");
  return known ? 0 : 2;
}
