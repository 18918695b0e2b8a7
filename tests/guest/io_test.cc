// Pipes, FIFOs, readiness, event descriptors, advisory locks.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

#include <thread>

#include "guest.h"
using namespace guest;

static int ready(int fd, int events, int ms = 0) {
  pollfd p{fd, (short)events, 0};
  OK(poll(&p, 1, ms));
  return p.revents;
}

TEST(pipes, basics) {
  int p[2];
  OK(pipe2(p, O_CLOEXEC));
  CHECK_EQ(fcntl(p[0], F_GETFD), FD_CLOEXEC);
  CHECK_EQ(write(p[1], "hello", 5), 5);
  int n = 0;
  OK(ioctl(p[0], FIONREAD, &n));
  CHECK_EQ(n, 5);
  char b[10];
  CHECK_EQ(read(p[0], b, 2), 2);
  CHECK_EQ(read(p[0], b, 10), 3);
  FAILS(read(p[1], b, 1), EBADF);
  FAILS(write(p[0], b, 1), EBADF);
  OK(fcntl(p[0], F_SETFL, O_NONBLOCK));
  FAILS(read(p[0], b, 1), EAGAIN);
  close(p[1]);
  CHECK_EQ(read(p[0], b, 1), 0);
  FAILS(pipe((int*)8), EFAULT);
  FAILS(pipe2(p, 0x40000000), EINVAL);
  struct stat st;
  OK(fstat(p[0], &st));
  CHECK(S_ISFIFO(st.st_mode));
}

TEST(pipes, capacity) {
  int p[2];
  OK(pipe2(p, O_NONBLOCK));
  CHECK_EQ(fcntl(p[1], F_GETPIPE_SZ), 65536);
  std::string chunk(4096, 'x');
  int total = 0;
  for (ssize_t n; (n = write(p[1], chunk.data(), chunk.size())) > 0;) total += n;
  CHECK_EQ(errno, EAGAIN);
  CHECK_EQ(total, 65536);
  CHECK_EQ(ready(p[1], POLLOUT), 0);
  char b[4096];
  CHECK_EQ(read(p[0], b, 4095), 4095);
  // A write of up to PIPE_BUF bytes is atomic: all of it or nothing.
  FAILS(write(p[1], chunk.data(), 4096), EAGAIN);
  CHECK_EQ(read(p[0], b, 1), 1);
  CHECK_EQ(write(p[1], chunk.data(), 4096), 4096);
  CHECK_EQ(fcntl(p[1], F_SETPIPE_SZ, 131072), 131072);
  CHECK(write(p[1], chunk.data(), 4096) == 4096);
}

TEST(pipes, blocking_transfer) {
  int p[2];
  OK(pipe(p));
  const size_t total = 5 << 20;
  pid_t pid = spawn([&] {
    close(p[0]);
    std::string text(total, 0);
    for (size_t i = 0; i < total; i++) text[i] = (char)(i * 31 >> 7);
    return write(p[1], text.data(), total) != (ssize_t)total;
  });
  close(p[1]);
  size_t at = 0;
  char b[10000];
  for (ssize_t n; (n = read(p[0], b, sizeof b)) > 0;)
    for (ssize_t i = 0; i < n; i++, at++) CHECK_EQ(b[i], (char)(at * 31 >> 7));
  CHECK_EQ(at, total);
  WAIT_OK(pid);
}

TEST(pipes, many_writers_are_atomic) {
  int p[2];
  OK(pipe(p));
  for (int w = 0; w < 4; w++)
    spawn([&, w] {
      std::string line(500, 'a' + w);
      for (int i = 0; i < 200; i++) CHECK_EQ(write(p[1], line.data(), 500), 500);
      return 0;
    });
  close(p[1]);
  std::string all;
  char b[8192];
  for (ssize_t n; (n = read(p[0], b, sizeof b)) > 0;) all.append(b, n);
  CHECK_EQ(all.size(), 4 * 200 * 500);
  for (size_t i = 0; i < all.size(); i += 500) CHECK(all.compare(i, 500, std::string(500, all[i])) == 0);
  for (int w = 0; w < 4; w++) CHECK(wait(nullptr) > 0);
}

TEST(pipes, pingpong) {
  int a[2], b[2];
  OK(pipe(a));
  OK(pipe(b));
  pid_t pid = spawn([&] {
    char c;
    for (int i = 0; i < 1000; i++) {
      CHECK_EQ(read(a[0], &c, 1), 1);
      CHECK_EQ(write(b[1], &c, 1), 1);
    }
    return 0;
  });
  for (int i = 0; i < 1000; i++) {
    char c = (char)i, d;
    CHECK_EQ(write(a[1], &c, 1), 1);
    CHECK_EQ(read(b[0], &d, 1), 1);
    CHECK_EQ(c, d);
  }
  WAIT_OK(pid);
}

TEST(pipes, fifo) {
  OK(mkfifo("fifo", 0644));
  FAILS(mkfifo("fifo", 0644), EEXIST);
  FAILS(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
  int r = OK(open("fifo", O_RDONLY | O_NONBLOCK));
  char c;
  CHECK_EQ(read(r, &c, 1), 0);
  int w = OK(open("fifo", O_WRONLY | O_NONBLOCK));
  FAILS(read(r, &c, 1), EAGAIN);
  CHECK_EQ(write(w, "x", 1), 1);
  CHECK_EQ(read(r, &c, 1), 1);
  close(r);
  close(w);
  pid_t pid = spawn([] {
    int w = OK(open("fifo", O_WRONLY));
    return write(w, "from the child", 14) != 14;
  });
  r = OK(open("fifo", O_RDONLY));
  std::string got;
  char b[20];
  for (ssize_t n; (n = read(r, b, 20)) > 0;) got.append(b, n);
  CHECK_STR(got, "from the child");
  WAIT_OK(pid);
  OK(open("fifo", O_RDWR));
}

TEST(pipes, splice_and_tee) {
  int a[2], b[2];
  OK(pipe(a));
  OK(pipe(b));
  spew("f", "0123456789");
  int fd = OK(open("f", O_RDONLY));
  loff_t at = 2;
  CHECK_EQ(splice(fd, &at, a[1], nullptr, 5, 0), 5);
  CHECK_EQ(at, 7);
  CHECK_EQ(tee(a[0], b[1], 3, 0), 3);
  char x[10] = {}, y[10] = {};
  CHECK_EQ(read(a[0], x, 10), 5);
  CHECK_EQ(read(b[0], y, 10), 3);
  CHECK_STR(x, "23456");
  CHECK_STR(y, "234");
}

TEST(poll, events) {
  int p[2];
  OK(pipe(p));
  CHECK_EQ(ready(p[0], POLLIN), 0);
  CHECK_EQ(ready(p[1], POLLOUT), POLLOUT);
  CHECK_EQ(write(p[1], "x", 1), 1);
  CHECK_EQ(ready(p[0], POLLIN), POLLIN);
  close(p[1]);
  CHECK_EQ(ready(p[0], POLLIN), POLLIN | POLLHUP);
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  CHECK_EQ(ready(p[0], POLLIN), POLLHUP);
  CHECK_EQ(ready(999, POLLIN), POLLNVAL);
  CHECK_EQ(ready(-1, POLLIN), 0);
  OK(pipe(p));
  close(p[0]);
  CHECK_EQ(ready(p[1], POLLOUT), POLLOUT | POLLERR);
  spew("f", "");
  CHECK_EQ(ready(OK(open("f", O_RDWR)), POLLIN | POLLOUT), POLLIN | POLLOUT);
  int64_t start = now_ms();
  CHECK_EQ(poll(nullptr, 0, 30), 0);
  CHECK(now_ms() - start >= 29);
}

TEST(poll, wakes_up) {
  int p[2];
  OK(pipe(p));
  pid_t pid = spawn([&] {
    sleep_ms(30);
    return write(p[1], "x", 1) != 1;
  });
  CHECK_EQ(ready(p[0], POLLIN, 5000), POLLIN);
  WAIT_OK(pid);
  fd_set in, out;
  FD_ZERO(&in);
  FD_ZERO(&out);
  FD_SET(p[0], &in);
  FD_SET(p[1], &out);
  CHECK_EQ(select(p[1] + 1, &in, &out, nullptr, nullptr), 2);
  CHECK(FD_ISSET(p[0], &in) && FD_ISSET(p[1], &out));
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  FD_SET(p[0], &in);
  timeval t{0, 20000};
  CHECK_EQ(select(p[0] + 1, &in, nullptr, nullptr, &t), 0);
  CHECK(!FD_ISSET(p[0], &in));
  CHECK_EQ(t.tv_usec, 0);
  FD_SET(p[1] + 1, &in);
  FAILS(select(p[1] + 2, &in, nullptr, nullptr, &t), EBADF);
}

static int epoll_get(int e, epoll_event* events, int max, int ms = 0) { return OK(epoll_wait(e, events, max, ms)); }

TEST(epoll, level_edge_oneshot) {
  int e = OK(epoll_create1(EPOLL_CLOEXEC)), p[2];
  OK(pipe(p));
  epoll_event event{EPOLLIN, {.u64 = 42}}, got[4];
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event));
  FAILS(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event), EEXIST);
  CHECK_EQ(epoll_get(e, got, 4), 0);
  CHECK_EQ(write(p[1], "xy", 2), 2);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(epoll_get(e, got, 4), 1);
    CHECK_EQ(got[0].data.u64, 42);
    CHECK_EQ(got[0].events, EPOLLIN);
  }
  event.events = EPOLLIN | EPOLLET;
  OK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &event));
  CHECK_EQ(epoll_get(e, got, 4), 1);
  CHECK_EQ(epoll_get(e, got, 4), 0);
  CHECK_EQ(write(p[1], "z", 1), 1);
  CHECK_EQ(epoll_get(e, got, 4), 1);
  CHECK_EQ(epoll_get(e, got, 4), 0);
  event.events = EPOLLIN | EPOLLONESHOT;
  OK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &event));
  CHECK_EQ(epoll_get(e, got, 4), 1);
  CHECK_EQ(epoll_get(e, got, 4), 0);
  CHECK_EQ(write(p[1], "z", 1), 1);
  CHECK_EQ(epoll_get(e, got, 4), 0);
  OK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &event));
  CHECK_EQ(epoll_get(e, got, 4), 1);
  OK(epoll_ctl(e, EPOLL_CTL_DEL, p[0], nullptr));
  FAILS(epoll_ctl(e, EPOLL_CTL_DEL, p[0], nullptr), ENOENT);
  FAILS(epoll_ctl(e, EPOLL_CTL_ADD, e, &event), EINVAL);
  spew("f", "");
  FAILS(epoll_ctl(e, EPOLL_CTL_ADD, OK(open("f", O_RDONLY)), &event), EPERM);
  FAILS(epoll_wait(e, got, 0, 0), EINVAL);
  FAILS(epoll_wait(p[0], got, 1, 0), EINVAL);
}

TEST(epoll, closing_and_duplicates) {
  int e = OK(epoll_create1(0)), p[2];
  OK(pipe(p));
  epoll_event event{EPOLLIN, {.u64 = 1}}, got[4];
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event));
  int copy = OK(dup(p[0]));
  event.data.u64 = 2;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, copy, &event));
  CHECK_EQ(write(p[1], "x", 1), 1);
  CHECK_EQ(epoll_get(e, got, 4), 2);
  // The description lives on through the duplicate, and so does the first registration (epoll(7), Q6).
  close(p[0]);
  CHECK_EQ(epoll_get(e, got, 4), 2);
  close(copy);
  CHECK_EQ(epoll_get(e, got, 4), 0);
}

TEST(epoll, nested_and_woken) {
  int outer = OK(epoll_create1(0)), inner = OK(epoll_create1(0)), p[2];
  OK(pipe(p));
  epoll_event event{EPOLLIN, {.u64 = 5}}, got[1];
  OK(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event));
  OK(epoll_ctl(inner, EPOLL_CTL_ADD, p[0], &event));
  FAILS(epoll_ctl(inner, EPOLL_CTL_ADD, outer, &event), ELOOP);
  std::thread t([&] {
    sleep_ms(30);
    CHECK_EQ(write(p[1], "x", 1), 1);
  });
  CHECK_EQ(epoll_get(outer, got, 1, 5000), 1);
  t.join();
  CHECK_EQ(ready(inner, POLLIN), POLLIN);
}

TEST(eventfd, counter_and_semaphore) {
  int fd = OK(eventfd(3, EFD_NONBLOCK));
  uint64_t v;
  CHECK_EQ(read(fd, &v, 8), 8);
  CHECK_EQ(v, 3);
  FAILS(read(fd, &v, 8), EAGAIN);
  CHECK_EQ(ready(fd, POLLIN | POLLOUT), POLLOUT);
  v = UINT64_MAX - 1;
  CHECK_EQ(write(fd, &v, 8), 8);
  CHECK_EQ(ready(fd, POLLIN | POLLOUT), POLLIN);
  v = 1;
  FAILS(write(fd, &v, 8), EAGAIN);
  FAILS(read(fd, &v, 4), EINVAL);
  v = UINT64_MAX;
  FAILS(write(fd, &v, 8), EINVAL);
  int s = OK(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
  CHECK_EQ(read(s, &v, 8), 8);
  CHECK_EQ(v, 1);
  CHECK_EQ(read(s, &v, 8), 8);
  FAILS(read(s, &v, 8), EAGAIN);
  int b = OK(eventfd(0, 0));
  std::thread t([&] {
    sleep_ms(20);
    uint64_t one = 9;
    CHECK_EQ(write(b, &one, 8), 8);
  });
  CHECK_EQ(read(b, &v, 8), 8);
  CHECK_EQ(v, 9);
  t.join();
}

TEST(timerfd, expirations) {
  int fd = OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  uint64_t n;
  FAILS(read(fd, &n, 8), EAGAIN);
  itimerspec when{{0, 10000000}, {0, 10000000}}, now;
  OK(timerfd_settime(fd, 0, &when, nullptr));
  OK(timerfd_gettime(fd, &now));
  CHECK_EQ(now.it_interval.tv_nsec, 10000000);
  sleep_ms(55);
  CHECK_EQ(ready(fd, POLLIN), POLLIN);
  CHECK_EQ(read(fd, &n, 8), 8);
  CHECK(n >= 4 && n < 100);
  FAILS(read(fd, &n, 4), EINVAL);
  when = {};
  OK(timerfd_settime(fd, 0, &when, nullptr));
  clock_gettime(CLOCK_MONOTONIC, &when.it_value);
  when.it_value.tv_sec -= 1;
  OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, nullptr));
  CHECK_EQ(ready(fd, POLLIN, 1000), POLLIN);
  CHECK_EQ(read(fd, &n, 8), 8);
  CHECK_EQ(n, 1);
  fcntl(fd, F_SETFL, 0);
  when = {{0, 0}, {0, 20000000}};
  OK(timerfd_settime(fd, 0, &when, nullptr));
  CHECK_EQ(read(fd, &n, 8), 8);
}

TEST(signalfd, reads_signals) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  int fd = OK(signalfd(-1, &set, SFD_NONBLOCK));
  signalfd_siginfo info;
  FAILS(read(fd, &info, sizeof info), EAGAIN);
  kill(getpid(), SIGUSR1);
  CHECK_EQ(ready(fd, POLLIN), POLLIN);
  CHECK_EQ(read(fd, &info, sizeof info), (long)sizeof info);
  CHECK_EQ(info.ssi_signo, SIGUSR1);
  CHECK_EQ(info.ssi_pid, getpid());
  FAILS(read(fd, &info, sizeof info), EAGAIN);
  pid_t pid = spawn([] { return 3; });
  CHECK_EQ(ready(fd, POLLIN, 5000), POLLIN);
  CHECK_EQ(read(fd, &info, sizeof info), (long)sizeof info);
  CHECK_EQ(info.ssi_signo, SIGCHLD);
  CHECK_EQ(info.ssi_pid, pid);
  CHECK_EQ(info.ssi_status, 3);
  wait_status(pid);
}

TEST(inotify, events) {
  int fd = OK(inotify_init1(IN_NONBLOCK));
  OK(mkdir("d", 0755));
  int wd =
      OK(inotify_add_watch(fd, "d", IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO));
  FAILS(inotify_add_watch(fd, "absent", IN_CREATE), ENOENT);
  int f = OK(open("d/f", O_CREAT | O_WRONLY, 0644));
  CHECK_EQ(write(f, "x", 1), 1);
  close(f);
  OK(rename("d/f", "d/g"));
  OK(unlink("d/g"));
  OK(mkdir("d/sub", 0755));
  CHECK_EQ(ready(fd, POLLIN, 2000), POLLIN);
  std::string log;
  char b[4096] __attribute__((aligned(8)));
  CHECK(eventually([&] {
    for (ssize_t n; (n = read(fd, b, sizeof b)) > 0;)
      for (char* p = b; p < b + n; p += sizeof(inotify_event) + ((inotify_event*)p)->len) {
        auto* e = (inotify_event*)p;
        CHECK_EQ(e->wd, wd);
        const char* what = e->mask & IN_CREATE        ? "create"
                           : e->mask & IN_DELETE      ? "delete"
                           : e->mask & IN_MODIFY      ? "modify"
                           : e->mask & IN_CLOSE_WRITE ? "close"
                           : e->mask & IN_MOVED_FROM  ? "from"
                           : e->mask & IN_MOVED_TO    ? "to"
                                                      : "other";
        log += std::string(what) + ":" + e->name + (e->mask & IN_ISDIR ? "/ " : " ");
      }
    return log.find("sub") != std::string::npos;
  }));
  CHECK_STR(log, "create:f modify:f close:f from:f to:g delete:g create:sub/ ");
  OK(inotify_rm_watch(fd, wd));
  CHECK(read(fd, b, sizeof b) > 0);
  CHECK_EQ(((inotify_event*)b)->mask, IN_IGNORED);
  FAILS(inotify_rm_watch(fd, wd), EINVAL);
}

static struct flock range(short type, off_t start, off_t length) {
  struct flock l = {};
  l.l_type = type;
  l.l_whence = SEEK_SET;
  l.l_start = start;
  l.l_len = length;
  return l;
}

TEST(locks, posix) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0644));
  struct flock l = range(F_WRLCK, 0, 100);
  OK(fcntl(fd, F_SETLK, &l));
  WAIT_OK(spawn([&] {
    int other = OK(open("f", O_RDWR));
    struct flock m = range(F_RDLCK, 50, 10);
    int r = fcntl(other, F_SETLK, &m);
    CHECK(r == -1 && (errno == EAGAIN || errno == EACCES));
    OK(fcntl(other, F_GETLK, &m));
    CHECK_EQ(m.l_type, F_WRLCK);
    CHECK_EQ(m.l_pid, getppid());
    CHECK_EQ(m.l_start, 0);
    CHECK_EQ(m.l_len, 100);
    m = range(F_WRLCK, 100, 0);
    OK(fcntl(other, F_SETLK, &m));
    return 0;
  }));
  // Closing any descriptor of the file drops the process's locks.
  close(OK(open("f", O_RDONLY)));
  WAIT_OK(spawn([&] {
    struct flock m = range(F_WRLCK, 0, 0);
    OK(fcntl(fd, F_SETLK, &m));
    return 0;
  }));
  l = range(F_RDLCK, 10, 20);
  OK(fcntl(fd, F_SETLK, &l));
  l = range(F_UNLCK, 15, 5);
  OK(fcntl(fd, F_SETLK, &l));
  WAIT_OK(spawn([&] {
    struct flock m = range(F_WRLCK, 15, 5);
    OK(fcntl(fd, F_SETLK, &m));
    m = range(F_WRLCK, 10, 5);
    FAILS(fcntl(fd, F_SETLK, &m), EAGAIN);
    m = range(F_WRLCK, 20, 10);
    FAILS(fcntl(fd, F_SETLK, &m), EAGAIN);
    return 0;
  }));
  l = range(77, 0, 0);
  FAILS(fcntl(fd, F_SETLK, &l), EINVAL);
  l = range(F_WRLCK, 0, 0);
  FAILS(fcntl(OK(open("f", O_RDONLY)), F_SETLK, &l), EBADF);
}

TEST(locks, posix_waits_and_deadlocks) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0644)), p[2];
  OK(pipe(p));
  struct flock l = range(F_WRLCK, 0, 1);
  OK(fcntl(fd, F_SETLK, &l));
  pid_t pid = spawn([&] {
    struct flock m = range(F_WRLCK, 1, 1);
    OK(fcntl(fd, F_SETLK, &m));
    CHECK_EQ(write(p[1], "r", 1), 1);
    m = range(F_WRLCK, 0, 1);
    OK(fcntl(fd, F_SETLKW, &m));
    return 0;
  });
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  sleep_ms(50);
  l = range(F_WRLCK, 1, 1);
  FAILS(fcntl(fd, F_SETLKW, &l), EDEADLK);
  l = range(F_UNLCK, 0, 1);
  OK(fcntl(fd, F_SETLK, &l));
  WAIT_OK(pid);
}

TEST(locks, open_file_description) {
  int a = OK(open("f", O_RDWR | O_CREAT, 0644)), b = OK(open("f", O_RDWR)), copy = OK(dup(a));
  struct flock l = range(F_WRLCK, 0, 10);
  OK(fcntl(a, F_OFD_SETLK, &l));
  OK(fcntl(copy, F_OFD_SETLK, &l));
  FAILS(fcntl(b, F_OFD_SETLK, &l), EAGAIN);
  close(a);
  FAILS(fcntl(b, F_OFD_SETLK, &l), EAGAIN);
  close(copy);
  OK(fcntl(b, F_OFD_SETLK, &l));
}

TEST(locks, whole_file) {
  int a = OK(open("f", O_RDWR | O_CREAT, 0644)), b = OK(open("f", O_RDONLY));
  OK(flock(a, LOCK_SH));
  OK(flock(b, LOCK_SH));
  FAILS(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
  OK(flock(b, LOCK_UN));
  OK(flock(a, LOCK_EX | LOCK_NB));
  WAIT_OK(spawn([&] {
    OK(flock(a, LOCK_EX | LOCK_NB));  // inherited: the same open file
    FAILS(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    return 0;
  }));
  pid_t pid = spawn([&] {
    close(a);
    int c = OK(open("f", O_RDONLY));
    OK(flock(c, LOCK_EX));
    return 0;
  });
  sleep_ms(30);
  CHECK_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  close(a);
  WAIT_OK(pid);
}

TEST(fds, close_range_and_limits) {
  for (int i = 20; i < 30; i++) CHECK_EQ(dup2(0, i), i);
  OK(syscall(SYS_close_range, 22, 25, 0));
  OK(fcntl(21, F_GETFD));
  FAILS(fcntl(22, F_GETFD), EBADF);
  FAILS(fcntl(25, F_GETFD), EBADF);
  OK(syscall(SYS_close_range, 26, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */));
  CHECK_EQ(fcntl(26, F_GETFD), FD_CLOEXEC);
  FAILS(syscall(SYS_close_range, 9, 3, 0), EINVAL);
}

TEST(fds, nonblock_flag_is_shared) {
  int p[2];
  OK(pipe(p));
  int copy = OK(dup(p[0]));
  OK(fcntl(p[0], F_SETFL, O_NONBLOCK));
  CHECK(fcntl(copy, F_GETFL) & O_NONBLOCK);
  int one = 0;
  OK(ioctl(copy, FIONBIO, &one));
  CHECK(!(fcntl(p[0], F_GETFL) & O_NONBLOCK));
  FAILS(ioctl(p[0], TIOCGWINSZ, &one), ENOTTY);
  FAILS(ioctl(p[0], 0x1234, &one), ENOTTY);
  FAILS(fcntl(p[0], 9999, 0), EINVAL);
}

TEST(epoll, hang_up_without_being_asked_for) {
  int e = OK(epoll_create1(0)), p[2];
  OK(pipe(p));
  epoll_event event{};
  event.data.u64 = 7;
  OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event));
  CHECK_EQ(epoll_wait(e, &event, 1, 0), 0);
  close(p[1]);
  CHECK_EQ(epoll_wait(e, &event, 1, 1000), 1);
  CHECK_EQ(event.events, EPOLLHUP);
  CHECK_EQ(event.data.u64, 7);
}

// IN_DELETE_SELF comes when nobody has the file open any more; one of the times changed alone is an access or a change.
TEST(inotify, end_of_an_open_file) {
  spew("watched", "text");
  int n = OK(inotify_init1(IN_NONBLOCK));
  int fd = OK(open("watched", O_RDONLY));
  OK(inotify_add_watch(n, "watched", IN_ATTRIB | IN_DELETE_SELF | IN_ACCESS | IN_MODIFY));
  auto next = [n] {
    char buffer[512];
    std::string got;
    ssize_t size = read(n, buffer, sizeof buffer);
    for (ssize_t at = 0; at < size;) {
      auto* event = (inotify_event*)(buffer + at);
      got += std::to_string(event->mask) + " ";
      at += (ssize_t)(sizeof *event + event->len);
    }
    return got;
  };
  timespec times[2] = {{1000, 0}, {0, UTIME_OMIT}};
  OK(utimensat(AT_FDCWD, "watched", times, 0));
  CHECK_STR(next(), std::to_string(IN_ACCESS) + " ");
  times[0].tv_nsec = UTIME_OMIT;
  times[1] = {1000, 0};
  OK(utimensat(AT_FDCWD, "watched", times, 0));
  CHECK_STR(next(), std::to_string(IN_MODIFY) + " ");
  OK(unlink("watched"));
  CHECK_STR(next(), std::to_string(IN_ATTRIB) + " ");
  close(fd);
  CHECK_STR(next(), std::to_string(IN_DELETE_SELF) + " " + std::to_string(IN_IGNORED) + " ");
}

TEST(files_io, limits_of_positions_and_buffers) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0644));
  char byte = 0;
  FAILS(pwrite(fd, &byte, 1, INT64_MAX), EINVAL);
  FAILS(pread(fd, &byte, 1, INT64_MAX), EINVAL);
  iovec vecs[2] = {{&byte, 1}, {(void*)0xffff'8000'0000'0000, 1}};
  CHECK_EQ(write(fd, "ab", 2), 2);
  OK(lseek(fd, 0, SEEK_SET));
  FAILS(readv(fd, vecs, 2), EFAULT);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
  FAILS(fchmodat(-1, "", 0644, 0), ENOENT);
}
