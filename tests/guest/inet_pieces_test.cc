// What a read of a TCP connection leaves, read in pieces: recv(2), tcp(7), poll(2), epoll(7), SIOCINQ. Each test does
// the same many times, since a kernel may change its ways with those who read like that.
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <string>
#include <thread>

#include "inet.h"

using namespace guest;

namespace {

std::string text(size_t n, size_t from = 0) {
  std::string s(n, 0);
  for (size_t i = 0; i < n; ++i) s[i] = (char)('a' + (from + i) % 23);
  return s;
}

void put(int fd, const std::string& what) { CHECK_EQ(OK(send(fd, what.data(), what.size(), 0)), what.size()); }

std::string get(int fd, size_t n) {
  std::string s(n, 0);
  s.resize((size_t)OK(read(fd, s.data(), n)));
  return s;
}

int left(int fd) {
  int n = -1;
  OK(ioctl(fd, FIONREAD, &n));
  return n;
}

// Until so many bytes have arrived.
void arrived(int fd, int n) {
  for (int i = 0; i < 5000 && left(fd) < n; ++i) usleep(1000);
  CHECK_EQ(left(fd), n);
}

// Reads of 100 bytes often enough that they are expected to go on.
void warm_up(int from, int to) {
  for (int round = 0; round < 20; ++round) {
    put(from, text(1000));
    arrived(to, 1000);
    for (size_t i = 0; i < 10; ++i) CHECK_STR(get(to, 100), text(100, i * 100));
  }
}

// 300 bytes, of which the first 100 are read.
void begin(int from, int to) {
  put(from, text(300));
  arrived(to, 300);
  CHECK_STR(get(to, 100), text(100));
}

constexpr int kRounds = 30;

}  // namespace

TEST(tcp_pieces, count_and_peek_between) {
  auto [a, b] = tcp_pair();
  warm_up(a, b);
  for (int round = 0; round < kRounds; ++round) {
    put(a, text(1000));
    arrived(b, 1000);
    char c[300];
    for (size_t at = 0; at < 1000; at += 100) {
      CHECK_STR(get(b, 100), text(100, at));
      if (round % 2 != 0) CHECK_EQ(left(b), 900 - (int)at);
      if (round % 3 != 0 && at < 700) {
        CHECK_EQ(recv(b, c, 300, MSG_PEEK), 300);
        CHECK_STR(std::string(c, 300), text(300, at + 100));
      }
      if (round % 5 == 0) CHECK_EQ(now_ready(b, POLLIN), at < 900 ? POLLIN : 0);
    }
    FAILS(recv(b, c, 1, MSG_DONTWAIT), EAGAIN);
  }
}

// A read takes what came later together with what was there.
TEST(tcp_pieces, more_comes_meanwhile) {
  auto [a, b] = tcp_pair();
  warm_up(a, b);
  for (int round = 0; round < kRounds; ++round) {
    begin(a, b);
    CHECK_STR(get(b, 100), text(100, 100));
    put(a, text(300, 300));
    usleep(round % 2 == 0 ? 0 : 300);
    arrived(b, 400);
    CHECK_STR(get(b, 400), text(400, 200));
    CHECK_EQ(left(b), 0);
  }
}

TEST(tcp_pieces, end_after_the_rest) {
  for (int round = 0; round < kRounds; ++round) {
    auto [a, b] = tcp_pair();
    warm_up(a, b);
    begin(a, b);
    if (round % 2 == 0) CHECK_STR(get(b, 50), text(50, 100));
    OK(shutdown(a, SHUT_WR));
    while (!(now_ready(b, POLLIN | POLLRDHUP, 1000) & POLLRDHUP)) {
    }
    const size_t at = round % 2 == 0 ? 150 : 100;
    CHECK_STR(get(b, 100), text(100, at));
    CHECK_STR(get(b, 1000), text(200 - at, at + 100));
    CHECK_STR(get(b, 1000), "");
    CHECK_STR(get(b, 1000), "");
    close(a);
    close(b);
  }
}

// close(2) with bytes that nobody took resets the connection (RFC 1122, 4.2.2.13); if all were taken it does not.
TEST(tcp_pieces, reset_for_what_was_not_taken) {
  for (int round = 0; round < kRounds; ++round) {
    auto [a, b] = tcp_pair();
    warm_up(a, b);
    begin(a, b);
    CHECK_STR(get(b, 100), text(100, 100));
    const bool all = round % 2 == 0;
    if (all) CHECK_STR(get(b, 100), text(100, 200));
    close(b);
    char c;
    if (all)
      CHECK_EQ(read(a, &c, 1), 0);
    else
      FAILS(read(a, &c, 1), ECONNRESET);
    close(a);
  }
}

// Another process and a duplicate read on where this one stopped.
TEST(tcp_pieces, others_read_on) {
  auto [a, b] = tcp_pair();
  warm_up(a, b);
  for (int round = 0; round < 10; ++round) {
    put(a, text(400));
    arrived(b, 400);
    CHECK_STR(get(b, 100), text(100));
    const pid_t child = OK(fork());
    if (child == 0) {
      CHECK_STR(get(b, 100), text(100, 100));
      _exit(0);
    }
    int status = 0;
    OK(waitpid(child, &status, 0));
    CHECK_EQ(status, 0);
    const int d = OK(dup(b));
    CHECK_STR(get(d, 100), text(100, 200));
    close(d);
    CHECK_STR(get(b, 100), text(100, 300));
  }
}

// Threads that read in turns.
TEST(tcp_pieces, threads_take_turns) {
  auto [a, b] = tcp_pair();
  warm_up(a, b);
  for (int round = 0; round < kRounds; ++round) {
    put(a, text(1000));
    arrived(b, 1000);
    for (size_t at = 0; at < 1000; at += 200) {
      CHECK_STR(get(b, 100), text(100, at));
      std::thread([&] { CHECK_STR(get(b, 100), text(100, at + 100)); }).join();
    }
  }
}

// The sender goes on when what was in its way was read.
TEST(tcp_pieces, a_sender_that_waits) {
  auto [a, b] = tcp_pair();
  constexpr size_t kAll = 8 << 20;
  std::thread sender([fd = a] {
    const std::string all = text(kAll);
    for (size_t done = 0; done < kAll;) done += (size_t)OK(send(fd, all.data() + done, kAll - done, 0));
    OK(shutdown(fd, SHUT_WR));
  });
  size_t got = 0, n = 1;
  char c[9000];
  for (;;) {
    n = n * 7 % 8191 + 1;
    const ssize_t now = OK(read(b, c, n));
    if (now == 0) break;
    CHECK_STR(std::string(c, (size_t)now), text((size_t)now, got % 23));
    got += (size_t)now;
  }
  CHECK_EQ(got, kAll);
  sender.join();
}

// Edges come for what arrives, and a level as long as something is left.
TEST(tcp_pieces, epoll) {
  for (const uint32_t edge : {0u, (uint32_t)EPOLLET}) {
    auto [a, b] = tcp_pair();
    OK(fcntl(b, F_SETFL, O_NONBLOCK));
    const int e = OK(epoll_create1(0));
    epoll_event event{EPOLLIN | edge, {}};
    OK(epoll_ctl(e, EPOLL_CTL_ADD, b, &event));
    for (int round = 0; round < kRounds; ++round) {
      put(a, text(1000));
      CHECK_EQ(epoll_wait(e, &event, 1, 5000), 1);
      arrived(b, 1000);
      for (size_t at = 0; at < 1000; at += 100) {
        CHECK_STR(get(b, 100), text(100, at));
        if (at == 500 && edge == 0) CHECK_EQ(epoll_wait(e, &event, 1, 0), 1);
      }
      char c;
      FAILS(read(b, &c, 1), EAGAIN);
      CHECK_EQ(epoll_wait(e, &event, 1, 0), 0);
    }
    close(e);
  }
}

// A read ends at the mark of urgent bytes (tcp(7)), and what follows is there after it.
TEST(tcp_pieces, urgent_bytes_between) {
  signal(SIGURG, SIG_IGN);
  auto [a, b] = tcp_pair();
  warm_up(a, b);
  for (int round = 0; round < 10; ++round) {
    put(a, text(300));
    CHECK_EQ(OK(send(a, "!", 1, MSG_OOB)), 1);
    put(a, text(300, 300));
    while (!(now_ready(b, POLLPRI, 1000) & POLLPRI)) {
    }
    arrived(b, 300);
    CHECK_STR(get(b, 100), text(100));
    CHECK_STR(get(b, 100), text(100, 100));
    CHECK_EQ(now_ready(b, POLLIN), POLLIN);
    CHECK_STR(get(b, 1000), text(100, 200));
    int mark = 0;
    OK(ioctl(b, SIOCATMARK, &mark));
    CHECK_EQ(mark, 1);
    CHECK_EQ(now_ready(b, POLLIN, 5000), POLLIN);
    char c = 0;
    CHECK_EQ(OK(recv(b, &c, 1, MSG_OOB)), 1);
    CHECK_EQ(c, '!');
    CHECK_STR(get(b, 100), text(100, 300));
    CHECK_STR(get(b, 200), text(200, 400));
  }
}
