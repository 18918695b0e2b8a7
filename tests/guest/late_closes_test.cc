// close(2) of files that were written to, and what others see of it while the process that closed makes no other call:
// execve(2) ETXTBSY, flock(2), fcntl(2) locks, inotify(7), descriptors that are used again.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "guest.h"

using namespace guest;

namespace {

// A process that runs `first`, says so without a call, and then computes until it is killed.
class Worker {
 public:
  explicit Worker(const std::function<void()>& first) {
    said_ = (std::atomic<int>*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(said_ != MAP_FAILED);
    pid_ = OK(fork());
    if (pid_ == 0) {
      first();
      said_->store(1);
      for (;;) {
        __builtin_ia32_pause();
      }
    }
    for (int i = 0; i < 10000 && said_->load() == 0; ++i) usleep(1000);
    CHECK_EQ(said_->load(), 1);
  }
  ~Worker() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    munmap((void*)said_, 4096);
  }

 private:
  std::atomic<int>* said_;
  pid_t pid_;
};

int made(const char* name) { return OK(open(name, O_WRONLY | O_CREAT | O_TRUNC, 0755)); }

void put(int fd, const std::string& text) { CHECK_EQ(write(fd, text.data(), text.size()), (ssize_t)text.size()); }

// Its exit status, or why it did not start.
int run(const char* program) {
  const pid_t pid = OK(fork());
  if (pid == 0) {
    execl(program, program, nullptr);
    _exit(errno);
  }
  int status = 0;
  OK(waitpid(pid, &status, 0));
  CHECK(WIFEXITED(status));
  return WEXITSTATUS(status);
}

}  // namespace

TEST(late_closes, numbers_are_free_again) {
  for (int i = 0; i < 50; ++i) {
    const int fd = made("a");
    put(fd, "text");
    OK(close(fd));
    FAILS(close(fd), EBADF);
    FAILS(write(fd, "x", 1), EBADF);
    FAILS(lseek(fd, 0, SEEK_CUR), EBADF);
    CHECK_EQ(made("b"), fd);
    put(fd, "more");
    OK(fchmod(fd, 0600));
    OK(close(fd));
    FAILS(fcntl(fd, F_GETFD), EBADF);
    struct stat st;
    OK(stat("b", &st));
    CHECK_EQ(st.st_size, 4);
    CHECK_EQ(st.st_mode & 07777, 0600);
  }
}

TEST(late_closes, positions_stay) {
  const int fd = OK(open("a", O_RDWR | O_CREAT | O_TRUNC, 0644));
  for (int i = 0; i < 20; ++i) {
    put(fd, "0123456789");
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10 * (i + 1));
    char c[11] = {};
    CHECK_EQ(lseek(fd, -10, SEEK_END), 10 * i);
    CHECK_EQ(read(fd, c, 10), 10);
    CHECK_STR(c, "0123456789");
    CHECK_EQ(read(fd, c, 10), 0);
  }
  const int copy = OK(dup(fd));
  put(fd, "abc");
  OK(close(fd));
  CHECK_EQ(lseek(copy, 0, SEEK_CUR), 203);
  put(copy, "d");
  OK(close(copy));
  struct stat st;
  OK(stat("a", &st));
  CHECK_EQ(st.st_size, 204);
}

// A program that somebody else has written can be run as soon as he has closed it.
TEST(late_closes, written_programs_run) {
  for (int how = 0; how < 4; ++how) {
    Worker worker([&] {
      const int fd = made("program");
      if (how == 3) {
        iovec parts[] = {{(void*)"#!/bin/sh\n", 10}, {(void*)"exit 7\n", 7}};
        CHECK_EQ(writev(fd, parts, 2), 17);
      } else {
        put(fd, "#!/bin/sh\nexit 7\n");
      }
      if (how == 1) OK(fchmod(fd, 0700));
      if (how == 2) OK(futimens(fd, nullptr));
      OK(close(fd));
    });
    CHECK_EQ(run("./program"), 7);
  }
}

TEST(late_closes, open_programs_do_not_run) {
  const int fd = made("program");
  put(fd, "#!/bin/sh\nexit 7\n");
  CHECK_EQ(run("./program"), ETXTBSY);
  OK(close(fd));
}

TEST(late_closes, locks_end) {
  close(made("a"));
  const int mine = OK(open("a", O_RDWR));
  {
    Worker worker([] {
      const int fd = OK(open("a", O_WRONLY));
      put(fd, "x");
      OK(flock(fd, LOCK_EX));
      put(fd, "y");
      OK(close(fd));
    });
    OK(flock(mine, LOCK_EX | LOCK_NB));
    OK(flock(mine, LOCK_UN));
  }
  // Record locks end with the first descriptor of the file that the process closes, written through or not.
  struct flock lock {};
  lock.l_type = F_WRLCK;
  Worker worker([&] {
    const int written = OK(open("a", O_WRONLY));
    put(written, "x");
    const int locked = OK(open("a", O_RDWR));
    OK(fcntl(locked, F_SETLK, &lock));
    OK(close(written));
  });
  OK(fcntl(mine, F_SETLK, &lock));
}

TEST(late_closes, watches_hear_of_them) {
  const int in = OK(inotify_init1(IN_NONBLOCK));
  close(made("a"));
  int fd = OK(open("a", O_WRONLY));
  put(fd, "before");
  OK(inotify_add_watch(in, "a", IN_CLOSE_WRITE));
  OK(close(fd));
  char buf[4096];
  CHECK(read(in, buf, sizeof buf) > 0);
  CHECK_EQ(((inotify_event*)buf)->mask, IN_CLOSE_WRITE);
  Worker worker([] {
    const int fd = OK(open("a", O_WRONLY));
    put(fd, "more");
    OK(close(fd));
  });
  CHECK(read(in, buf, sizeof buf) > 0);
  CHECK_EQ(((inotify_event*)buf)->mask, IN_CLOSE_WRITE);
}

TEST(late_closes, threads) {
  for (int i = 0; i < 50; ++i) {
    const int fd = made("a");
    std::thread([&] { put(fd, "from a thread"); }).join();
    put(fd, "!");
    std::thread([&] { OK(close(fd)); }).join();
    FAILS(write(fd, "x", 1), EBADF);
    struct stat st;
    OK(stat("a", &st));
    CHECK_EQ(st.st_size, 14);
  }
}

// A file without a name goes with its last descriptor; /proc tells what is open.
TEST(late_closes, nothing_is_left_open) {
  Worker worker([] {
    for (int i = 0; i < 300; ++i) {
      const int fd = made("a");
      put(fd, "text");
      OK(close(fd));
    }
    const int fd = made("last");
    put(fd, "text");
    OK(unlink("last"));
    put(fd, "text");
    OK(close(fd));
  });
  const int fd = made("mine");
  put(fd, "text");
  OK(close(fd));
  FAILS(access(("/proc/self/fd/" + show(fd)).c_str(), F_OK), ENOENT);
}

TEST(late_closes, directories) {
  OK(mkdir("d", 0755));
  close(made("d/file"));
  for (int i = 0; i < 30; ++i) {
    const int fd = OK(open("d", O_RDONLY | O_DIRECTORY));
    const int copy = i % 3 != 0 ? OK(fcntl(fd, F_DUPFD_CLOEXEC, 3)) : -1;
    char buf[1000];
    const long n = OK(syscall(SYS_getdents64, fd, buf, sizeof buf));
    CHECK(n > 0);
    if (i % 2 != 0) CHECK_EQ(syscall(SYS_getdents64, fd, buf, sizeof buf), 0);
    OK(close(fd));
    FAILS(syscall(SYS_getdents64, fd, buf, sizeof buf), EBADF);
    if (copy == -1) continue;
    // The position is the description's, not the descriptor's.
    CHECK_EQ(OK(syscall(SYS_getdents64, copy, buf, sizeof buf)), 0);
    CHECK_EQ(lseek(copy, 0, SEEK_SET), 0);
    CHECK_EQ(OK(syscall(SYS_getdents64, copy, buf, sizeof buf)), n);
    OK(close(copy));
    CHECK_EQ(OK(open("d/file", O_RDONLY)), fd);
    OK(close(fd));
  }
  OK(unlink("d/file"));
  OK(rmdir("d"));
}

// A description that has two descriptors keeps one position, whichever of them is used and closed.
TEST(late_closes, copies_share_the_position) {
  const int other = made("b");
  put(other, "0123456789");
  OK(close(other));
  for (int i = 0; i < 30; ++i) {
    const int fd = OK(open("b", i % 2 == 0 ? O_RDWR : O_RDONLY));
    const int copy = OK(dup(fd));
    char c[4] = {};
    CHECK_EQ(read(fd, c, 3), 3);
    CHECK_EQ(read(copy, c, 3), 3);
    CHECK_STR(c, "345");
    OK(close(fd));
    CHECK_EQ(read(copy, c, 3), 3);
    CHECK_STR(c, "678");
    CHECK_EQ(lseek(copy, 0, SEEK_CUR), 9);
    OK(close(copy));
  }
}

// What a child has inherited stays open in it.
TEST(late_closes, children_keep_theirs) {
  const int fd = OK(open("a", O_RDWR | O_CREAT | O_TRUNC, 0644));
  put(fd, "parent");
  int p[2];
  OK(pipe(p));
  const pid_t pid = OK(fork());
  if (pid == 0) {
    char c;
    CHECK_EQ(read(p[0], &c, 1), 1);
    put(fd, " child");
    _exit(0);
  }
  put(fd, " more");
  OK(close(fd));
  put(p[1], "x");
  int status = 0;
  OK(waitpid(pid, &status, 0));
  CHECK_EQ(status, 0);
  struct stat st;
  OK(stat("a", &st));
  CHECK_EQ(st.st_size, 17);
}

// The space of a file that has no name is free again soon after it was closed, whatever the process does then.
TEST(late_closes, space_comes_back) {
  constexpr size_t kBytes = 32 << 20;
  auto used = [] {
    struct statfs s;
    OK(statfs("/dev/shm", &s));
    return (s.f_blocks - s.f_bfree) * (size_t)s.f_bsize;
  };
  const size_t before = used();
  Worker worker([] {
    const int fd = made("/dev/shm/closes_test");
    put(fd, std::string(kBytes, 'x'));
    OK(unlink("/dev/shm/closes_test"));
    put(fd, "x");
    OK(close(fd));
  });
  for (int i = 0; i < 50 && used() > before + kBytes / 2; ++i) usleep(100000);
  CHECK(used() < before + kBytes / 2);
}
