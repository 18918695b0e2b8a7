// Reading regular files, often enough that a sandbox may have its short ways: what was written, cut, grown or replaced
// is seen by the next read; positions and partial counts stay exact.
#include <sys/mman.h>
#include <sys/uio.h>

#include <thread>
#include <vector>

#include "guest.h"
using namespace guest;

namespace {

constexpr size_t kPage = 4096;
constexpr int kOften = 12;

// What stands at an offset of a file made by fill().
char byte_at(uint64_t offset, int salt = 0) { return (char)((offset >> 12) * 31 + offset * 7 + salt); }

std::string bytes_of(uint64_t offset, size_t n, int salt = 0) {
  std::string text(n, 0);
  for (size_t i = 0; i < n; ++i) text[i] = byte_at(offset + i, salt);
  return text;
}

void fill(const char* path, size_t n, int salt = 0) { spew(path, bytes_of(0, n, salt)); }

std::string read_at(int fd, uint64_t offset, size_t n) {
  std::string text(n, 0);
  ssize_t got = pread(fd, text.data(), n, (off_t)offset);
  text.resize(got < 0 ? 0 : (size_t)got);
  return text;
}

// Several reads of the same, so that the later ones are answered as those of a file in use.
void warm(int fd) {
  char b[kPage];
  for (int i = 0; i < kOften; ++i) CHECK(pread(fd, b, sizeof(b), 0) > 0);
}

int open_warm(const char* path, int flags = O_RDONLY) {
  int fd = OK(open(path, flags));
  warm(fd);
  return fd;
}

}  // namespace

TEST(reads, content_and_end) {
  constexpr size_t kSize = 3 * 65536 + 1234;
  fill("f", kSize);
  int fd = open_warm("f");
  for (size_t offset : {(size_t)0, (size_t)1, kPage - 1, (size_t)65536, kSize - 5000, kSize - 1}) {
    for (size_t n : {(size_t)1, (size_t)100, kPage, (size_t)70000}) {
      size_t there = std::min(n, kSize - offset);
      CHECK(read_at(fd, offset, n) == bytes_of(offset, there));
    }
  }
  CHECK_EQ(read_at(fd, kSize, 10).size(), 0u);
  CHECK_EQ(read_at(fd, kSize + 100000, 10).size(), 0u);
  // By position, to the end, in uneven pieces.
  std::string all;
  char b[5000];
  ssize_t n;
  while ((n = OK(read(fd, b, sizeof(b)))) > 0) all.append(b, (size_t)n);
  CHECK(all == bytes_of(0, kSize));
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), (off_t)kSize);
  // Into several buffers.
  char x[10], y[100], z[1];
  iovec v[] = {{x, sizeof(x)}, {nullptr, 0}, {y, sizeof(y)}, {z, 1}};
  for (int i = 0; i < kOften; ++i) {
    CHECK_EQ(preadv(fd, v, 4, 777), 111);
    CHECK(std::string(x, 10) + std::string(y, 100) + std::string(z, 1) == bytes_of(777, 111));
  }
}

TEST(reads, see_what_was_written) {
  fill("f", 40000);
  int fd = open_warm("f");
  int out = OK(open("f", O_WRONLY));
  for (int i = 0; i < 20; ++i) {
    std::string mark = "mark " + std::to_string(i);
    CHECK_EQ(pwrite(out, mark.data(), mark.size(), 5000 + i * 50), (ssize_t)mark.size());
    CHECK(read_at(fd, 5000 + (uint64_t)i * 50, mark.size()) == mark);
  }
  // Grown, beyond what a mapping of it once had, and cut again.
  CHECK_EQ(pwrite(out, "end", 3, 200000), 3);
  CHECK(read_at(fd, 200000, 10) == "end");
  CHECK(read_at(fd, 100000, 3) == std::string(3, 0));
  OK(ftruncate(out, 6000));
  CHECK_EQ(read_at(fd, 5990, 100).size(), 10u);
  CHECK_EQ(read_at(fd, 6000, 100).size(), 0u);
  CHECK_EQ(read_at(fd, 200000, 100).size(), 0u);
  OK(ftruncate(out, 8000));
  CHECK(read_at(fd, 6000, 5000) == std::string(2000, 0));
  // Another process writes, and one that was here before reads.
  wait_ok(spawn([&] {
            CHECK(read_at(fd, 0, 100) == bytes_of(0, 100));
            return pwrite(out, "child", 5, 0) == 5 ? 0 : 1;
          }),
          __FILE__, __LINE__);
  CHECK(read_at(fd, 0, 5) == "child");
  // Through a mapping.
  int both = OK(open("f", O_RDWR));
  char* map = (char*)mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, both, 0);
  CHECK(map != MAP_FAILED);
  memcpy(map + 100, "mapped", 6);
  CHECK(read_at(fd, 100, 6) == "mapped");
  CHECK(read_at(both, 100, 6) == "mapped");
}

TEST(reads, the_file_that_is_open) {
  fill("a", 30000, 1);
  fill("b", 30000, 2);
  int a = open_warm("a"), b = open_warm("b");
  OK(rename("b", "a"));
  CHECK(read_at(a, 0, 100) == bytes_of(0, 100, 1));
  CHECK(read_at(b, 0, 100) == bytes_of(0, 100, 2));
  OK(unlink("a"));
  CHECK(read_at(b, 8192, 100) == bytes_of(8192, 100, 2));
  // The number is another file's.
  close(a);
  fill("c", 30000, 3);
  CHECK_EQ(OK(open("c", O_RDONLY)), a);
  warm(a);
  CHECK(read_at(a, 0, 100) == bytes_of(0, 100, 3));
  OK(dup2(b, a));
  CHECK(read_at(a, 0, 100) == bytes_of(0, 100, 2));
  close(a);
  close(b);
  // Closed and opened again, replaced in between.
  for (int i = 0; i < 10; ++i) {
    fill("d", 30000, i);
    int fd = open_warm("d");
    CHECK(read_at(fd, 20000, 100) == bytes_of(20000, 100, i));
    close(fd);
    if (i % 2 == 0) OK(unlink("d"));
  }
}

TEST(reads, bad_buffers) {
  fill("f", 5 * kPage);
  int fd = open_warm("f");
  char* map = (char*)mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  OK(munmap(map + 2 * kPage, kPage));
  for (int i = 0; i < 3; ++i) {
    OK(lseek(fd, 100, SEEK_SET));
    FAILS(read(fd, map + 2 * kPage, 10), EFAULT);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 100);
    FAILS(pread(fd, (void*)8, 10, 0), EFAULT);
    // Half of it can be stored.
    ssize_t got = OK(read(fd, map + kPage, 2 * kPage));
    CHECK(got > 0 && got <= (ssize_t)kPage);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 100 + got);
    CHECK(std::string(map + kPage, (size_t)got) == bytes_of(100, (size_t)got));
  }
  OK(mprotect(map, kPage, PROT_READ));
  OK(lseek(fd, 0, SEEK_SET));
  FAILS(read(fd, map, 10), EFAULT);
  CHECK_EQ(read(fd, map + kPage, 10), 10);
  CHECK(std::string(map + kPage, 10) == bytes_of(0, 10));
}

TEST(reads, many_files_and_places) {
  // More than any cache of mappings holds, and reads across the borders of such.
  constexpr uint64_t kBlock = 8 << 20;
  int out = OK(open("big", O_RDWR | O_CREAT | O_TRUNC, 0600));
  OK(ftruncate(out, 40 * (off_t)kBlock));
  for (uint64_t i = 0; i < 40; ++i) {
    std::string mark = bytes_of(i * 1000, 300);
    CHECK_EQ(pwrite(out, mark.data(), 300, (off_t)(i * kBlock + kBlock - 150)), i == 39 ? 300 : 300);
  }
  int fd = OK(open("big", O_RDONLY));
  std::vector<int> small;
  for (int i = 0; i < 30; ++i) {
    std::string name = "s" + std::to_string(i);
    fill(name.c_str(), 20000, i);
    small.push_back(OK(open(name.c_str(), O_RDONLY)));
  }
  for (int round = 0; round < 8; ++round) {
    for (uint64_t i = 0; i < 39; ++i) {
      CHECK(read_at(fd, i * kBlock + kBlock - 150, 300) == bytes_of(i * 1000, 300));
      CHECK(read_at(fd, i * kBlock + 1000, 50) == std::string(50, 0));
    }
    for (int i = 0; i < 30; ++i) CHECK(read_at(small[(size_t)i], 10000, 50) == bytes_of(10000, 50, i));
  }
  // One read larger than a block.
  std::string large = read_at(fd, 0, 2 * kBlock + 10);
  CHECK_EQ(large.size(), 2 * kBlock + 10);
  CHECK(large.substr(kBlock - 150, 300) == bytes_of(0, 300));
}

TEST(reads, threads_and_children) {
  fill("f", 1 << 20);
  fill("g", 1 << 20, 5);
  int f = open_warm("f"), g = open_warm("g");
  auto work = [&](int salt, int fd, unsigned seed) {
    for (int i = 0; i < 400; ++i) {
      seed = seed * 1103515245 + 12345;
      uint64_t offset = seed % ((1 << 20) - 9000);
      size_t n = seed / 7 % 9000 + 1;
      if (read_at(fd, offset, n) != bytes_of(offset, n, salt)) return 1;
    }
    return 0;
  };
  std::vector<std::thread> threads;
  int bad[4] = {};
  for (unsigned i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { bad[i] = i % 2 != 0 ? work(5, g, i) : work(0, f, i); });
  }
  std::vector<pid_t> children;
  for (unsigned i = 0; i < 4; ++i) {
    children.push_back(spawn([&, i] { return i % 2 != 0 ? work(5, g, i) : work(0, f, i); }));
  }
  for (std::thread& t : threads) t.join();
  for (int b : bad) CHECK_EQ(b, 0);
  for (pid_t child : children) wait_ok(child, __FILE__, __LINE__);
  // One position for two: each byte once.
  OK(lseek(f, 0, SEEK_SET));
  size_t total[2] = {};
  auto drain = [&](int who) {
    char b[3000];
    for (ssize_t n; (n = read(f, b, sizeof(b))) > 0;) total[who] += (size_t)n;
  };
  std::thread one(drain, 0), two(drain, 1);
  one.join();
  two.join();
  CHECK_EQ(total[0] + total[1], (size_t)1 << 20);
}

TEST(reads, while_it_is_cut_and_grown) {
  fill("f", 64 * kPage);
  int fd = open_warm("f");
  pid_t child = spawn([] {
    int out = open("f", O_WRONLY);
    std::string text = bytes_of(0, 64 * kPage);
    for (int i = 0; i < 300; ++i) {
      if (ftruncate(out, (i % 60 + 1) * 1000) != 0) return 1;
      if (pwrite(out, text.data(), text.size(), 0) != (ssize_t)text.size()) return 1;
    }
    return 0;
  });
  // Whatever is read is some prefix of it, or zeros where it was just grown.
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    std::string text = read_at(fd, 0, 64 * kPage);
    for (size_t i = 0; i < text.size(); ++i) CHECK(text[i] == byte_at(i) || text[i] == 0);
  }
  CHECK_EQ(status, 0);
  CHECK(read_at(fd, 0, 100 * kPage) == bytes_of(0, 64 * kPage));
}
