// pipe(7) and unix(7) between processes that also talk past them: what one has written is there for all others at once,
// in the order in which it was written, and nobody sleeps on it.
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <atomic>
#include <vector>

#include "ends.h"
#include "guest.h"
using namespace guest;

TEST(streams, order_between_writers) {
  each_kind([](Ends e) {
    for (bool late : {true, false}) {
      const int kTurns = late ? 150 : 1500;  // as many as a socket holds
      auto& turn = shared<Word>();
      const auto pids = write_in_turn(e.to, turn, kTurns);
      if (late) wait_for(turn, kTurns);
      for (int i = 0; i < kTurns; i++) CHECK_EQ(get(e.from), i);
      for (pid_t pid : pids) WAIT_OK(pid);
    }
  });
}

TEST(streams, seen_at_once) {
  each_kind([](Ends e) {
    auto &written = shared<Word>(), &taken = shared<Word>();
    constexpr int kRounds = 300;
    pid_t pid = spawn([&] {
      for (int i = 1; i <= kRounds; i++) {
        put(e.to, i);
        written.store(i);
        spin_for(taken, i);
      }
      return 0;
    });
    OK(fcntl(e.from, F_SETFL, O_NONBLOCK));
    for (int i = 1; i <= kRounds; i++) {
      spin_for(written, i);
      if (i % 3 == 1) CHECK_EQ(waiting(e.from), 4);
      if (i % 3 == 2) CHECK(readable(e.from));
      CHECK_EQ(get(e.from), i);
      taken.store(i);
    }
    WAIT_OK(pid);
    FAILS(read(e.from, &pid, 4), EAGAIN);
  });
}

TEST(streams, writer_is_killed) {
  each_kind([](Ends e) {
    auto& done = shared<Word>();
    pid_t pid = spawn([&] {
      for (int i = 0; i < 100; i++) put(e.to, i);
      done.store(1);
      while (done.load() == 1) {
      }
      return 0;
    });
    close(e.to);
    wait_for(done, 1);
    OK(kill(pid, SIGKILL));
    CHECK_EQ(wait_status(pid), SIGKILL);
    for (int i = 0; i < 100; i++) CHECK_EQ(get(e.from), i);
    CHECK_EQ(read(e.from, &pid, 4), 0);
  });
}

TEST(streams, writer_executes_and_forks) {
  each_kind([](Ends e) {
    pid_t pid = spawn([&] {
      for (int i = 0; i < 10; i++) put(e.to, i);
      WAIT_OK(spawn([&] {
        for (int i = 10; i < 20; i++) put(e.to, i);
        return 0;
      }));
      for (int i = 20; i < 30; i++) put(e.to, i);
      execl("/bin/true", "true", nullptr);
      return 1;
    });
    close(e.to);
    WAIT_OK(pid);
    for (int i = 0; i < 30; i++) CHECK_EQ(get(e.from), i);
    CHECK_EQ(read(e.from, &pid, 4), 0);
  });
}

TEST(streams, reader_goes) {
  signal(SIGPIPE, SIG_IGN);
  each_kind([](Ends e) {
    auto &written = shared<Word>(), &closed = shared<Word>();
    pid_t pid = spawn([&] {
      close(e.to);
      wait_for(written, 1);
      CHECK_EQ(get(e.from), 0);
      close(e.from);
      closed.store(1);
      return 0;
    });
    close(e.from);
    for (int i = 0; i < 20; i++) put(e.to, i);
    written.store(1);
    spin_for(closed, 1);
    // A socket says once that what it had sent was thrown away.
    int value = 0;
    ssize_t n = write(e.to, &value, 4);
    if (n < 0 && errno == ECONNRESET) n = write(e.to, &value, 4);
    CHECK_EQ(n, -1);
    CHECK_EQ(errno, EPIPE);
    WAIT_OK(pid);
  });
}

// Whoever waits is woken by each single write, however he waits.
TEST(streams, nobody_sleeps) {
  each_kind([](Ends e) {
    for (int way = 0; way < 3; way++) {
      auto& got = shared<Word>();
      constexpr int kRounds = 400;
      pid_t pid = spawn([&] {
        int watch = OK(epoll_create1(0));
        epoll_event event{EPOLLIN, {}};
        if (way == 2) OK(epoll_ctl(watch, EPOLL_CTL_ADD, e.from, &event));
        for (int i = 0; i < kRounds; i++) {
          pollfd p{e.from, POLLIN, 0};
          if (way == 1) CHECK_EQ(poll(&p, 1, 5000), 1);
          if (way == 2) CHECK_EQ(epoll_wait(watch, &event, 1, 5000), 1);
          CHECK_EQ(get(e.from), i);
          got.store(i + 1);
        }
        return 0;
      });
      for (int i = 0; i < kRounds; i++) {
        // Sometimes it waits already, sometimes it is about to.
        for (Word spin{i % 7 * 1000}; spin.fetch_sub(1) > 0;) {
        }
        if (i % 50 == 0) sleep_ms(2);
        put(e.to, i);
        if (i % 3 != 0) wait_for(got, i + 1);
      }
      WAIT_OK(pid);
    }
  });
}

// The same the other way round: who waits for room hears of it.
TEST(streams, room_is_told) {
  each_kind([](Ends e) {
    constexpr int kTotal = 200000;
    pid_t pid = spawn([&] {
      for (int i = 0; i < kTotal; i++) put(e.to, i);
      return 0;
    });
    for (int i = 0; i < kTotal; i++) {
      if (i % 40000 == 0) sleep_ms(20);
      CHECK_EQ(get(e.from), i);
    }
    WAIT_OK(pid);
  });
}

TEST(streams, capacity_of_all_writers) {
  int p[2];
  OK(pipe2(p, O_NONBLOCK));
  std::string piece(64, 'x');
  auto &turn = shared<Word>(), &total = shared<Word>();
  pid_t pids[2];
  for (int me = 0; me < 2; me++)
    pids[me] = spawn([&, me] {
      for (int i = me;; i += 2) {
        spin_for(turn, i);
        const ssize_t n = write(p[1], piece.data(), piece.size());
        if (n > 0) total.fetch_add((int)n);
        const int error = errno;
        turn.store(i + 1);
        if (n < 0) return error != EAGAIN;
        CHECK_EQ(n, 64);
      }
    });
  for (pid_t pid : pids) WAIT_OK(pid);
  CHECK_EQ(total.load(), 65536);
  CHECK_EQ(waiting(p[0]), 65536);
  FAILS(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
  char b[4096];
  for (int i = 0; i < 16; i++) CHECK_EQ(read(p[0], b, sizeof b), 4096);
  FAILS(read(p[0], b, 1), EAGAIN);
  for (int i = 0; i < 8; i++) put(p[1], i);
  CHECK_EQ(fcntl(p[1], F_SETPIPE_SZ, 4096), 4096);
  CHECK_EQ(fcntl(p[0], F_GETPIPE_SZ), 4096);
  for (int i = 0; i < 8; i++) CHECK_EQ(get(p[0]), i);
}

TEST(streams, threads_share_an_end) {
  each_kind([](Ends e) {
    static Ends ends;
    ends = e;
    constexpr int kEach = 4000;
    static std::atomic<int> sum;
    sum = 0;
    auto writer = [](void* arg) -> void* {
      for (int i = 1; i <= kEach; i++) put(ends.to, (int)(intptr_t)arg << 16 | i);
      return nullptr;
    };
    auto reader = [](void*) -> void* {
      int last[4] = {};
      for (;;) {
        const int value = get(ends.from);
        if (value == 0) return nullptr;
        const int who = value >> 16, i = value & 0xffff;
        CHECK(who >= 0 && who < 4 && i > last[who]);
        last[who] = i;
        sum.fetch_add(i);
      }
    };
    pthread_t writers[3], readers[2];
    for (auto& t : readers) CHECK_EQ(pthread_create(&t, nullptr, reader, nullptr), 0);
    for (intptr_t i = 0; i < 3; i++) CHECK_EQ(pthread_create(&writers[i], nullptr, writer, (void*)(i + 1)), 0);
    for (auto& t : writers) CHECK_EQ(pthread_join(t, nullptr), 0);
    for (int i = 0; i < 2; i++) put(e.to, 0);
    for (auto& t : readers) CHECK_EQ(pthread_join(t, nullptr), 0);
    CHECK_EQ(sum.load(), 3 * (kEach * (kEach + 1) / 2));
  });
}

// A process that reads what it writes, in pieces of all sizes.
TEST(streams, within_one_process) {
  each_kind([](Ends e) {
    unsigned seed = 1;
    auto random = [&](unsigned most) { return (seed = seed * 1103515245 + 12345) / 65536 % most + 1; };
    unsigned written = 0, taken = 0;
    std::vector<char> b(8000);
    OK(fcntl(e.from, F_SETFL, O_NONBLOCK));
    for (int i = 0; i < 20000; i++) {
      const unsigned most = i % 1000 < 700 ? 20 : 3000;
      unsigned n = random(most);
      if (written - taken < (most == 20 ? 500 : 20000)) {
        for (unsigned k = 0; k < n; k++) b[k] = (char)((written + k) * 7 >> 3);
        CHECK_EQ(write(e.to, b.data(), n), n);
        written += n;
      }
      n = random(most);
      const ssize_t got = read(e.from, b.data(), n);
      if (written == taken) {
        CHECK_EQ(got, -1);
        CHECK_EQ(errno, EAGAIN);
        continue;
      }
      CHECK_EQ(got, std::min(n, written - taken));
      for (ssize_t k = 0; k < got; k++) CHECK_EQ(b[(size_t)k], (char)((taken + (unsigned)k) * 7 >> 3));
      taken += (unsigned)got;
    }
    CHECK_EQ(waiting(e.from), written - taken);
  });
}

TEST(streams, two_descriptors) {
  each_kind([](Ends e) {
    int again = OK(dup(e.to));
    for (int i = 0; i < 40; i++) put(i % 5 == 0 ? again : e.to, i);
    close(e.to);
    for (int i = 40; i < 60; i++) put(again, i);
    // Its number is another file's now.
    CHECK_EQ(OK(open("/dev/null", O_WRONLY)), e.to);
    put(e.to, 1000);
    for (int i = 0; i < 60; i++) CHECK_EQ(get(e.from), i);
    put(again, 60);
    CHECK_EQ(waiting(e.from), 4);
    close(again);
    CHECK_EQ(get(e.from), 60);
    int value;
    CHECK_EQ(read(e.from, &value, 4), 0);
  });
}

TEST(streams, packets_begin) {
  int p[2];
  OK(pipe(p));
  char b[100];
  for (int i = 0; i < 20; i++) put(p[1], i);
  CHECK_EQ(read(p[0], b, sizeof b), 80);
  OK(fcntl(OK(dup(p[1])), F_SETFL, O_DIRECT));
  CHECK_EQ(write(p[1], "abc", 3), 3);
  CHECK_EQ(write(p[1], "defg", 4), 4);
  CHECK_EQ(read(p[0], b, sizeof b), 3);
  CHECK_EQ(read(p[0], b, sizeof b), 4);
}

TEST(streams, splice_takes_all) {
  int a[2], b[2];
  OK(pipe(a));
  OK(pipe(b));
  for (int i = 0; i < 20; i++) put(a[1], i);
  CHECK_EQ(tee(a[0], b[1], 1000, 0), 80);
  for (int i = 0; i < 10; i++) CHECK_EQ(get(a[0]), i);
  CHECK_EQ(splice(a[0], nullptr, b[1], nullptr, 1000, 0), 40);
  for (int i = 0; i < 20; i++) CHECK_EQ(get(b[0]), i);
  for (int i = 10; i < 20; i++) CHECK_EQ(get(b[0]), i);
}

TEST(streams, files_keep_their_place) {
  int p[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
  for (int i = 0; i < 20; i++) put(p[1], i);
  int value = 20;
  const std::string with(reinterpret_cast<const char*>(&value), sizeof value);
  send_with(p[1], with, OK(open("/dev/null", O_RDWR)));
  for (int i = 21; i < 30; i++) put(p[1], i);
  for (int i = 0; i < 20; i++) CHECK_EQ(get(p[0]), i);
  OK(close(receive_with(p[0], with)));
  for (int i = 21; i < 30; i++) CHECK_EQ(get(p[0]), i);
  // Looking takes nothing; what is shut down ends behind what was written.
  for (int i = 0; i < 10; i++) CHECK_EQ(send(p[1], &i, 4, MSG_NOSIGNAL), 4);
  CHECK_EQ(recv(p[0], &value, 4, MSG_PEEK), 4);
  CHECK_EQ(value, 0);
  OK(shutdown(p[1], SHUT_WR));
  FAILS(send(p[1], &value, 4, MSG_NOSIGNAL), EPIPE);
  for (int i = 0; i < 10; i++) {
    CHECK_EQ(recv(p[0], &value, 4, 0), 4);
    CHECK_EQ(value, i);
  }
  CHECK_EQ(recv(p[0], &value, 4, 0), 0);
}

TEST(streams, a_filter_comes) {
  each_kind([](Ends e) {
    WAIT_OK(spawn([&] {
      for (int i = 0; i < 20; i++) {
        put(e.to, i);
        CHECK_EQ(get(e.from), i);
      }
      deny(SYS_write, EXDEV);
      FAILS(write(e.to, &e, 4), EXDEV);
      deny(SYS_read, ENOTTY);
      FAILS(read(e.from, &e, 4), ENOTTY);
      return 0;
    }));
  });
}

TEST(streams, bad_memory) {
  each_kind([](Ends e) {
    auto* page = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(munmap(page + 4096, 4096));
    for (int i = 0; i < 20; i++) {
      put(e.to, i);
      CHECK_EQ(get(e.from), i);
    }
    FAILS(write(e.to, page + 4096, 10), EFAULT);
    CHECK(!readable(e.from));
    put(e.to, 7);
    FAILS(read(e.from, page + 4096, 4), EFAULT);
    CHECK_EQ(get(e.from), 7);
  });
}

// ---- a reader that sleeps, and a writer that does anything but write on ----

namespace {

// Computes without a call until the reader has had that.
void compute_until(const Word& word, int value) {
  for (int64_t end = now_ms() + 10000; word.load() < value;) CHECK(now_ms() < end);
}

// How a reader sleeps: read(2), poll(2), epoll_wait(2).
void sleep_for(int how, int fd) {
  if (how == 1) {
    pollfd p{fd, POLLIN, 0};
    CHECK_EQ(poll(&p, 1, 10000), 1);
  } else if (how == 2) {
    static int epoll = -1;
    if (epoll < 0) {
      epoll = OK(epoll_create1(0));
      epoll_event e{EPOLLIN | EPOLLET, {}};
      OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e));
    }
    epoll_event e;
    CHECK_EQ(epoll_wait(epoll, &e, 1, 10000), 1);
  }
}

// A process that reads what comes and says how much it got.
pid_t reader(Ends e, int how, Word& got, int count) {
  return spawn([&, how, count] {
    if (e.to != e.from) close(e.to);
    for (int i = 0; i < count; i++) {
      sleep_for(how, e.from);
      CHECK_EQ(get(e.from), i);
      got.store(i + 1);
    }
    int more;
    sleep_for(how, e.from);
    CHECK_EQ(read(e.from, &more, sizeof more), 0);
    return 0;
  });
}

}  // namespace

TEST(streams, sleeping_readers_are_told) {
  for (int how = 0; how < 3; how++) {
    int p[2];
    for (int kind = 0; kind < 2; kind++) {
      OK(kind == 0 ? pipe(p) : socketpair(AF_UNIX, SOCK_STREAM, 0, p));
      auto& got = shared<Word>();
      constexpr int kCount = 90;
      pid_t child = reader({p[0], p[1]}, how, got, kCount);
      close(p[0]);
      for (int i = 0; i < kCount; i++) {
        if (i % 9 == 0) sleep_ms(2);
        put(p[1], i);
        switch (i / 10 % 3) {
          case 0: compute_until(got, i + 1); break;
          case 1:
            for (int64_t end = now_ms() + 10000; got.load() < i + 1; usleep(50)) CHECK(now_ms() < end);
            break;
          default:
            while (got.load() < i + 1) {
              timespec t{0, 1000000};
              syscall(SYS_futex, &got, 0 /* FUTEX_WAIT */, i, &t, nullptr, 0);
            }
        }
      }
      close(p[1]);
      WAIT_OK(child);
    }
  }
}

TEST(streams, sleeping_readers_get_the_last) {
  for (int way = 0; way < 5; way++) {
    for (int kind = 0; kind < 2; kind++) {
      int p[2];
      OK(kind == 0 ? pipe(p) : socketpair(AF_UNIX, SOCK_STREAM, 0, p));
      auto& got = shared<Word>();
      auto& word = shared<Word>();
      pid_t child = reader({p[0], p[1]}, 0, got, 21);
      pid_t writer = spawn([&]() -> int {
        close(p[0]);
        for (int i = 0; i < 20; i++) {
          put(p[1], i);
          compute_until(got, i + 1);
        }
        sleep_ms(2);
        put(p[1], 20);
        switch (way) {
          case 0: _exit(0);
          case 1:
            close(p[1]);
            compute_until(word, 1);
            return 0;
          case 2:
            dup2(2, p[1]);
            compute_until(word, 1);
            return 0;
          case 3:
            fcntl(p[1], F_SETFD, FD_CLOEXEC);
            execl(self(), "guest_tests", "--helper", "exit", "0", nullptr);
            return 1;
          default:
            word.store(1);
            compute_until(word, 2);
            return 0;
        }
      });
      close(p[0]);
      close(p[1]);
      if (way == 4) {
        wait_for(word, 1);
        kill(writer, SIGKILL);
      }
      WAIT_OK(child);
      CHECK_EQ(got.load(), 21);
      word.store(2);
      const int status = wait_status(writer);
      CHECK_EQ(status, way == 4 ? SIGKILL : 0);
    }
  }
}

// Somebody else looks at the pipe first, and takes nothing.
TEST(streams, sleeping_readers_and_others_who_look) {
  for (int kind = 0; kind < 2; kind++) {
    int p[2];
    OK(kind == 0 ? pipe(p) : socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    auto& got = shared<Word>();
    auto& end = shared<Word>();
    constexpr int kCount = 300;
    pid_t other = spawn([&] {
      close(p[1]);
      while (end.load() == 0) CHECK(waiting(p[0]) >= 0);
      return 0;
    });
    pid_t child = reader({p[0], p[1]}, 0, got, kCount);
    for (int i = 0; i < kCount; i++) {
      put(p[1], i);
      compute_until(got, i + 1);
    }
    end.store(1);
    WAIT_OK(other);
    close(p[0]);
    close(p[1]);
    WAIT_OK(child);
  }
}

// Several write, one sleeps: the order of each, and nothing is lost.
TEST(streams, sleeping_reader_of_many) {
  each_kind([](Ends e) {
    constexpr int kWriters = 5, kEach = 2000;
    auto& step = shared<Word>();
    pid_t writers[kWriters];
    for (int w = 0; w < kWriters; w++) {
      writers[w] = spawn([&, w] {
        close(e.from);
        for (int i = 0; i < kEach; i++) {
          put(e.to, w * 100000 + i);
          if (i % 100 == 0) usleep(300);
          if (i % 70 == 0) compute_until(step, 0);
        }
        return 0;
      });
    }
    close(e.to);
    int seen[kWriters] = {};
    for (int n = 0; n < kWriters * kEach; n++) {
      const int value = get(e.from), w = value / 100000;
      CHECK(w >= 0 && w < kWriters);
      CHECK_EQ(value % 100000, seen[w]);
      ++seen[w];
    }
    int more;
    CHECK_EQ(read(e.from, &more, sizeof more), 0);
    for (pid_t writer : writers) WAIT_OK(writer);
  });
}
