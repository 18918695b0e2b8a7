// Internet sockets over the loopback interface: ip(7), tcp(7), udp(7), socket(7), connect(2), accept(2), recv(2),
// epoll(7).
#include "inet.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

using namespace guest;

TEST(tcp, connect_accept_and_names) {
  int port;
  int l = listener(&port);
  CHECK_EQ(now_ready(l, POLLIN), 0);
  int a = dial(port);
  CHECK_EQ(now_ready(l, POLLIN, 1000), POLLIN);
  sockaddr_in peer{};
  socklen_t n = sizeof peer;
  int b = OK(accept4(l, (sockaddr*)&peer, &n, SOCK_CLOEXEC | SOCK_NONBLOCK));
  CHECK_EQ(ntohs(peer.sin_port), port_of(a));
  CHECK_EQ(fcntl(b, F_GETFD), FD_CLOEXEC);
  CHECK(fcntl(b, F_GETFL) & O_NONBLOCK);
  n = sizeof peer;
  OK(getpeername(a, (sockaddr*)&peer, &n));
  CHECK_EQ(ntohs(peer.sin_port), port);
  char c;
  FAILS(read(b, &c, 1), EAGAIN);
  CHECK_EQ(write(a, "x", 1), 1);
  CHECK_EQ(now_ready(b, POLLIN, 1000), POLLIN);
  CHECK_EQ(read(b, &c, 1), 1);
  CHECK_EQ(c, 'x');
  FAILS(accept(a, nullptr, nullptr), EINVAL);
  FAILS(connect(a, (sockaddr*)&peer, sizeof peer), EISCONN);
}

TEST(tcp, errors_of_connect_and_bind) {
  int l = bound(SOCK_STREAM);
  int port = port_of(l);
  int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in a = local(port);
  FAILS(connect(fd, (sockaddr*)&a, sizeof a), ECONNREFUSED);
  int other = OK(socket(AF_INET, SOCK_STREAM, 0));
  FAILS(bind(other, (sockaddr*)&a, sizeof a), EADDRINUSE);
  FAILS(bind(other, (sockaddr*)&a, 3), EINVAL);
  a.sin_addr.s_addr = htonl(0xc0000201);  // 192.0.2.1 is nobody's
  a.sin_port = 0;
  FAILS(bind(other, (sockaddr*)&a, sizeof a), EADDRNOTAVAIL);
  FAILS(bind(fd, (sockaddr*)8, sizeof a), EFAULT);
  char c;
  FAILS(read(other, &c, 1), ENOTCONN);
  FAILS(getpeername(other, (sockaddr*)&a, (socklen_t*)&c), ENOTCONN);
  FAILS(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
  FAILS(socket(AF_INET, 77, 0), EINVAL);
  FAILS(socketpair(AF_INET, SOCK_STREAM, 0, new int[2]), EOPNOTSUPP);
}

TEST(tcp, low_ports_by_any_family) {
  WAIT_OK(spawn([] {
    OK(setgid(1000));
    OK(setuid(1000));
    for (int family : {AF_INET, AF_UNSPEC}) {
      int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
      sockaddr_in to{};
      to.sin_family = static_cast<sa_family_t>(family);
      to.sin_port = htons(81);
      FAILS(bind(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), EACCES);
    }
    return 0;
  }));
}

TEST(tcp, send_that_connects) {
  int listener = OK(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(at);
  OK(bind(listener, reinterpret_cast<sockaddr*>(&at), sizeof(at)));
  OK(listen(listener, 5));
  OK(getsockname(listener, reinterpret_cast<sockaddr*>(&at), &length));
  int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
  CHECK_EQ(sendto(fd, "fast", 4, MSG_FASTOPEN, reinterpret_cast<sockaddr*>(&at), sizeof(at)), 4);
  int peer = OK(accept(listener, nullptr, nullptr));
  char text[8] = {};
  CHECK_EQ(read(peer, text, sizeof(text)), 4);
  CHECK_STR(text, "fast");
  // Nobody listens any more.
  OK(close(listener));
  int other = OK(socket(AF_INET, SOCK_STREAM, 0));
  FAILS(sendto(other, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&at), sizeof(at)), ECONNREFUSED);
}

TEST(tcp, nonblocking_connect) {
  int port;
  int l = listener(&port);
  int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  sockaddr_in a = local(port);
  int r = connect(fd, (sockaddr*)&a, sizeof a);
  CHECK(r == 0 || errno == EINPROGRESS);
  CHECK(now_ready(fd, POLLOUT, 1000) & POLLOUT);
  int error = -1;
  socklen_t n = sizeof error;
  OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n));
  CHECK_EQ(error, 0);
  // The first repetition may be the one that learns of the success.
  r = connect(fd, (sockaddr*)&a, sizeof a);
  CHECK(r == 0 || errno == EISCONN);
  FAILS(connect(fd, (sockaddr*)&a, sizeof a), EISCONN);
  close(l);
  int refused = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  r = connect(refused, (sockaddr*)&a, sizeof a);
  if (r == -1 && errno == EINPROGRESS) {
    CHECK(now_ready(refused, POLLOUT, 1000) & POLLERR);
    OK(getsockopt(refused, SOL_SOCKET, SO_ERROR, &error, &n));
    CHECK_EQ(error, ECONNREFUSED);
  } else {
    CHECK_EQ(errno, ECONNREFUSED);
  }
}

TEST(tcp, bulk_data_both_ways) {
  auto [a, b] = tcp_pair();
  constexpr size_t kTotal = 24 << 20;
  auto pump = [](int out, unsigned seed) {
    std::vector<unsigned char> block(100003);
    size_t sent = 0;
    while (sent < kTotal) {
      size_t n = std::min(block.size(), kTotal - sent);
      for (size_t i = 0; i < n; i++) block[i] = (unsigned char)((sent + i) * seed >> 3);
      for (size_t at = 0; at < n;) at += (size_t)OK(send(out, &block[at], n - at, 0));
      sent += n;
    }
    OK(shutdown(out, SHUT_WR));
  };
  auto drain = [](int in, unsigned seed) {
    std::vector<unsigned char> block(70001);
    size_t got = 0;
    for (;;) {
      ssize_t n = OK(recv(in, block.data(), block.size(), 0));
      if (n == 0) break;
      for (ssize_t i = 0; i < n; i++) CHECK_EQ(block[(size_t)i], (unsigned char)((got + (size_t)i) * seed >> 3));
      got += (size_t)n;
    }
    CHECK_EQ(got, kTotal);
  };
  std::thread t1(pump, a, 7), t2(pump, b, 13), t3(drain, a, 13);
  drain(b, 7);
  t1.join();
  t2.join();
  t3.join();
}

TEST(tcp, a_full_socket_blocks_and_loses_nothing) {
  auto [a, b] = tcp_pair();
  OK(fcntl(a, F_SETFL, O_NONBLOCK));
  std::vector<char> block(1 << 20, 'q');
  size_t sent = 0;
  for (;;) {
    ssize_t n = write(a, block.data(), block.size());
    if (n == -1) break;
    sent += (size_t)n;
  }
  CHECK_EQ(errno, EAGAIN);
  CHECK_EQ(now_ready(a, POLLOUT), 0);
  size_t got = 0;
  while (got < sent) got += (size_t)OK(read(b, block.data(), block.size()));
  CHECK_EQ(got, sent);
  CHECK_EQ(now_ready(a, POLLOUT, 1000), POLLOUT);
}

TEST(tcp, flags_of_recv_and_send) {
  auto [a, b] = tcp_pair();
  char buf[16] = {};
  FAILS(recv(b, buf, 1, MSG_DONTWAIT), EAGAIN);
  CHECK_EQ(send(a, "hello world", 11, MSG_NOSIGNAL), 11);
  CHECK_EQ(now_ready(b, POLLIN, 1000), POLLIN);
  CHECK_EQ(recv(b, buf, 5, MSG_PEEK), 5);
  int n = 0;
  OK(ioctl(b, FIONREAD, &n));
  CHECK_EQ(n, 11);
  CHECK_EQ(recv(b, buf, 6, 0), 6);
  CHECK_STR(std::string(buf, 6), "hello ");
  std::thread late([a = a] {
    sleep_ms(30);
    CHECK_EQ(write(a, "!!!", 3), 3);
  });
  CHECK_EQ(recv(b, buf, 8, MSG_WAITALL), 8);
  CHECK_STR(std::string(buf, 8), "world!!!");
  late.join();
  iovec out[3] = {{(void*)"ab", 2}, {(void*)"", 0}, {(void*)"cde", 3}};
  msghdr m{};
  m.msg_iov = out;
  m.msg_iovlen = 3;
  CHECK_EQ(sendmsg(a, &m, 0), 5);
  char x[2], y[8];
  iovec in[2] = {{x, 2}, {y, 8}};
  CHECK_EQ(readv(b, in, 2), 5);
  CHECK_EQ(y[2], 'e');
  timeval t{0, 50000};
  OK(setsockopt(b, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
  FAILS(recv(b, buf, 1, 0), EAGAIN);
  FAILS(send(a, (void*)8, 4, 0), EFAULT);
  CHECK_EQ(write(a, "kept", 4), 4);
  CHECK_EQ(now_ready(b, POLLIN, 1000), POLLIN);
  FAILS(recv(b, (void*)8, 4, 0), EFAULT);
}

TEST(tcp, shutdown_end_and_reset) {
  auto [a, b] = tcp_pair();
  OK(shutdown(a, SHUT_WR));
  CHECK(now_ready(b, POLLIN | POLLRDHUP, 1000) & POLLRDHUP);
  char c;
  CHECK_EQ(read(b, &c, 1), 0);
  CHECK_EQ(write(b, "y", 1), 1);
  CHECK_EQ(read(a, &c, 1), 1);
  FAILS(send(a, "z", 1, MSG_NOSIGNAL), EPIPE);
  static volatile sig_atomic_t pipes = 0;
  signal(SIGPIPE, [](int) { pipes = pipes + 1; });
  FAILS(write(a, "z", 1), EPIPE);
  CHECK_EQ(pipes, 1);
  signal(SIGPIPE, SIG_DFL);
  close(a);
  close(b);
  auto [d, e] = tcp_pair();
  linger now{1, 0};
  OK(setsockopt(d, SOL_SOCKET, SO_LINGER, &now, sizeof now));
  close(d);
  CHECK(now_ready(e, POLLIN, 1000) & POLLERR);
  FAILS(read(e, &c, 1), ECONNRESET);
  FAILS(shutdown(OK(socket(AF_INET, SOCK_STREAM, 0)), SHUT_WR), ENOTCONN);
}

TEST(tcp, options) {
  int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
  auto get = [&](int level, int name) {
    int v = -1;
    socklen_t n = sizeof v;
    OK(getsockopt(fd, level, name, &v, &n));
    CHECK_EQ(n, sizeof v);
    return v;
  };
  auto set = [&](int level, int name, int v) { OK(setsockopt(fd, level, name, &v, sizeof v)); };
  CHECK_EQ(get(SOL_SOCKET, SO_TYPE), SOCK_STREAM);
  CHECK_EQ(get(SOL_SOCKET, SO_DOMAIN), AF_INET);
  CHECK_EQ(get(SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
  CHECK_EQ(get(SOL_SOCKET, SO_ACCEPTCONN), 0);
  for (int name : {SO_REUSEADDR, SO_REUSEPORT, SO_KEEPALIVE, SO_OOBINLINE}) {
    set(SOL_SOCKET, name, 1);
    CHECK_EQ(get(SOL_SOCKET, name), 1);
  }
  set(SOL_SOCKET, SO_SNDBUF, 20000);
  CHECK_EQ(get(SOL_SOCKET, SO_SNDBUF), 40000);
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  CHECK_EQ(get(IPPROTO_TCP, TCP_NODELAY), 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 77);
  CHECK_EQ(get(IPPROTO_TCP, TCP_KEEPIDLE), 77);
  set(IPPROTO_IP, IP_TTL, 33);
  CHECK_EQ(get(IPPROTO_IP, IP_TTL), 33);
  char name[16] = {};
  socklen_t n = sizeof name;
  OK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &n));
  CHECK(strlen(name) > 2);
  tcp_info info{};
  n = sizeof info;
  OK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n));
  CHECK_EQ(info.tcpi_state, TCP_CLOSE);
  timeval t{1, 500000}, back{};
  OK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
  n = sizeof back;
  OK(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &back, &n));
  CHECK_EQ(back.tv_sec, 1);
  FAILS(setsockopt(fd, IPPROTO_TCP, 9999, &n, sizeof n), ENOPROTOOPT);
  int value;
  FAILS(getsockopt(fd, SOL_SOCKET, 9999, &value, &n), ENOPROTOOPT);
  FAILS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &n, 1), EINVAL);
  FAILS(setsockopt(0, SOL_SOCKET, SO_REUSEADDR, &n, sizeof n), ENOTSOCK);
}

TEST(tcp, epoll_level_edge_and_oneshot) {
  auto [a, b] = tcp_pair();
  int ep = OK(epoll_create1(0));
  epoll_event e{EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP, {.u64 = 5}}, out[4];
  OK(epoll_ctl(ep, EPOLL_CTL_ADD, b, &e));
  CHECK_EQ(epoll_wait(ep, out, 4, 1000), 1);
  CHECK_EQ(out[0].events, EPOLLOUT);
  CHECK_EQ(epoll_wait(ep, out, 4, 0), 0);
  for (int i = 0; i < 3; i++) {  // each arrival is an edge, read or not
    CHECK_EQ(write(a, "1", 1), 1);
    CHECK_EQ(epoll_wait(ep, out, 4, 1000), 1);
    CHECK(out[0].events & EPOLLIN);
    CHECK_EQ(epoll_wait(ep, out, 4, 0), 0);
  }
  e.events = EPOLLIN;
  OK(epoll_ctl(ep, EPOLL_CTL_MOD, b, &e));
  CHECK_EQ(epoll_wait(ep, out, 4, 0), 1);
  CHECK_EQ(epoll_wait(ep, out, 4, 0), 1);
  char buf[8];
  CHECK_EQ(read(b, buf, 8), 3);
  CHECK_EQ(epoll_wait(ep, out, 4, 0), 0);
  e.events = EPOLLIN | EPOLLONESHOT;
  OK(epoll_ctl(ep, EPOLL_CTL_MOD, b, &e));
  CHECK_EQ(write(a, "2", 1), 1);
  CHECK_EQ(epoll_wait(ep, out, 4, 1000), 1);
  CHECK_EQ(epoll_wait(ep, out, 4, 20), 0);
  e.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
  OK(epoll_ctl(ep, EPOLL_CTL_MOD, b, &e));
  CHECK_EQ(epoll_wait(ep, out, 4, 1000), 1);
  close(a);
  CHECK_EQ(epoll_wait(ep, out, 4, 1000), 1);
  CHECK(out[0].events & EPOLLRDHUP);
}

TEST(tcp, a_signal_interrupts_and_a_close_ends) {
  auto [a, b] = tcp_pair();
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, nullptr);
  pthread_t self = pthread_self();
  std::thread poke([&] {
    sleep_ms(50);
    pthread_kill(self, SIGUSR1);
  });
  char c;
  FAILS(read(b, &c, 1), EINTR);
  poke.join();
  int port;
  int l = listener(&port);
  std::thread poke2([&] {
    sleep_ms(50);
    pthread_kill(self, SIGUSR1);
  });
  FAILS(accept(l, nullptr, nullptr), EINTR);
  poke2.join();
  std::thread closer([a = a] {
    sleep_ms(30);
    close(a);
  });
  CHECK_EQ(read(b, &c, 1), 0);
  closer.join();
}

TEST(tcp, many_clients) {
  int port;
  int l = listener(&port);
  OK(listen(l, 128));
  std::thread server([&] {
    int ep = OK(epoll_create1(0));
    epoll_event e{EPOLLIN, {.fd = l}}, out[64];
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, l, &e));
    int ended = 0;
    while (ended < 100) {
      int n = OK(epoll_wait(ep, out, 64, 10000));
      CHECK(n > 0);
      for (int i = 0; i < n; i++) {
        if (out[i].data.fd == l) {
          int c = OK(accept4(l, nullptr, nullptr, SOCK_NONBLOCK));
          epoll_event ce{EPOLLIN, {.fd = c}};
          OK(epoll_ctl(ep, EPOLL_CTL_ADD, c, &ce));
          continue;
        }
        char buf[256];
        ssize_t got = read(out[i].data.fd, buf, sizeof buf);
        if (got > 0) CHECK_EQ(write(out[i].data.fd, buf, (size_t)got), got);
        if (got == 0) {
          close(out[i].data.fd);
          ended++;
        }
      }
    }
  });
  std::vector<std::thread> clients;
  for (int k = 0; k < 10; k++)
    clients.emplace_back([&, k] {
      for (int r = 0; r < 10; r++) {
        int fd = dial(port);
        for (int i = 0; i < 20; i++) {
          std::string text = "client " + show(k) + " message " + show(i);
          CHECK_EQ(write(fd, text.data(), text.size()), (ssize_t)text.size());
          char buf[64];
          CHECK_EQ(recv(fd, buf, text.size(), MSG_WAITALL), (ssize_t)text.size());
          CHECK_STR(std::string(buf, text.size()), text);
        }
        close(fd);
      }
    });
  for (auto& c : clients) c.join();
  server.join();
}

TEST(tcp, sendfile_and_splice) {
  auto [a, b] = tcp_pair();
  std::string text(200000, '\0');
  for (size_t i = 0; i < text.size(); i++) text[i] = (char)(i * 31 >> 2);
  spew("data", text);
  int fd = OK(open("data", O_RDONLY));
  std::thread sender([&, a = a] {
    off_t at = 0;
    while (at < (off_t)text.size()) OK(sendfile(a, fd, &at, text.size() - (size_t)at));
    OK(shutdown(a, SHUT_WR));
  });
  std::string got;
  char buf[8192];
  while (ssize_t n = OK(read(b, buf, sizeof buf))) got.append(buf, (size_t)n);
  sender.join();
  CHECK(got == text);
}

// More than anybody has room for: what was sent is counted right, and who waits for room is woken.
TEST(tcp, sendfile_of_much) {
  auto [a, b] = tcp_pair();
  const size_t size = 5'000'003;
  std::string text(size, '\0');
  for (size_t i = 0; i < size; i++) text[i] = (char)((i >> 12) * 37 + i * 11);
  spew("data", text);
  const int fd = OK(open("data", O_RDONLY));
  std::thread reader([&, b = b] {
    std::string got;
    std::vector<char> buf(70000);
    while (ssize_t n = OK(read(b, buf.data(), buf.size()))) got.append(buf.data(), (size_t)n);
    CHECK_EQ(got.size(), size + 1000);
    CHECK(got.compare(0, 1000, text, 5000, 1000) == 0);
    CHECK(got.compare(1000, size, text) == 0);
  });
  off_t at = 5000;
  CHECK_EQ(sendfile(a, fd, &at, 1000), 1000);
  CHECK_EQ(at, 6000);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
  // All of it in one, from the file's position, and no more.
  CHECK_EQ(sendfile(a, fd, nullptr, size - 3), (ssize_t)size - 3);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), (off_t)size - 3);
  CHECK_EQ(sendfile(a, fd, nullptr, 100), 3);
  CHECK_EQ(sendfile(a, fd, nullptr, 100), 0);
  at = (off_t)size + 5;
  CHECK_EQ(sendfile(a, fd, &at, 100), 0);
  FAILS(sendfile(a, OK(open("data", O_WRONLY)), nullptr, 1), EBADF);
  OK(shutdown(a, SHUT_WR));
  reader.join();
}

TEST(tcp, sendfile_without_waiting) {
  auto [a, b] = tcp_pair();
  // More than both socket buffers ever grow to (tcp_wmem and tcp_rmem: 10 MiB).
  constexpr off_t kSize = 64 << 20;
  const int fd = OK(open("data", O_RDWR | O_CREAT, 0644));
  OK(ftruncate(fd, kSize));
  OK(fcntl(a, F_SETFL, O_NONBLOCK));
  off_t at = 0;
  ssize_t n = 0;
  while ((n = sendfile(a, fd, &at, kSize)) > 0) {
  }
  CHECK_EQ(errno, EAGAIN);
  CHECK(at > 0 && at < kSize);
  pollfd p{a, POLLOUT, 0};
  CHECK_EQ(poll(&p, 1, 0), 0);
  off_t got = 0;
  char buf[65536];
  while (got < at) got += OK(read(b, buf, sizeof buf));
  CHECK_EQ(poll(&p, 1, 5000), 1);
  CHECK(OK(sendfile(a, fd, &at, kSize)) > 0);
  // Nobody there any more.
  signal(SIGPIPE, SIG_IGN);
  OK(shutdown(a, SHUT_WR));
  at = 0;
  FAILS(sendfile(a, fd, &at, 10), EPIPE);
}

// What was written last is what is sent.
TEST(tcp, sendfile_of_what_changes) {
  auto [a, b] = tcp_pair();
  const int fd = OK(open("data", O_RDWR | O_CREAT | O_TRUNC, 0644));
  char buf[100];
  for (int i = 0; i < 50; i++) {
    const std::string text = "round " + show(i);
    CHECK_EQ(pwrite(fd, text.data(), text.size(), 0), (ssize_t)text.size());
    OK(ftruncate(fd, (off_t)text.size()));
    off_t at = 0;
    CHECK_EQ(sendfile(a, fd, &at, 100), (ssize_t)text.size());
    CHECK_EQ(recv(b, buf, text.size(), MSG_WAITALL), (ssize_t)text.size());
    CHECK_STR(std::string(buf, text.size()), text);
  }
}

TEST(tcp, ipv6) {
  int l = socket(AF_INET6, SOCK_STREAM, 0);
  if (l == -1 && errno == EAFNOSUPPORT) return;
  CHECK(l >= 0);
  sockaddr_in6 a{};
  a.sin6_family = AF_INET6;
  a.sin6_addr = in6addr_loopback;
  if (bind(l, (sockaddr*)&a, sizeof a) == -1 && errno == EADDRNOTAVAIL) return;  // no ::1 here
  OK(listen(l, 1));
  socklen_t n = sizeof a;
  OK(getsockname(l, (sockaddr*)&a, &n));
  int fd = OK(socket(AF_INET6, SOCK_STREAM, 0));
  OK(connect(fd, (sockaddr*)&a, sizeof a));
  int b = OK(accept(l, nullptr, nullptr));
  CHECK_EQ(write(fd, "six", 3), 3);
  char buf[4];
  CHECK_EQ(recv(b, buf, 3, MSG_WAITALL), 3);
  // Both families on one socket.
  int dual = OK(socket(AF_INET6, SOCK_STREAM, 0));
  int off = 0;
  OK(setsockopt(dual, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off));
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  OK(bind(dual, (sockaddr*)&any, sizeof any));
  OK(listen(dual, 1));
  n = sizeof any;
  OK(getsockname(dual, (sockaddr*)&any, &n));
  dial(ntohs(any.sin6_port));
  OK(accept(dual, nullptr, nullptr));
}

TEST(udp, datagrams) {
  int a = bound(SOCK_DGRAM), b = bound(SOCK_DGRAM);
  sockaddr_in to = local(port_of(b)), from{};
  CHECK_EQ(sendto(a, "first", 5, 0, (sockaddr*)&to, sizeof to), 5);
  CHECK_EQ(sendto(a, "", 0, 0, (sockaddr*)&to, sizeof to), 0);
  CHECK_EQ(sendto(a, "third one", 9, 0, (sockaddr*)&to, sizeof to), 9);
  char buf[16];
  socklen_t n = sizeof from;
  CHECK_EQ(recvfrom(b, buf, sizeof buf, 0, (sockaddr*)&from, &n), 5);
  CHECK_EQ(ntohs(from.sin_port), port_of(a));
  CHECK_EQ(recv(b, buf, sizeof buf, 0), 0);
  CHECK_EQ(recv(b, buf, 3, MSG_TRUNC | MSG_PEEK), 9);
  iovec v{buf, 3};
  msghdr m{};
  m.msg_iov = &v;
  m.msg_iovlen = 1;
  CHECK_EQ(recvmsg(b, &m, 0), 3);
  CHECK(m.msg_flags & MSG_TRUNC);
  FAILS(recv(b, buf, 1, MSG_DONTWAIT), EAGAIN);
  FAILS(send(a, "x", 1, 0), EDESTADDRREQ);
  OK(connect(a, (sockaddr*)&to, sizeof to));
  CHECK_EQ(send(a, "conn", 4, 0), 4);
  CHECK_EQ(recv(b, buf, sizeof buf, 0), 4);
  std::vector<char> big(70000);
  FAILS(send(a, big.data(), big.size(), 0), EMSGSIZE);
  close(b);
  OK(send(a, "gone", 4, 0));
  CHECK(eventually([&] { return now_ready(a, POLLIN) & POLLERR; }));
  FAILS(recv(a, buf, 1, MSG_DONTWAIT), ECONNREFUSED);
  sockaddr none{};
  none.sa_family = AF_UNSPEC;
  OK(connect(a, &none, sizeof none));
  FAILS(getpeername(a, (sockaddr*)&from, &n), ENOTCONN);
}

TEST(udp, several_at_once_and_control) {
  int a = bound(SOCK_DGRAM), b = bound(SOCK_DGRAM);
  sockaddr_in to = local(port_of(b));
  OK(connect(a, (sockaddr*)&to, sizeof to));
  int on = 1;
  OK(setsockopt(b, IPPROTO_IP, IP_PKTINFO, &on, sizeof on));
  OK(setsockopt(b, IPPROTO_IP, IP_RECVTTL, &on, sizeof on));
  char text[3][4] = {"aa", "bb", "cc"};
  iovec v[3];
  mmsghdr messages[3]{};
  for (int i = 0; i < 3; i++) {
    v[i] = {text[i], 2};
    messages[i].msg_hdr.msg_iov = &v[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  CHECK_EQ(sendmmsg(a, messages, 3, 0), 3);
  CHECK_EQ(messages[1].msg_len, 2);
  char in[4][8], control[4][256];
  iovec w[4];
  mmsghdr got[4]{};
  for (int i = 0; i < 4; i++) {
    w[i] = {in[i], 8};
    got[i].msg_hdr.msg_iov = &w[i];
    got[i].msg_hdr.msg_iovlen = 1;
    got[i].msg_hdr.msg_control = control[i];
    got[i].msg_hdr.msg_controllen = sizeof control[i];
  }
  CHECK_EQ(recvmmsg(b, got, 4, MSG_WAITFORONE, nullptr), 3);
  CHECK_EQ(got[2].msg_len, 2);
  CHECK_EQ(in[2][0], 'c');
  bool info = false, ttl = false;
  for (cmsghdr* c = CMSG_FIRSTHDR(&got[0].msg_hdr); c; c = CMSG_NXTHDR(&got[0].msg_hdr, c)) {
    CHECK_EQ(c->cmsg_level, IPPROTO_IP);
    if (c->cmsg_type == IP_PKTINFO) info = ((in_pktinfo*)CMSG_DATA(c))->ipi_addr.s_addr == htonl(INADDR_LOOPBACK);
    if (c->cmsg_type == IP_TTL) ttl = *(int*)CMSG_DATA(c) > 0;
  }
  CHECK(info && ttl);
}

TEST(udp, threads_wait_for_datagrams) {
  int b = bound(SOCK_DGRAM);
  std::atomic<int> got{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; i++)
    readers.emplace_back([&] {
      for (;;) {
        char c;
        CHECK_EQ(recv(b, &c, 1, 0), 1);
        if (c == 'q') return;
        got++;
      }
    });
  int a = bound(SOCK_DGRAM);
  sockaddr_in to = local(port_of(b));
  OK(connect(a, (sockaddr*)&to, sizeof to));
  for (int i = 0; i < 200; i++) {
    CHECK_EQ(send(a, "x", 1, 0), 1);
    if (i % 20 == 19) CHECK(eventually([&] { return got == i + 1; }));
  }
  for (int i = 0; i < 4; i++) CHECK_EQ(send(a, "q", 1, 0), 1);
  for (auto& t : readers) t.join();
}

TEST(netdevice, interface_ioctls) {
  int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
  ifreq r{};
  strcpy(r.ifr_name, "lo");
  OK(ioctl(fd, SIOCGIFINDEX, &r));
  int index = r.ifr_ifindex;
  CHECK(index >= 1);
  OK(ioctl(fd, SIOCGIFFLAGS, &r));
  CHECK(r.ifr_flags & IFF_LOOPBACK);
  CHECK(r.ifr_flags & IFF_UP);
  OK(ioctl(fd, SIOCGIFADDR, &r));
  CHECK_EQ(((sockaddr_in*)&r.ifr_addr)->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
  OK(ioctl(fd, SIOCGIFMTU, &r));
  CHECK(r.ifr_mtu >= 1500);
  ifreq by_index{};
  by_index.ifr_ifindex = index;
  OK(ioctl(fd, SIOCGIFNAME, &by_index));
  CHECK_STR(by_index.ifr_name, "lo");
  ifreq all[32];
  ifconf list{};
  list.ifc_len = sizeof all;
  list.ifc_req = all;
  OK(ioctl(fd, SIOCGIFCONF, &list));
  CHECK(list.ifc_len >= (int)sizeof(ifreq));
  strcpy(r.ifr_name, "nosuch0");
  FAILS(ioctl(fd, SIOCGIFFLAGS, &r), ENODEV);
  FAILS(ioctl(fd, SIOCGIFFLAGS, (void*)8), EFAULT);
}

TEST(netlink, interfaces_and_addresses) {
  ifaddrs* all = nullptr;
  OK(getifaddrs(&all));
  bool found = false;
  for (ifaddrs* i = all; i; i = i->ifa_next) {
    if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || strcmp(i->ifa_name, "lo") != 0) continue;
    found = ((sockaddr_in*)i->ifa_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK) && (i->ifa_flags & IFF_UP);
  }
  CHECK(found);
  freeifaddrs(all);
  CHECK(if_nametoindex("lo") >= 1);
  CHECK_EQ(if_nametoindex("nosuch0"), 0);
}

TEST(netlink, questions_only) {
  int fd = OK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  sockaddr_nl self{};
  self.nl_family = AF_NETLINK;
  OK(bind(fd, (sockaddr*)&self, sizeof self));
  socklen_t n = sizeof self;
  OK(getsockname(fd, (sockaddr*)&self, &n));
  CHECK_EQ(n, sizeof self);
  CHECK(self.nl_pid != 0);
  struct {
    nlmsghdr h;
    ifinfomsg i;
  } ask{};
  ask.h.nlmsg_len = sizeof ask;
  ask.h.nlmsg_type = RTM_GETLINK;
  ask.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  ask.h.nlmsg_seq = 42;
  CHECK_EQ(send(fd, &ask, sizeof ask, 0), (ssize_t)sizeof ask);
  alignas(nlmsghdr) char buf[32768];
  bool done = false, lo = false;
  while (!done) {
    // How large the next answer is, as iproute2 asks.
    ssize_t size = OK(recv(fd, buf, 0, MSG_PEEK | MSG_TRUNC));
    CHECK(size >= (ssize_t)sizeof(nlmsghdr));
    sockaddr_nl from{};
    n = sizeof from;
    ssize_t got = OK(recvfrom(fd, buf, sizeof buf, 0, (sockaddr*)&from, &n));
    CHECK_EQ(got, size);
    CHECK_EQ(from.nl_pid, 0);
    auto left = (unsigned)got;
    for (auto* h = (nlmsghdr*)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
      CHECK_EQ(h->nlmsg_seq, 42);
      CHECK_EQ(h->nlmsg_pid, self.nl_pid);
      if (h->nlmsg_type == NLMSG_DONE) done = true;
      if (h->nlmsg_type == RTM_NEWLINK && (((ifinfomsg*)NLMSG_DATA(h))->ifi_flags & IFF_LOOPBACK)) lo = true;
    }
  }
  CHECK(lo);
  // Taking the loopback down needs CAP_NET_ADMIN, which the box has not.
  ask.h.nlmsg_type = RTM_NEWLINK;
  ask.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  ask.i.ifi_index = 1;
  ask.i.ifi_change = IFF_UP;
  CHECK_EQ(send(fd, &ask, sizeof ask, 0), (ssize_t)sizeof ask);
  CHECK(recv(fd, buf, sizeof buf, 0) > (ssize_t)sizeof(nlmsghdr));
  auto* h = (nlmsghdr*)buf;
  CHECK_EQ(h->nlmsg_type, NLMSG_ERROR);
  CHECK_EQ(((nlmsgerr*)NLMSG_DATA(h))->error, -EPERM);
  FAILS(socket(AF_NETLINK, SOCK_STREAM, NETLINK_ROUTE), ESOCKTNOSUPPORT);
  FAILS(socket(AF_NETLINK, SOCK_RAW, 31), EPROTONOSUPPORT);
}

TEST(inet, accept_what_was_reset) {
  int port;
  int fd = listener(&port);
  int client = OK(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in to = local(port);
  OK(connect(client, (sockaddr*)&to, sizeof to));
  int own = port_of(client);
  linger now{1, 0};
  OK(setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now));
  close(client);
  sleep_ms(20);
  sockaddr_in from{};
  socklen_t n = sizeof from;
  int server = OK(accept(fd, (sockaddr*)&from, &n));
  CHECK_EQ(n, sizeof from);
  CHECK_EQ(ntohs(from.sin_port), own);
  char byte;
  FAILS(recv(server, &byte, 1, 0), ECONNRESET);
}

TEST(inet, error_queue_is_not_waited_for) {
  int fd = bound(SOCK_DGRAM), on = 1;
  OK(setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on));
  char byte;
  FAILS(recv(fd, &byte, 1, MSG_ERRQUEUE), EAGAIN);
}

TEST(inet, datagrams_after_shutdown) {
  int fd = bound(SOCK_DGRAM);
  sockaddr_in self = local(port_of(fd));
  OK(connect(fd, (sockaddr*)&self, sizeof self));
  char byte;
  std::thread later([&] {
    sleep_ms(30);
    OK(shutdown(fd, SHUT_RD));
  });
  CHECK_EQ(OK(recv(fd, &byte, 1, 0)), 0);  // who waits hears of it
  later.join();
  CHECK_EQ(OK(recv(fd, &byte, 1, 0)), 0);
  FAILS(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
  std::vector<char> big(70000);
  FAILS(send(fd, big.data(), big.size(), 0), EMSGSIZE);
}
