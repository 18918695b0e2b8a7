// Closing files, and reading small ones: a sandbox may let a process do both by itself, and nobody can tell.
#include <sched.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <atomic>
#include <thread>
#include <vector>

#include "guest.h"
using namespace guest;

namespace {

constexpr size_t kSmall = 3000;

std::string small_bytes(char seed) {
  std::string text(kSmall, 0);
  for (size_t i = 0; i < kSmall; ++i) text[i] = (char)(seed + i % 23);
  return text;
}

// Opens, reads and closes often enough that short ways are in use.
void warm_up(const char* path) {
  for (int i = 0; i < 40; ++i) {
    int fd = OK(open(path, O_RDONLY));
    CHECK_EQ(next(fd, 1 << 16).size(), slurp(path).size());
    OK(close(fd));
  }
}

// A word that two processes share: what passes by it no kernel sees.
std::atomic<int>& shared_word() {
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) FAIL("mmap");
  return *new (at) std::atomic<int>(0);
}

void await(std::atomic<int>& word, int value) {
  while (word.load() != value) sched_yield();
}

// Says that it is ready, closes when it is told to, says so, and waits for the other one's look: by the word alone.
void close_when_told(std::atomic<int>& word, int fd, int at = 0) {
  word = at + 1;
  while (word.load() != at + 2) continue;
  OK(close(fd));
  word = at + 3;
  while (word.load() != at + 4) continue;
}

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

bool other_has(pid_t pid, int fd) {
  char text[64];
  std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  return readlink(path.c_str(), text, sizeof(text)) >= 0;
}

}  // namespace

TEST(closes, numbers) {
  spew("f", small_bytes('a'));
  warm_up("f");
  int first = OK(open("f", O_RDONLY)), second = OK(open("f", O_RDONLY));
  OK(close(first));
  CHECK_EQ(OK(open("f", O_RDONLY)), first);
  OK(close(second));
  OK(close(first));
  CHECK_EQ(OK(dup(STDOUT_FILENO)), first);
  CHECK_EQ(OK(open("f", O_RDONLY)), second);
  OK(close(first));
  OK(close(second));
  int ends[2];
  OK(pipe(ends));
  CHECK_EQ(ends[0], first);
  CHECK_EQ(ends[1], second);
}

TEST(closes, only_once) {
  spew("f", small_bytes('a'));
  warm_up("f");
  for (int i = 0; i < 10; ++i) {
    char b[16];
    struct stat st;
    int fd = OK(open("f", O_RDONLY));
    if (i % 2 != 0) CHECK_EQ(next(fd, 16).size(), 16u);
    OK(close(fd));
    switch (i / 2) {
      case 0: FAILS(close(fd), EBADF); break;
      case 1: FAILS(read(fd, b, sizeof(b)), EBADF); break;
      case 2: FAILS(fstat(fd, &st), EBADF); break;
      case 3: FAILS(lseek(fd, 0, SEEK_CUR), EBADF); break;
      default: FAILS(dup(fd), EBADF); break;
    }
  }
}

TEST(closes, threads) {
  spew("f", small_bytes('a'));
  warm_up("f");
  for (int i = 0; i < 200; ++i) {
    int fd = OK(open("f", O_RDONLY));
    int low = -1;
    std::thread other([&] {
      if (close(fd) == 0) low = open("f", O_RDONLY);
    });
    other.join();
    CHECK_EQ(low, fd);
    CHECK(next(fd, 10) == small_bytes('a').substr(0, 10));
    OK(close(fd));
    CHECK(!is_open(fd));
  }
}

// Two that close the same number at once: one of them does.
TEST(closes, races) {
  spew("f", small_bytes('a'));
  warm_up("f");
  std::atomic<int> turn{0}, fd{-1}, closed{0};
  std::thread other([&] {
    for (int i = 1; i <= 300; ++i) {
      while (turn.load() != i) continue;
      closed += close(fd) == 0;
      turn = -i;
    }
  });
  for (int i = 1; i <= 300; ++i) {
    fd = OK(open("f", O_RDONLY));
    closed = 0;
    turn = i;
    closed += close(fd) == 0;
    while (turn.load() != -i) continue;
    CHECK_EQ(closed.load(), 1);
  }
  other.join();
}

TEST(closes, seen_from_outside) {
  spew("f", small_bytes('a'));
  std::atomic<int>& word = shared_word();
  int fd = OK(open("f", O_RDONLY));
  pid_t child = spawn([&] {
    OK(close(fd));
    warm_up("f");
    for (int at = 0; at < 8; at += 4) {
      int mine = OK(open("f", O_RDONLY));
      CHECK_EQ(mine, fd);
      close_when_told(word, mine, at);
    }
    return 0;
  });
  for (int at = 0; at < 8; at += 4) {
    await(word, at + 1);
    if (at == 0) CHECK(other_has(child, fd));  // and once without a look before
    word = at + 2;
    await(word, at + 3);
    CHECK(!other_has(child, fd));
    word = at + 4;
  }
  WAIT_OK(child);
}

TEST(closes, not_inherited) {
  spew("f", small_bytes('a'));
  warm_up("f");
  int fd = OK(open("f", O_RDONLY));
  OK(close(fd));
  WAIT_OK(spawn([&] {
    FAILS(fcntl(fd, F_GETFD), EBADF);
    CHECK_EQ(OK(open("f", O_RDONLY)), fd);
    return 0;
  }));
  fd = OK(open("f", O_RDONLY));
  CHECK_EQ(next(fd, 100).size(), 100u);
  OK(close(fd));
  pid_t child;
  std::string test = "[ ! -e /proc/self/fd/" + std::to_string(fd) + " ]";
  const char* argv[] = {"sh", "-c", test.c_str(), nullptr};
  char* none[] = {nullptr};
  if (posix_spawn(&child, "/bin/sh", nullptr, nullptr, const_cast<char**>(argv), none) != 0) SKIP("no shell here");
  WAIT_OK(child);
}

// clone(CLONE_FILES): one table, two memories.
TEST(closes, shared_table) {
  spew("f", small_bytes('a'));
  warm_up("f");
  std::atomic<int>& word = shared_word();
  int before = OK(open("f", O_RDONLY));
  pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child == 0) {
    int mine = open("f", O_RDONLY);
    bool ok = mine == before + 1 && close(before) == 0 && next(mine, 10).size() == 10 && close(mine) == 0;
    word = ok ? 1 : -1;
    while (word.load() != 2) continue;
    _exit(0);
  }
  OK(child);
  while (word.load() == 0) continue;
  CHECK_EQ(word.load(), 1);
  CHECK(!is_open(before));
  CHECK_EQ(OK(open("f", O_RDONLY)), before);
  CHECK_EQ(OK(open("f", O_RDONLY)), before + 1);
  word = 2;
  WAIT_OK(child);
}

TEST(closes, vfork_child) {
  spew("f", small_bytes('a'));
  warm_up("f");
  int fd = OK(open("f", O_RDONLY)), other = OK(open("f", O_RDONLY));
  OK(close(other));
  pid_t child = vfork();
  if (child == 0) {
    bool ok = !is_open(other) && close(fd) == 0 && !is_open(fd);
    _exit(ok ? 0 : 1);
  }
  WAIT_OK(OK(child));
  CHECK(is_open(fd));
  CHECK(next(fd, 10) == small_bytes('a').substr(0, 10));
  CHECK_EQ(OK(open("f", O_RDONLY)), other);
}

// fcntl(2): any descriptor of the file that a process closes gives up its locks.
TEST(closes, record_locks) {
  spew("f", small_bytes('a'));
  std::atomic<int>& word = shared_word();
  pid_t child = spawn([&] {
    warm_up("f");
    int first = OK(open("f", O_RDONLY)), second = OK(open("f", O_RDONLY));
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0, .l_pid = 0};
    OK(fcntl(first, F_SETLK, &lock));
    close_when_told(word, second);
    return 0;
  });
  int fd = OK(open("f", O_RDWR));
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0, .l_pid = 0};
  await(word, 1);
  FAILS(fcntl(fd, F_SETLK, &lock), EAGAIN);
  word = 2;
  await(word, 3);
  OK(fcntl(fd, F_SETLK, &lock));
  word = 4;
  WAIT_OK(child);
}

TEST(closes, whole_file_locks) {
  spew("f", small_bytes('a'));
  std::atomic<int>& word = shared_word();
  pid_t child = spawn([&] {
    warm_up("f");
    int fd = OK(open("f", O_RDONLY));
    OK(flock(fd, LOCK_EX));
    CHECK_EQ(next(fd, 10).size(), 10u);
    close_when_told(word, fd);
    return 0;
  });
  int fd = OK(open("f", O_RDONLY));
  await(word, 1);
  FAILS(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
  word = 2;
  await(word, 3);
  OK(flock(fd, LOCK_EX | LOCK_NB));
  word = 4;
  WAIT_OK(child);
}

TEST(closes, watched) {
  spew("f", small_bytes('a'));
  std::atomic<int>& word = shared_word();
  pid_t child = spawn([&] {
    warm_up("f");
    int fd = OK(open("f", O_RDONLY));
    close_when_told(word, fd);
    return 0;
  });
  await(word, 1);
  int in = OK(inotify_init1(IN_NONBLOCK));
  OK(inotify_add_watch(in, "f", IN_CLOSE_NOWRITE));
  char events[4096];
  FAILS(read(in, events, sizeof(events)), EAGAIN);
  word = 2;
  await(word, 3);
  CHECK(read(in, events, sizeof(events)) > 0);
  word = 4;
  WAIT_OK(child);
}

TEST(closes, limit) {
  spew("f", small_bytes('a'));
  warm_up("f");
  WAIT_OK(spawn([] {
    rlimit limit = {16, 16};
    OK(setrlimit(RLIMIT_NOFILE, &limit));
    for (int i = 0; i < 500; ++i) {
      int fd = OK(open("f", O_RDONLY));
      if (i % 3 != 0) CHECK_EQ(next(fd, 10).size(), 10u);
      OK(close(fd));
    }
    std::vector<int> all;
    for (int fd; (fd = open("f", O_RDONLY)) >= 0;) all.push_back(fd);
    CHECK_EQ(errno, EMFILE);
    OK(close(all.front()));
    CHECK_EQ(OK(open("f", O_RDONLY)), all.front());
    for (int fd : all) OK(close(fd));
    for (int fd : all) CHECK_EQ(OK(open("f", O_RDONLY)), fd);
    return 0;
  }));
}

TEST(closes, filtered) {
  spew("f", small_bytes('a'));
  WAIT_OK(spawn([] {
    warm_up("f");
    int fd = OK(open("f", O_RDONLY));
    deny(SYS_close, EXDEV);
    FAILS(close(fd), EXDEV);
    int other = OK(open("f", O_RDONLY));
    CHECK_EQ(next(other, 10).size(), 10u);
    FAILS(close(other), EXDEV);
    FAILS(close(fd), EXDEV);
    CHECK(is_open(fd));
    return 0;
  }));
}

// What was there when it was opened is not what is read: what is there then.
TEST(closes, contents_change) {
  std::string a = small_bytes('a'), b = small_bytes('A');
  for (int i = 0; i < 6; ++i) {
    spew("f", a);
    warm_up("f");
    int fd = OK(open("f", O_RDONLY)), to = -1;
    switch (i) {
      case 0:  // by another descriptor
        to = OK(open("f", O_WRONLY));
        CHECK_EQ(pwrite(to, b.data(), b.size(), 0), (ssize_t)b.size());
        break;
      case 1: WAIT_OK(spawn([&] { return spew("f", b), 0; })); break;
      case 2:
        OK(truncate("f", 100));
        b.resize(100);
        for (char& c : b) c = a[(size_t)(&c - b.data())];
        break;
      case 3:  // by a mapping
        b = small_bytes('A');
        to = OK(open("f", O_RDWR));
        {
          void* at = mmap(nullptr, kSmall, PROT_READ | PROT_WRITE, MAP_SHARED, to, 0);
          CHECK(at != MAP_FAILED);
          memcpy(at, b.data(), b.size());
        }
        break;
      case 4:  // another file has the name
        spew("g", b);
        OK(rename("g", "f"));
        b = a;
        break;
      default:
        b = a + "more";
        to = OK(open("f", O_WRONLY | O_APPEND));
        CHECK_EQ(write(to, "more", 4), 4);
        break;
    }
    CHECK(next(fd, 1 << 16) == b);
    CHECK_EQ(next(fd, 10).size(), 0u);
    OK(close(fd));
    if (to >= 0) OK(close(to));
    OK(unlink("f"));
    b = small_bytes('A');
  }
}

// A mapping of another thread's, and no call in between.
TEST(closes, mapped_by_another) {
  spew("f", small_bytes('a'));
  warm_up("f");
  std::atomic<int> turn{0};
  std::thread other([&] {
    while (turn.load() != 1) continue;
    int to = open("f", O_RDWR);
    auto* at = static_cast<char*>(mmap(nullptr, kSmall, PROT_READ | PROT_WRITE, MAP_SHARED, to, 0));
    at[0] = '!';
    turn = 2;
  });
  int fd = OK(open("f", O_RDONLY));
  turn = 1;
  while (turn.load() != 2) continue;
  CHECK_EQ(next(fd, 10)[0], '!');
  other.join();
}

TEST(closes, pieces) {
  std::string a = small_bytes('a'), b = small_bytes('A');
  spew("f", a);
  spew("g", b);
  spew("empty", "");
  warm_up("f");
  warm_up("empty");
  // Opened one after the other: what was at hand of the first is gone.
  int f = OK(open("f", O_RDONLY)), g = OK(open("g", O_RDONLY));
  CHECK(next(f, 100) == a.substr(0, 100));
  CHECK(next(g, 100) == b.substr(0, 100));
  CHECK(next(f, 1 << 16) == a.substr(100));
  CHECK(next(g, 1 << 16) == b.substr(100));
  OK(close(f));
  OK(close(g));
  for (int i = 0; i < 3; ++i) {
    f = OK(open("f", O_RDONLY));
    for (size_t at = 0; at < kSmall; at += 7) CHECK(next(f, 7) == a.substr(at, 7));
    CHECK_EQ(next(f, 7).size(), 0u);
    CHECK_EQ(OK(lseek(f, 1000, SEEK_SET)), 1000);
    CHECK(next(f, 1 << 16) == a.substr(1000));
    char piece[64];
    CHECK_EQ(pread(f, piece, sizeof(piece), 2990), 10);
    CHECK(a.substr(2990) == std::string(piece, 10));
    OK(close(f));
    f = OK(open("f", O_RDONLY));
    char one[10], two[20];
    iovec vec[2] = {{one, sizeof(one)}, {two, sizeof(two)}};
    CHECK_EQ(readv(f, vec, 2), 30);
    CHECK(next(f, 10) == a.substr(30, 10));
    OK(close(f));
    f = OK(open("empty", O_RDONLY));
    CHECK_EQ(next(f, 10).size(), 0u);
    OK(close(f));
  }
  // Nowhere to put it: the position stays.
  f = OK(open("f", O_RDONLY));
  FAILS(read(f, reinterpret_cast<void*>(8), 100), EFAULT);
  CHECK(next(f, 100) == a.substr(0, 100));
  // A child goes on from where its parent stopped.
  WAIT_OK(spawn([&] {
    CHECK(next(f, 100) == a.substr(100, 100));
    return 0;
  }));
  CHECK(next(f, 100) == a.substr(200, 100));
}
