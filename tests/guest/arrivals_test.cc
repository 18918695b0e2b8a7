// Reads of what epoll_wait(2) has told of: a sandbox may have the bytes at hand by then, and nobody can tell.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "ends.h"
#include "guest.h"
using namespace guest;

namespace {

// Two ends of a connection, and an epoll that watches `in`.
struct Connection {
  int in, out, ep;
  explicit Connection(uint32_t events = EPOLLIN) {
    int listener = OK(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    OK(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
    OK(listen(listener, 1));
    socklen_t n = sizeof(address);
    OK(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &n));
    out = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(connect(out, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
    int on = 1;
    OK(setsockopt(out, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
    in = OK(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK));
    OK(close(listener));
    ep = OK(epoll_create1(0));
    watch(in, events);
  }
  void watch(int fd, uint32_t events) {
    epoll_event e{events, {.fd = fd}};
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
  }
  // How many descriptors it tells of.
  int told(int timeout_ms = 0) {
    epoll_event e[8];
    return static_cast<int>(OK(epoll_wait(ep, e, 8, timeout_ms)));
  }
  void send(const std::string& text) { CHECK_EQ(write(out, text.data(), text.size()), text.size()); }
  // Sent, arrived, and told of.
  void deliver(const std::string& text) {
    send(text);
    int there = 0;
    CHECK(eventually([&] { return ioctl(in, FIONREAD, &there) == 0 && there >= static_cast<int>(text.size()); }));
    CHECK_EQ(told(5000), 1);
  }
  int left() {
    int there = 0;
    OK(ioctl(in, FIONREAD, &there));
    return there;
  }
};

std::string pattern(size_t from, size_t n) {
  std::string out(n, 0);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<char>((from + i) * 131 + ((from + i) >> 8));
  return out;
}

}  // namespace

TEST(arrivals, read_in_pieces) {
  Connection c;
  c.deliver("hello, world");
  CHECK_STR(next(c.in, 5), "hello");
  CHECK_STR(next(c.in, 2), ", ");
  CHECK_EQ(c.told(), 1);
  CHECK_STR(next(c.in, 100), "world");
  CHECK_EQ(c.told(), 0);
  char byte;
  FAILS(read(c.in, &byte, 1), EAGAIN);
  c.deliver("again");
  CHECK_EQ(read(c.in, &byte, 0), 0);
  CHECK_STR(next(c.in, 100), "again");
}

// What another socket here has sent is told of by the next call, without a wait.
TEST(arrivals, told_at_once) {
  Connection c;
  for (int i = 0; i < 1000; ++i) {
    CHECK_EQ(c.told(), 0);
    c.send("x");
    CHECK_EQ(c.told(), 1);
    CHECK_STR(next(c.in, 2), "x");
  }
  for (int i = 0; i < 100; ++i) {
    c.send("ab");
    CHECK_EQ(c.told(), 1);
    CHECK_STR(next(c.in, 1), "a");
    CHECK_EQ(c.told(), 1);
    c.send("c");
    CHECK_EQ(c.told(), 1);
    CHECK_STR(next(c.in, 3), "bc");
  }
  OK(close(c.out));
  CHECK_EQ(c.told(), 1);
  int udp = OK(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)), listener = OK(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  OK(bind(udp, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  OK(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  OK(listen(listener, 8));
  Connection d;
  d.watch(udp, EPOLLIN);
  d.watch(listener, EPOLLIN);
  socklen_t n = sizeof(address);
  OK(getsockname(udp, reinterpret_cast<sockaddr*>(&address), &n));
  int other = OK(socket(AF_INET, SOCK_DGRAM, 0));
  for (int i = 0; i < 100; ++i) {
    CHECK_EQ(d.told(), 0);
    CHECK_EQ(sendto(other, "x", 1, 0, reinterpret_cast<sockaddr*>(&address), n), 1);
    CHECK_EQ(d.told(), 1);
    CHECK_STR(next(udp, 2), "x");
  }
  OK(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &n));
  for (int i = 0; i < 20; ++i) {
    int client = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(connect(client, reinterpret_cast<sockaddr*>(&address), n));
    CHECK_EQ(d.told(), 1);
    OK(close(OK(accept(listener, nullptr, nullptr))));
    OK(close(client));
    CHECK_EQ(d.told(), 0);
  }
}

// Who waits for room is told of it until there is none, and again.
TEST(arrivals, room) {
  Connection c;
  epoll_event e{EPOLLIN | EPOLLOUT, {}};
  OK(epoll_ctl(c.ep, EPOLL_CTL_ADD, c.out, &e));
  OK(fcntl(c.out, F_SETFL, O_NONBLOCK));
  size_t sent = 0, received = 0;
  for (int round = 0; round < 3; ++round) {
    for (;;) {
      epoll_event out[2];
      int n = OK(epoll_wait(c.ep, out, 2, 0));
      const bool room = std::any_of(out, out + n, [](const epoll_event& o) { return (o.events & EPOLLOUT) != 0; });
      std::string bytes = pattern(sent, round == 0 ? 100 : 5000);
      ssize_t wrote = write(c.out, bytes.data(), bytes.size());
      if (room) CHECK(wrote > 0);
      if (wrote < 0) {
        CHECK_EQ(errno, EAGAIN);
        break;
      }
      sent += static_cast<size_t>(wrote);
    }
    while (received < sent) {
      std::string got = next(c.in, 65536);
      CHECK(got == pattern(received, got.size()));
      received += got.size();
      if (got.empty()) CHECK(c.told(5000) >= 1);
    }
    CHECK(eventually([&] {
      epoll_event out[2];
      int n = OK(epoll_wait(c.ep, out, 2, 0));
      return std::any_of(out, out + n, [](const epoll_event& o) { return (o.events & EPOLLOUT) != 0; });
    }));
  }
}

// All sizes, in order, none twice and none lost.
TEST(arrivals, any_sizes) {
  Connection c;
  constexpr size_t kTotal = 400 * 1000;
  std::thread writer([&] {
    uint32_t state = 7;
    for (size_t done = 0; done < kTotal;) {
      state = state * 1664525 + 1013904223;
      const size_t n = std::min<size_t>(kTotal - done, 1 + (state >> 16) % ((state & 1) != 0 ? 64 : 5000));
      c.send(pattern(done, n));
      done += n;
    }
  });
  uint32_t state = 3;
  for (size_t done = 0; done < kTotal;) {
    CHECK_EQ(c.told(10000), 1);
    for (int calls = 0; calls < 3; ++calls) {
      state = state * 1664525 + 1013904223;
      std::string got(1 + (state >> 16) % ((state & 1) != 0 ? 100 : 9000), 0);
      ssize_t n = (state & 2) != 0 ? read(c.in, got.data(), got.size()) : recv(c.in, got.data(), got.size(), 0);
      if (n < 0) {
        CHECK_EQ(errno, EAGAIN);
        break;
      }
      CHECK(n > 0);
      got.resize(static_cast<size_t>(n));
      CHECK(got == pattern(done, got.size()));
      done += got.size();
    }
  }
  writer.join();
  CHECK_EQ(c.told(), 0);
}

// Fewer bytes than asked for are all there were: the next edge comes with more.
TEST(arrivals, edges) {
  Connection c(EPOLLIN | EPOLLET);
  for (size_t size : {1, 100, 2047, 2048, 2049, 4096, 5000, 20000}) {
    c.deliver(pattern(0, size));
    CHECK_EQ(c.told(), 0);
    std::string all;
    for (size_t ask : {7, 1000, 3000, 30000}) {
      std::string got = next(c.in, ask);
      all += got;
      if (got.size() < ask) break;
    }
    CHECK(all == pattern(0, size));
    CHECK_EQ(c.left(), 0);
  }
  // Half of it left unread is not told of again, only with more.
  c.deliver("abcdef");
  CHECK_STR(next(c.in, 3), "abc");
  CHECK_EQ(c.told(), 0);
  c.deliver("ghi");
  CHECK_STR(next(c.in, 100), "defghi");
}

// A sender that waits for the answer to its last small segment (Nagle's algorithm) hears of what was taken.
TEST(arrivals, sender_waits) {
  Connection c(EPOLLIN | EPOLLET);
  int off = 0;
  OK(setsockopt(c.out, IPPROTO_TCP, TCP_NODELAY, &off, sizeof(off)));
  const int64_t begin = now_ms();
  for (int round = 0; round < 50; ++round) {
    c.send("a");
    c.send("b");
    std::string got;
    while (got.size() < 2) {
      CHECK_EQ(c.told(5000), 1);
      got += next(c.in, 8);  // fewer than that: there is no more
    }
    CHECK_STR(got, "ab");
  }
  CHECK(now_ms() - begin < 1800);  // 40 ms for each that is not answered at once
}

// With a small buffer the sender waits for each byte that is taken.
TEST(arrivals, small_buffer) {
  Connection c;
  int bytes = 1024;
  OK(setsockopt(c.in, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)));
  std::thread writer([&] { c.send(pattern(0, 100000)); });
  for (size_t done = 0; done < 100000;) {
    CHECK_EQ(c.told(10000), 1);
    const std::string got = next(c.in, 300);
    CHECK(got == pattern(done, got.size()));
    done += got.size();
  }
  writer.join();
}

TEST(arrivals, once) {
  Connection c(EPOLLIN | EPOLLONESHOT);
  c.deliver("abc");
  CHECK_STR(next(c.in, 1), "a");
  CHECK_EQ(c.told(), 0);
  epoll_event e{EPOLLIN | EPOLLONESHOT, {}};
  OK(epoll_ctl(c.ep, EPOLL_CTL_MOD, c.in, &e));
  CHECK_EQ(c.told(), 1);
  CHECK_STR(next(c.in, 9), "bc");
}

TEST(arrivals, other_calls_between) {
  Connection c;
  c.deliver("0123456789abcdef");
  CHECK_STR(next(c.in, 2), "01");
  CHECK_EQ(c.left(), 14);
  char bytes[32]{};
  CHECK_EQ(recv(c.in, bytes, 4, MSG_PEEK), 4);
  CHECK_STR(std::string(bytes, 4), "2345");
  CHECK_EQ(c.told(), 1);
  CHECK_STR(next(c.in, 1), "2");
  char first[2], second[3];
  iovec parts[] = {{first, 2}, {second, 3}};
  CHECK_EQ(readv(c.in, parts, 2), 5);
  CHECK_STR(std::string(first, 2) + std::string(second, 3), "34567");
  CHECK_EQ(c.told(), 1);
  CHECK_STR(next(c.in, 1), "8");
  iovec part{bytes, 4};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  CHECK_EQ(recvmsg(c.in, &message, 0), 4);
  CHECK_STR(std::string(bytes, 4), "9abc");
  CHECK_EQ(c.told(), 1);
  sockaddr_in from{};
  socklen_t n = sizeof(from);
  CHECK_EQ(recvfrom(c.in, bytes, 2, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &n), 2);
  CHECK_STR(std::string(bytes, 2), "de");
  CHECK_EQ(recv(c.in, bytes, 9, MSG_DONTWAIT), 1);
  pollfd p{c.in, POLLIN, 0};
  CHECK_EQ(poll(&p, 1, 0), 0);
}

TEST(arrivals, no_file) {
  Connection c;
  c.deliver("abc");
  char bytes[4];
  FAILS(pread(c.in, bytes, 1, 0), ESPIPE);
  FAILS(lseek(c.in, 1, SEEK_SET), ESPIPE);
  FAILS(lseek(c.in, 0, SEEK_CUR), ESPIPE);
  struct stat st;
  OK(fstat(c.in, &st));
  CHECK(S_ISSOCK(st.st_mode));
  CHECK_STR(next(c.in, 9), "abc");
}

TEST(arrivals, bad_buffer) {
  Connection c;
  c.deliver("abc");
  FAILS(read(c.in, reinterpret_cast<void*>(16), 3), EFAULT);
  CHECK_EQ(c.told(), 1);
  CHECK_STR(next(c.in, 9), "abc");
  // The first page takes what it can.
  auto* pages = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(pages != MAP_FAILED);
  OK(mprotect(pages + 4096, 4096, PROT_NONE));
  c.deliver("abcdef");
  FAILS(read(c.in, pages + 4096, 6), EFAULT);
  CHECK_STR(next(c.in, 9), "abcdef");
}

TEST(arrivals, end_of_file) {
  Connection c;
  c.deliver("last");
  OK(shutdown(c.out, SHUT_WR));
  CHECK_STR(next(c.in, 100), "last");
  CHECK_EQ(c.told(5000), 1);
  char byte;
  CHECK_EQ(read(c.in, &byte, 1), 0);
}

// A connection that is closed with something unread is reset, otherwise it ends in order.
TEST(arrivals, close_after_all) {
  Connection c;
  c.deliver("abc");
  CHECK_STR(next(c.in, 3), "abc");
  OK(close(c.in));
  char byte;
  CHECK_EQ(read(c.out, &byte, 1), 0);
}

TEST(arrivals, close_after_some) {
  Connection c;
  c.deliver("abc");
  CHECK_STR(next(c.in, 2), "ab");
  OK(close(c.in));
  char byte;
  FAILS(read(c.out, &byte, 1), ECONNRESET);
}

TEST(arrivals, shut_down_for_reading) {
  Connection c;
  c.deliver("abc");
  CHECK_STR(next(c.in, 1), "a");
  OK(shutdown(c.in, SHUT_RD));
  CHECK_STR(next(c.in, 9), "bc");
  char byte;
  CHECK_EQ(read(c.in, &byte, 1), 0);
}

TEST(arrivals, reset) {
  Connection c;
  c.deliver("abc");
  linger now{1, 0};
  OK(setsockopt(c.out, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
  CHECK_STR(next(c.in, 1), "a");
  OK(close(c.out));
  CHECK(eventually([&] {
    pollfd p{c.in, POLLIN, 0};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR) != 0;
  }));
  CHECK_STR(next(c.in, 9), "bc");
}

TEST(arrivals, duplicates_and_children) {
  Connection c;
  int copy = OK(dup(c.in));
  c.deliver("abcdefgh");
  CHECK_STR(next(c.in, 1), "a");
  CHECK_STR(next(copy, 1), "b");
  OK(close(copy));
  CHECK_EQ(c.told(), 1);
  CHECK_STR(next(c.in, 1), "c");
  WAIT_OK(spawn([&] { return next(c.in, 2) == "de" ? 0 : 1; }));
  CHECK_STR(next(c.in, 1), "f");
  CHECK_EQ(c.told(), 1);
  copy = OK(dup(c.in));
  CHECK_STR(next(copy, 1), "g");
  CHECK_STR(next(c.in, 9), "h");
}

TEST(arrivals, another_file_under_that_number) {
  Connection c, d;
  c.deliver("abc");
  d.send("xyz");
  OK(dup2(d.in, c.in));
  CHECK(eventually([&] { return c.left() == 3; }));
  CHECK_STR(next(c.in, 9), "xyz");
}

TEST(arrivals, passed_on) {
  Connection c;
  int pair[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  c.deliver("abcd");
  CHECK_STR(next(c.in, 1), "a");
  send_with(pair[0], "x", c.in);
  CHECK_STR(next(c.in, 1), "b");
  OK(close(c.in));
  const int fd = receive_with(pair[1], "x");
  CHECK_STR(next(fd, 9), "cd");
}

// Threads take from one socket what one of them was told of: nobody gets a byte twice, and none is lost.
TEST(arrivals, threads) {
  Connection c;
  constexpr size_t kTotal = 200 * 1000;
  std::atomic<size_t> total{0};
  std::atomic<size_t> counts[256]{};
  std::thread writer([&] {
    for (size_t done = 0; done < kTotal; done += 100) c.send(pattern(done, 100));
  });
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t) {
    readers.emplace_back([&] {
      while (total < kTotal) {
        if (c.told(20) == 0) continue;
        for (size_t ask : {10, 1, 50, 200}) {
          char bytes[200];
          ssize_t n = read(c.in, bytes, ask);
          if (n <= 0) break;
          for (ssize_t i = 0; i < n; ++i) ++counts[static_cast<uint8_t>(bytes[i])];
          total += static_cast<size_t>(n);
        }
      }
    });
  }
  writer.join();
  for (auto& reader : readers) reader.join();
  CHECK_EQ(total, kTotal);
  size_t expected[256]{};
  for (char byte : pattern(0, kTotal)) ++expected[static_cast<uint8_t>(byte)];
  for (int value = 0; value < 256; ++value) CHECK_EQ(counts[value], expected[value]);
}

TEST(arrivals, blocking_reader) {
  Connection c;
  OK(fcntl(c.in, F_SETFL, 0));
  c.deliver("abc");
  CHECK_STR(next(c.in, 9), "abc");
  std::thread writer([&] {
    sleep_ms(50);
    c.send("def");
  });
  CHECK_STR(next(c.in, 9), "def");
  writer.join();
  c.deliver("ghi");
  char bytes[8];
  std::thread second([&] {
    sleep_ms(50);
    c.send("jkl");
  });
  CHECK_EQ(recv(c.in, bytes, 6, MSG_WAITALL), 6);
  CHECK_STR(std::string(bytes, 6), "ghijkl");
  second.join();
}

TEST(arrivals, urgent) {
  Connection c;
  c.send("ab");
  CHECK_EQ(::send(c.out, "!", 1, MSG_OOB), 1);
  c.send("cd");
  CHECK(eventually([&] { return c.left() >= 2; }));
  sleep_ms(50);
  CHECK_EQ(c.told(5000), 1);
  CHECK_STR(next(c.in, 9), "ab");
  char byte = 0;
  CHECK_EQ(recv(c.in, &byte, 1, MSG_OOB), 1);
  CHECK_EQ(byte, '!');
  CHECK_EQ(c.told(5000), 1);
  CHECK_STR(next(c.in, 9), "cd");
}

TEST(arrivals, many_at_once) {
  std::vector<Connection> all;
  for (int i = 0; i < 50; ++i) all.emplace_back();
  Connection& first = all.front();
  for (size_t i = 1; i < all.size(); ++i) first.watch(all[i].in, EPOLLIN);
  for (int round = 0; round < 20; ++round) {
    for (size_t i = 0; i < all.size(); ++i) all[i].send("message " + std::to_string(i));
    size_t got = 0;
    while (got < all.size()) {
      epoll_event events[64];
      int n = OK(epoll_wait(first.ep, events, 64, 5000));
      CHECK(n > 0);
      for (int k = 0; k < n; ++k) {
        auto at = std::find_if(all.begin(), all.end(), [&](const Connection& c) { return c.in == events[k].data.fd; });
        CHECK(at != all.end());
        CHECK_STR(next(events[k].data.fd, 100), "message " + std::to_string(at - all.begin()));
        ++got;
      }
    }
    CHECK_EQ(first.told(), 0);
  }
}

TEST(arrivals, filtered) {
  Connection c;
  for (int i = 0; i < 4; ++i) {
    c.deliver("abc");
    CHECK_STR(next(c.in, 9), "abc");
  }
  c.deliver("abc");
  CHECK_STR(next(c.in, 1), "a");
  deny(SYS_read, EDOM);
  char byte;
  FAILS(read(c.in, &byte, 1), EDOM);
  CHECK_EQ(c.told(), 1);
  FAILS(read(c.in, &byte, 1), EDOM);
  CHECK_EQ(recv(c.in, &byte, 1, 0), 1);
  CHECK_EQ(byte, 'b');
}

TEST(arrivals, next_program) {
  Connection c;
  c.deliver("abc");
  CHECK_STR(next(c.in, 1), "a");
  pid_t pid = OK(fork());
  if (pid == 0) {
    CHECK_EQ(c.told(), 1);
    CHECK_STR(next(c.in, 1), "b");
    OK(dup2(c.in, 0));
    execl(self(), self(), "--helper", "read-stdin", nullptr);
    _exit(1);
  }
  int status = wait_status(pid);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 'c');
}
