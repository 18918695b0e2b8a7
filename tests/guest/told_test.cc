// What epoll_wait(2) or poll(2) has told of in a pipe or a socket of unix(7): a sandbox may have given the bytes along
// with that, and nobody can tell.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "ends.h"
#include "guest.h"
using namespace guest;

namespace {

// Waits for one descriptor, in one way.
class Telling {
 public:
  Telling(bool by_epoll, int fd, uint32_t events = EPOLLIN) : fd_(fd) {
    if (!by_epoll) return;
    ep_ = OK(epoll_create1(0));
    epoll_event e{events, {.fd = fd}};
    OK(epoll_ctl(ep_, EPOLL_CTL_ADD, fd, &e));
  }
  ~Telling() {
    if (ep_ >= 0) close(ep_);
  }
  Telling(const Telling&) = delete;
  // The events there are.
  unsigned told(int timeout_ms = 10000) const {
    if (ep_ < 0) {
      pollfd p{fd_, POLLIN, 0};
      return OK(poll(&p, 1, timeout_ms)) == 1 ? static_cast<unsigned>(p.revents) : 0;
    }
    epoll_event e{};
    return OK(epoll_wait(ep_, &e, 1, timeout_ms)) == 1 ? e.events : 0;
  }

 private:
  int fd_, ep_ = -1;
};

void each_way(const std::function<void(Ends ends, bool by_epoll)>& body) {
  for (bool by_epoll : {true, false}) each_kind([&](Ends e) { body(e, by_epoll); });
}

void no_waiting(int fd) { OK(fcntl(fd, F_SETFL, O_NONBLOCK)); }

// All that one read gives of a buffer far bigger than that; -1: nothing is there.
std::vector<int> numbers(int fd) {
  int buffer[1024];
  const ssize_t n = read(fd, buffer, sizeof buffer);
  if (n < 0) {
    CHECK_EQ(errno, EAGAIN);
    return {};
  }
  CHECK_EQ(n % sizeof(int), 0);
  return {buffer, buffer + n / sizeof(int)};
}

constexpr int kRounds = 200;

// With one number in it that was told of, several times; then with nothing.
void each_told(const std::function<void(Ends ends, int value)>& body) {
  each_way([&](Ends e, bool by_epoll) {
    no_waiting(e.from);
    Telling telling(by_epoll, e.from);
    for (int i = 0; i < 30; i++) {
      put(e.to, i);
      CHECK_EQ(telling.told(), EPOLLIN);
      body(e, i);
      CHECK(numbers(e.from).empty());
    }
  });
}

}  // namespace

TEST(told, what_comes_after_is_read_too) {
  each_way([](Ends e, bool by_epoll) {
    auto &told = shared<Word>(), &written = shared<Word>(), &taken = shared<Word>();
    pid_t pid = spawn([&] {
      for (int i = 1; i <= kRounds; i++) {
        put(e.to, 2 * i);
        spin_for(told, i);
        if (i % 4 != 0) put(e.to, 2 * i + 1);
        written.store(i);
        spin_for(taken, i);
      }
      return 0;
    });
    no_waiting(e.from);
    Telling telling(by_epoll, e.from);
    for (int i = 1; i <= kRounds; i++) {
      CHECK_EQ(telling.told(), EPOLLIN);
      told.store(i);
      spin_for(written, i);
      std::vector<int> want{2 * i};
      if (i % 4 != 0) want.push_back(2 * i + 1);
      const std::vector<int> got = numbers(e.from);
      CHECK_EQ(got.size(), want.size());
      CHECK(got == want);
      CHECK(numbers(e.from).empty());
      taken.store(i);
    }
    WAIT_OK(pid);
  });
}

TEST(told, one_after_the_other) {
  each_way([](Ends e, bool by_epoll) {
    auto& taken = shared<Word>();
    pid_t pid = spawn([&] {
      for (int i = 1; i <= kRounds; i++) {
        put(e.to, i);
        spin_for(taken, i);
      }
      return 0;
    });
    no_waiting(e.from);
    Telling telling(by_epoll, e.from, EPOLLIN | EPOLLET);
    for (int i = 1; i <= kRounds; i++) {
      CHECK_EQ(telling.told(), EPOLLIN);
      CHECK(numbers(e.from) == std::vector<int>{i});
      if (i % 3 == 0) CHECK(numbers(e.from).empty());
      if (i % 5 == 0) CHECK_EQ(telling.told(0), 0);
      taken.store(i);
    }
    WAIT_OK(pid);
    CHECK_EQ(close(e.to), 0);
    CHECK((telling.told() & EPOLLHUP) != 0);
    char byte = 0;
    CHECK_EQ(read(e.from, &byte, 1), 0);
  });
}

TEST(told, another_process_reads) {
  each_way([](Ends e, bool by_epoll) {
    auto &told = shared<Word>(), &taken = shared<Word>(), &got = shared<Word>(), &seen = shared<Word>();
    no_waiting(e.from);
    pid_t pid = spawn([&] {
      for (int i = 1; i <= kRounds; i++) {
        put(e.to, i);
        spin_for(told, i);
        if (i % 2 == 0) got.store(get(e.from));
        taken.store(i);
        spin_for(seen, i);
      }
      return 0;
    });
    Telling telling(by_epoll, e.from);
    for (int i = 1; i <= kRounds; i++) {
      CHECK_EQ(telling.told(), EPOLLIN);
      told.store(i);
      spin_for(taken, i);
      if (i % 2 == 0) {
        CHECK_EQ(got.load(), i);
        CHECK(numbers(e.from).empty());
      } else {
        CHECK(numbers(e.from) == std::vector<int>{i});
      }
      seen.store(i);
    }
    WAIT_OK(pid);
  });
}

TEST(told, a_child_has_it_too) {
  each_told(
      [](Ends e, int value) { WAIT_OK(spawn([&] { return numbers(e.from) == std::vector<int>{value} ? 0 : 1; })); });
}

TEST(told, in_parts) {
  each_way([](Ends e, bool by_epoll) {
    no_waiting(e.from);
    Telling telling(by_epoll, e.from);
    const std::string text = "abcdefghij";
    auto& go = shared<Word>();
    pid_t pid = spawn([&] {
      for (int i = 1; i <= kRounds; i++) {
        CHECK_EQ(write(e.to, text.data(), text.size()), text.size());
        spin_for(go, i);
      }
      return 0;
    });
    for (int i = 1; i <= kRounds; i++) {
      CHECK_EQ(telling.told(), EPOLLIN);
      char buffer[100];
      size_t at = 0;
      for (size_t part : {size_t{1}, size_t(i % 5), size_t{3}}) {
        if (part == 0) continue;
        CHECK_EQ(read(e.from, buffer + at, part), part);
        at += part;
        if (i % 3 == 0) CHECK_EQ(waiting(e.from), text.size() - at);
        if (i % 4 == 0) CHECK_EQ(telling.told(0), EPOLLIN);
      }
      iovec vec[2] = {{buffer + at, 1}, {buffer + at + 1, 50}};
      CHECK_EQ(readv(e.from, vec, 2), text.size() - at);
      CHECK_STR(std::string(buffer, text.size()), text);
      FAILS(read(e.from, buffer, 1), EAGAIN);
      CHECK_EQ(telling.told(0), 0);
      go.store(i);
    }
    WAIT_OK(pid);
  });
}

TEST(told, room_comes_back) {
  each_way([](Ends e, bool by_epoll) {
    constexpr size_t kAll = 3 << 20;
    pid_t pid = spawn([&] {
      no_waiting(e.to);
      std::vector<uint8_t> bytes(kAll);
      for (size_t i = 0; i < kAll; i++) bytes[i] = static_cast<uint8_t>(i * 7 + i / 4096);
      for (size_t done = 0; done < kAll;) {
        const ssize_t n = write(e.to, bytes.data() + done, std::min<size_t>(3000, kAll - done));
        if (n > 0) {
          done += static_cast<size_t>(n);
          continue;
        }
        CHECK_EQ(errno, EAGAIN);
        pollfd p{e.to, POLLOUT, 0};
        CHECK_EQ(poll(&p, 1, 10000), 1);
      }
      return 0;
    });
    no_waiting(e.from);
    Telling telling(by_epoll, e.from);
    std::vector<uint8_t> buffer(1 << 16);
    for (size_t done = 0, turn = 0; done < kAll; turn++) {
      CHECK_EQ(telling.told() & EPOLLIN, EPOLLIN);
      const ssize_t n = OK(read(e.from, buffer.data(), turn % 3 == 0 ? 5000 : buffer.size()));
      for (size_t i = 0; i < static_cast<size_t>(n); i++, done++)
        CHECK_EQ(buffer[i], static_cast<uint8_t>(done * 7 + done / 4096));
    }
    WAIT_OK(pid);
  });
}

TEST(told, room_is_told_to_who_waits) {
  int s[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s));
  Telling telling(true, s[0]);
  std::vector<char> bytes(4096, 'x');
  for (int i = 0; i < 50; i++) {
    CHECK_EQ(write(s[1], "hello", 5), 5);
    CHECK_EQ(telling.told(), EPOLLIN);
    // With the reader told, and not there: filled, and waited for.
    size_t sent = 5;
    for (ssize_t n; (n = write(s[1], bytes.data(), bytes.size())) > 0;) sent += static_cast<size_t>(n);
    CHECK_EQ(errno, EAGAIN);
    CHECK(sent > 65536);
    auto& ready = shared<Word>();
    pid_t pid = spawn([&] {
      ready.store(1);
      pollfd p{s[1], POLLOUT, 0};
      CHECK_EQ(poll(&p, 1, 10000), 1);
      return p.revents == POLLOUT ? 0 : 1;
    });
    spin_for(ready, 1);
    size_t got = 0;
    while (got < sent) {
      CHECK_EQ(telling.told(), EPOLLIN);
      char buffer[9000];
      got += static_cast<size_t>(OK(read(s[0], buffer, sizeof buffer)));
    }
    CHECK_EQ(got, sent);
    WAIT_OK(pid);
  }
}

TEST(told, order_of_several_writers) {
  each_way([](Ends e, bool by_epoll) {
    constexpr int kTurns = 900;
    auto& turn = shared<Word>();
    const auto pids = write_in_turn(e.to, turn, kTurns);
    no_waiting(e.from);
    Telling telling(by_epoll, e.from);
    for (int next = 0; next < kTurns;) {
      const int before = turn.load();
      if (before > next) {
        // Those that had ended are there.
        CHECK_EQ(telling.told(0), EPOLLIN);
      } else {
        CHECK_EQ(telling.told(), EPOLLIN);
      }
      const int ended = turn.load();
      for (int got : numbers(e.from)) CHECK_EQ(got, next++);
      CHECK(next >= ended);
    }
    for (pid_t pid : pids) WAIT_OK(pid);
  });
}

// A client with several servers, all of which wait for readiness only.
TEST(told, questions_and_answers) {
  for (bool by_epoll : {true, false}) {
    constexpr int kServers = 3, kQuestions = 400;
    int ends[kServers][2];
    pid_t pids[kServers];
    for (int k = 0; k < kServers; k++) OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends[k]));
    for (int k = 0; k < kServers; k++)
      pids[k] = spawn([&, k] {
        const int fd = ends[k][1];
        Telling telling(by_epoll, fd);
        for (int done = 0; done < kQuestions;) {
          const std::vector<int> asked = numbers(fd);
          if (asked.empty()) telling.told();
          for (int n : asked) put(fd, n * 10 + k);
          done += static_cast<int>(asked.size());
        }
        return 0;
      });
    int asked[kServers], answered[kServers] = {};
    std::fill(asked, asked + kServers, 1);
    for (int k = 0; k < kServers; k++) put(ends[k][0], 1);
    auto all = [&] { return std::accumulate(answered, answered + kServers, 0); };
    while (all() < kServers * kQuestions) {
      pollfd p[kServers];
      for (int k = 0; k < kServers; k++) p[k] = {ends[k][0], POLLIN, 0};
      CHECK(OK(poll(p, kServers, 10000)) > 0);
      for (int k = 0; k < kServers; k++) {
        if (p[k].revents == 0) continue;
        const std::vector<int> got = numbers(ends[k][0]);
        CHECK_EQ(got.size(), 1);
        CHECK_EQ(got[0], asked[k] * 10 + k);
        answered[k]++;
        if (asked[k] < kQuestions) put(ends[k][0], ++asked[k]);
      }
    }
    for (pid_t pid : pids) WAIT_OK(pid);
  }
}

TEST(told, descriptors_among_bytes) {
  int s[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s));
  Telling telling(true, s[0]);
  for (int i = 0; i < 30; i++) {
    CHECK_EQ(write(s[1], "ab", 2), 2);
    send_with(s[1], "cd", 1);
    CHECK_EQ(telling.told(), EPOLLIN);
    char buffer[10];
    CHECK_EQ(read(s[0], buffer, sizeof buffer), 4);
    CHECK_STR(std::string(buffer, 4), "abcd");
    FAILS(read(s[0], buffer, 1), EAGAIN);
  }
}

TEST(told, packets_stay_packets) {
  int p[2];
  OK(pipe2(p, O_DIRECT | O_NONBLOCK));
  Telling telling(true, p[0]);
  for (int i = 0; i < 30; i++) {
    CHECK_EQ(write(p[1], "abc", 3), 3);
    CHECK_EQ(write(p[1], "de", 2), 2);
    CHECK_EQ(telling.told(), EPOLLIN);
    char buffer[10];
    CHECK_EQ(read(p[0], buffer, sizeof buffer), 3);
    CHECK_EQ(read(p[0], buffer, sizeof buffer), 2);
    FAILS(read(p[0], buffer, 1), EAGAIN);
  }
}

TEST(told, bad_memory) {
  each_told([](Ends e, int value) {
    FAILS(read(e.from, reinterpret_cast<void*>(16), 64), EFAULT);
    CHECK(numbers(e.from) == std::vector<int>{value});
  });
}

// It was told, has the bytes, and dies: the next one gets them, and the writer goes on.
TEST(told, reader_is_killed) {
  each_way([](Ends e, bool by_epoll) {
    no_waiting(e.from);
    for (int i = 0; i < 15; i++) {
      auto& told = shared<Word>();
      pid_t pid = spawn([&] {
        Telling telling(by_epoll, e.from);
        for (int k = 0; k < 20; k++) {
          CHECK_EQ(telling.told(), EPOLLIN);
          if (k < 19) CHECK(numbers(e.from) == std::vector<int>{k});
          told.store(k + 1);
        }
        for (;;) {
        }
        return 0;
      });
      for (int k = 0; k < 20; k++) {
        put(e.to, k);
        spin_for(told, k + 1);
      }
      if (i % 2 == 0) put(e.to, 20);
      OK(kill(pid, SIGKILL));
      OK(waitpid(pid, nullptr, 0));
      if (i % 2 != 0) put(e.to, 20);
      CHECK(numbers(e.from) == (std::vector<int>{19, 20}));
      CHECK(numbers(e.from).empty());
    }
  });
}
