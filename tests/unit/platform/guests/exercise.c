// A guest for the platform: threads that block in futexes while their sites are patched, signals, forks, and figures.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}
#define TIME(name, count, body)               \
  do {                                        \
    double best = 1e18;                       \
    for (int batch = 0; batch < 5; ++batch) { \
      double from = now();                    \
      for (int i = 0; i < (count); ++i) {     \
        body;                                 \
      }                                       \
      double each = (now() - from) / (count); \
      if (each < best) best = each;           \
    }                                         \
    printf("%-16s %10.0f ns\n", name, best);  \
  } while (0)

// One fresh syscall site for each page: one thread sleeps inside while another makes the first call and patches it.
typedef long (*site_fn)(void*, long, long, void*);
static site_fn sites[64];
static int words[64];
static void make_sites(int padded) {
  unsigned char* text = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 64; ++i) {
    unsigned char* p = text + i * 4096;
    int n = 0;
    static const unsigned char head[] = {0x49, 0x89, 0xca};  // mov %rcx,%r10
    memcpy(p, head, 3);
    n = 3;
    if (padded) {
      p[n++] = 0xb0;
      p[n++] = 202;
      p[n++] = 0x0f;
      p[n++] = 0xb6;
      p[n++] = 0xc0;
    }  // mov $202,%al; movzbl
    else {
      p[n++] = 0xb8;
      p[n++] = 202;
      p[n++] = 0;
      p[n++] = 0;
      p[n++] = 0;
    }
    p[n++] = 0x0f;
    p[n++] = 0x05;
    p[n++] = 0xc3;
    memset(p + n, 0xcc, 24);
    sites[i] = (site_fn)p;
  }
  mprotect(text, 64 * 4096, PROT_READ | PROT_EXEC);
}
static int started;
static void* sleeper(void* arg) {
  long i = (long)arg;
  __atomic_store_n(&started, i + 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&words[i], __ATOMIC_SEQ_CST) == 0) sites[i](&words[i], 0 | 128, 0, 0);
  return 0;
}
static int race(int padded) {
  make_sites(padded);
  memset(words, 0, sizeof(words));
  for (long i = 0; i < 64; ++i) {
    pthread_t t;
    __atomic_store_n(&started, 0, __ATOMIC_SEQ_CST);
    if (pthread_create(&t, 0, sleeper, (void*)i) != 0) return 1;
    while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) != i + 1) sched_yield();
    struct timespec pause = {0, i % 4 * 20000};
    nanosleep(&pause, 0);
    for (int k = 0; k < 3; ++k) sites[i](&words[i], 1 | 128, 0, 0);
    __atomic_store_n(&words[i], 1, __ATOMIC_SEQ_CST);
    sites[i](&words[i], 1 | 128, 100, 0);
    pthread_join(t, 0);
  }
  return 0;
}

static volatile int handled;
static void on_signal(int s) {
  (void)s;
  ++handled;
}
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long shared;
static void* adder(void* arg) {
  (void)arg;
  for (int i = 0; i < 20000; ++i) {
    pthread_mutex_lock(&lock);
    ++shared;
    pthread_mutex_unlock(&lock);
  }
  return 0;
}
static volatile int stop;
static volatile double check;
static void* spinner(void* arg) {  // kicked from outside: registers and FP state must survive
  long* bad = arg;
  unsigned long x = 1;
  while (!stop) {
    double d = 1.5;
    for (int i = 0; i < 1000; ++i) {
      x = x * 6364136223846793005ul + 1;
      d = d * 0.5 + 0.75;
    }
    if (d != 1.5) ++*bad;
    syscall(SYS_getpid);
    if (x % 3 == 0) syscall(SYS_getpgrp);
    if (x % 7 == 0) {
      int w = 0;
      struct timespec t = {0, 50000};
      syscall(SYS_futex, &w, 0, 0, &t, 0, 0);
    }
  }
  check = x;
  return 0;
}

int main(int argc, char** argv) {
  int failures = 0;
  if (argc > 1 && strcmp(argv[1], "bench") == 0) {
    TIME("getpid", 100000, syscall(SYS_getpid));
    TIME("getpgrp (sentry)", 3000, syscall(SYS_getpgrp));
    TIME("mmap+munmap", 3000, munmap(mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096));
    TIME("fork+exit+wait", 100, pid_t p = fork(); if (p == 0) _exit(0); waitpid(p, 0, 0));
    return 0;
  }
  if (race(0)) {
    puts("race A failed");
    ++failures;
  }
  if (race(1)) {
    puts("race B failed");
    ++failures;
  }
  puts("races done");
  pthread_t t[4];
  for (int i = 0; i < 4; ++i) pthread_create(&t[i], 0, adder, 0);
  for (int i = 0; i < 4; ++i) pthread_join(t[i], 0);
  if (shared != 80000) {
    printf("shared %ld\n", shared);
    ++failures;
  }
  struct sigaction action;
  memset(&action, 0, sizeof(action));
  action.sa_handler = on_signal;
  sigaction(SIGUSR1, &action, 0);
  int seen = 0;
  for (int i = 0; i < 200; ++i) {
    raise(SIGUSR1);
    seen += handled == i + 1;
  }
  if (seen != 200) {
    printf("raise: %d of 200\n", seen);
    ++failures;
  }
  sigset_t set, old;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, &old);
  handled = 0;
  raise(SIGUSR1);
  if (handled != 0) {
    puts("delivered while blocked");
    ++failures;
  }
  sigprocmask(SIG_SETMASK, &old, 0);
  if (handled != 1) {
    puts("not delivered at unblock");
    ++failures;
  }
  long bad = 0;
  pthread_create(&t[0], 0, spinner, &bad);
  handled = 0;
  int sent = 0;
  for (int i = 0; i < 500; ++i) {
    int before = handled;
    pthread_kill(t[0], SIGUSR1);
    ++sent;
    double limit = now() + 2e9;
    while (handled == before && now() < limit) sched_yield();
    if (handled == before) {
      printf("kick %d lost\n", i);
      ++failures;
      break;
    }
  }
  stop = 1;
  pthread_join(t[0], 0);
  if (bad != 0) {
    printf("FP state broken %ld times\n", bad);
    ++failures;
  }
  printf("kicks %d handled %d\n", sent, handled);
  for (int i = 0; i < 20; ++i) {
    pid_t p = fork();
    if (p == 0) _exit(i);
    int status = 0;
    if (waitpid(p, &status, 0) != p || WEXITSTATUS(status) != i) {
      puts("fork failed");
      ++failures;
    }
  }
  puts(failures == 0 ? "ok" : "FAILED");
  return failures != 0;
}
