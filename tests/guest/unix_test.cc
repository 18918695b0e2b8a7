// AF_UNIX sockets: unix(7), and what net/unix/af_unix.c does beyond it.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <thread>

#include "guest.h"

using namespace guest;

namespace {

// An address with an abstract name; its length in *n.
sockaddr_un abstract(const char* name, socklen_t* n) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  strcpy(a.sun_path + 1, name);
  *n = (socklen_t)(offsetof(sockaddr_un, sun_path) + 1 + strlen(name));
  return a;
}

std::string own_name(const char* name) { return name + std::to_string(getpid()); }

int bound(int type, const std::string& name) {
  int fd = OK(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  socklen_t n;
  sockaddr_un a = abstract(name.c_str(), &n);
  OK(bind(fd, (sockaddr*)&a, n));
  return fd;
}

int connected(const std::string& name, int type = SOCK_STREAM) {
  int fd = OK(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  socklen_t n;
  sockaddr_un a = abstract(name.c_str(), &n);
  OK(connect(fd, (sockaddr*)&a, n));
  return fd;
}

// One byte with `passed`, if that is not -1.
void send_byte(int fd, int passed = -1) {
  char byte = 'b', control[CMSG_SPACE(sizeof(int))] = {};
  iovec vec{&byte, 1};
  msghdr m{};
  m.msg_iov = &vec;
  m.msg_iovlen = 1;
  if (passed >= 0) {
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &passed, sizeof passed);
  }
  CHECK_EQ(sendmsg(fd, &m, 0), 1);
}

struct Received {
  ssize_t n = 0;
  int fd = -1, flags = 0;
  bool has_credentials = false;
  ucred credentials{};
};

Received receive(int fd, size_t room) {
  char bytes[64], control[256];
  iovec vec{bytes, room};
  msghdr m{};
  m.msg_iov = &vec;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  Received r;
  r.n = OK(recvmsg(fd, &m, 0));
  r.flags = m.msg_flags;
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_type == SCM_RIGHTS) memcpy(&r.fd, CMSG_DATA(c), sizeof r.fd);
    if (c->cmsg_type == SCM_CREDENTIALS) {
      r.has_credentials = true;
      memcpy(&r.credentials, CMSG_DATA(c), sizeof r.credentials);
    }
  }
  return r;
}

}  // namespace

TEST(unix, listener_outlives_what_it_accepted) {
  std::string name = own_name("lasting");
  int listener = bound(SOCK_STREAM, name);
  OK(listen(listener, 4));
  for (int i = 0; i < 3; i++) {
    int client = connected(name);
    int server = OK(accept(listener, nullptr, nullptr));
    close(server);
    close(client);
  }
}

TEST(unix, abstract_names_by_type) {
  std::string name = own_name("both");
  int stream = bound(SOCK_STREAM, name), datagram = bound(SOCK_DGRAM, name);
  OK(listen(stream, 1));
  connected(name);
  CHECK_EQ(send(connected(name, SOCK_DGRAM), "d", 1, 0), 1);
  char byte;
  CHECK_EQ(recv(datagram, &byte, 1, MSG_DONTWAIT), 1);
  socklen_t n;
  sockaddr_un a = abstract(name.c_str(), &n);
  int packets = OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  FAILS(connect(packets, (sockaddr*)&a, n), ECONNREFUSED);
}

TEST(unix, stream_tells_the_sender) {
  std::string name = own_name("told"), own = own_name("teller");
  int listener = bound(SOCK_STREAM, name);
  OK(listen(listener, 1));
  int client = bound(SOCK_STREAM, own);
  socklen_t n;
  sockaddr_un a = abstract(name.c_str(), &n);
  OK(connect(client, (sockaddr*)&a, n));
  int server = OK(accept(listener, nullptr, nullptr));
  CHECK_EQ(send(client, "xy", 2, 0), 2);
  for (bool gone : {false, true}) {
    if (gone) close(client);  // what is left still says whom it is from
    char byte;
    sockaddr_un from{};
    socklen_t length = sizeof from;
    CHECK_EQ(OK(recvfrom(server, &byte, 1, 0, (sockaddr*)&from, &length)), 1);
    CHECK_EQ(length, offsetof(sockaddr_un, sun_path) + 1 + own.size());
    CHECK_STR(std::string(from.sun_path + 1, own.size()), own);
  }
}

TEST(unix, credentials_only_if_asked_for_in_time) {
  int pair[2], on = 1;
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  send_byte(pair[0]);
  OK(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
  send_byte(pair[0]);
  Received early = receive(pair[1], 8);
  CHECK_EQ(early.n, 1);  // the two are not mixed
  CHECK(early.has_credentials);
  CHECK_EQ(early.credentials.pid, 0);
  CHECK_EQ(early.credentials.uid, 65534);
  Received late = receive(pair[1], 8);
  CHECK_EQ(late.credentials.pid, getpid());
  CHECK_EQ(late.credentials.uid, getuid());
}

TEST(unix, descriptors_and_lengths) {
  int pair[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  send_byte(pair[0], 0);
  Received nothing = receive(pair[1], 0);  // not a byte asked for: the descriptor comes all the same
  CHECK_EQ(nothing.n, 0);
  CHECK(nothing.fd >= 0);
  Received rest = receive(pair[1], 8);
  CHECK_EQ(rest.n, 1);
  CHECK_EQ(rest.fd, -1);
  send_byte(pair[0]);
  send_byte(pair[0], 0);
  send_byte(pair[0]);
  Received both = receive(pair[1], 8);  // what comes before is taken along, what follows is not
  CHECK_EQ(both.n, 2);
  CHECK(both.fd >= 0);
  CHECK_EQ(receive(pair[1], 8).n, 1);
  int packets[2];
  OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
  send_byte(packets[0]);
  CHECK_EQ(receive(packets[1], 8).flags, 0);
}

TEST(unix, receive_low_water) {
  int pair[2], least = 3, got = 0;
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  OK(setsockopt(pair[1], SOL_SOCKET, SO_RCVLOWAT, &least, sizeof least));
  socklen_t n = sizeof got;
  OK(getsockopt(pair[1], SOL_SOCKET, SO_RCVLOWAT, &got, &n));
  CHECK_EQ(got, 3);
  char bytes[8];
  send_byte(pair[0]);
  std::thread later([&] {
    sleep_ms(30);
    send_byte(pair[0]);
    sleep_ms(30);
    send_byte(pair[0]);
  });
  CHECK_EQ(OK(recv(pair[1], bytes, 8, 0)), 3);
  later.join();
  send_byte(pair[0]);
  CHECK_EQ(recv(pair[1], bytes, 8, MSG_DONTWAIT), 1);
  send_byte(pair[0]);
  close(pair[0]);
  CHECK_EQ(OK(recv(pair[1], bytes, 8, 0)), 1);
}

TEST(unix, mode_of_the_name) {
  int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
  OK(fchmod(fd, 0640));
  umask(0);
  sockaddr_un a{AF_UNIX, "named"};
  OK(bind(fd, (sockaddr*)&a, sizeof a));
  struct stat st;
  OK(stat("named", &st));
  CHECK_EQ(st.st_mode, S_IFSOCK | 0640);
}

TEST(unix, listed_in_proc) {
  std::string name = own_name("listed");
  int fd = bound(SOCK_STREAM, name);
  OK(listen(fd, 1));
  struct stat st;
  OK(fstat(fd, &st));
  std::string all = slurp("/proc/net/unix"), row;
  for (size_t at = 0, end; (end = all.find('\n', at)) != std::string::npos; at = end + 1)
    if (all.substr(at, end - at).ends_with(" @" + name)) row = all.substr(at, end - at);
  CHECK(row.find(" 00010000 0001 01 ") != std::string::npos);
  CHECK(row.find(" " + std::to_string(st.st_ino) + " ") != std::string::npos);
}
