// epoll_ctl(2) made again and again by one thread: a sandbox may answer it before it carries it out, and nobody can
// tell.
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <atomic>
#include <thread>
#include <vector>

#include "ends.h"
#include "guest.h"
using namespace guest;

namespace {

constexpr uint64_t kData = 0x1122334455667788;

void add(int ep, int fd, uint64_t data = kData, uint32_t events = EPOLLIN) {
  epoll_event e{events, {.u64 = data}};
  OK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}
void change(int ep, int fd, uint64_t data, uint32_t events) {
  epoll_event e{events, {.u64 = data}};
  OK(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e));
}
void remove(int ep, int fd) { OK(epoll_ctl(ep, EPOLL_CTL_DEL, fd, nullptr)); }

// A pipe with a byte in it.
struct Readable {
  int fd, write_end;
  Readable() {
    int p[2];
    OK(pipe(p));
    CHECK_EQ(write(p[1], "x", 1), 1);
    fd = p[0], write_end = p[1];
  }
};

// Changes made often enough that short ways are in use; the descriptor is not in the set afterwards.
void warm_up(int ep, int fd) {
  for (int i = 0; i < 20; ++i) {
    add(ep, fd);
    change(ep, fd, 1, EPOLLOUT);
    remove(ep, fd);
  }
}

int events_now(int ep, uint64_t* data = nullptr) {
  epoll_event out[200];
  int n = OK(epoll_wait(ep, out, 200, 0));
  if (data != nullptr && n > 0) *data = out[0].data.u64;
  return n;
}

// A word that others look at and write: what passes by it no kernel sees.
std::atomic<int>& shared_word() {
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) FAIL("mmap");
  return *new (at) std::atomic<int>(0);
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Without a call that a kernel would see.
bool soon(const std::atomic<int>& word, int value, double seconds = 10) {
  for (double end = now() + seconds; now() < end;) {
    if (word.load() == value) return true;
  }
  return false;
}

// Somebody is about to wait: gives him the time to do it.
void give_time() {
  for (double end = now() + 0.02; now() < end;) continue;
}

// `wait` waits for an event of the epoll in another thread while this one adds a descriptor that is ready, and makes no
// call until the other has seen it.
template <typename Wait>
void seen_by_another_thread(int ep, Wait wait) {
  Readable r;
  for (int round = 0; round < 10; ++round) {
    warm_up(ep, r.fd);
    std::atomic<int> word{0};
    std::thread other([&] {
      word = 1;
      wait();
      word = 2;
    });
    CHECK(soon(word, 1));
    give_time();
    add(ep, r.fd);
    CHECK(soon(word, 2));
    other.join();
    remove(ep, r.fd);
  }
}

int wait_long(int ep) {
  epoll_event out[4];
  return epoll_wait(ep, out, 4, 20000);
}

// The child waits with this, the parent adds and makes no call until the child has seen it.
template <typename Wait>
void seen_by_a_child(int ep, Wait wait) {
  Readable r;
  std::atomic<int>& word = shared_word();
  warm_up(ep, r.fd);
  pid_t child = OK(fork());
  if (child == 0) {
    word = 1;
    wait();
    word = 2;
    _exit(0);
  }
  CHECK(soon(word, 1));
  give_time();
  add(ep, r.fd);
  CHECK(soon(word, 2));
  WAIT_OK(child);
}

}  // namespace

TEST(toggles, results) {
  int ep = OK(epoll_create1(0));
  Readable r;
  warm_up(ep, r.fd);
  for (int i = 0; i < 50; ++i) {
    epoll_event e{EPOLLIN, {.u64 = (uint64_t)i}};
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, r.fd, &e));
    FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, r.fd, &e), EEXIST);
    uint64_t data = 0;
    CHECK_EQ(events_now(ep, &data), 1);
    CHECK_EQ(data, (uint64_t)i);
    e.events = 0;
    OK(epoll_ctl(ep, EPOLL_CTL_MOD, r.fd, &e));
    CHECK_EQ(events_now(ep), 0);
    e.events = EPOLLIN;
    e.data.u64 = 1000;
    OK(epoll_ctl(ep, EPOLL_CTL_MOD, r.fd, &e));
    CHECK_EQ(events_now(ep, &data), 1);
    CHECK_EQ(data, 1000u);
    FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, r.fd, nullptr), EFAULT);
    FAILS(epoll_ctl(ep, 4, r.fd, &e), EINVAL);
    e.events = EPOLLIN | EPOLLEXCLUSIVE;
    FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, r.fd, &e), EINVAL);
    FAILS(epoll_ctl(ep, EPOLL_CTL_DEL, 900, nullptr), EBADF);
    FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &e), EINVAL);
    OK(epoll_ctl(ep, EPOLL_CTL_DEL, r.fd, nullptr));
    FAILS(epoll_ctl(ep, EPOLL_CTL_DEL, r.fd, nullptr), ENOENT);
    e.events = EPOLLIN;
    FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, r.fd, &e), ENOENT);
    CHECK_EQ(events_now(ep), 0);
  }
}

TEST(toggles, many_at_once) {
  int ep = OK(epoll_create1(0));
  std::vector<Readable> all(100);
  for (auto& r : all) warm_up(ep, r.fd);
  for (int round = 0; round < 3; ++round) {
    for (auto& r : all) add(ep, r.fd);
    CHECK_EQ(events_now(ep), 100);
    for (auto& r : all) change(ep, r.fd, 2, 0);
    CHECK_EQ(events_now(ep), 0);
    for (auto& r : all) change(ep, r.fd, 2, EPOLLIN);
    for (size_t i = 0; i < all.size(); i += 2) remove(ep, all[i].fd);
    CHECK_EQ(events_now(ep), 50);
    for (size_t i = 1; i < all.size(); i += 2) remove(ep, all[i].fd);
    CHECK_EQ(events_now(ep), 0);
  }
}

TEST(toggles, edges_and_oneshots) {
  int ep = OK(epoll_create1(0));
  Readable r;
  warm_up(ep, r.fd);
  add(ep, r.fd, 1, EPOLLIN | EPOLLET);
  for (int i = 0; i < 20; ++i) {
    CHECK_EQ(events_now(ep), 1);
    CHECK_EQ(events_now(ep), 0);
    change(ep, r.fd, 1, EPOLLIN | EPOLLET);
  }
  CHECK_EQ(events_now(ep), 1);
  change(ep, r.fd, 1, EPOLLIN | EPOLLONESHOT);
  for (int i = 0; i < 20; ++i) {
    CHECK_EQ(events_now(ep), 1);
    CHECK_EQ(events_now(ep), 0);
    CHECK_EQ(write(r.write_end, "x", 1), 1);
    CHECK_EQ(events_now(ep), 0);
    change(ep, r.fd, 1, EPOLLIN | EPOLLONESHOT);
  }
}

TEST(toggles, closed_and_reused) {
  int ep = OK(epoll_create1(0));
  for (int round = 0; round < 10; ++round) {
    int empty[2];
    OK(pipe(empty));
    Readable r;
    warm_up(ep, r.fd);
    add(ep, r.fd);
    OK(close(r.fd));
    CHECK_EQ(OK(dup(empty[0])), r.fd);
    CHECK_EQ(events_now(ep), 0);
    add(ep, r.fd);
    CHECK_EQ(events_now(ep), 0);
    remove(ep, r.fd);
    Readable other;
    add(ep, r.fd);
    CHECK_EQ(OK(dup2(other.fd, r.fd)), r.fd);  // the old file lives on, but not under this descriptor
    FAILS(epoll_ctl(ep, EPOLL_CTL_DEL, r.fd, nullptr), ENOENT);
    add(ep, r.fd);
    CHECK_EQ(events_now(ep), 1);
    OK(close(other.fd));
    OK(close(r.fd));
    CHECK_EQ(events_now(ep), 0);
    OK(close(other.write_end));
    OK(close(r.write_end));
    OK(close(empty[0]));
    OK(close(empty[1]));
  }
}

TEST(toggles, another_thread_closes) {
  int ep = OK(epoll_create1(0));
  for (int round = 0; round < 20; ++round) {
    Readable r, other;
    warm_up(ep, r.fd);
    add(ep, r.fd);
    std::atomic<int> word{0};
    std::thread closer([&] {
      while (word != 1) continue;
      OK(dup2(other.fd, r.fd));
      word = 2;
      while (word != 3) continue;
      OK(close(r.fd));
      word = 4;
    });
    word = 1;
    while (word != 2) continue;
    add(ep, r.fd);  // it is another file now
    CHECK_EQ(events_now(ep), 1);
    remove(ep, r.fd);
    warm_up(ep, r.fd);
    word = 3;
    while (word != 4) continue;
    epoll_event e{EPOLLIN, {}};
    FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, r.fd, &e), EBADF);
    closer.join();
    OK(close(other.fd));
    OK(close(other.write_end));
    OK(close(r.write_end));
  }
}

TEST(toggles, another_thread_waits) {
  int ep = OK(epoll_create1(0));
  seen_by_another_thread(ep, [ep] { CHECK_EQ(wait_long(ep), 1); });
}

TEST(toggles, another_thread_polls) {
  int ep = OK(epoll_create1(0));
  seen_by_another_thread(ep, [ep] {
    pollfd p{ep, POLLIN, 0};
    CHECK_EQ(poll(&p, 1, 20000), 1);
  });
}

TEST(toggles, another_epoll_waits) {
  int ep = OK(epoll_create1(0)), outer = OK(epoll_create1(0));
  Readable r;
  warm_up(ep, r.fd);
  add(outer, ep);
  seen_by_another_thread(ep, [outer] { CHECK_EQ(wait_long(outer), 1); });
}

TEST(toggles, another_thread_waits_by_another_descriptor) {
  int ep = OK(epoll_create1(0));
  Readable r;
  warm_up(ep, r.fd);
  int other = OK(dup(ep));
  seen_by_another_thread(ep, [other] { CHECK_EQ(wait_long(other), 1); });
}

TEST(toggles, what_is_removed_is_not_reported_to_others) {
  int ep = OK(epoll_create1(0));
  Readable r;
  std::atomic<int> word{0};
  constexpr int kRounds = 300;
  std::thread other([&] {
    for (int i = 0; i < kRounds; ++i) {
      while (word != 2 * i + 1) sched_yield();
      CHECK_EQ(events_now(ep), 0);
      word = 2 * i + 2;
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    warm_up(ep, r.fd);
    add(ep, r.fd);
    remove(ep, r.fd);
    word = 2 * i + 1;
    while (word != 2 * i + 2) sched_yield();
  }
  other.join();
}

TEST(toggles, a_child_waits) {
  int ep = OK(epoll_create1(0));
  seen_by_a_child(ep, [ep] { CHECK_EQ(wait_long(ep), 1); });
}

TEST(toggles, a_child_sees_what_was_done_before_it) {
  int ep = OK(epoll_create1(0));
  Readable r;
  warm_up(ep, r.fd);
  add(ep, r.fd);
  pid_t child = OK(fork());
  if (child == 0) {
    CHECK_EQ(events_now(ep), 1);
    _exit(0);
  }
  WAIT_OK(child);
  remove(ep, r.fd);
  CHECK_EQ(events_now(ep), 0);
}

TEST(toggles, sent_to_a_child) {
  int ep = OK(epoll_create1(0)), pair[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  Readable r;
  std::atomic<int>& word = shared_word();
  pid_t child = OK(fork());
  if (child == 0) {
    OK(close(ep));
    const int got = receive_with(pair[1], "x");
    word = 1;
    CHECK_EQ(wait_long(got), 1);
    word = 2;
    _exit(0);
  }
  warm_up(ep, r.fd);
  send_with(pair[0], "x", ep);
  CHECK(soon(word, 1));
  give_time();
  add(ep, r.fd);
  CHECK(soon(word, 2));
  WAIT_OK(child);
}

// Two epolls, and a thread for each; then they change places.
TEST(toggles, two_epolls) {
  int eps[2] = {OK(epoll_create1(0)), OK(epoll_create1(0))};
  Readable r;
  auto work = [&](int ep, int fd) {
    for (int i = 0; i < 2000; ++i) {
      add(ep, fd);
      if (i % 7 == 0) CHECK_EQ(events_now(ep), 1);
      change(ep, fd, 3, 0);
      if (i % 5 == 0) CHECK_EQ(events_now(ep), 0);
      remove(ep, fd);
    }
  };
  for (int turn = 0; turn < 4; ++turn) {
    std::thread other([&] { work(eps[turn % 2], r.fd); });
    work(eps[1 - turn % 2], r.fd);
    other.join();
  }
}

TEST(toggles, a_handler_joins_in) {
  static int ep, fds[2];
  ep = OK(epoll_create1(0));
  Readable a, b;
  fds[0] = a.fd, fds[1] = b.fd;
  warm_up(ep, a.fd);
  warm_up(ep, b.fd);
  add(ep, b.fd);
  static std::atomic<int> calls{0};
  struct sigaction action {};
  action.sa_handler = [](int) {
    change(ep, fds[1], 5, calls % 2 == 0 ? (uint32_t)EPOLLIN : 0u);
    ++calls;
  };
  OK(sigaction(SIGALRM, &action, nullptr));
  itimerval often{{0, 500}, {0, 500}}, never{};
  OK(setitimer(ITIMER_REAL, &often, nullptr));
  for (double end = now() + 0.3; now() < end;) {
    for (int i = 0; i < 5; ++i) {
      add(ep, a.fd);
      remove(ep, a.fd);
    }
  }
  OK(setitimer(ITIMER_REAL, &never, nullptr));
  CHECK(calls > 0);
  CHECK_EQ(events_now(ep), calls % 2);
  change(ep, b.fd, 6, EPOLLIN);
  add(ep, a.fd);
  CHECK_EQ(events_now(ep), 2);
}

TEST(toggles, filtered) {
  int ep = OK(epoll_create1(0));
  Readable r;
  warm_up(ep, r.fd);
  deny(SYS_epoll_ctl, EDOM);
  epoll_event e{EPOLLIN, {}};
  for (int i = 0; i < 20; ++i) FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, r.fd, &e), EDOM);
  CHECK_EQ(events_now(ep), 0);
}
