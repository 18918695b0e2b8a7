// Arguments that point to more arguments, of sizes around those a kernel may treat specially: writev(2), readv(2),
// sendmsg(2), recvmsg(2), poll(2), select(2), and what they say of memory that is not there.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "inet.h"

using namespace guest;

namespace {

std::string text(size_t n, size_t from = 0) {
  std::string s(n, 0);
  for (size_t i = 0; i < n; ++i) s[i] = (char)('A' + (from + i) % 29);
  return s;
}

// Two pages, of which the second is not there: `n` bytes that end with the first.
char* at_the_end(size_t n) {
  static char* page = nullptr;
  if (page == nullptr) {
    page = (char*)mmap(nullptr, 2 * 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    OK(munmap(page + 65536, 65536));
  }
  return page + 65536 - n;
}

std::string contents(int fd) {
  std::string s((size_t)OK(lseek(fd, 0, SEEK_END)), 0);
  CHECK_EQ(pread(fd, s.data(), s.size(), 0), (ssize_t)s.size());
  return s;
}

constexpr size_t kSizes[] = {1, 15, 16, 17, 100, 4095, 4096, 5000, 16383, 16384, 16385, 40000};

struct Sockets {
  int a, b;
};
Sockets sockets(int type) {
  int fd[2];
  OK(socketpair(AF_UNIX, type, 0, fd));
  return {fd[0], fd[1]};
}

}  // namespace

TEST(arguments, writev_and_readv_of_many_sizes) {
  const int fd = OK(open("data", O_RDWR | O_CREAT, 0644));
  for (size_t count : {1, 2, 5, 6, 7, 8, 9, 20}) {
    for (size_t size : kSizes) {
      OK(ftruncate(fd, 0));
      OK(lseek(fd, 0, SEEK_SET));
      const std::string whole = text(count * size);
      std::vector<iovec> vec(count);
      for (size_t i = 0; i < count; ++i) vec[i] = {(void*)(whole.data() + i * size), size};
      CHECK_EQ(writev(fd, vec.data(), (int)count), (ssize_t)whole.size());
      CHECK(contents(fd) == whole);
      std::string back(whole.size(), 0);
      for (size_t i = 0; i < count; ++i) vec[i] = {back.data() + i * size, size};
      OK(lseek(fd, 0, SEEK_SET));
      CHECK_EQ(readv(fd, vec.data(), (int)count), (ssize_t)whole.size());
      CHECK(back == whole);
    }
  }
}

TEST(arguments, empty_buffers_between) {
  int p[2];
  OK(pipe(p));
  iovec out[] = {{nullptr, 0}, {(void*)"abc", 3}, {nullptr, 0}, {(void*)"", 0}, {(void*)"de", 2}, {nullptr, 0}};
  CHECK_EQ(writev(p[1], out, 6), 5);
  char x[2], y[10];
  iovec in[] = {{nullptr, 0}, {x, 2}, {nullptr, 0}, {y, 10}};
  CHECK_EQ(readv(p[0], in, 4), 5);
  CHECK_STR(std::string(x, 2) + std::string(y, 3), "abcde");
  CHECK_EQ(writev(p[1], out, 0), 0);
}

// What can be written is written; only a fault with nothing before it is an error (writev(2)).
TEST(arguments, buffers_that_are_not_there) {
  auto [a, b] = sockets(SOCK_STREAM);
  char* end = at_the_end(100);
  memset(end, 'x', 100);
  iovec bad[] = {{(void*)"abc", 3}, {end + 200, 10}};
  const ssize_t n = writev(a, bad, 2);
  CHECK(n == 3 || (n == -1 && errno == EFAULT));
  char c[300];
  if (n == 3) CHECK_EQ(read(b, c, sizeof c), 3);
  FAILS(writev(a, bad + 1, 1), EFAULT);
  FAILS(writev(a, (iovec*)(end + 200), 1), EFAULT);
  FAILS(writev(a, (iovec*)at_the_end(8), 1), EFAULT);
  FAILS(writev(a, bad, -1), EINVAL);
  FAILS(writev(a, bad, 1025), EINVAL);
  // The list itself ends where memory does.
  auto* vec = (iovec*)at_the_end(2 * sizeof(iovec));
  vec[0] = {(void*)"12", 2};
  vec[1] = {(void*)"345", 3};
  CHECK_EQ(writev(a, vec, 2), 5);
  CHECK_EQ(read(b, c, sizeof c), 5);
  CHECK_STR(std::string(c, 5), "12345");
  FAILS(writev(a, vec, 3), EFAULT);
  // What is there to be read stays there.
  CHECK_EQ(write(a, "hello", 5), 5);
  iovec nowhere{end + 200, 10};
  FAILS(readv(b, &nowhere, 1), EFAULT);
  const char constant[] = "constant";
  (void)constant;
  iovec in{c, sizeof c};
  CHECK_EQ(readv(b, &in, 1), 5);
  CHECK_STR(std::string(c, 5), "hello");
}

TEST(arguments, messages_of_many_sizes) {
  auto [a, b] = sockets(SOCK_SEQPACKET);
  const int room = 1 << 20;
  OK(setsockopt(a, SOL_SOCKET, SO_SNDBUF, &room, sizeof room));
  for (size_t count : {1, 2, 5, 6, 7, 8, 9}) {
    for (size_t size : {1, 17, 4096, 5000, 9000}) {
      const std::string whole = text(count * size, size);
      std::vector<iovec> vec(count);
      for (size_t i = 0; i < count; ++i) vec[i] = {(void*)(whole.data() + i * size), size};
      msghdr m{};
      m.msg_iov = vec.data();
      m.msg_iovlen = count;
      CHECK_EQ(OK(sendmsg(a, &m, 0)), whole.size());
      std::string back(whole.size() + 1, 0);
      iovec in[] = {{back.data(), size / 2}, {back.data() + size / 2, back.size() - size / 2}};
      msghdr got{};
      got.msg_iov = in;
      got.msg_iovlen = 2;
      got.msg_flags = 0x7777;
      got.msg_namelen = 77;
      CHECK_EQ(OK(recvmsg(b, &got, 0)), whole.size());
      CHECK_EQ(got.msg_flags & ~MSG_EOR, 0);
      CHECK_EQ(got.msg_iovlen, 2);
      back.resize(whole.size());
      CHECK(back == whole);
    }
  }
}

// The bytes, the header and the descriptors go where they belong, whatever overlaps what.
TEST(arguments, a_message_over_its_own_arguments) {
  auto [a, b] = sockets(SOCK_DGRAM);
  CHECK_EQ(send(a, "0123456789", 10, 0), 10);
  struct {
    iovec vec[2];
    char text[16];
  } over;
  over.vec[0] = {&over.vec[1], 8};  // the second one's base, which is read before
  over.vec[1] = {over.text, 16};
  CHECK_EQ(readv(b, over.vec, 2), 10);
  CHECK_EQ(memcmp(&over.vec[1], "01234567", 8), 0);
  CHECK_EQ(memcmp(over.text, "89", 2), 0);
  CHECK_EQ(send(a, "abc", 3, 0), 3);
  msghdr m{};
  iovec self{&m.msg_namelen, 4};  // the header is written after the bytes
  m.msg_iov = &self;
  m.msg_iovlen = 1;
  m.msg_namelen = 99;
  CHECK_EQ(OK(recvmsg(b, &m, 0)), 3);
  CHECK(m.msg_namelen == 0 || memcmp(&m.msg_namelen, "abc", 3) == 0);
}

TEST(arguments, messages_that_are_not_there) {
  auto [a, b] = sockets(SOCK_DGRAM);
  char* end = at_the_end(sizeof(msghdr));
  auto* m = (msghdr*)end;
  *m = {};
  iovec vec{(void*)"text", 4};
  m->msg_iov = &vec;
  m->msg_iovlen = 1;
  CHECK_EQ(sendmsg(a, m, 0), 4);
  FAILS(sendmsg(a, (msghdr*)(end + 8), 0), EFAULT);
  FAILS(sendmsg(a, (msghdr*)(end + 4096), 0), EFAULT);
  m->msg_iov = (iovec*)(end + 4096);
  FAILS(sendmsg(a, m, 0), EFAULT);
  m->msg_iovlen = 0;
  CHECK_EQ(sendmsg(a, m, 0), 0);
  m->msg_iovlen = 1025;
  FAILS(sendmsg(a, m, 0), EMSGSIZE);
  char c[10];
  CHECK_EQ(recv(b, c, sizeof c, 0), 4);
  CHECK_EQ(recv(b, c, sizeof c, 0), 0);
  FAILS(recv(b, c, sizeof c, MSG_DONTWAIT), EAGAIN);
}

TEST(arguments, poll_of_many) {
  int p[2];
  OK(pipe(p));
  OK(write(p[1], "x", 1));
  rlimit limit{};
  OK(getrlimit(RLIMIT_NOFILE, &limit));
  for (size_t count : {1, 2, 3, 100, 1000, 2048, 2049, 4000}) {
    if (count > limit.rlim_cur) break;
    std::vector<pollfd> fds(count);
    for (size_t i = 0; i < count; ++i) fds[i] = {i % 3 == 0 ? p[0] : i % 3 == 1 ? -1 : p[1], POLLIN, 0x55};
    CHECK_EQ(poll(fds.data(), count, 0), (int)(count + 2) / 3);
    for (size_t i = 0; i < count; ++i) CHECK_EQ(fds[i].revents, i % 3 == 0 ? POLLIN : 0);
  }
  auto* last = (pollfd*)at_the_end(sizeof(pollfd));
  *last = {p[0], POLLIN, 0};
  CHECK_EQ(poll(last, 1, 0), 1);
  FAILS(poll(last, 2, 0), EFAULT);
  FAILS(poll(last + 1, 1, 0), EFAULT);
  CHECK_EQ(poll(nullptr, 0, 0), 0);
}

TEST(arguments, select_of_many) {
  int p[2];
  OK(pipe(p));
  OK(write(p[1], "x", 1));
  for (int high : {p[0] + 1, 64, 65, 128, 500, 1000}) {
    const int fd = high - 1 == p[0] ? p[0] : OK(dup2(p[0], high - 1));
    fd_set in, out, except;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&except);
    FD_SET(fd, &in);
    FD_SET(p[1], &out);
    FD_SET(p[1], &except);
    timeval zero{};
    CHECK_EQ(select(std::max(high, p[1] + 1), &in, &out, &except, &zero), 2);
    CHECK(FD_ISSET(fd, &in) && FD_ISSET(p[1], &out) && !FD_ISSET(p[1], &except));
    timespec none{};
    sigset_t mask;
    sigemptyset(&mask);
    CHECK_EQ(pselect(high, &in, nullptr, nullptr, &none, &mask), 1);
    if (fd != p[0]) close(fd);
  }
  auto* set = (fd_set*)at_the_end(8);
  memset((void*)set, 0, 8);
  timeval zero{};
  CHECK_EQ(select(64, set, nullptr, nullptr, &zero), 0);
  FAILS(select(65, set, nullptr, nullptr, &zero), EFAULT);
  FAILS(select(1, (fd_set*)(at_the_end(0) + 64), nullptr, nullptr, &zero), EFAULT);
  FAILS(select(-1, nullptr, nullptr, nullptr, &zero), EINVAL);
}

// ---- buffers of many pages ----

namespace {

std::string bytes_from(size_t n, size_t from) {
  std::string all(n, 0);
  for (size_t i = 0; i < n; i++) all[i] = (char)((from + i) * 13 + (from + i) / 4099);
  return all;
}

}  // namespace

TEST(arguments, big_buffers_to_files) {
  int fd = OK(open("file", O_RDWR | O_CREAT, 0600));
  for (size_t n : {16384u, 16385u, 65536u, 100001u, 262144u, 262145u, 700000u}) {
    const std::string all = bytes_from(n, n);
    CHECK_EQ(pwrite(fd, all.data(), n, 0), n);
    CHECK(slurp("file").substr(0, n) == all);
    OK(ftruncate(fd, 0));
    OK(lseek(fd, 0, SEEK_SET));
    CHECK_EQ(write(fd, all.data() + 7, n - 7), n - 7);
    CHECK(slurp("file") == all.substr(7));
  }
  const std::string a = bytes_from(20000, 1), b = "small", c = bytes_from(100000, 2), d = bytes_from(250000, 3);
  iovec v[4] = {{(void*)a.data(), a.size()},
                {(void*)b.data(), b.size()},
                {(void*)c.data(), c.size()},
                {(void*)d.data(), d.size()}};
  const size_t all = a.size() + b.size() + c.size() + d.size();
  CHECK_EQ(pwritev(fd, v, 4, 0), all);
  OK(ftruncate(fd, (off_t)all));
  CHECK(slurp("file") == a + b + c + d);
}

TEST(arguments, big_buffers_with_an_end) {
  constexpr size_t kThere = 24 * 4096, kAll = 80 * 4096;
  auto* at = (char*)mmap(nullptr, kAll, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED);
  const std::string all = bytes_from(kThere, 5);
  memcpy(at, all.data(), kThere);
  OK(munmap(at + kThere, kAll - kThere));
  int fd = OK(open("file", O_RDWR | O_CREAT, 0600));
  CHECK_EQ(write(fd, at, 50 * 4096), kThere);
  CHECK(slurp("file") == all);
  FAILS(write(fd, at + kThere, 20 * 4096), EFAULT);
  CHECK_EQ(write(fd, at, kThere), kThere);
  CHECK(slurp("file") == all + all);
}

TEST(arguments, big_buffers_of_many_threads) {
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; t++) {
    threads.emplace_back([t] {
      const std::string name = "file" + std::to_string(t);
      int fd = OK(open(name.c_str(), O_RDWR | O_CREAT, 0600));
      for (size_t i = 0; i < 30; i++) {
        const std::string all = bytes_from(200000 + t, i * 10 + t);
        CHECK_EQ(pwrite(fd, all.data(), all.size(), 0), all.size());
        std::string back(all.size(), 0);
        CHECK_EQ(pread(fd, back.data(), back.size(), 0), back.size());
        CHECK(back == all);
      }
    });
  }
  for (auto& t : threads) t.join();
}

TEST(arguments, big_buffers_to_streams) {
  for (int kind = 0; kind < 3; kind++) {
    int p[2];
    if (kind == 0) {
      OK(pipe(p));
    } else if (kind == 1) {
      OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    } else {
      const Pair pair = tcp_pair();
      p[0] = pair.a;
      p[1] = pair.b;
    }
    std::thread reader([&] {
      std::string got;
      while (got.size() < 5 * 300000) {
        std::string piece = next(p[0], 100000);
        CHECK(!piece.empty());
        got += piece;
      }
      CHECK(got == bytes_from(5 * 300000, 0));
    });
    for (size_t i = 0; i < 5; i++) {
      const std::string all = bytes_from(300000, i * 300000);
      if (i % 2 == 0) {
        CHECK_EQ(write(p[1], all.data(), all.size()), all.size());
      } else {
        iovec v[3] = {
            {(void*)all.data(), 50000}, {(void*)(all.data() + 50000), 17}, {(void*)(all.data() + 50017), 249983}};
        CHECK_EQ(writev(p[1], v, 3), all.size());
      }
    }
    reader.join();
    close(p[0]);
    close(p[1]);
  }
}
