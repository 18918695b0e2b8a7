// Threads, futexes, thread-local state.
#include <asm/prctl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "guest.h"
using namespace guest;

static long futex(void* word, int op, uint32_t value, const timespec* limit = nullptr, void* word2 = nullptr,
                  uint32_t value3 = 0) {
  return syscall(SYS_futex, word, op, value, limit, word2, value3);
}

TEST(threads, create_and_join) {
  std::atomic<int> sum{0};
  for (int round = 0; round < 20; round++) {
    std::vector<std::thread> all;
    for (int i = 0; i < 8; i++) all.emplace_back([&, i] { sum += i; });
    for (auto& t : all) t.join();
  }
  CHECK_EQ(sum, 20 * 28);
}

// More than there may be at once.
TEST(threads, many_one_after_another) {
  std::atomic<int> count{0};
  for (int i = 0; i < 5000; i++) std::thread([&] { count++; }).join();
  CHECK_EQ(count, 5000);
}

TEST(threads, ids) {
  pid_t pid = getpid();
  CHECK_EQ(syscall(SYS_gettid), pid);
  pid_t a = 0, b = 0;
  std::thread t1([&] {
    a = syscall(SYS_gettid);
    CHECK_EQ(getpid(), pid);
  });
  t1.join();
  std::thread t2([&] { b = syscall(SYS_gettid); });
  t2.join();
  CHECK(a != pid && b != pid && a > 0 && b > 0);
  // Who is joined is on his way out still.
  CHECK(eventually([] { return field("/proc/self/status", "Threads:") == 1; }));
  std::mutex gate;
  gate.lock();
  std::thread t3([&] { gate.lock(); });
  CHECK(eventually([] { return field("/proc/self/status", "Threads:") == 2; }));
  gate.unlock();
  t3.join();
}

TEST(threads, thread_local_storage) {
  static thread_local int mine = 7;
  std::vector<std::thread> all;
  for (int i = 0; i < 8; i++)
    all.emplace_back([i] {
      CHECK_EQ(mine, 7);
      mine = i;
      for (int n = 0; n < 200; n++) {
        sched_yield();
        CHECK_EQ(mine, i);
      }
      unsigned long base = 0;
      OK(syscall(SYS_arch_prctl, ARCH_GET_FS, &base));
      CHECK_EQ(base, (unsigned long)pthread_self());
    });
  for (auto& t : all) t.join();
  CHECK_EQ(mine, 7);
}

TEST(threads, mutex_and_condition) {
  std::mutex m;
  std::condition_variable c;
  long counter = 0;
  std::vector<std::thread> all;
  for (int i = 0; i < 4; i++)
    all.emplace_back([&] {
      for (int n = 0; n < 20000; n++) {
        std::lock_guard<std::mutex> l(m);
        counter++;
      }
    });
  for (auto& t : all) t.join();
  CHECK_EQ(counter, 80000);
  int turn = 0;
  auto play = [&](int me) {
    for (int n = 0; n < 500; n++) {
      std::unique_lock<std::mutex> l(m);
      c.wait(l, [&] { return turn == me; });
      turn = 1 - me;
      c.notify_all();
    }
  };
  std::thread a(play, 0), b(play, 1);
  a.join();
  b.join();
}

TEST(threads, share_descriptors_and_directory) {
  OK(mkdir("d", 0755));
  int fd = -1;
  std::thread t([&] {
    fd = OK(open("/dev/null", O_RDONLY));
    OK(chdir("d"));
  });
  t.join();
  OK(fcntl(fd, F_GETFD));
  spew("f", "");
  OK(chdir(".."));
  OK(access("d/f", F_OK));
}

TEST(threads, exit_group_from_a_thread) {
  pid_t pid = spawn([] {
    std::thread t([] {
      sleep_ms(20);
      _exit(31);
    });
    for (;;) pause();
    return 0;
  });
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 31);
  // The leader leaves first; the process lives until its last thread ends, and that one's status is the process's
  // (synchronize_group_exit in kernel/exit.c; kernels before 5.18 reported the leader's).
  pid = spawn([] {
    new std::thread([] {
      sleep_ms(50);
      syscall(SYS_exit, 5);
    });
    syscall(SYS_exit, 8);
    return 0;
  });
  sleep_ms(20);
  CHECK_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 5);
}

TEST(threads, a_fatal_signal_ends_all) {
  pid_t pid = spawn([] {
    std::thread a([] {
      for (;;) pause();
    });
    std::thread b([] {
      for (volatile int x = 0;;) x = x + 1;
    });
    sleep_ms(20);
    kill(getpid(), SIGTERM);
    for (;;) pause();
    return 0;
  });
  CHECK_EQ(WTERMSIG(wait_status(pid)), SIGTERM);
}

TEST(threads, fork_keeps_only_the_caller) {
  std::mutex gate;
  gate.lock();
  std::thread t([&] { gate.lock(); });
  WAIT_OK(spawn([] {
    CHECK_EQ(field("/proc/self/status", "Threads:"), 1);
    CHECK_EQ(syscall(SYS_gettid), getpid());
    return 0;
  }));
  gate.unlock();
  t.join();
}

TEST(threads, fork_from_a_thread) {
  for (int i = 0; i < 20; i++) {
    std::thread t([] {
      WAIT_OK(spawn([] {
        CHECK_EQ(syscall(SYS_gettid), getpid());
        return 0;
      }));
    });
    t.join();
  }
}

TEST(futex, wait_and_wake) {
  static uint32_t word = 1;
  FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 0), EAGAIN);
  timespec limit{0, 20000000};
  int64_t start = now_ms();
  FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 1, &limit), ETIMEDOUT);
  CHECK(now_ms() - start >= 19);
  CHECK_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 10), 0);
  FAILS(futex((void*)2, FUTEX_WAIT_PRIVATE, 1), EINVAL);
  FAILS(futex((void*)8, FUTEX_WAIT_PRIVATE, 1), EFAULT);
  FAILS(futex(&word, 77, 1), ENOSYS);
  std::vector<std::thread> all;
  std::atomic<int> woken{0};
  for (int i = 0; i < 3; i++)
    all.emplace_back([&] {
      OK(futex(&word, FUTEX_WAIT_PRIVATE, 1));
      woken++;
    });
  int count = 0;
  CHECK(eventually([&] { return (count += futex(&word, FUTEX_WAKE_PRIVATE, 1)) == 2; }));
  CHECK(eventually([&] { return woken == 2; }));
  sleep_ms(20);
  CHECK_EQ(woken, 2);
  CHECK(eventually([&] { return futex(&word, FUTEX_WAKE_PRIVATE, 9) == 1; }));
  for (auto& t : all) t.join();
}

TEST(futex, absolute_timeout_and_bitset) {
  uint32_t word = 0;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  now.tv_nsec += 30000000;
  if (now.tv_nsec >= 1000000000) now.tv_sec++, now.tv_nsec -= 1000000000;
  int64_t start = now_ms();
  FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &now, nullptr, 1), ETIMEDOUT);
  CHECK(now_ms() - start >= 25);
  FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &now, nullptr, 0), EINVAL);
  std::thread t([&] { OK(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, nullptr, nullptr, 2)); });
  sleep_ms(20);
  CHECK_EQ(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 5, nullptr, nullptr, 1), 0);
  CHECK(eventually([&] { return futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 5, nullptr, nullptr, 3) == 1; }));
  t.join();
}

TEST(futex, requeue) {
  uint32_t a = 0, b = 0;
  std::atomic<int> woken{0};
  std::vector<std::thread> all;
  for (int i = 0; i < 3; i++)
    all.emplace_back([&] {
      OK(futex(&a, FUTEX_WAIT_PRIVATE, 0));
      woken++;
    });
  sleep_ms(50);
  FAILS(futex(&a, FUTEX_CMP_REQUEUE_PRIVATE, 1, (timespec*)9, &b, 7), EAGAIN);
  long moved = 0;
  CHECK(eventually([&] { return (moved += futex(&a, FUTEX_CMP_REQUEUE_PRIVATE, 0, (timespec*)9, &b, 0)) == 3; }));
  CHECK_EQ(futex(&a, FUTEX_WAKE_PRIVATE, 9), 0);
  CHECK_EQ(futex(&b, FUTEX_WAKE_PRIVATE, 9), 3);
  for (auto& t : all) t.join();
}

TEST(futex, between_processes) {
  auto* word = (std::atomic<uint32_t>*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t pid = spawn([&] {
    for (int i = 0; i < 200; i++) {
      while (*word != 1) futex(word, FUTEX_WAIT, 0);
      *word = 0;
      futex(word, FUTEX_WAKE, 1);
    }
    return 0;
  });
  for (int i = 0; i < 200; i++) {
    *word = 1;
    futex(word, FUTEX_WAKE, 1);
    while (*word != 0) futex(word, FUTEX_WAIT, 1);
  }
  WAIT_OK(pid);
}

TEST(futex, shared_file_mapping) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
  OK(ftruncate(fd, 4096));
  auto map = [&] { return (std::atomic<uint32_t>*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); };
  auto *a = map(), *b = map();
  CHECK(a != MAP_FAILED && b != MAP_FAILED && a != b);
  std::thread t([&] {
    while (*a == 0) futex(a, FUTEX_WAIT, 0);
  });
  sleep_ms(20);
  *b = 1;
  CHECK(eventually([&] { return futex(b, FUTEX_WAKE, 1) == 1 || *a == 1; }));
  futex(b, FUTEX_WAKE, 1);
  t.join();
}

TEST(futex, robust_mutex) {
  auto* m = (pthread_mutex_t*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(m, &attr);
  std::thread([&] { pthread_mutex_lock(m); }).join();
  CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
  CHECK_EQ(pthread_mutex_consistent(m), 0);
  CHECK_EQ(pthread_mutex_unlock(m), 0);
  // The owner is another process, which is killed while this one waits.
  int p[2];
  OK(pipe(p));
  for (int how = 0; how < 4; how++) {
    pid_t pid = spawn([&] {
      auto hold = [&] {
        pthread_mutex_lock(m);
        char c = 1;
        CHECK_EQ(write(p[1], &c, 1), 1);
        if (how == 0) pause();
        if (how == 1) sleep(100);
        for (volatile int spin = 0; how >= 2;) spin = spin + 1;
      };
      if (how < 3) hold();
      std::thread(hold).detach();
      pause();
      return 0;
    });
    char c;
    CHECK_EQ(read(p[0], &c, 1), 1);
    std::thread killer([&] {
      sleep_ms(50);
      kill(pid, SIGKILL);
    });
    CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
    killer.join();
    CHECK_EQ(WTERMSIG(wait_status(pid)), SIGKILL);
    CHECK_EQ(pthread_mutex_consistent(m), 0);
    CHECK_EQ(pthread_mutex_unlock(m), 0);
  }
}

TEST(futex, set_tid_address) {
  static std::atomic<int> word{1};
  std::thread t([] {
    syscall(SYS_set_tid_address, &word);
    // glibc's own word is no longer cleared: leave without returning to it.
    syscall(SYS_exit, 0);
  });
  t.detach();
  CHECK(eventually([] { return word == 0; }));
}

// A thread that ends just as its last call comes back must not take the others with it.
TEST(threads, end_beside_a_busy_one) {
  int p[2];
  OK(pipe(p));
  for (int round = 0; round < 300; round++) {
    std::atomic<bool> done{false};
    std::thread reader([&] {
      char byte;
      CHECK_EQ(read(p[0], &byte, 1), 1);
      done = true;
    });
    char c = 'x';
    for (int i = 0; i < 20; i++) FAILS(lseek(p[1], 0, SEEK_CUR), ESPIPE);
    CHECK_EQ(write(p[1], &c, 1), 1);
    while (!done) FAILS(lseek(p[1], 0, SEEK_CUR), ESPIPE);
    for (int i = 0; i < 20; i++) FAILS(lseek(p[1], 0, SEEK_CUR), ESPIPE);
    reader.join();
  }
}

TEST(threads, priority_inheriting_mutex) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  CHECK_EQ(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT), 0);
  CHECK_EQ(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK), 0);
  pthread_mutex_t mutex;
  CHECK_EQ(pthread_mutex_init(&mutex, &attributes), 0);
  long sum = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++)
    threads.emplace_back([&] {
      for (int j = 0; j < 3000; j++) {
        CHECK_EQ(pthread_mutex_lock(&mutex), 0);
        long now = sum;
        if (j % 64 == 0) sched_yield();
        sum = now + 1;
        CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
      }
    });
  for (auto& t : threads) t.join();
  CHECK_EQ(sum, 12000);
  CHECK_EQ(pthread_mutex_lock(&mutex), 0);
  CHECK_EQ(pthread_mutex_lock(&mutex), EDEADLK);
  std::thread([&] {
    CHECK_EQ(pthread_mutex_trylock(&mutex), EBUSY);
    timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    at.tv_nsec += 20'000'000;
    if (at.tv_nsec >= 1'000'000'000) at.tv_sec++, at.tv_nsec -= 1'000'000'000;
    CHECK_EQ(pthread_mutex_timedlock(&mutex, &at), ETIMEDOUT);
  }).join();
  CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  uint32_t word = 1;  // nobody's: its thread does not exist here, and we are not it
  FAILS(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI, 0, nullptr, nullptr, 0), EPERM);
  FAILS(syscall(SYS_futex, (char*)&word + 1, FUTEX_LOCK_PI, 0, nullptr, nullptr, 0), EINVAL);
}

TEST(threads, robust_list_is_told) {
  struct {
    void* next;
    long offset;
    void* pending;
  } head{&head, 0, nullptr};
  void* got = nullptr;
  size_t size = 0;
  OK(syscall(SYS_get_robust_list, 0, &got, &size));
  void* before = got;
  OK(syscall(SYS_set_robust_list, &head, sizeof head));
  OK(syscall(SYS_get_robust_list, 0, &got, &size));
  CHECK_EQ((long)got, (long)&head);
  CHECK_EQ(size, sizeof head);
  OK(syscall(SYS_set_robust_list, before, sizeof head));
}

namespace {

void wait_while(std::atomic<int>& word, int value) {
  while (word.load() == value) futex(&word, FUTEX_WAIT_PRIVATE, value);
}

void answer(std::atomic<int>& word, int value) {
  word = value;
  futex(&word, FUTEX_WAKE_PRIVATE, 1);
}

std::atomic<int> caught{0};

}  // namespace

// Two that wake each other, often enough that short ways are in use; and after that what futex(2) says of single waits.
TEST(threads, futex_answers) {
  constexpr int kRounds = 5000;
  std::atomic<int> word{0}, state{0};
  pid_t other_tid = 0;
  struct sigaction action = {};
  action.sa_handler = [](int) { ++caught; };
  OK(sigaction(SIGUSR1, &action, nullptr));
  long woken = -1, interrupted = -1, timed_out = -1;
  int64_t took = 0;
  std::thread other([&] {
    other_tid = (pid_t)syscall(SYS_gettid);
    for (int i = 0; i < kRounds; ++i) {
      wait_while(word, 0);
      answer(word, 0);
    }
    state = 1;
    woken = futex(&word, FUTEX_WAIT_PRIVATE, 0);
    state = 2;
    if (futex(&word, FUTEX_WAIT_PRIVATE, 1) < 0) interrupted = errno;
    const timespec two_ms = {0, 2000000};
    const int64_t begin = now_ms();
    if (futex(&word, FUTEX_WAIT_PRIVATE, 1, &two_ms) < 0) timed_out = errno;
    took = now_ms() - begin;
  });
  for (int i = 0; i < kRounds; ++i) {
    answer(word, 1);
    wait_while(word, 1);
  }
  while (state.load() != 1) sched_yield();
  sleep_ms(30);
  word = 1;
  CHECK_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 1), 1);
  while (state.load() != 2) sched_yield();
  while (caught.load() == 0) {
    OK(syscall(SYS_tgkill, getpid(), other_tid, SIGUSR1));
    sleep_ms(30);
  }
  other.join();
  CHECK_EQ(woken, 0);
  CHECK_EQ(interrupted, EINTR);
  CHECK_EQ(timed_out, ETIMEDOUT);
  CHECK(took >= 1 && took < 1000);
  FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 0), EAGAIN);
  FAILS(syscall(SYS_futex, 8, FUTEX_WAIT, 0, nullptr, nullptr, 0), EFAULT);
  FAILS(syscall(SYS_futex, reinterpret_cast<char*>(&word) + 1, FUTEX_WAIT, 0, nullptr, nullptr, 0), EINVAL);
}
