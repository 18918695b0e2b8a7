// Shared libraries mapped as the C library's loader does it, and what comes between its calls: a sandbox may make the
// mappings that it knows to come ahead of them.
#include <elf.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "guest.h"
using namespace guest;

namespace {

constexpr size_t kPage = 4096;
constexpr int kFirst = MAP_PRIVATE | MAP_DENYWRITE, kThen = kFirst | MAP_FIXED;

// Headers, text, constants; data in the file right behind them, at a place of its own; and more that the file lacks.
constexpr size_t kText = kPage, kConstants = 3 * kPage, kData = 6 * kPage, kDataInFile = 4 * kPage, kDataBytes = 5000;
constexpr size_t kSpan = kData + kDataBytes + 9000;

std::string library(char mark) {
  std::string file(kDataInFile + kDataBytes, mark);
  for (size_t page = 0; page * kPage < file.size(); ++page) file[page * kPage + 100] = (char)('0' + page);
  Elf64_Ehdr header{};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = header.e_version = EV_CURRENT;
  header.e_type = ET_DYN;
  header.e_machine = EM_X86_64;
  header.e_ehsize = header.e_phoff = sizeof(header);
  header.e_phentsize = sizeof(Elf64_Phdr);
  const Elf64_Phdr parts[] = {
      {PT_LOAD, PF_R, 0, 0, 0, kPage, kPage, kPage},
      {PT_LOAD, PF_R | PF_X, kText, kText, kText, 2 * kPage, 2 * kPage, kPage},
      {PT_LOAD, PF_R, kConstants, kConstants, kConstants, kPage, kPage, kPage},
      {PT_LOAD, PF_R | PF_W, kDataInFile, kData, kData, kDataBytes, kSpan - kData, kPage},
  };
  header.e_phnum = 4;
  memcpy(&file[0], &header, sizeof(header));
  memcpy(&file[sizeof(header)], parts, sizeof(parts));
  return file;
}

int open_library(const char* path, char mark = 'a') {
  spew(path, library(mark));
  const int fd = OK(open(path, O_RDONLY));
  CHECK_EQ(next(fd, 832).size(), 832u);
  return fd;
}

char* first(int fd) { return (char*)OK(mmap(nullptr, kSpan, PROT_READ, kFirst, fd, 0)); }
char* text(char* at, int fd) { return (char*)mmap(at + kText, 2 * kPage, PROT_READ | PROT_EXEC, kThen, fd, kText); }
char* constants(char* at, int fd) { return (char*)mmap(at + kConstants, kPage, PROT_READ, kThen, fd, kConstants); }
char* data(char* at, int fd) {
  return (char*)mmap(at + kData, 2 * kPage, PROT_READ | PROT_WRITE, kThen, fd, kDataInFile);
}

void map_rest(char* at, int fd) {
  CHECK(text(at, fd) == at + kText);
  CHECK(constants(at, fd) == at + kConstants);
  CHECK(data(at, fd) == at + kData);
}

// All as it is to be.
void check_loaded(char* at, char mark = 'a') {
  CHECK(memcmp(at, ELFMAG, SELFMAG) == 0);
  CHECK_EQ(at[kText + 100], '1');
  CHECK_EQ(at[kText + kPage + 100], '2');
  CHECK_EQ(at[kConstants + 100], '3');
  CHECK_EQ(at[kData + 100], '4');
  CHECK_EQ(at[kData + kPage + 100], '5');
  CHECK_EQ(at[kData + kDataBytes - 1], mark);
  at[kData + 100] = 'w';
  CHECK_EQ(at[kData + 100], 'w');
}

bool can_read(const char* at) {
  int ends[2];
  OK(pipe(ends));
  const bool can = write(ends[1], at, 1) == 1;
  close(ends[0]);
  close(ends[1]);
  return can;
}

char load(const char* path, char mark) {
  const int fd = open_library(path, mark);
  char* at = first(fd);
  map_rest(at, fd);
  OK(close(fd));
  check_loaded(at, mark);
  CHECK(slurp(path) == library(mark));
  return at[kData + 1];
}

}  // namespace

TEST(libraries, in_order) {
  CHECK_EQ(load("a.so", 'a'), 'a');
  CHECK_EQ(load("b.so", 'b'), 'b');
  CHECK_EQ(load("a.so", 'c'), 'c');
}

TEST(libraries, head_is_read_again) {
  load("a.so", 'a');
  const int fd = OK(open("a.so", O_RDONLY));
  char head[832], part[784];
  CHECK_EQ(read(fd, head, sizeof(head)), (ssize_t)sizeof(head));
  CHECK_EQ(pread(fd, part, sizeof(part), 64), (ssize_t)sizeof(part));
  CHECK(memcmp(head + 64, part, 768) == 0);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), (off_t)sizeof(head));
  CHECK_EQ(next(fd, 8192).size(), 8192u);
  CHECK_EQ(pread(fd, part, sizeof(part), 1000), (ssize_t)sizeof(part));
  CHECK_EQ(part[0], 'a');
  struct stat st;
  OK(fstat(fd, &st));
  CHECK_EQ(st.st_size, (off_t)library('a').size());
  const int writer = OK(open("a.so", O_WRONLY));
  CHECK_EQ(pwrite(writer, "!", 1, 64), 1);
  CHECK_EQ(pread(fd, part, 1, 64), 1);
  CHECK_EQ(part[0], '!');
}

TEST(libraries, other_place) {
  const int fd = open_library("a.so");
  char* at = first(fd);
  char* room = (char*)OK(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(mmap(room, kPage, PROT_READ, kThen, fd, kText) == room);
  CHECK_EQ(room[100], '1');
  map_rest(at, fd);
  check_loaded(at);
}

TEST(libraries, other_protection) {
  const int fd = open_library("a.so");
  char* at = first(fd);
  CHECK(mmap(at + kText, 2 * kPage, PROT_NONE, kThen, fd, kText) == at + kText);
  CHECK(!can_read(at + kText));
  CHECK(mmap(at + kConstants, kPage, PROT_READ | PROT_WRITE, kThen, fd, kConstants) == at + kConstants);
  at[kConstants] = 'x';
  CHECK(data(at, fd) == at + kData);
  CHECK_EQ(at[kData + 100], '4');
}

TEST(libraries, other_length) {
  const int fd = open_library("a.so");
  char* at = first(fd);
  OK(munmap(at + kText, 2 * kPage));
  CHECK(mmap(at + kText, kPage, PROT_READ | PROT_EXEC, kThen, fd, kText) == at + kText);
  CHECK_EQ(at[kText + 100], '1');
  CHECK(!can_read(at + kText + kPage));
}

TEST(libraries, another_file_under_the_number) {
  const int fd = open_library("a.so"), other = open_library("b.so", 'b');
  char* at = first(fd);
  OK(dup2(other, fd));
  CHECK(text(at, fd) == at + kText);
  CHECK_EQ(at[kText], 'b');
  char* again = first(fd);
  OK(close(fd));
  FAILS((long)text(again, fd), EBADF);
  CHECK(text(again, other) == again + kText);
  CHECK_EQ(again[kText], 'b');
}

TEST(libraries, something_between) {
  const int fd = open_library("a.so");
  char* at = first(fd);
  CHECK(text(at, fd) == at + kText);
  OK(mprotect(at + kConstants, kPage, PROT_NONE));
  CHECK(constants(at, fd) == at + kConstants);
  CHECK_EQ(at[kConstants + 100], '3');
  OK(munmap(at + kData, 2 * kPage));
  CHECK(!can_read(at + kData));
  CHECK(data(at, fd) == at + kData);
  check_loaded(at);
  at = first(fd);
  char* zeros = (char*)OK(mmap(at + kText, 2 * kPage, PROT_READ, kThen | MAP_ANONYMOUS, -1, 0));
  CHECK_EQ(zeros[100], 0);
  CHECK(text(at, fd) == at + kText);
  CHECK_EQ(zeros[100], '1');
}

TEST(libraries, fork_between) {
  const int fd = open_library("a.so");
  char* at = first(fd);
  const pid_t child = spawn([&] {
    map_rest(at, fd);
    check_loaded(at);
    return 0;
  });
  map_rest(at, fd);
  WAIT_OK(child);
  check_loaded(at);
}

// With another thread each mapping is made when it is asked for.
TEST(libraries, thread_sees_each) {
  const int fd = open_library("a.so");
  std::atomic<int> stage{0};
  std::atomic<char*> at{nullptr};
  std::thread watcher([&] {
    while (stage.load() != 1) sched_yield();
    CHECK(!can_read(at.load() + kData));  // behind the end of the file
    CHECK_EQ(at.load()[kData - 2 * kPage + 100], '4');
    stage = 2;
  });
  at = first(fd);
  stage = 1;
  while (stage.load() != 2) sched_yield();
  watcher.join();
  char* base = at.load();
  map_rest(base, fd);
  check_loaded(base);
}

TEST(libraries, filter_sees_each) {
  const int fd = open_library("a.so");
  char* at = first(fd);
  deny(SYS_mmap, ENOMEM);
  FAILS((long)text(at, fd), ENOMEM);
  FAILS((long)mmap(nullptr, kSpan, PROT_READ, kFirst, fd, 0), ENOMEM);
}

// All of the file, as it lies there.
TEST(libraries, read_as_a_file) {
  const int fd = open_library("a.so");
  for (int flags : {MAP_PRIVATE, kFirst}) {
    char* at = (char*)OK(mmap(nullptr, library('a').size(), PROT_READ, flags, fd, 0));
    CHECK_EQ(at[kDataInFile + 100], '4');
    CHECK_EQ(at[kConstants + 100], '3');
  }
}

TEST(libraries, stack_limit) {
  rlimit limit{};
  OK(getrlimit(RLIMIT_STACK, &limit));
  const rlimit smaller{4 << 20, limit.rlim_max};
  OK(setrlimit(RLIMIT_STACK, &smaller));
  rlimit seen{};
  OK(syscall(SYS_prlimit64, 0, RLIMIT_STACK, nullptr, &seen));
  CHECK_EQ(seen.rlim_cur, smaller.rlim_cur);
  CHECK_EQ(seen.rlim_max, smaller.rlim_max);
  FAILS(syscall(SYS_prlimit64, 0, RLIMIT_STACK, nullptr, (void*)8), EFAULT);
  int go[2], back[2];
  OK(pipe(go));
  OK(pipe(back));
  const pid_t child = spawn([&] {
    rlimit mine{};
    OK(syscall(SYS_prlimit64, 0, RLIMIT_STACK, nullptr, &mine));
    CHECK_EQ(mine.rlim_cur, smaller.rlim_cur);
    CHECK_EQ(write(back[1], "", 1), 1);
    char byte;
    CHECK_EQ(read(go[0], &byte, 1), 1);
    OK(syscall(SYS_prlimit64, 0, RLIMIT_STACK, nullptr, &mine));
    CHECK_EQ(mine.rlim_cur, 3u << 20);
    return 0;
  });
  char byte;
  CHECK_EQ(read(back[0], &byte, 1), 1);
  const rlimit again{3 << 20, limit.rlim_max};
  OK(syscall(SYS_prlimit64, child, RLIMIT_STACK, &again, nullptr));
  CHECK_EQ(write(go[1], "", 1), 1);
  WAIT_OK(child);
  OK(syscall(SYS_prlimit64, 0, RLIMIT_STACK, nullptr, &seen));
  CHECK_EQ(seen.rlim_cur, smaller.rlim_cur);
}
