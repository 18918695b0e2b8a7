// Writes to /dev/null (null(4)): nothing looks at the bytes, and the descriptor may become another file's at any time.
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "ends.h"
#include "guest.h"
using namespace guest;

namespace {

// So often that whoever remembers who writes there does.
int used(int flags = O_WRONLY) {
  const int fd = OK(open("/dev/null", flags));
  for (int i = 0; i < 10; i++) CHECK_EQ(write(fd, "text", 4), 4);
  return fd;
}

std::string contents(const char* path) {
  const int fd = OK(open(path, O_RDONLY));
  char buffer[100];
  const ssize_t n = OK(read(fd, buffer, sizeof buffer));
  OK(close(fd));
  return {buffer, static_cast<size_t>(n)};
}

}  // namespace

TEST(null, sizes_and_memory) {
  for (const char* path : {"/dev/null", "/dev/zero"}) {
    const int fd = OK(open(path, O_RDWR));
    std::vector<char> bytes(3 << 20);
    for (int i = 0; i < 3; i++) {
      for (size_t n : {size_t{0}, size_t{1}, size_t{4096}, size_t{65536}, size_t{65537}, bytes.size()})
        CHECK_EQ(write(fd, bytes.data(), n), n);
      CHECK_EQ(write(fd, nullptr, 100), 100);
      CHECK_EQ(write(fd, reinterpret_cast<void*>(4096), size_t{3} << 30), 0x7ffff000);
      FAILS(write(fd, reinterpret_cast<void*>(0xffff800000000000), 100), EFAULT);
      FAILS(write(fd, bytes.data(), ~size_t{0}), EFAULT);
      FAILS(read(fd, reinterpret_cast<void*>(0xffff800000000000), 100), EFAULT);
      FAILS(read(fd, bytes.data(), ~size_t{0}), EFAULT);
      FAILS(syscall(SYS_sendto, fd, bytes.data(), 10, 0, nullptr, 0), ENOTSOCK);
      CHECK_EQ(lseek(fd, 10, SEEK_SET), 0);
      pollfd p{fd, POLLIN | POLLOUT, 0};
      CHECK_EQ(poll(&p, 1, 0), 1);
      CHECK_EQ(p.revents, POLLIN | POLLOUT);
    }
    OK(close(fd));
  }
}

TEST(null, only_if_it_may_be_written) {
  for (int i = 0; i < 5; i++) {
    const int fd = used();
    OK(close(fd));
    CHECK_EQ(OK(open("/dev/null", O_RDONLY)), fd);
    FAILS(write(fd, "text", 4), EBADF);
    OK(close(fd));
    FAILS(write(fd, "text", 4), EBADF);
  }
}

TEST(null, another_file_takes_its_number) {
  for (int way = 0; way < 4; way++) {
    const int fd = used(way == 3 ? O_WRONLY | O_CLOEXEC : O_WRONLY);
    const int file = OK(open("f", O_WRONLY | O_CREAT | O_TRUNC, 0600));
    switch (way) {
      case 0:
        OK(close(fd));
        CHECK_EQ(OK(dup(file)), fd);
        break;
      case 1: OK(dup2(file, fd)); break;
      case 2: std::thread([&] { OK(dup3(file, fd, 0)); }).join(); break;
      case 3:
        OK(close_range(static_cast<unsigned>(fd), static_cast<unsigned>(fd), 0));
        CHECK_EQ(OK(fcntl(file, F_DUPFD, fd)), fd);
        break;
    }
    CHECK_EQ(write(fd, "hello", 5), 5);
    CHECK_STR(contents("f"), "hello");
    OK(close(fd));
    OK(close(file));
  }
}

TEST(null, two_descriptors_and_two_processes) {
  const int fd = used();
  const int other = OK(dup(fd));
  for (int i = 0; i < 5; i++) CHECK_EQ(write(other, "text", 4), 4);
  const int file = OK(open("f", O_WRONLY | O_CREAT | O_TRUNC, 0600));
  pid_t pid = spawn([&] {
    for (int i = 0; i < 5; i++) CHECK_EQ(write(fd, "text", 4), 4);
    OK(dup2(file, fd));
    CHECK_EQ(write(fd, "child", 5), 5);
    return 0;
  });
  WAIT_OK(pid);
  CHECK_STR(contents("f"), "child");
  CHECK_EQ(write(fd, "text", 4), 4);
  OK(dup2(file, other));
  CHECK_EQ(write(other, " too", 4), 4);
  CHECK_EQ(write(fd, "text", 4), 4);
  CHECK_STR(contents("f"), "child too");
}

TEST(null, a_filter_comes) {
  WAIT_OK(spawn([&] {
    const int fd = used();
    deny(SYS_write, EXDEV);
    FAILS(write(fd, "text", 4), EXDEV);
    return 0;
  }));
}

TEST(null, a_watch_comes) {
  const int fd = used();
  const int watch = OK(inotify_init1(IN_NONBLOCK));
  OK(inotify_add_watch(watch, "/dev/null", IN_MODIFY));
  CHECK_EQ(write(fd, "text", 4), 4);
  inotify_event event{};
  CHECK_EQ(read(watch, &event, sizeof event), sizeof event);
  CHECK_EQ(event.mask, IN_MODIFY);
}
