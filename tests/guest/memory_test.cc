// mmap, mprotect, mremap, brk, madvise, memfd.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "guest.h"
using namespace guest;

static constexpr size_t kPage = 4096;
static constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

static char* map(size_t size, int prot, int flags, int fd = -1, off_t at = 0, void* where = nullptr) {
  void* p = mmap(where, size, prot, flags, fd, at);
  if (p == MAP_FAILED) FAIL("mmap: " + show_errno(errno));
  return (char*)p;
}

// Whether the byte can be read (and written, when asked), found out without faulting.
static bool readable(const char* p) {
  static int fds[2] = {-1, -1};
  if (fds[0] < 0) OK(pipe(fds));
  if (write(fds[1], p, 1) != 1) return false;
  char c;
  return read(fds[0], &c, 1) == 1;
}
static bool writable(char* p) {
  static int zero = OK(open("/dev/zero", O_RDONLY));
  char old = readable(p) ? *(volatile char*)p : 0;
  if (read(zero, p, 1) != 1) return false;
  *(volatile char*)p = old;
  return true;
}

TEST(memory, anonymous) {
  char* p = map(10 * kPage, PROT_READ | PROT_WRITE, kAnonymous);
  for (size_t i = 0; i < 10 * kPage; i += 100) CHECK_EQ(p[i], 0);
  p[5 * kPage] = 1;
  OK(munmap(p + 4 * kPage, 2 * kPage));
  CHECK(!readable(p + 4 * kPage) && !readable(p + 5 * kPage));
  CHECK(readable(p + 3 * kPage) && readable(p + 6 * kPage));
  char* q = map(2 * kPage, PROT_READ | PROT_WRITE, kAnonymous | MAP_FIXED, -1, 0, p + 4 * kPage);
  CHECK(q == p + 4 * kPage);
  CHECK_EQ(q[kPage], 0);
  FAILS((long)mmap(nullptr, 0, PROT_READ, kAnonymous, -1, 0), EINVAL);
  FAILS((long)mmap((void*)1, kPage, PROT_READ, kAnonymous | MAP_FIXED, -1, 0), EINVAL);
  FAILS((long)mmap(nullptr, kPage, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
  FAILS((long)mmap(nullptr, 1UL << 50, PROT_READ, kAnonymous, -1, 0), ENOMEM);
  FAILS((long)mmap(p, kPage, PROT_READ, kAnonymous | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
  FAILS(munmap(p + 1, kPage), EINVAL);
  OK(munmap(p, 10 * kPage));
  OK(munmap(p, 10 * kPage));  // nothing there is no error
}

TEST(memory, private_file) {
  spew("f", std::string(kPage, 'a') + std::string(100, 'b'));
  int fd = OK(open("f", O_RDONLY));
  char* p = map(2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
  CHECK_EQ(p[0], 'a');
  CHECK_EQ(p[kPage], 'b');
  CHECK_EQ(p[kPage + 100], 0);
  p[0] = 'X';
  CHECK_EQ(slurp("f")[0], 'a');
  char* second = map(kPage, PROT_READ, MAP_PRIVATE, fd, kPage);
  CHECK_EQ(second[0], 'b');
  close(fd);
  CHECK_EQ(p[1], 'a');
  FAILS((long)mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, 999, 0), EBADF);
  fd = OK(open("f", O_RDONLY));
  FAILS((long)mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, fd, 1), EINVAL);
  FAILS((long)mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EACCES);
  int w = OK(open("f", O_WRONLY));
  FAILS((long)mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, w, 0), EACCES);
  int dir = OK(open(".", O_RDONLY));
  FAILS((long)mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, dir, 0), ENODEV);
}

TEST(memory, shared_file) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0644));
  OK(ftruncate(fd, 2 * kPage));
  char* p = map(2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  char* q = map(2 * kPage, PROT_READ, MAP_SHARED, fd);
  strcpy(p, "written through the mapping");
  CHECK_STR(q, "written through the mapping");
  CHECK_STR(slurp("f").c_str(), "written through the mapping");
  CHECK_EQ(pwrite(fd, "READ", 4, 0), 4);
  CHECK_STR(std::string(q, 8), "READten ");
  WAIT_OK(spawn([&] {
    p[kPage] = 'c';
    return 0;
  }));
  CHECK_EQ(q[kPage], 'c');
  OK(msync(p, 2 * kPage, MS_SYNC));
  OK(munmap(p, 2 * kPage));
  CHECK_EQ(q[kPage], 'c');
  FAILS(msync((void*)((long)q + 1), kPage, MS_SYNC), EINVAL);
}

TEST(memory, shared_anonymous_and_fork) {
  char* p = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  char* own = map(kPage, PROT_READ | PROT_WRITE, kAnonymous);
  *p = *own = 1;
  WAIT_OK(spawn([&] {
    *p = *own = 2;
    WAIT_OK(spawn([&] {
      *p = 3;
      return 0;
    }));
    return *p != 3 || *own != 2;
  }));
  CHECK_EQ(*p, 3);
  CHECK_EQ(*own, 1);
}

TEST(memory, protection) {
  char* p = map(4 * kPage, PROT_READ | PROT_WRITE, kAnonymous);
  strcpy(p, "text");
  OK(mprotect(p, kPage, PROT_READ));
  CHECK(readable(p) && !writable(p));
  OK(mprotect(p, kPage, PROT_NONE));
  CHECK(!readable(p));
  OK(mprotect(p, kPage, PROT_READ | PROT_WRITE));
  CHECK_STR(p, "text");
  FAILS(mprotect(p + 1, kPage, PROT_READ), EINVAL);
  OK(munmap(p + 2 * kPage, kPage));
  FAILS(mprotect(p, 4 * kPage, PROT_READ), ENOMEM);
  // A function written at run time.
  char* code = map(kPage, PROT_READ | PROT_WRITE, kAnonymous);
  memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6);  // mov $42, %eax; ret
  OK(mprotect(code, kPage, PROT_READ | PROT_EXEC));
  CHECK_EQ(((int (*)())code)(), 42);
}

TEST(memory, code_made_at_run_time_makes_calls) {
  // mov $39,%eax; syscall; ret: the call of a just-in-time compiler, rewritten afterwards.
  char* code = map(kPage, PROT_READ | PROT_WRITE | PROT_EXEC, kAnonymous);
  memcpy(code, "\xb8\x27\x00\x00\x00\x0f\x05\xc3", 8);
  for (int i = 0; i < 5; i++) CHECK_EQ(((int (*)())code)(), getpid());
  memcpy(code, "\xb8\x6e\x00\x00\x00\x0f\x05\xc3", 8);
  for (int i = 0; i < 5; i++) CHECK_EQ(((int (*)())code)(), getppid());
}

TEST(memory, remap) {
  char* p = map(4 * kPage, PROT_READ | PROT_WRITE, kAnonymous);
  for (int i = 0; i < 4; i++) p[i * kPage] = 'a' + i;
  char* q = (char*)mremap(p, 4 * kPage, 1000 * kPage, MREMAP_MAYMOVE);
  CHECK(q != MAP_FAILED);
  for (int i = 0; i < 4; i++) CHECK_EQ(q[i * kPage], 'a' + i);
  CHECK_EQ(q[999 * kPage], 0);
  CHECK((char*)mremap(q, 1000 * kPage, 2 * kPage, 0) == q);
  CHECK(!readable(q + 2 * kPage));
  CHECK_EQ(q[kPage], 'b');
  char* target = map(2 * kPage, PROT_NONE, kAnonymous);
  CHECK(mremap(q, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
  CHECK_EQ(target[kPage], 'b');
  CHECK(!readable(q));
  FAILS((long)mremap(target, kPage, 0, 0), EINVAL);
  FAILS((long)mremap((char*)(16 * kPage), kPage, 2 * kPage, MREMAP_MAYMOVE), EFAULT);
  // Growing in place into a neighbour does not work.
  char* pair = map(2 * kPage, PROT_READ, kAnonymous);
  FAILS((long)mremap(pair, kPage, 2 * kPage, 0), ENOMEM);
}

TEST(memory, remap_of_a_file) {
  int fd = OK(open("f", O_RDWR | O_CREAT, 0644));
  OK(ftruncate(fd, 8 * kPage));
  CHECK_EQ(pwrite(fd, "end", 3, 7 * kPage), 3);
  char* p = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  p = (char*)mremap(p, kPage, 8 * kPage, MREMAP_MAYMOVE);
  CHECK(p != MAP_FAILED);
  CHECK_STR(p + 7 * kPage, "end");
  p[0] = 'P';
  CHECK_EQ(slurp("f")[0], 'P');
}

TEST(memory, heap) {
  char* start = (char*)sbrk(0);
  CHECK(sbrk(100000) == start);
  memset(start, 7, 100000);
  CHECK_EQ(brk(start + 50000), 0);
  CHECK(sbrk(0) == start + 50000);
  OK(brk(start + 100000));
  CHECK_EQ(start[90000], 0);
  CHECK_EQ((long)syscall(SYS_brk, 0), (long)(start + 100000));
  CHECK_EQ((long)syscall(SYS_brk, 16), (long)(start + 100000));
  OK(brk(start));
}

TEST(memory, advice) {
  char* p = map(4 * kPage, PROT_READ | PROT_WRITE, kAnonymous);
  memset(p, 1, 4 * kPage);
  OK(madvise(p + kPage, kPage, MADV_DONTNEED));
  CHECK_EQ(p[0], 1);
  CHECK_EQ(p[kPage], 0);
  CHECK_EQ(p[2 * kPage], 1);
  OK(madvise(p, 4 * kPage, MADV_WILLNEED));
  FAILS(madvise(p + 1, kPage, MADV_DONTNEED), EINVAL);
  FAILS(madvise(p, kPage, 12345), EINVAL);
  OK(madvise(p, kPage, MADV_DONTDUMP));
  OK(madvise(p, kPage, MADV_DODUMP));
  OK(madvise(p, 4 * kPage, MADV_POPULATE_WRITE));
  // What a fork leaves out, and what it wipes.
  OK(madvise(p + 2 * kPage, kPage, MADV_WIPEONFORK));
  OK(madvise(p + 3 * kPage, kPage, MADV_DONTFORK));
  pid_t child = spawn([&] {
    CHECK_EQ(p[0], 1);
    CHECK_EQ(p[2 * kPage], 0);
    unsigned char v;
    FAILS(mincore(p + 3 * kPage, kPage, &v), ENOMEM);
    return 0;
  });
  wait_ok(child, __FILE__, __LINE__);
  CHECK_EQ(p[2 * kPage], 1);
  OK(munmap(p, kPage));
  FAILS(madvise(p, 2 * kPage, MADV_DONTNEED), ENOMEM);
}

TEST(memory, memfd) {
  int fd = memfd_create("some-name", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) FAIL("memfd_create: " + show_errno(errno));
  OK(ftruncate(fd, kPage));
  char* p = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  strcpy(p, "hello");
  char b[6];
  CHECK_EQ(pread(fd, b, 6, 0), 6);
  CHECK_STR(b, "hello");
  char target[100] = {};
  CHECK(readlink(("/proc/self/fd/" + show(fd)).c_str(), target, 99) > 0);
  CHECK_STR(target, "/memfd:some-name (deleted)");
  CHECK_EQ(fcntl(fd, F_GET_SEALS), 0);
  OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
  FAILS(ftruncate(fd, 10), EPERM);
  FAILS(ftruncate(fd, 2 * kPage), EPERM);
  FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
  OK(munmap(p, kPage));
  OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL));
  FAILS(pwrite(fd, "x", 1, 0), EPERM);
  FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), EPERM);
}

TEST(memory, maps_file_is_true) {
  int fd = OK(open("mapped-file", O_RDWR | O_CREAT, 0644));
  OK(ftruncate(fd, 4 * kPage));
  char* p = map(4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  OK(mprotect(p + kPage, kPage, PROT_READ));
  char range[64];
  snprintf(range, sizeof range, "%lx-%lx rw-s", (long)p, (long)p + kPage);
  std::string maps = slurp("/proc/self/maps");
  CHECK(maps.find(range) != std::string::npos);
  snprintf(range, sizeof range, "%lx-%lx r--s 00001000", (long)p + kPage, (long)p + 2 * kPage);
  CHECK(maps.find(range) != std::string::npos);
  CHECK(maps.find("/mapped-file\n") != std::string::npos);
  CHECK(maps.find("[stack]") != std::string::npos);
  CHECK(maps.find("[heap]") != std::string::npos);
}

TEST(memory, limits) {
  WAIT_OK(spawn([] {
    rlimit limit{256 << 20, 256 << 20};
    OK(setrlimit(RLIMIT_AS, &limit));
    FAILS((long)mmap(nullptr, 512 << 20, PROT_READ, kAnonymous, -1, 0), ENOMEM);
    return 0;
  }));
  WAIT_OK(spawn([] {
    rlimit limit;
    OK(getrlimit(RLIMIT_STACK, &limit));
    CHECK(limit.rlim_cur >= 1 << 20);
    // The stack grows by itself up to its limit.
    volatile char* deep = (volatile char*)alloca(700 << 10);
    deep[0] = 1;
    return deep[0] != 1;
  }));
}

TEST(memory, large_and_many) {
  size_t size = 256 << 20;
  char* p = map(size, PROT_READ | PROT_WRITE, kAnonymous | MAP_NORESERVE);
  for (size_t i = 0; i < size; i += 16 << 20) p[i] = (char)(i >> 24);
  for (size_t i = 0; i < size; i += 16 << 20) CHECK_EQ(p[i], (char)(i >> 24));
  OK(munmap(p, size));
  for (int i = 0; i < 2000; i++) {
    char* q = map(16 * kPage, PROT_READ | PROT_WRITE, kAnonymous);
    q[0] = q[15 * kPage] = 1;
    OK(munmap(q, 16 * kPage));
  }
}

TEST(memory, locking_calls) {
  char* p = map(kPage, PROT_READ | PROT_WRITE, kAnonymous);
  int r = mlock(p, kPage);
  CHECK(r == 0 || errno == ENOMEM || errno == EPERM);
  OK(munlock(p, kPage));
  unsigned char vec[1];
  p[0] = 1;
  OK(mincore(p, kPage, vec));
  CHECK_EQ(vec[0] & 1, 1);
}
