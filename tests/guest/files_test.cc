// Regular files: open flags, offsets, sizes, vectors, special files.
#include <limits.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "guest.h"
using namespace guest;

static int create(const char* path, const std::string& text = "") {
  int fd = OK(open(path, O_RDWR | O_CREAT | O_TRUNC, 0644));
  CHECK_EQ(write(fd, text.data(), text.size()), text.size());
  return fd;
}

static std::string text_at(int fd, off_t at, size_t size) {
  std::string s(size, '\0');
  s.resize(OK(pread(fd, s.data(), size, at)));
  return s;
}

TEST(files, open_flags) {
  FAILS(open("absent", O_RDONLY), ENOENT);
  int fd = OK(open("f", O_RDWR | O_CREAT | O_EXCL, 0640));
  FAILS(open("f", O_RDWR | O_CREAT | O_EXCL, 0640), EEXIST);
  CHECK_EQ(write(fd, "hello", 5), 5);
  close(fd);
  struct stat st;
  OK(stat("f", &st));
  CHECK_EQ(st.st_mode, S_IFREG | 0640);
  CHECK_EQ(st.st_size, 5);
  CHECK_EQ(st.st_nlink, 1);
  fd = OK(open("f", O_WRONLY | O_TRUNC));
  OK(fstat(fd, &st));
  CHECK_EQ(st.st_size, 0);
  FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
  FAILS(open("f/", O_RDONLY), ENOTDIR);
  FAILS(open("f/x", O_RDONLY), ENOTDIR);
  FAILS(open(".", O_WRONLY), EISDIR);
  FAILS(open("", O_RDONLY), ENOENT);
  FAILS(open("new/", O_CREAT | O_WRONLY, 0644), EISDIR);
  OK(symlink("f", "s"));
  FAILS(open("s", O_RDONLY | O_NOFOLLOW), ELOOP);
  OK(symlink("dangling-target", "d"));
  FAILS(open("d", O_CREAT | O_EXCL | O_WRONLY, 0644), EEXIST);
  OK(open("d", O_CREAT | O_WRONLY, 0644));
  OK(access("dangling-target", F_OK));
}

TEST(files, access_mode_is_checked) {
  int w = OK(open("f", O_WRONLY | O_CREAT, 0644)), r = OK(open("f", O_RDONLY));
  char c = 'x';
  FAILS(read(w, &c, 1), EBADF);
  FAILS(write(r, &c, 1), EBADF);
  FAILS(ftruncate(r, 3), EINVAL);
  CHECK_EQ(fcntl(w, F_GETFL) & O_ACCMODE, O_WRONLY);
  CHECK_EQ(fcntl(r, F_GETFL) & O_ACCMODE, O_RDONLY);
  FAILS(read(-1, &c, 1), EBADF);
  FAILS(read(9999, &c, 1), EBADF);
  int dir = OK(open(".", O_RDONLY));
  FAILS(read(dir, &c, 1), EISDIR);
}

TEST(files, offsets) {
  int fd = create("f", "0123456789");
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
  CHECK_EQ(lseek(fd, -3, SEEK_END), 7);
  char b[8] = {};
  CHECK_EQ(read(fd, b, 8), 3);
  CHECK_STR(std::string(b, 3), "789");
  CHECK_EQ(read(fd, b, 8), 0);
  CHECK_EQ(pread(fd, b, 4, 2), 4);
  CHECK_STR(std::string(b, 4), "2345");
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
  FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
  FAILS(lseek(fd, 0, 99), EINVAL);
  FAILS(pread(fd, b, 1, -1), EINVAL);
  CHECK_EQ(pwrite(fd, "AB", 2, 12), 2);
  CHECK_STR(text_at(fd, 0, 20), std::string("0123456789\0\0AB", 14));
  CHECK_EQ(lseek(fd, 100, SEEK_SET), 100);
  CHECK_EQ(read(fd, b, 8), 0);
  int p[2];
  OK(pipe(p));
  FAILS(lseek(p[0], 0, SEEK_CUR), ESPIPE);
  FAILS(pread(p[0], b, 1, 0), ESPIPE);
}

TEST(files, append) {
  int a = OK(open("f", O_WRONLY | O_CREAT | O_APPEND, 0644)), b = OK(open("f", O_RDWR | O_APPEND));
  CHECK_EQ(write(a, "one", 3), 3);
  CHECK_EQ(write(b, "two", 3), 3);
  CHECK_EQ(write(a, "3", 1), 1);
  CHECK_EQ(lseek(a, 0, SEEK_CUR), 7);
  CHECK_STR(slurp("f"), "onetwo3");
  // pwrite on O_APPEND appends on Linux whatever the offset (pwrite(2), BUGS).
  CHECK_EQ(pwrite(b, "Z", 1, 0), 1);
  CHECK_STR(slurp("f"), "onetwo3Z");
  OK(fcntl(b, F_SETFL, 0));
  CHECK_EQ(pwrite(b, "Y", 1, 0), 1);
  CHECK_STR(slurp("f"), "Ynetwo3Z");
}

TEST(files, dup_shares_the_offset) {
  int fd = create("f", "abcdef"), other = OK(dup(fd)), fresh = OK(open("f", O_RDONLY));
  OK(lseek(fd, 2, SEEK_SET));
  char c;
  CHECK_EQ(read(other, &c, 1), 1);
  CHECK_EQ(c, 'c');
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
  CHECK_EQ(lseek(fresh, 0, SEEK_CUR), 0);
  WAIT_OK(spawn([&] {
    CHECK_EQ(read(fd, &c, 1), 1);
    return c != 'd';
  }));
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 4);
  CHECK_EQ(dup2(fd, 50), 50);
  CHECK_EQ(lseek(50, 0, SEEK_CUR), 4);
  CHECK_EQ(dup2(fd, fd), fd);
  FAILS(dup3(fd, fd, 0), EINVAL);
  FAILS(dup2(fd, -1), EBADF);
  FAILS(dup(777), EBADF);
}

TEST(files, lowest_descriptor) {
  int a = OK(open("/", O_RDONLY)), b = OK(dup(a)), c = OK(dup(a));
  CHECK_EQ(b, a + 1);
  CHECK_EQ(c, a + 2);
  close(b);
  CHECK_EQ(dup(a), b);
  CHECK_EQ(fcntl(a, F_DUPFD, 40), 40);
  CHECK_EQ(fcntl(a, F_DUPFD_CLOEXEC, 40), 41);
  CHECK_EQ(fcntl(40, F_GETFD), 0);
  CHECK_EQ(fcntl(41, F_GETFD), FD_CLOEXEC);
  FAILS(fcntl(a, F_DUPFD, 1 << 30), EINVAL);
  FAILS(close(999), EBADF);
}

TEST(files, truncate) {
  int fd = create("f", "0123456789");
  OK(ftruncate(fd, 4));
  OK(ftruncate(fd, 6));
  CHECK_STR(text_at(fd, 0, 10), std::string("0123\0\0", 6));
  OK(truncate("f", 1));
  CHECK_STR(text_at(fd, 0, 10), "0");
  FAILS(truncate("f", -1), EINVAL);
  FAILS(truncate(".", 0), EISDIR);
  FAILS(truncate("absent", 0), ENOENT);
}

TEST(files, sparse_and_large) {
  int fd = create("f");
  off_t far = 5LL << 30;
  CHECK_EQ(pwrite(fd, "end", 3, far), 3);
  struct stat st;
  OK(fstat(fd, &st));
  CHECK_EQ(st.st_size, far + 3);
  CHECK(st.st_blocks * 512 < 1 << 20);
  CHECK_STR(text_at(fd, far, 10), "end");
  CHECK_STR(text_at(fd, far - 4096, 3), std::string(3, '\0'));
}

TEST(files, vectors) {
  int fd = create("f");
  char a[4] = "abc", b[4] = "def";
  iovec out[3] = {{a, 3}, {nullptr, 0}, {b, 3}};
  CHECK_EQ(writev(fd, out, 3), 6);
  char x[2], y[8] = {};
  iovec in[2] = {{x, 2}, {y, 8}};
  OK(lseek(fd, 0, SEEK_SET));
  CHECK_EQ(readv(fd, in, 2), 6);
  CHECK_STR(std::string(x, 2) + y, "abcdef");
  CHECK_EQ(pwritev(fd, out, 3, 2), 6);
  CHECK_EQ(preadv(fd, in, 2, 1), 7);
  CHECK_STR(std::string(x, 2) + std::string(y, 5), "babcdef");
  FAILS(readv(fd, in, -1), EINVAL);
  FAILS(readv(fd, in, IOV_MAX + 1), EINVAL);
  iovec bad[1] = {{x, (size_t)-1}};
  FAILS(readv(fd, bad, 1), EINVAL);
  CHECK_EQ(readv(fd, in, 0), 0);
}

TEST(files, bad_addresses) {
  int fd = create("f", "0123456789");
  OK(lseek(fd, 0, SEEK_SET));
  char* nowhere = (char*)8;
  FAILS(read(fd, nowhere, 4), EFAULT);
  FAILS(write(fd, nowhere, 4), EFAULT);
  FAILS(open(nowhere, O_RDONLY), EFAULT);
  FAILS(stat("f", (struct stat*)nowhere), EFAULT);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
  // A buffer that ends in an unmapped page moves what fits.
  char* page = (char*)mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  OK(munmap(page + 4096, 4096));
  FAILS(read(open("/dev/zero", O_RDONLY), (char*)0x1000, 1), EFAULT);
  memcpy(page + 4094, "f\0", 2);
  OK(access(page + 4094, F_OK));
  page[4095] = 'f';
  FAILS(access(page + 4094, F_OK), EFAULT);
}

TEST(files, unlinked_but_open) {
  int fd = create("f", "still here");
  OK(unlink("f"));
  struct stat st;
  OK(fstat(fd, &st));
  CHECK_EQ(st.st_nlink, 0);
  CHECK_EQ(write(fd, "!", 1), 1);
  CHECK_STR(text_at(fd, 0, 20), "still here!");
  OK(ftruncate(fd, 5));
  CHECK_STR(text_at(fd, 0, 20), "still");
  FAILS(stat("f", &st), ENOENT);
  int again = create("f", "new");
  CHECK_STR(text_at(fd, 0, 20), "still");
  CHECK_STR(text_at(again, 0, 20), "new");
}

TEST(files, two_openers_see_each_other) {
  int a = create("f", "aaaa"), b = OK(open("f", O_RDWR));
  CHECK_EQ(pwrite(b, "BB", 2, 1), 2);
  CHECK_STR(text_at(a, 0, 10), "aBBa");
  WAIT_OK(spawn([] {
    int c = OK(open("f", O_WRONLY | O_APPEND));
    return write(c, "c", 1) != 1;
  }));
  CHECK_STR(text_at(a, 0, 10), "aBBac");
  struct stat st;
  OK(fstat(b, &st));
  CHECK_EQ(st.st_size, 5);
}

TEST(files, devices) {
  char b[16] = "xxxxxxxxxxxxxxx";
  int null = OK(open("/dev/null", O_RDWR)), zero = OK(open("/dev/zero", O_RDWR)), full = OK(open("/dev/full", O_RDWR));
  CHECK_EQ(read(null, b, 16), 0);
  CHECK_EQ(write(null, b, 16), 16);
  CHECK_EQ(read(zero, b, 16), 16);
  for (char c : b) CHECK_EQ(c, 0);
  FAILS(write(full, b, 1), ENOSPC);
  CHECK_EQ(read(full, b, 4), 4);
  int r = OK(open("/dev/urandom", O_RDONLY));
  CHECK_EQ(read(r, b, 16), 16);
  struct stat st;
  OK(stat("/dev/null", &st));
  CHECK(S_ISCHR(st.st_mode));
  CHECK_EQ(st.st_rdev, (1 << 8) | 3);
  CHECK_EQ(syscall(SYS_getrandom, b, 16, 0), 16);
}

TEST(files, copies_in_the_kernel) {
  std::string text(300000, 'q');
  int a = create("a", text), b = create("b");
  off_t from = 100;
  CHECK_EQ(sendfile(b, a, &from, 5000), 5000);
  CHECK_EQ(from, 5100);
  OK(lseek(a, 0, SEEK_SET));
  long long moved = 0;
  for (ssize_t n; (n = sendfile(b, a, nullptr, text.size())) > 0;) moved += n;
  CHECK_EQ(moved, text.size());
  CHECK_EQ(lseek(b, 0, SEEK_END), text.size() + 5000);
  int p[2];
  OK(pipe(p));
  OK(lseek(a, 0, SEEK_SET));
  CHECK_EQ(sendfile(p[1], a, nullptr, 1000), 1000);
  char buffer[2000];
  CHECK_EQ(read(p[0], buffer, 2000), 1000);
  loff_t in = 10, out = 0;
  int c = create("c");
  ssize_t n = copy_file_range(a, &in, c, &out, 20, 0);
  CHECK_EQ(n, 20);
  CHECK_EQ(in, 30);
  CHECK_STR(text_at(c, 0, 100), std::string(20, 'q'));
}

TEST(files, holes_and_fallocate) {
  int fd = create("f");
  OK(ftruncate(fd, 1 << 20));
  FAILS(lseek(fd, 2 << 20, SEEK_DATA), ENXIO);
  CHECK_EQ(lseek(fd, (1 << 20) - 1, SEEK_HOLE) >= 0, 1);
  if (fallocate(fd, 0, 0, 2 << 20) != 0) {
    CHECK_EQ(errno, EOPNOTSUPP);
    return;
  }
  struct stat st;
  OK(fstat(fd, &st));
  CHECK_EQ(st.st_size, 2 << 20);
  FAILS(fallocate(fd, 0, -1, 10), EINVAL);
}

TEST(files, opath) {
  create("f", "text");
  int fd = OK(open("f", O_PATH));
  char c;
  FAILS(read(fd, &c, 1), EBADF);
  FAILS(fchmod(fd, 0600), EBADF);
  struct stat st;
  OK(fstat(fd, &st));
  CHECK_EQ(st.st_size, 4);
  int again = OK(open(("/proc/self/fd/" + show(fd)).c_str(), O_RDONLY));
  CHECK_EQ(read(again, &c, 1), 1);
  OK(symlink("f", "s"));
  int link = OK(open("s", O_PATH | O_NOFOLLOW));
  OK(fstat(link, &st));
  CHECK(S_ISLNK(st.st_mode));
  char target[8] = {};
  CHECK_EQ(readlinkat(link, "", target, 8), 1);
}

TEST(files, tmpfile) {
  int fd = open(".", O_TMPFILE | O_RDWR, 0600);
  if (fd < 0) {
    CHECK_EQ(errno, EOPNOTSUPP);
    return;
  }
  CHECK_EQ(write(fd, "tmp", 3), 3);
  struct stat st;
  OK(fstat(fd, &st));
  CHECK_EQ(st.st_nlink, 0);
  OK(linkat(AT_FDCWD, ("/proc/self/fd/" + show(fd)).c_str(), AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
  CHECK_STR(slurp("named"), "tmp");
}

TEST(files, times) {
  int fd = create("f", "x");
  timespec t[2] = {{1000000000, 500}, {1100000000, 700}};
  OK(futimens(fd, t));
  struct stat st;
  OK(stat("f", &st));
  CHECK_EQ(st.st_atim.tv_sec, 1000000000);
  CHECK_EQ(st.st_mtim.tv_sec, 1100000000);
  t[0].tv_nsec = UTIME_OMIT;
  t[1].tv_nsec = UTIME_NOW;
  OK(utimensat(AT_FDCWD, "f", t, 0));
  OK(stat("f", &st));
  CHECK_EQ(st.st_atim.tv_sec, 1000000000);
  CHECK(llabs(st.st_mtim.tv_sec - time(nullptr)) < 10);
  t[0].tv_nsec = 2000000000;
  FAILS(utimensat(AT_FDCWD, "f", t, 0), EINVAL);
  timespec old[2] = {{5, 0}, {5, 0}};
  OK(futimens(fd, old));
  sleep_ms(20);
  CHECK_EQ(write(fd, "y", 1), 1);
  OK(stat("f", &st));
  CHECK(st.st_mtim.tv_sec > 1000000000);
}

TEST(files, statx_and_statfs) {
  create("f", "12345");
  struct statx sx;
  OK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &sx));
  CHECK_EQ(sx.stx_size, 5);
  CHECK_EQ(sx.stx_mode, S_IFREG | 0644);
  CHECK((sx.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
  struct statfs fs;
  OK(statfs(".", &fs));
  CHECK(fs.f_bsize > 0 && fs.f_blocks > 0 && fs.f_namelen >= 255);
  int fd = OK(open("f", O_RDONLY));
  struct stat a, b;
  OK(fstat(fd, &a));
  OK(fstatat(AT_FDCWD, "f", &b, 0));
  CHECK_EQ(a.st_ino, b.st_ino);
  CHECK_EQ(a.st_dev, b.st_dev);
  OK(fstatat(fd, "", &b, AT_EMPTY_PATH));
  CHECK_EQ(b.st_size, 5);
  FAILS(fstatat(fd, "", &b, 0), ENOENT);
}

TEST(files, sync_calls) {
  int fd = create("f", "x");
  OK(fsync(fd));
  OK(fdatasync(fd));
  int p[2];
  OK(pipe(p));
  FAILS(fsync(p[0]), EINVAL);
  FAILS(fsync(-1), EBADF);
}

TEST(files, large_transfer) {
  std::string text(3 << 20, 0);
  for (size_t i = 0; i < text.size(); i++) text[i] = (char)(i * 2654435761u >> 13);
  int fd = create("f", text);
  std::string back(text.size() + 100, 0);
  CHECK_EQ(pread(fd, back.data(), back.size(), 0), text.size());
  back.resize(text.size());
  CHECK(back == text);
}
