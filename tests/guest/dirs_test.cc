// Directories, names, links, rename.
#include <dirent.h>
#include <limits.h>
#include <sys/syscall.h>

#include <set>

#include "guest.h"
using namespace guest;

static std::set<std::string> names(const char* path) {
  std::set<std::string> all;
  DIR* dir = opendir(path);
  CHECK(dir != nullptr);
  while (dirent* e = readdir(dir)) CHECK(all.insert(e->d_name).second);
  closedir(dir);
  return all;
}

static ino_t inode(const char* path) {
  struct stat st;
  OK(lstat(path, &st));
  return st.st_ino;
}

static nlink_t links(const char* path) {
  struct stat st;
  OK(lstat(path, &st));
  return st.st_nlink;
}

TEST(dirs, make_and_remove) {
  OK(mkdir("d", 0750));
  FAILS(mkdir("d", 0750), EEXIST);
  FAILS(mkdir("no/such", 0755), ENOENT);
  spew("f", "");
  FAILS(mkdir("f", 0755), EEXIST);
  FAILS(mkdir("f/x", 0755), ENOTDIR);
  FAILS(rmdir("f"), ENOTDIR);
  FAILS(unlink("d"), EISDIR);
  OK(mkdir("d/e/", 0755));
  FAILS(rmdir("d"), ENOTEMPTY);
  FAILS(rmdir("d/."), EINVAL);
  FAILS(rmdir("d/e/.."), ENOTEMPTY);
  OK(rmdir("d/e"));
  OK(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
  FAILS(rmdir("d"), ENOENT);
  FAILS(rmdir("/"), EBUSY);
  FAILS(mkdir("", 0755), ENOENT);
  FAILS(mkdir("/", 0755), EEXIST);
}

TEST(dirs, listing) {
  OK(mkdir("d", 0755));
  for (int i = 0; i < 2000; i++) spew("d/entry-with-a-longer-name-" + show(i), "");
  auto all = names("d");
  CHECK_EQ(all.size(), 2002);
  CHECK(all.count(".") && all.count("..") && all.count("entry-with-a-longer-name-1999"));
  for (int i = 0; i < 2000; i += 2) OK(unlink(("d/entry-with-a-longer-name-" + show(i)).c_str()));
  CHECK_EQ(names("d").size(), 1002);
}

TEST(dirs, types_and_inodes_in_listing) {
  OK(mkdir("dir", 0755));
  spew("file", "");
  OK(symlink("file", "link"));
  OK(mkfifo("fifo", 0644));
  DIR* dir = opendir(".");
  CHECK(dir != nullptr);
  int seen = 0;
  while (dirent* e = readdir(dir)) {
    std::string n = e->d_name;
    int want = n == "dir" ? DT_DIR : n == "file" ? DT_REG : n == "link" ? DT_LNK : n == "fifo" ? DT_FIFO : -1;
    if (want < 0) continue;
    seen++;
    CHECK_EQ(e->d_type, want);
    CHECK_EQ(e->d_ino, inode(e->d_name));
  }
  CHECK_EQ(seen, 4);
}

TEST(dirs, removing_while_listing) {
  OK(mkdir("d", 0755));
  for (int i = 0; i < 500; i++) spew("d/" + show(i), "");
  DIR* dir = opendir("d");
  CHECK(dir != nullptr);
  while (dirent* e = readdir(dir))
    if (e->d_name[0] != '.') OK(unlinkat(dirfd(dir), e->d_name, 0));
  closedir(dir);
  OK(rmdir("d"));
}

TEST(dirs, seek_and_rewind) {
  OK(mkdir("d", 0755));
  for (int i = 0; i < 100; i++) spew("d/" + show(i), "");
  DIR* dir = opendir("d");
  CHECK(dir != nullptr);
  for (int i = 0; i < 10; i++) CHECK(readdir(dir) != nullptr);
  long at = telldir(dir);
  std::string next = readdir(dir)->d_name;
  for (int i = 0; i < 20; i++) CHECK(readdir(dir) != nullptr);
  seekdir(dir, at);
  CHECK_STR(readdir(dir)->d_name, next);
  rewinddir(dir);
  int count = 0;
  while (readdir(dir)) count++;
  CHECK_EQ(count, 102);
  char small[10];
  int fd = OK(open("d", O_RDONLY));
  FAILS(syscall(SYS_getdents64, fd, small, sizeof small), EINVAL);
  spew("f", "");
  char big[1000];
  FAILS(syscall(SYS_getdents64, OK(open("f", O_RDONLY)), big, sizeof big), ENOTDIR);
}

TEST(dirs, link_counts) {
  OK(mkdir("d", 0755));
  CHECK_EQ(links("d"), 2);
  OK(mkdir("d/a", 0755));
  OK(mkdir("d/b", 0755));
  spew("d/f", "");
  CHECK_EQ(links("d"), 4);
  OK(rmdir("d/a"));
  CHECK_EQ(links("d"), 3);
}

TEST(dirs, working_directory) {
  char base[PATH_MAX], now[PATH_MAX];
  CHECK(getcwd(base, sizeof base) != nullptr);
  OK(mkdir("a", 0755));
  OK(mkdir("a/b", 0755));
  OK(chdir("a/b"));
  CHECK_STR(getcwd(now, sizeof now), std::string(base) + "/a/b");
  FAILS(syscall(SYS_getcwd, now, 2), ERANGE);
  int fd = OK(open("..", O_RDONLY | O_DIRECTORY));
  OK(rename("../../a", "../../moved"));
  CHECK_STR(getcwd(now, sizeof now), std::string(base) + "/moved/b");
  OK(fchdir(fd));
  CHECK_STR(getcwd(now, sizeof now), std::string(base) + "/moved");
  OK(chdir("b"));
  OK(rmdir("../b"));
  FAILS(syscall(SYS_getcwd, now, sizeof now), ENOENT);
  FAILS(open("x", O_CREAT | O_WRONLY, 0644), ENOENT);
  OK(chdir(base));
  FAILS(chdir("absent"), ENOENT);
  spew("f", "");
  FAILS(chdir("f"), ENOTDIR);
  FAILS(fchdir(OK(open("f", O_RDONLY))), ENOTDIR);
}

TEST(dirs, relative_to_descriptor) {
  OK(mkdir("d", 0755));
  int d = OK(open("d", O_RDONLY | O_DIRECTORY));
  int fd = OK(openat(d, "f", O_CREAT | O_WRONLY, 0644));
  close(fd);
  OK(access("d/f", F_OK));
  OK(mkdirat(d, "e", 0755));
  OK(symlinkat("f", d, "s"));
  OK(renameat(d, "f", AT_FDCWD, "g"));
  OK(access("g", F_OK));
  FAILS(openat(d, "s", O_RDONLY), ENOENT);
  FAILS(openat(12345, "f", O_RDONLY), EBADF);
  OK(openat(12345, "/tmp", O_RDONLY));
  int f = OK(open("g", O_RDONLY));
  FAILS(openat(f, "x", O_RDONLY), ENOTDIR);
}

TEST(dirs, path_limits) {
  std::string name(256, 'n');
  FAILS(mkdir(name.c_str(), 0755), ENAMETOOLONG);
  name.resize(255);
  OK(mkdir(name.c_str(), 0755));
  FAILS(open(std::string(5000, '/').c_str(), O_RDONLY), ENAMETOOLONG);
  std::string dots;
  for (int i = 0; i < 1000; i++) dots += "./";
  OK(access(dots.c_str(), F_OK));
  std::string deep = "d";
  for (int i = 0; i < 60; i++) {
    OK(mkdir(deep.c_str(), 0755));
    deep += "/d";
  }
  spew("d/up", "x");
  CHECK_STR(slurp("d/d/d/../../up"), "x");
}

TEST(dirs, symlink_loops_and_depth) {
  OK(symlink("b", "a"));
  OK(symlink("a", "b"));
  FAILS(open("a", O_RDONLY), ELOOP);
  spew("l0", "end");
  for (int i = 1; i <= 40; i++) OK(symlink(("l" + show(i - 1)).c_str(), ("l" + show(i)).c_str()));
  CHECK_STR(slurp("l40"), "end");
  OK(symlink("l40", "l41"));
  FAILS(open("l41", O_RDONLY), ELOOP);
}

TEST(dirs, chroot) {
  OK(mkdir("r", 0755));
  OK(mkdir("r/in", 0755));
  spew("r/in/f", "inside");
  OK(symlink("/in/f", "r/abs"));
  WAIT_OK(spawn([] {
    OK(chroot("r"));
    OK(chdir("/"));
    CHECK_STR(slurp("/abs"), "inside");
    CHECK_STR(slurp("/../../in/f"), "inside");
    FAILS(open("/etc", O_RDONLY), ENOENT);
    char now[100];
    CHECK_STR(getcwd(now, sizeof now), "/");
    return 0;
  }));
}

TEST(links, hard) {
  spew("a", "text");
  OK(link("a", "b"));
  CHECK_EQ(inode("a"), inode("b"));
  CHECK_EQ(links("a"), 2);
  spew("b", "changed");
  CHECK_STR(slurp("a"), "changed");
  FAILS(link("a", "b"), EEXIST);
  FAILS(link("absent", "c"), ENOENT);
  OK(mkdir("d", 0755));
  FAILS(link("d", "e"), EPERM);
  FAILS(link("a", "/dev/shm/x"), EXDEV);
  OK(unlink("a"));
  CHECK_EQ(links("b"), 1);
  CHECK_STR(slurp("b"), "changed");
  OK(symlink("b", "s"));
  OK(link("s", "s2"));
  CHECK_EQ(inode("s"), inode("s2"));
  OK(linkat(AT_FDCWD, "s", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
  CHECK_EQ(inode("followed"), inode("b"));
}

TEST(links, symbolic) {
  OK(symlink("some/target/that/is/absent", "s"));
  char b[100] = {};
  CHECK_EQ(readlink("s", b, sizeof b), 26);
  CHECK_EQ(readlink("s", b, 4), 4);
  struct stat st;
  OK(lstat("s", &st));
  CHECK(S_ISLNK(st.st_mode));
  CHECK_EQ(st.st_size, 26);
  CHECK_EQ(st.st_mode & 0777, 0777);
  FAILS(stat("s", &st), ENOENT);
  FAILS(readlink("s", b, 0), EINVAL);
  FAILS(symlink("x", "s"), EEXIST);
  FAILS(symlink("", "t"), ENOENT);
  spew("f", "");
  FAILS(readlink("f", b, 10), EINVAL);
  OK(mkdir("d", 0755));
  spew("d/f", "via");
  OK(symlink("d", "sd"));
  CHECK_STR(slurp("sd/f"), "via");
  OK(lstat("sd/", &st));
  CHECK(S_ISDIR(st.st_mode));
  FAILS(rmdir("sd"), ENOTDIR);
  FAILS(unlink("sd/"), ENOTDIR);
  OK(unlink("sd"));
  OK(access("d/f", F_OK));
}

// One row of the rename table: what `from` and `to` are before, and what rename says.
TEST(rename, table) {
  enum Kind { kNone, kFile, kEmptyDir, kFullDir, kLink };
  struct Row {
    Kind from, to;
    int error;
  };
  const Row rows[] = {
      {kFile, kNone, 0},
      {kFile, kFile, 0},
      {kFile, kEmptyDir, EISDIR},
      {kFile, kLink, 0},
      {kEmptyDir, kNone, 0},
      {kEmptyDir, kFile, ENOTDIR},
      {kEmptyDir, kEmptyDir, 0},
      {kEmptyDir, kFullDir, ENOTEMPTY},
      {kFullDir, kNone, 0},
      {kFullDir, kEmptyDir, 0},
      {kFullDir, kFullDir, ENOTEMPTY},
      {kFullDir, kLink, ENOTDIR},
      {kLink, kNone, 0},
      {kLink, kFile, 0},
      {kLink, kEmptyDir, EISDIR},
      {kNone, kNone, ENOENT},
      {kNone, kFile, ENOENT},
  };
  auto make = [](const std::string& path, Kind kind) {
    if (kind == kFile) spew(path, path);
    if (kind == kEmptyDir || kind == kFullDir) OK(mkdir(path.c_str(), 0755));
    if (kind == kFullDir) spew(path + "/in", "");
    if (kind == kLink) OK(symlink("nowhere", path.c_str()));
  };
  int n = 0;
  for (const Row& row : rows) {
    std::string dir = "row" + show(n++), from = dir + "/from", to = dir + "/to";
    OK(mkdir(dir.c_str(), 0755));
    make(from, row.from);
    make(to, row.to);
    ino_t id = row.from == kNone ? 0 : inode(from.c_str());
    if (row.error) {
      int result = rename(from.c_str(), to.c_str());
      if (result != -1 || errno != row.error) FAIL("row " + show(n - 1) + ": " + show_errno(result ? errno : 0));
      if (row.from != kNone) CHECK_EQ(inode(from.c_str()), id);
    } else {
      if (rename(from.c_str(), to.c_str()) != 0) FAIL("row " + show(n - 1) + ": " + show_errno(errno));
      CHECK_EQ(inode(to.c_str()), id);
      FAILS(access(from.c_str(), F_OK), ENOENT);
    }
  }
}

TEST(rename, special_cases) {
  OK(mkdir("d", 0755));
  OK(mkdir("d/e", 0755));
  FAILS(rename("d", "d/e/f"), EINVAL);
  FAILS(rename("d/.", "x"), EBUSY);
  FAILS(rename("d", "."), EBUSY);
  spew("a", "A");
  OK(link("a", "b"));
  OK(rename("a", "b"));  // two names of one file: nothing happens
  OK(access("a", F_OK));
  OK(rename("a", "a"));
  FAILS(rename("a", "d/"), ENOTDIR);
  OK(rename("d/e", "e/"));
  CHECK_EQ(links("d"), 2);
  FAILS(rename("a", "/proc/a"), EXDEV);
  int fd = OK(open("a", O_RDWR));
  OK(rename("a", "renamed"));
  CHECK_EQ(write(fd, "B", 1), 1);
  CHECK_STR(slurp("renamed"), "B");
}

TEST(rename, flags) {
  spew("a", "A");
  spew("b", "B");
  FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
  OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
  OK(renameat2(AT_FDCWD, "c", AT_FDCWD, "b", RENAME_EXCHANGE));
  CHECK_STR(slurp("b"), "A");
  CHECK_STR(slurp("c"), "B");
  FAILS(renameat2(AT_FDCWD, "b", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
  FAILS(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
}

TEST(rename, directory_moves_its_tree) {
  OK(mkdir("a", 0755));
  OK(mkdir("a/b", 0755));
  spew("a/b/f", "text");
  OK(mkdir("z", 0755));
  OK(access("a/b/f", F_OK));
  OK(rename("a", "z/a"));
  FAILS(access("a/b/f", F_OK), ENOENT);
  CHECK_STR(slurp("z/a/b/f"), "text");
  OK(mkdir("a", 0755));
  FAILS(access("a/b", F_OK), ENOENT);
  OK(chdir("z/a/b"));
  CHECK_STR(slurp("../../a/b/f"), "text");
}
