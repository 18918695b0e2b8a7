// Pipes and pairs of sockets between processes that share memory, too.
#pragma once
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <string>

#include "guest.h"

namespace guest {

struct Ends {
  int from, to;
};

// A test runs with a pipe and with a connected pair of sockets.
inline void each_kind(const std::function<void(Ends ends)>& body) {
  int p[2];
  OK(pipe(p));
  body({p[0], p[1]});
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
  body({p[0], p[1]});
}

// Memory that forked processes share; zero.
template <typename T>
T& shared() {
  void* at = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED);
  return *static_cast<T*>(at);
}
using Word = std::atomic<int>;

inline void wait_for(const Word& word, int value) {
  CHECK(eventually([&] { return word.load() >= value; }));
}
// Others may want the processor: there are more that spin than processors. No kernel of ours hears of sched_yield(2).
inline void spin_for(const Word& word, int value) {
  for (int64_t end = now_ms() + 20000; word.load() < value; sched_yield()) CHECK(now_ms() < end);
}

inline void put(int fd, int value) { CHECK_EQ(write(fd, &value, sizeof value), sizeof value); }
// Three processes that write the numbers up to `end` to fd, in turn.
inline std::array<pid_t, 3> write_in_turn(int fd, Word& turn, int end) {
  std::array<pid_t, 3> pids{};
  for (int me = 0; me < 3; me++)
    pids[static_cast<size_t>(me)] = spawn([&, me] {
      for (int i = me; i < end; i += 3) {
        spin_for(turn, i);
        put(fd, i);
        turn.store(i + 1);
      }
      return 0;
    });
  return pids;
}
inline int get(int fd) {
  int value = -1;
  CHECK_EQ(read(fd, &value, sizeof value), sizeof value);
  return value;
}

// One message with a descriptor (unix(7), SCM_RIGHTS).
inline void send_with(int socket, const std::string& bytes, int fd) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec vec{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr m{nullptr, 0, &vec, 1, control, sizeof control, 0};
  cmsghdr* head = CMSG_FIRSTHDR(&m);
  *head = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  memcpy(CMSG_DATA(head), &fd, sizeof fd);
  CHECK_EQ(sendmsg(socket, &m, 0), bytes.size());
}
// Receives as many bytes, and these, and the descriptor that came with them.
inline int receive_with(int socket, const std::string& bytes) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  std::string got(bytes.size(), '\0');
  iovec vec{got.data(), got.size()};
  msghdr m{nullptr, 0, &vec, 1, control, sizeof control, 0};
  CHECK_EQ(recvmsg(socket, &m, 0), bytes.size());
  CHECK(got == bytes);
  const cmsghdr* head = CMSG_FIRSTHDR(&m);
  CHECK(head != nullptr && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(sizeof(int)));
  int fd = -1;
  memcpy(&fd, CMSG_DATA(head), sizeof fd);
  return fd;
}

inline int waiting(int fd) {
  int n = -1;
  OK(ioctl(fd, FIONREAD, &n));
  return n;
}
inline bool readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return OK(poll(&p, 1, 0)) == 1;
}

}  // namespace guest
