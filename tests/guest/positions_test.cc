// Positions of open files: whoever shares a file sees where the others left it, whatever a sandbox keeps where.
#include <sched.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>

#include <atomic>
#include <thread>
#include <vector>

#include "ends.h"
#include "guest.h"
using namespace guest;

namespace {

constexpr size_t kPiece = 4096, kSize = 64 * kPiece;

char byte_at(uint64_t offset) { return (char)((offset >> 12) * 31 + offset * 7); }

std::string bytes_of(uint64_t offset, size_t n) {
  std::string text(n, 0);
  for (size_t i = 0; i < n; ++i) text[i] = byte_at(offset + i);
  return text;
}

off_t where(int fd) { return lseek(fd, 0, SEEK_CUR); }

// Open, read and moved about often enough that short ways are in use; at position 10.
int open_used(const char* path, int flags = O_RDONLY) {
  int fd = OK(open(path, flags));
  for (int i = 0; i < 12; ++i) CHECK(next(fd, 100).size() == 100);
  for (int i = 0; i < 4; ++i) CHECK_EQ(lseek(fd, 10, SEEK_SET), 10);
  CHECK(next(fd, 10) == bytes_of(10, 10));
  CHECK_EQ(lseek(fd, 10, SEEK_SET), 10);
  return fd;
}

void fill(const char* path) { spew(path, bytes_of(0, kSize)); }

}  // namespace

TEST(positions, seek) {
  fill("f");
  int fd = open_used("f");
  CHECK_EQ(lseek(fd, 5, SEEK_CUR), 15);
  CHECK_EQ(lseek(fd, -15, SEEK_CUR), 0);
  FAILS(lseek(fd, -1, SEEK_CUR), EINVAL);
  FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
  FAILS(lseek(fd, 0, 77), EINVAL);
  CHECK_EQ(where(fd), 0);
  CHECK_EQ(lseek(fd, 0, SEEK_END), (off_t)kSize);
  CHECK_EQ(next(fd, 10).size(), 0u);
  CHECK_EQ(lseek(fd, -6, SEEK_END), (off_t)kSize - 6);
  CHECK(next(fd, 10) == bytes_of(kSize - 6, 6));
  CHECK_EQ(lseek(fd, 1ll << 42, SEEK_SET), 1ll << 42);
  CHECK_EQ(next(fd, 10).size(), 0u);
  CHECK_EQ(where(fd), 1ll << 42);
  FAILS(lseek(fd, INT64_MAX, SEEK_CUR), EINVAL);
  CHECK_EQ(where(fd), 1ll << 42);
  CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
  CHECK(next(fd, kSize + 5) == bytes_of(0, kSize));
}

TEST(positions, duplicates) {
  fill("f");
  int a = open_used("f");
  int b = OK(dup(a));
  CHECK_EQ(where(b), 10);
  for (int i = 0; i < 6; ++i) {
    CHECK(next(a, 5) == bytes_of(10 + 10 * (uint64_t)i, 5));
    CHECK(next(b, 5) == bytes_of(15 + 10 * (uint64_t)i, 5));
  }
  CHECK_EQ(lseek(b, 3, SEEK_SET), 3);
  CHECK_EQ(where(a), 3);
  OK(close(b));
  for (int i = 0; i < 4; ++i) CHECK_EQ(lseek(a, 20 + i, SEEK_SET), 20 + i);
  int c = OK(fcntl(a, F_DUPFD_CLOEXEC, 100));
  CHECK_EQ(where(c), 23);
  // Onto a descriptor that was used so: it is another file now.
  spew("g", "other");
  int g = OK(open("g", O_RDONLY)), d = open_used("f");
  OK(dup2(g, d));
  CHECK_STR(next(d, 10), "other");
  CHECK_EQ(where(g), 5);
}

TEST(positions, children) {
  fill("f");
  int fd = open_used("f");
  WAIT_OK(spawn([&] {
    CHECK_EQ(where(fd), 10);
    CHECK(next(fd, 10) == bytes_of(10, 10));
    return 0;
  }));
  CHECK_EQ(where(fd), 20);
  CHECK(next(fd, 10) == bytes_of(20, 10));
  // A child that is executed goes on where we stopped, and we where it stopped.
  for (int i = 0; i < 4; ++i) CHECK_EQ(lseek(fd, 40, SEEK_SET), 40);
  int out[2];
  OK(pipe(out));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fd, 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  char name[] = "x", helper[] = "--helper", what[] = "copy", count[] = "8";
  char* argv[] = {name, helper, what, count, nullptr};
  char* none[] = {nullptr};
  pid_t pid;
  CHECK_EQ(posix_spawn(&pid, self(), &actions, nullptr, argv, none), 0);
  WAIT_OK(pid);
  CHECK(next(out[0], 8) == bytes_of(40, 8));
  CHECK_EQ(where(fd), 48);
}

TEST(positions, passed_to_another) {
  fill("f");
  int pair[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  int fd = open_used("f");
  pid_t pid = spawn([&] {
    const int got = receive_with(pair[1], "x");
    CHECK_EQ(where(got), 10);
    CHECK(next(got, 7) == bytes_of(10, 7));
    return 0;
  });
  send_with(pair[0], "x", fd);
  WAIT_OK(pid);
  CHECK_EQ(where(fd), 17);
}

TEST(positions, other_calls) {
  fill("f");
  int fd = open_used("f", O_RDWR);
  char b[16];
  iovec iov{b, 6};
  CHECK_EQ(readv(fd, &iov, 1), 6);
  CHECK_EQ(where(fd), 16);
  CHECK(memcmp(b, bytes_of(10, 6).data(), 6) == 0);
  CHECK_EQ(write(fd, "abc", 3), 3);
  CHECK_EQ(where(fd), 19);
  CHECK_EQ(pread(fd, b, 3, 16), 3);
  CHECK(memcmp(b, "abc", 3) == 0);
  CHECK_EQ(lseek(fd, 30, SEEK_SET), 30);
  CHECK_EQ(field("/proc/self/fdinfo/" + std::to_string(fd), "pos:"), 30);
  int out = OK(open("out", O_CREAT | O_RDWR, 0600));
  CHECK_EQ(sendfile(out, fd, nullptr, 10), 10);
  CHECK_EQ(where(fd), 40);
  CHECK(slurp("out") == bytes_of(30, 10));
  for (int i = 0; i < 3; ++i) CHECK_EQ(lseek(fd, 50, SEEK_SET), 50);
  CHECK_EQ(copy_file_range(fd, nullptr, out, nullptr, 10, 0), 10);
  CHECK_EQ(where(fd), 60);
}

TEST(positions, length_changes) {
  fill("f");
  int fd = open_used("f"), w = OK(open("f", O_WRONLY));
  for (int round = 0; round < 5; ++round) {
    OK(ftruncate(w, kSize));
    for (int i = 0; i < 3; ++i) CHECK_EQ(lseek(fd, 0, SEEK_END), (off_t)kSize);
    CHECK_EQ(next(fd, 5).size(), 0u);
    CHECK_EQ(pwrite(w, "tail", 4, kSize), 4);
    CHECK_STR(next(fd, 9), "tail");
    CHECK_EQ(next(fd, 9).size(), 0u);
    WAIT_OK(spawn([&] { return pwrite(w, "more", 4, kSize + 4) == 4 ? 0 : 1; }));
    CHECK_STR(next(fd, 9), "more");
    CHECK_EQ(lseek(fd, 0, SEEK_END), (off_t)kSize + 8);
    OK(truncate("f", 1000));
    CHECK_EQ(next(fd, 9).size(), 0u);
    CHECK_EQ(lseek(fd, 995, SEEK_SET), 995);
    CHECK_EQ(next(fd, 9).size(), 5u);
    CHECK_EQ(lseek(fd, 0, SEEK_END), 1000);
  }
  // Cut while it is opened.
  int again = OK(open("f", O_WRONLY | O_TRUNC));
  CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
  CHECK_EQ(next(fd, 9).size(), 0u);
  CHECK_EQ(write(again, "new", 3), 3);
  CHECK_STR(next(fd, 9), "new");
}

TEST(positions, bad_buffers) {
  fill("f");
  int fd = open_used("f");
  char* page = (char*)mmap(nullptr, 2 * kPiece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  OK(munmap(page + kPiece, kPiece));
  FAILS(read(fd, page + kPiece, 100), EFAULT);
  CHECK_EQ(where(fd), 10);
  FAILS(read(fd, (void*)-4096, 10), EFAULT);
  FAILS(pread(fd, nullptr, 10, 0), EFAULT);
  FAILS(pread(fd, page, 10, -1), EINVAL);
  CHECK_EQ(read(fd, page, 0), 0);
  CHECK_EQ(where(fd), 10);
  OK(mprotect(page, kPiece, PROT_READ));
  FAILS(read(fd, page, 10), EFAULT);
  CHECK_EQ(where(fd), 10);
  CHECK(next(fd, 10) == bytes_of(10, 10));
  OK(close(fd));
  FAILS(read(fd, page, 10), EBADF);
  FAILS(lseek(fd, 0, SEEK_CUR), EBADF);
  FAILS(pread(fd, page, 10, 0), EBADF);
}

// Each piece goes to one of them.
TEST(positions, threads_share_one) {
  fill("f");
  for (int round = 0; round < 20; ++round) {
    int fd = open_used("f");
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    std::atomic<int> seen[kSize / 64] = {};
    std::atomic<bool> bad{false};
    auto reader = [&] {
      for (;;) {
        char piece[64];
        ssize_t n = read(fd, piece, sizeof(piece));
        if (n == 0) return;
        if (n != sizeof(piece)) {
          bad = true;
          return;
        }
        // Which one it was is in its first bytes, or nearly: look where they fit.
        bool found = false;
        for (size_t at = 0; at < kSize && !found; at += 64) {
          if (seen[at / 64] == 0 && memcmp(piece, bytes_of(at, 64).data(), 64) == 0) {
            int none = 0;
            found = seen[at / 64].compare_exchange_strong(none, 1);
          }
        }
        if (!found) bad = true;
      }
    };
    std::thread a(reader), b(reader);
    a.join();
    b.join();
    CHECK(!bad);
    for (auto& one : seen) CHECK_EQ(one.load(), 1);
    OK(close(fd));
  }
}

// A number that another thread closes and opens anew is never taken for the file that was there.
TEST(positions, reused_numbers) {
  spew("a", std::string(50000, 'a'));
  spew("b", std::string(50000, 'b'));
  std::atomic<bool> stop{false}, bad{false};
  std::atomic<int> fd{-1};
  std::thread reader([&] {
    while (!stop) {
      int now = fd;
      char b[512];
      if (now < 0) continue;
      ssize_t n = read(now, b, sizeof(b));
      for (ssize_t i = 1; i < n; ++i) bad = bad || b[i] != b[0];
      lseek(now, 0, SEEK_SET);
    }
  });
  for (int i = 0; i < 2000; ++i) {
    int mine = OK(open(i % 2 != 0 ? "a" : "b", O_RDONLY));
    char b[64];
    for (int k = 0; k < 6; ++k) CHECK(pread(mine, b, sizeof(b), k) == sizeof(b) && b[0] == (i % 2 != 0 ? 'a' : 'b'));
    fd = mine;
    CHECK(read(mine, b, sizeof(b)) >= 0);
    fd = -1;
    OK(close(mine));
  }
  stop = true;
  reader.join();
  CHECK(!bad);
}

// Two tables of descriptors in one memory: the same number means different files.
TEST(positions, tables_apart) {
  spew("a", std::string(50000, 'a'));
  spew("b", std::string(50000, 'b'));
  int fd = open("a", O_RDONLY);
  char first[100];
  for (int i = 0; i < 8; ++i) CHECK_EQ(read(fd, first, 100), 100);
  std::atomic<bool> apart{false}, done{false}, bad{false};
  std::thread other([&] {
    char own[100];
    int mine_before = OK(open("b", O_RDONLY));
    for (int i = 0; i < 8; ++i) CHECK_EQ(read(mine_before, own, 100), 100);
    for (int i = 0; i < 4; ++i) CHECK_EQ(lseek(mine_before, 0, SEEK_SET), 0);
    OK(close(mine_before));
    OK(unshare(CLONE_FILES));
    OK(close(fd));
    int mine = OK(open("b", O_RDONLY));
    if (mine != fd) OK(dup2(mine, fd));
    apart = true;
    while (!done) {
      char b[100];
      ssize_t n = read(fd, b, sizeof(b));
      for (ssize_t i = 0; i < n; ++i) bad = bad || b[i] != 'b';
      if (n < (ssize_t)sizeof(b)) lseek(fd, 0, SEEK_SET);
    }
  });
  CHECK(eventually([&] { return apart.load(); }));
  off_t expected = 800;
  CHECK_EQ(where(fd), expected);
  for (int i = 0; i < 3000; ++i) {
    char b[10];
    CHECK_EQ(read(fd, b, sizeof(b)), 10);
    CHECK(b[0] == 'a' && b[9] == 'a');
    expected += 10;
    CHECK_EQ(where(fd), expected);
  }
  done = true;
  other.join();
  CHECK(!bad);
}

// vfork shares the memory, not the table.
namespace {
[[gnu::noinline]] pid_t vfork_and_read(int close_first) {
  pid_t pid = vfork();
  if (pid == 0) {
    close(close_first);
    int mine = open("b", O_RDONLY);
    char b[10];
    for (int i = 0; i < 10; ++i) {
      if (read(mine, b, sizeof(b)) != 10 || b[0] != 'b') _exit(1);
      if (lseek(mine, 5, SEEK_SET) != 5) _exit(2);
    }
    _exit(0);
  }
  return pid;
}
}  // namespace

TEST(positions, vfork_table) {
  spew("b", std::string(50000, 'b'));
  fill("f");
  for (int used = 0; used < 2; ++used) {
    int fd = used != 0 ? open_used("f") : OK(open("f", O_RDONLY));
    off_t before = where(fd);
    WAIT_OK(vfork_and_read(fd));
    CHECK_EQ(where(fd), before);
    CHECK(next(fd, 10) == bytes_of((uint64_t)before, 10));
    for (int i = 0; i < 4; ++i) CHECK_EQ(lseek(fd, i, SEEK_SET), i);
  }
}

// More bytes than there are windows for.
TEST(positions, many_files) {
  constexpr int kFiles = 24;
  int fds[kFiles];
  for (int i = 0; i < kFiles; ++i) {
    std::string name = "f" + std::to_string(i);
    spew(name, std::string(200000, (char)('A' + i)));
    fds[i] = OK(open(name.c_str(), O_RDONLY));
  }
  std::atomic<bool> bad{false};
  auto all = [&](int from) {
    char b[4096];
    for (int round = 0; round < 40; ++round) {
      for (int i = from; i < kFiles; i += 2) {
        ssize_t n = read(fds[i], b, sizeof(b));
        if (n == 0) lseek(fds[i], 0, SEEK_SET);
        for (ssize_t k = 0; k < n; ++k) bad = bad || b[k] != (char)('A' + i);
      }
    }
  };
  std::thread odd(all, 1);
  all(0);
  odd.join();
  CHECK(!bad);
}

// What fstat says right after the file was opened or read is what it is.
TEST(positions, attributes) {
  fill("f");
  struct stat named, open_one;
  auto same = [&](int fd) {
    OK(fstat(fd, &open_one));
    OK(stat("f", &named));
    CHECK_EQ(memcmp(&named, &open_one, sizeof(named)), 0);
    OK(fstatat(fd, "", &open_one, AT_EMPTY_PATH));
    CHECK_EQ(memcmp(&named, &open_one, sizeof(named)), 0);
  };
  int w = OK(open("f", O_WRONLY));
  for (int round = 0; round < 10; ++round) {
    sleep_ms(20);  // as if others had the CPU
    int fd = OK(open("f", O_RDONLY));
    same(fd);
    OK(fchmod(w, round % 2 != 0 ? 0600 : 0644));
    same(fd);
    CHECK_EQ(open_one.st_mode & 0777, round % 2 != 0 ? 0600 : 0644);
    CHECK_EQ(pwrite(w, "longer", 6, (off_t)kSize + round), 6);
    same(fd);
    CHECK_EQ(open_one.st_size, (off_t)kSize + round + 6);
    CHECK(next(fd, 10) == bytes_of(0, 10));
    same(fd);
    OK(link("f", "g"));
    same(fd);
    CHECK_EQ(open_one.st_nlink, 2);
    WAIT_OK(spawn([] { return unlink("g"); }));
    same(fd);
    CHECK_EQ(open_one.st_nlink, 1);
    timespec times[2] = {{1000 + round, 0}, {2000 + round, 5}};
    OK(utimensat(AT_FDCWD, "f", times, 0));
    same(fd);
    CHECK_EQ(open_one.st_mtim.tv_sec, 2000 + round);
    OK(rename("f", "h"));
    OK(rename("h", "f"));
    same(fd);
    OK(fchown(w, 0, 7 + (gid_t)round));
    same(fd);
    CHECK_EQ(open_one.st_gid, 7u + (unsigned)round);
    char byte;
    FAILS(fstat(fd, (struct stat*)-1), EFAULT);
    FAILS(ioctl(fd, TCGETS, &byte), ENOTTY);
    OK(close(fd));
    FAILS(fstat(fd, &open_one), EBADF);
  }
}

TEST(positions, not_readable) {
  fill("f");
  int fd = OK(open("f", O_WRONLY));
  for (int i = 0; i < 5; ++i) CHECK_EQ(lseek(fd, 0, SEEK_END), (off_t)kSize);
  char b[10];
  FAILS(read(fd, b, sizeof(b)), EBADF);
  FAILS(pread(fd, b, sizeof(b), 0), EBADF);
  int neither = OK(open("f", O_ACCMODE));
  FAILS(read(neither, b, sizeof(b)), EBADF);
  FAILS(write(neither, b, sizeof(b)), EBADF);
  int path = OK(open("f", O_PATH));
  FAILS(lseek(path, 0, SEEK_SET), EBADF);
  FAILS(read(path, b, sizeof(b)), EBADF);
}

TEST(positions, watched_reads) {
  fill("f");
  int fd = open_used("f");
  int in = OK(inotify_init1(IN_NONBLOCK));
  OK(inotify_add_watch(in, "f", IN_ACCESS));
  char events[4096];
  for (int i = 0; i < 3; ++i) {
    CHECK(next(fd, 10) == bytes_of(10 + 10 * (uint64_t)i, 10));
    CHECK(read(in, events, sizeof(events)) > 0);
  }
}

TEST(positions, filtered_seeks) {
  fill("f");
  WAIT_OK(spawn([] {
    int fd = open_used("f");
    deny(SYS_lseek, EXDEV);
    FAILS(lseek(fd, 0, SEEK_SET), EXDEV);
    CHECK(next(fd, 10) == bytes_of(10, 10));
    FAILS(lseek(fd, 0, SEEK_CUR), EXDEV);
    return 0;
  }));
}
