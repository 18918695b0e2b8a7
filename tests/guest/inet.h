// Sockets of the loopback interface for the tests of internet sockets.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

namespace guest {

inline sockaddr_in local(int port = 0) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons((uint16_t)port);
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return a;
}

inline int port_of(int fd) {
  sockaddr_in a{};
  socklen_t n = sizeof a;
  OK(getsockname(fd, (sockaddr*)&a, &n));
  CHECK_EQ(n, sizeof a);
  return ntohs(a.sin_port);
}

inline int bound(int type) {
  int fd = OK(socket(AF_INET, type | SOCK_CLOEXEC, 0));
  sockaddr_in a = local();
  OK(bind(fd, (sockaddr*)&a, sizeof a));
  return fd;
}

inline int listener(int* port) {
  int fd = bound(SOCK_STREAM);
  OK(listen(fd, 8));
  *port = port_of(fd);
  return fd;
}

inline int dial(int port) {
  int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in a = local(port);
  OK(connect(fd, (sockaddr*)&a, sizeof a));
  return fd;
}

struct Pair {
  int a, b;
};
inline Pair tcp_pair() {
  int port;
  int l = listener(&port);
  int a = dial(port);
  int b = OK(accept(l, nullptr, nullptr));
  close(l);
  return {a, b};
}

inline int now_ready(int fd, short events, int timeout = 0) {
  pollfd p{fd, events, 0};
  OK(poll(&p, 1, timeout));
  return p.revents;
}

}  // namespace guest
