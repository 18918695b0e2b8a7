// write(2), writev(2), send(2) and sendmsg(2) to connected TCP sockets, seen from outside: in which order bytes arrive,
// when, what becomes of them when the writer closes, forks, executes, sleeps or is killed, and what a writer is told
// when the connection ends or has no room. Each test writes some bytes before, in small pieces, as event loops do.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "ends.h"
#include "inet.h"
using namespace guest;

namespace {

void put(int fd, const std::string& text) { CHECK_EQ(write(fd, text.data(), text.size()), (ssize_t)text.size()); }

std::string get(int fd, size_t n) {
  std::string all;
  while (all.size() < n) {
    std::string piece = next(fd, n - all.size());
    if (piece.empty()) break;
    all += piece;
  }
  return all;
}

// Writes and waits for an answer, some times.
void talk(int fd, int peer) {
  for (int i = 0; i < 8; i++) {
    put(fd, "talk");
    CHECK_STR(get(peer, 4), "talk");
  }
}

Pair talking() {
  Pair p = tcp_pair();
  talk(p.a, p.b);
  return p;
}

// Computes, without a call.
void compute_for(const Word& word, int value) {
  while (word.load() < value) __builtin_ia32_pause();
}

std::string pattern(size_t n, size_t from = 0) {
  std::string text(n, 0);
  for (size_t i = 0; i < n; i++) text[i] = (char)((from + i) * 7 + (from + i) / 251);
  return text;
}

void small_send_buffer(int fd) {
  int bytes = 4096;
  OK(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes));
}
void small_receive_buffer(int fd) {
  int bytes = 4096;
  OK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes));
}

// A pair with little room.
Pair narrow_pair() {
  int fd = bound(SOCK_STREAM);
  small_receive_buffer(fd);
  OK(listen(fd, 8));
  const int a = OK(socket(AF_INET, SOCK_STREAM, 0));
  small_send_buffer(a);
  sockaddr_in to = local(port_of(fd));
  OK(connect(a, (sockaddr*)&to, sizeof to));
  const int b = OK(accept(fd, nullptr, nullptr));
  close(fd);
  talk(a, b);
  return {a, b};
}

// Without waiting, until there is no room: how much it took.
size_t fill(int fd, size_t piece) {
  OK(fcntl(fd, F_SETFL, O_NONBLOCK));
  size_t all = 0;
  for (;;) {
    const std::string text = pattern(piece, all);
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0) {
      CHECK_EQ(errno, EAGAIN);
      return all;
    }
    all += (size_t)n;
    CHECK(all < (64u << 20));
  }
}

}  // namespace

TEST(posts, all_ways_of_writing) {
  Pair p = talking();
  for (int i = 0; i < 20; i++) {
    put(p.a, "one");
    CHECK_STR(get(p.b, 3), "one");
    std::string x = "tw", y = "", z = "o+";
    iovec v[3] = {{x.data(), x.size()}, {y.data(), 0}, {z.data(), z.size()}};
    CHECK_EQ(writev(p.a, v, 3), 4);
    CHECK_STR(get(p.b, 4), "two+");
    CHECK_EQ(send(p.a, "three", 5, MSG_NOSIGNAL), 5);
    CHECK_STR(get(p.b, 5), "three");
    msghdr m{};
    m.msg_iov = v;
    m.msg_iovlen = 3;
    CHECK_EQ(sendmsg(p.a, &m, MSG_DONTWAIT), 4);
    CHECK_STR(get(p.b, 4), "two+");
    const std::string big = pattern(20000, (size_t)i);
    put(p.a, big);
    CHECK(get(p.b, big.size()) == big);
    CHECK_EQ(write(p.a, "", 0), 0);
    CHECK_EQ(writev(p.a, v + 1, 1), 0);
  }
}

// Several in a row, of several sockets.
TEST(posts, many_sockets) {
  std::vector<Pair> pairs;
  for (int i = 0; i < 40; i++) pairs.push_back(talking());
  for (int round = 0; round < 20; round++) {
    for (size_t i = 0; i < pairs.size(); i++) put(pairs[i].a, std::to_string(100 * i + (size_t)round) + ".");
    for (size_t i = 0; i < pairs.size(); i++) {
      const std::string want = std::to_string(100 * i + (size_t)round) + ".";
      CHECK_STR(get(pairs[i].b, want.size()), want);
    }
  }
  std::string all;
  for (int i = 0; i < 1000; i++) {
    put(pairs[3].a, std::to_string(i) + ",");
    all += std::to_string(i) + ",";
  }
  CHECK_STR(get(pairs[3].b, all.size()), all);
}

TEST(posts, bad_memory) {
  Pair p = talking();
  auto* page = (char*)mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  OK(munmap(page + 4096, 4096));
  FAILS(write(p.a, page + 4096, 10), EFAULT);
  iovec v[2] = {{page, 5}, {page + 4096, 5}};
  memcpy(page, "first", 5);
  const ssize_t n = writev(p.a, v, 2);  // Linux gives up or sends the first
  if (n == 5)
    CHECK_STR(get(p.b, 5), "first");
  else
    CHECK_EQ(n, -1);
  FAILS(writev(p.a, (iovec*)(page + 4096), 1), EFAULT);
  talk(p.a, p.b);
}

// Two threads that agree by memory on who writes next.
TEST(posts, order_between_threads) {
  Pair p = talking();
  Word turn{0};
  std::string want;
  constexpr int kRounds = 300;
  auto body = [&](int who) {
    for (int i = who; i < 2 * kRounds; i += 2) {
      for (int64_t end = now_ms() + 20000; turn.load() != i; sched_yield()) CHECK(now_ms() < end);
      put(p.a, std::to_string(i) + " ");
      turn.store(i + 1);
    }
  };
  for (int i = 0; i < 2 * kRounds; i++) want += std::to_string(i) + " ";
  std::thread other(body, 1);
  body(0);
  other.join();
  CHECK_STR(get(p.b, want.size()), want);
}

// The same of two processes, which have it by fork(2), dup(2) before that, or a message.
TEST(posts, order_between_processes) {
  for (int way = 0; way < 3; way++) {
    Pair p = talking();
    auto& turn = shared<Word>();
    int box[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, box));
    auto body = [&](int fd, int who) {
      for (int i = who; i < 100; i += 2) {
        for (int64_t end = now_ms() + 20000; turn.load() != i; sched_yield()) CHECK(now_ms() < end);
        put(fd, std::to_string(i) + " ");
        turn.store(i + 1);
      }
    };
    if (way != 2) put(p.a, "before ");
    if (way == 2) {
      pid_t child = spawn([&] {
        close(p.a);
        const int fd = receive_with(box[1], "x");
        body(fd, 1);
        return 0;
      });
      send_with(box[0], "x", p.a);
      body(p.a, 0);
      WAIT_OK(child);
    } else {
      const int fd = way == 1 ? OK(dup(p.a)) : p.a;
      pid_t child = spawn([&] {
        body(fd, 1);
        return 0;
      });
      body(p.a, 0);
      WAIT_OK(child);
    }
    std::string want = way == 2 ? "" : "before ";
    for (int i = 0; i < 100; i++) want += std::to_string(i) + " ";
    CHECK_STR(get(p.b, want.size()), want);
    close(p.a);
    close(p.b);
    close(box[0]);
    close(box[1]);
  }
}

// The writer makes no call afterwards.
TEST(posts, arrives_while_the_writer_computes) {
  for (int i = 0; i < 5; i++) {
    Pair p = talking();
    auto& word = shared<Word>();
    pid_t child = spawn([&] {
      talk(p.a, p.b);
      put(p.a, "now");
      compute_for(word, 1);
      return 0;
    });
    close(p.a);
    std::string got;
    // What they talk is read there, before.
    CHECK(eventually([&] {
      char c[3];
      const ssize_t n = recv(p.b, c, 3, MSG_PEEK | MSG_DONTWAIT);
      return n == 3 && memcmp(c, "now", 3) == 0;
    }));
    CHECK_STR(get(p.b, 3), "now");
    word.store(1);
    WAIT_OK(child);
  }
}

TEST(posts, arrives_while_the_writer_sleeps) {
  Pair p = talking();
  auto& word = shared<Word>();
  pid_t child = spawn([&] {
    Pair q = tcp_pair();
    talk(q.a, q.b);
    for (int i = 0; i < 20; i++) {
      talk(p.a, p.b);
      put(p.a, "now");
      if (i % 2 == 0) {
        for (int64_t end = now_ms() + 10000; word.load() <= i; usleep(2000)) CHECK(now_ms() < end);
      } else {
        while (word.load() <= i) {
          timespec t{10, 0};
          syscall(SYS_futex, &word, 0 /* FUTEX_WAIT */, i, &t, nullptr, 0);
        }
      }
    }
    return 0;
  });
  close(p.a);
  for (int i = 0; i < 20; i++) {
    CHECK(eventually([&] {
      char c[3];
      return recv(p.b, c, 3, MSG_PEEK | MSG_DONTWAIT) == 3 && memcmp(c, "now", 3) == 0;
    }));
    CHECK_STR(get(p.b, 3), "now");
    word.store(i + 1);
    syscall(SYS_futex, &word, 1 /* FUTEX_WAKE */, 1, nullptr, nullptr, 0);
  }
  WAIT_OK(child);
}

TEST(posts, arrives_when_the_writer_ends) {
  for (int way = 0; way < 5; way++) {
    Pair p = talking();
    auto& word = shared<Word>();
    pid_t child = spawn([&]() -> int {
      // Its own from here on.
      Pair q = tcp_pair();
      talk(q.a, q.b);
      talk(p.a, p.b);
      put(p.a, "last");
      switch (way) {
        case 0: _exit(0);
        case 1:
          close(p.a);
          compute_for(word, 1);
          return 0;
        case 2:
          shutdown(p.a, SHUT_WR);
          compute_for(word, 1);
          return 0;
        case 3: {
          fcntl(p.a, F_SETFD, FD_CLOEXEC);
          fcntl(p.b, F_SETFD, FD_CLOEXEC);
          fcntl(q.a, F_SETFD, FD_CLOEXEC);
          execl(self(), "guest_tests", "--helper", "exit", "0", nullptr);
          return 1;
        }
        default:
          word.store(1);
          compute_for(word, 2);
          return 0;
      }
    });
    close(p.a);
    if (way == 4) {
      wait_for(word, 1);
      kill(child, SIGKILL);
      wait_status(child);
    }
    CHECK(eventually([&] {
      char c[4];
      return recv(p.b, c, 4, MSG_PEEK | MSG_DONTWAIT) == 4 && memcmp(c, "last", 4) == 0;
    }));
    CHECK_STR(get(p.b, 4), "last");
    CHECK_STR(get(p.b, 1), "");
    word.store(1);
    if (way != 4) wait_status(child);
    close(p.b);
  }
}

// A number is used again at once.
TEST(posts, numbers_used_again) {
  for (int i = 0; i < 20; i++) {
    Pair p = talking();
    Pair q = tcp_pair();
    put(p.a, "old");
    if (i % 2 == 0) {
      OK(dup2(q.a, p.a));
    } else {
      close(p.a);
      CHECK_EQ(fcntl(q.a, F_DUPFD, p.a), p.a);
    }
    put(p.a, "new");
    CHECK_STR(get(p.b, 10), "old");
    CHECK_STR(get(q.b, 3), "new");
    for (int fd : {p.a, p.b, q.a, q.b}) close(fd);
  }
}

// On Linux the first write after the peer has closed is taken, and answered by a reset; after a reset none is.
TEST(posts, the_peer_goes) {
  signal(SIGPIPE, SIG_IGN);
  for (int i = 0; i < 10; i++) {
    Pair p = talking();
    close(p.b);
    put(p.a, "x");
    FAILS(write(p.a, "y", 1), EPIPE);
    FAILS(write(p.a, "z", 1), EPIPE);
    close(p.a);
  }
  for (int i = 0; i < 10; i++) {
    Pair p = talking();
    linger at_once{1, 0};
    OK(setsockopt(p.b, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
    close(p.b);
    FAILS(write(p.a, "x", 1), ECONNRESET);
    FAILS(write(p.a, "y", 1), EPIPE);
    char c;
    CHECK_EQ(read(p.a, &c, 1), 0);
    close(p.a);
  }
}

TEST(posts, the_peer_goes_meanwhile) {
  signal(SIGPIPE, SIG_IGN);
  for (int i = 0; i < 10; i++) {
    Pair p = talking();
    pid_t child = spawn([&] {
      close(p.a);
      linger at_once{1, 0};
      OK(setsockopt(p.b, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
      return 0;
    });
    close(p.b);
    // Sooner or later all fail, and each failure is told once.
    int failures = 0, resets = 0;
    CHECK(eventually([&] {
      if (write(p.a, "x", 1) == 1) return false;
      ++failures;
      resets += errno == ECONNRESET;
      CHECK(errno == ECONNRESET || errno == EPIPE);
      return failures == 3;
    }));
    CHECK(resets <= 1);
    FAILS(write(p.a, "x", 1), EPIPE);
    WAIT_OK(child);
    close(p.a);
  }
}

namespace {
volatile sig_atomic_t broken_pipes;
}

TEST(posts, broken_pipes_signal) {
  signal(SIGPIPE, [](int) { broken_pipes = broken_pipes + 1; });
  Pair p = talking();
  close(p.b);
  put(p.a, "x");
  FAILS(write(p.a, "y", 1), EPIPE);
  CHECK_EQ(broken_pipes, 1);
  FAILS(send(p.a, "y", 1, MSG_NOSIGNAL), EPIPE);
  CHECK_EQ(broken_pipes, 1);
}

TEST(posts, no_writes_after_a_shutdown) {
  signal(SIGPIPE, SIG_IGN);
  Pair p = talking();
  put(p.a, "end");
  OK(shutdown(p.a, SHUT_WR));
  FAILS(write(p.a, "x", 1), EPIPE);
  CHECK_STR(get(p.b, 100), "end");
  talk(p.b, p.a);
}

// All that was taken arrives, whatever room there was.
TEST(posts, no_room) {
  signal(SIGPIPE, SIG_IGN);
  for (size_t piece : {100u, 3000u, 16000u, 40000u}) {
    for (int way = 0; way < 3; way++) {
      Pair p = narrow_pair();
      const size_t all = fill(p.a, piece);
      CHECK_EQ(now_ready(p.a, POLLOUT | POLLIN), 0);
      if (way == 1) OK(shutdown(p.a, SHUT_WR));
      if (way == 1) FAILS(write(p.a, "x", 1), EPIPE);
      if (way == 2) close(p.a);
      std::string got = get(p.b, way == 0 ? all : all + 1);
      CHECK_EQ(got.size(), all);
      CHECK(got == pattern(all));
      if (way == 0) {
        CHECK(eventually([&] { return now_ready(p.a, POLLOUT) == POLLOUT; }));
        OK(fcntl(p.a, F_SETFL, 0));
        talk(p.a, p.b);
      }
      close(p.a);
      close(p.b);
    }
  }
}

// Closed with bytes that nobody reads yet, many times.
TEST(posts, many_ends_without_room) {
  std::vector<int> peers;
  std::vector<size_t> sent;
  for (int i = 0; i < 400; i++) {
    Pair p = narrow_pair();
    sent.push_back(fill(p.a, 3000));
    close(p.a);
    peers.push_back(p.b);
  }
  talking();
  for (size_t i = 0; i < 100; i++) CHECK_EQ(get(peers[i], sent[i] + 1).size(), sent[i]);
}

// Who waits for room is told of it.
TEST(posts, room_is_told) {
  Pair p = narrow_pair();
  const size_t all = fill(p.a, 1000);
  const int epoll = OK(epoll_create1(0));
  epoll_event e{EPOLLOUT | EPOLLET, {}};
  OK(epoll_ctl(epoll, EPOLL_CTL_ADD, p.a, &e));
  CHECK_EQ(epoll_wait(epoll, &e, 1, 0), 0);
  pid_t child = spawn([&] {
    close(p.a);
    CHECK_EQ(get(p.b, all).size(), all);
    CHECK_STR(get(p.b, 4), "more");
    return 0;
  });
  CHECK_EQ(epoll_wait(epoll, &e, 1, 5000), 1);
  CHECK(e.events & EPOLLOUT);
  CHECK(eventually([&] { return write(p.a, "more", 4) == 4; }));
  WAIT_OK(child);
}

// Writers that wait for room, and a slow reader.
TEST(posts, waiting_writers) {
  Pair p = narrow_pair();
  constexpr size_t kBytes = 400000;
  pid_t child = spawn([&] {
    close(p.b);
    size_t done = 0;
    for (size_t piece = 1; done < kBytes; piece = piece * 3 % 20011 + 1) {
      const std::string text = pattern(std::min(piece, kBytes - done), done);
      put(p.a, text);
      done += text.size();
    }
    return 0;
  });
  close(p.a);
  CHECK(get(p.b, kBytes + 1) == pattern(kBytes));
  WAIT_OK(child);
}

TEST(posts, questions_see_what_was_written) {
  Pair p = talking();
  for (int i = 0; i < 10; i++) {
    int n = 0;
    put(p.a, "seven..");
    OK(ioctl(p.b, FIONREAD, &n));
    CHECK_EQ(n, 7);
    CHECK_EQ(now_ready(p.b, POLLIN), POLLIN);
    CHECK_STR(get(p.b, 7), "seven..");
    put(p.a, "x");
    char c;
    CHECK_EQ(recv(p.b, &c, 1, MSG_DONTWAIT), 1);
    int error = -1;
    socklen_t size = sizeof error;
    OK(getsockopt(p.a, SOL_SOCKET, SO_ERROR, &error, &size));
    CHECK_EQ(error, 0);
  }
}

TEST(posts, vfork_and_threads_that_end) {
  for (int i = 0; i < 10; i++) {
    Pair p = talking();
    put(p.a, "one");
    pid_t child = vfork();
    if (child == 0) _exit(0);
    wait_status(child);
    std::thread([&] { put(p.a, "two"); }).join();
    put(p.a, "three");
    CHECK_STR(get(p.b, 11), "onetwothree");
    close(p.a);
    close(p.b);
  }
}

TEST(posts, a_filter_comes) {
  WAIT_OK(spawn([&] {
    Pair p = talking();
    put(p.a, "x");
    deny(SYS_writev, EXDEV);
    CHECK_STR(get(p.b, 1), "x");
    talk(p.a, p.b);
    iovec v{(void*)"y", 1};
    for (int i = 0; i < 10; i++) FAILS(writev(p.a, &v, 1), EXDEV);
    deny(SYS_write, EXDEV);
    for (int i = 0; i < 10; i++) FAILS(write(p.a, "y", 1), EXDEV);
    CHECK_EQ(now_ready(p.b, POLLIN), 0);
    return 0;
  }));
}

// A filter is one thread's. What the others may do by themselves is not for it.
TEST(posts, a_filter_of_one_thread) {
  WAIT_OK(spawn([&] {
    Pair p = talking();
    int pipes[2];
    OK(pipe(pipes));
    spew("file", "0123456789");
    const int file = OK(open("file", O_RDONLY));
    Word step{0};
    std::thread other([&] {
      deny(SYS_write, EXDEV);
      deny(SYS_lseek, ENOTTY);
      step.store(1);
      wait_for(step, 2);
      char c;
      for (int i = 0; i < 40; i++) {
        CHECK_EQ(read(pipes[0], &c, 1), 1);
        CHECK_EQ(pread(file, &c, 1, 3), 1);
        FAILS(write(p.a, "y", 1), EXDEV);
        FAILS(lseek(file, 0, SEEK_CUR), ENOTTY);
        FAILS(write(pipes[1], "y", 1), EXDEV);
      }
    });
    wait_for(step, 1);
    talk(p.a, p.b);
    for (int i = 0; i < 40; i++) {
      put(pipes[1], "abcdefgh");
      OK(lseek(file, i % 5, SEEK_SET));
      char c;
      CHECK_EQ(read(file, &c, 1), 1);
    }
    step.store(2);
    other.join();
    return 0;
  }));
}

// Many who answer in one turn.
TEST(posts, event_loop) {
  constexpr int kClients = 20, kRounds = 200;
  std::vector<Pair> pairs;
  for (int i = 0; i < kClients; i++) pairs.push_back(tcp_pair());
  pid_t server = spawn([&] {
    const int epoll = OK(epoll_create1(0));
    for (auto& p : pairs) {
      close(p.a);
      epoll_event e{EPOLLIN, {}};
      e.data.fd = p.b;
      OK(epoll_ctl(epoll, EPOLL_CTL_ADD, p.b, &e));
    }
    int open = kClients;
    while (open > 0) {
      epoll_event events[kClients];
      const int n = OK(epoll_wait(epoll, events, kClients, -1));
      for (int i = 0; i < n; i++) {
        char text[64];
        const ssize_t got = OK(read(events[i].data.fd, text, sizeof text));
        if (got == 0) {
          close(events[i].data.fd);
          --open;
        } else {
          CHECK_EQ(write(events[i].data.fd, text, (size_t)got), got);
        }
      }
    }
    return 0;
  });
  for (auto& p : pairs) close(p.b);
  const int epoll = OK(epoll_create1(0));
  std::vector<int> rounds(kClients);
  for (int i = 0; i < kClients; i++) {
    epoll_event e{EPOLLIN, {}};
    e.data.u32 = (uint32_t)i;
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, pairs[(size_t)i].a, &e));
    put(pairs[(size_t)i].a, "0/" + std::to_string(i));
  }
  int left = kClients;
  while (left > 0) {
    epoll_event events[kClients];
    const int n = OK(epoll_wait(epoll, events, kClients, 10000));
    CHECK(n > 0);
    for (int k = 0; k < n; k++) {
      const size_t i = events[k].data.u32;
      const std::string want = std::to_string(rounds[i]) + "/" + std::to_string(i);
      CHECK_STR(get(pairs[i].a, want.size()), want);
      if (++rounds[i] == kRounds) {
        close(pairs[i].a);
        --left;
      } else {
        put(pairs[i].a, std::to_string(rounds[i]) + "/" + std::to_string(i));
      }
    }
  }
  WAIT_OK(server);
}
