// Paths that are asked for again and again: what was not there is found as soon as it is, by whoever makes it.
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <atomic>
#include <thread>

#include "guest.h"
using namespace guest;

namespace {

// Where the test is, as an absolute path.
std::string here() {
  char text[4096];
  CHECK(getcwd(text, sizeof(text)) != nullptr);
  return text;
}

// Nothing is there, in all the ways that are asked; often, so that short ways are in use.
void missing(const std::string& path) {
  struct stat st;
  char text[100];
  for (int i = 0; i < 3; ++i) {
    FAILS(stat(path.c_str(), &st), ENOENT);
    FAILS(lstat(path.c_str(), &st), ENOENT);
    FAILS(access(path.c_str(), F_OK), ENOENT);
    FAILS(open(path.c_str(), O_RDONLY), ENOENT);
    FAILS(readlink(path.c_str(), text, sizeof(text)), ENOENT);
    FAILS(fstatat(AT_FDCWD, path.c_str(), &st, 0), ENOENT);
    FAILS(faccessat(AT_FDCWD, path.c_str(), R_OK, 0), ENOENT);
  }
}

void present(const std::string& path) {
  struct stat st;
  OK(stat(path.c_str(), &st));
  OK(lstat(path.c_str(), &st));
  OK(access(path.c_str(), F_OK));
  OK(close(OK(open(path.c_str(), O_RDONLY))));
  OK(fstatat(AT_FDCWD, path.c_str(), &st, 0));
}

void no_link(const std::string& path) {
  char text[100];
  for (int i = 0; i < 3; ++i) {
    FAILS(readlink(path.c_str(), text, sizeof(text)), EINVAL);
    FAILS(readlinkat(AT_FDCWD, path.c_str(), text, sizeof(text)), EINVAL);
  }
}

std::string link_of(const std::string& path) {
  char text[100];
  ssize_t n = OK(readlink(path.c_str(), text, sizeof(text)));
  return {text, (size_t)n};
}

}  // namespace

TEST(names, made_and_removed) {
  const std::string name = here() + "/x";
  for (int round = 0; round < 3; ++round) {
    missing(name);
    OK(close(OK(open("x", O_CREAT | O_WRONLY, 0644))));
    present(name);
    OK(unlink("x"));
    missing(name);
    OK(mkdir("x", 0755));
    present(name);
    OK(rmdir("x"));
    missing(name);
    OK(symlink("nowhere", "x"));
    CHECK_STR(link_of(name), "nowhere");
    OK(unlink("x"));
    missing(name);
    OK(mknod("x", S_IFIFO | 0644, 0));
    struct stat st;
    OK(stat(name.c_str(), &st));
    OK(unlink("x"));
    missing(name);
    spew("y", "text");
    OK(link("y", "x"));
    present(name);
    OK(unlink("x"));
    missing(name);
    OK(rename("y", "x"));
    present(name);
    missing(here() + "/y");
    OK(rename("x", "y"));
    missing(name);
    present(here() + "/y");
    int s = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{AF_UNIX, "x"};
    OK(bind(s, (sockaddr*)&address, sizeof(address)));
    OK(stat(name.c_str(), &st));
    OK(close(s));
    OK(unlink("x"));
  }
}

TEST(names, by_others) {
  const std::string name = here() + "/x";
  for (int round = 0; round < 10; ++round) {
    missing(name);
    WAIT_OK(spawn([&] { return open(name.c_str(), O_CREAT | O_WRONLY, 0644) >= 0 ? 0 : 1; }));
    present(name);
    WAIT_OK(spawn([&] { return unlink("x"); }));
    missing(name);
    std::thread([&] { OK(mkdir("x", 0755)); }).join();
    present(name);
    std::thread([&] { OK(rmdir("x")); }).join();
  }
}

TEST(names, directories_on_the_way) {
  OK(mkdir("d", 0755));
  const std::string name = here() + "/d/e/f";
  missing(name);
  OK(mkdir("d/e", 0755));
  missing(name);
  OK(mkdir("other", 0755));
  spew("other/f", "text");
  OK(rmdir("d/e"));
  OK(symlink("../other", "d/e"));
  present(name);
  no_link(name);
  OK(unlink("d/e"));
  missing(name);
  OK(rename("other", "d/e"));
  present(name);
  // A file in the place of a directory.
  OK(rename("d/e/f", "d/f"));
  OK(rmdir("d/e"));
  spew("d/e", "text");
  struct stat st;
  for (int i = 0; i < 3; ++i) FAILS(stat(name.c_str(), &st), ENOTDIR);
  OK(unlink("d/e"));
  missing(name);
}

TEST(names, links) {
  spew("f", "text");
  const std::string name = here() + "/f";
  for (int round = 0; round < 3; ++round) {
    no_link(name);
    OK(rename("f", "g"));
    OK(symlink("g", "f"));
    CHECK_STR(link_of(name), "g");
    OK(unlink("f"));
    OK(rename("g", "f"));
  }
  // Followed or not.
  const std::string dangling = here() + "/l";
  OK(symlink("target", "l"));
  struct stat st;
  for (int i = 0; i < 3; ++i) {
    FAILS(stat(dangling.c_str(), &st), ENOENT);
    OK(lstat(dangling.c_str(), &st));
    FAILS(fstatat(AT_FDCWD, dangling.c_str(), &st, 0), ENOENT);
    OK(fstatat(AT_FDCWD, dangling.c_str(), &st, AT_SYMLINK_NOFOLLOW));
    FAILS(open(dangling.c_str(), O_RDONLY), ENOENT);
    FAILS(open(dangling.c_str(), O_RDONLY | O_NOFOLLOW), ELOOP);
  }
  spew("target", "text");
  OK(stat(dangling.c_str(), &st));
}

// What leads nowhere by way of a link is there when what the link names is, whatever the path looks like.
TEST(names, links_of_others) {
  const std::string dangling = here() + "/l", through = here() + "/m/x";
  OK(symlink("target", "l"));
  OK(symlink("elsewhere/deep", "m"));
  OK(mkdir("elsewhere", 0755));
  struct stat st;
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 3; ++i) {
      FAILS(stat(dangling.c_str(), &st), ENOENT);
      FAILS(stat(through.c_str(), &st), ENOENT);
    }
    WAIT_OK(spawn([] { return mkdir("target", 0755); }));
    OK(stat(dangling.c_str(), &st));
    WAIT_OK(spawn([] { return mkdir("elsewhere/deep", 0755); }));
    FAILS(stat(through.c_str(), &st), ENOENT);
    WAIT_OK(spawn([&] { return mkfifo(through.c_str(), 0644); }));
    OK(stat(through.c_str(), &st));
    WAIT_OK(spawn([&] { return unlink(through.c_str()); }));
    WAIT_OK(spawn([] { return rmdir("elsewhere/deep"); }));
    OK(rmdir("target"));
  }
}

// Names of all kinds, made by one process while others look for them.
TEST(names, made_by_others) {
  const std::string name = here() + "/x";
  spew("f", "text");
  const std::function<int()> makers[] = {
      [] { return close(open("x", O_CREAT | O_EXCL | O_WRONLY, 0644)); },
      [] { return close(creat("x", 0644)); },
      [] { return mkdir("x", 0755); },
      [] { return mkfifo("x", 0644); },
      [] { return symlink("f", "x"); },
      [] { return link("f", "x"); },
      [] { return rename("f", "x"); },
      [] {
        sockaddr_un to{AF_UNIX, "x"};
        return bind(socket(AF_UNIX, SOCK_STREAM, 0), (sockaddr*)&to, sizeof(to));
      },
      [] {
        return linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(open(".", O_TMPFILE | O_RDWR, 0644))).c_str(),
                      AT_FDCWD, "x", AT_SYMLINK_FOLLOW);
      },
  };
  struct stat st;
  for (const auto& make : makers) {
    missing(name);
    WAIT_OK(spawn([&] {
      missing(name);
      return 0;
    }));
    WAIT_OK(spawn(make));
    OK(stat(name.c_str(), &st));
    WAIT_OK(spawn([&] { return access(name.c_str(), F_OK); }));
    for (int i = 0; i < 3 && !S_ISDIR(st.st_mode); ++i) FAILS(stat((name + "/y").c_str(), &st), ENOTDIR);
    WAIT_OK(spawn([] { return unlink("x") != 0 ? rmdir("x") : 0; }));
    FAILS(stat((name + "/y").c_str(), &st), ENOENT);
    spew("f", "text");
  }
}

// Calls that change what paths lead to without making a name.
TEST(names, moved_by_others) {
  const std::string name = here() + "/d/e/x";
  struct stat st;
  spew("f", "text");
  OK(mkdir("d", 0755));
  OK(mkdir("other", 0755));
  spew("other/x", "text");
  for (int round = 0; round < 3; ++round) {
    missing(name);
    WAIT_OK(spawn([] { return rename("other", "d/e"); }));
    present(name);
    WAIT_OK(spawn([] { return renameat2(AT_FDCWD, "d/e", AT_FDCWD, "f", RENAME_EXCHANGE); }));
    for (int i = 0; i < 3; ++i) FAILS(stat(name.c_str(), &st), ENOTDIR);
    WAIT_OK(spawn([] { return renameat2(AT_FDCWD, "d/e", AT_FDCWD, "f", RENAME_EXCHANGE); }));
    present(name);
    WAIT_OK(spawn([] { return rename("d/e", "other"); }));
    missing(name);
    WAIT_OK(spawn([] { return rename("f", "d/e"); }));
    for (int i = 0; i < 3; ++i) FAILS(stat(name.c_str(), &st), ENOTDIR);
    WAIT_OK(spawn([] { return rename("d/e", "f"); }));
  }
  missing(name);
  if (geteuid() != 0) return;
  const pid_t looker = spawn([&] {
    OK(setgid(54321));
    OK(setuid(12345));
    while (stat(name.c_str(), &st) != 0 && errno == ENOENT) sched_yield();
    CHECK_EQ(errno, EACCES);
    while (stat(name.c_str(), &st) != 0 && errno == EACCES) sched_yield();
    return errno == ENOENT ? 0 : 1;
  });
  OK(chmod(".", 0755));
  sleep_ms(50);
  WAIT_OK(spawn([] { return chmod("d", 0700); }));
  sleep_ms(50);
  WAIT_OK(spawn([] { return chown("d", 12345, 54321); }));
  WAIT_OK(looker);
}

// The call failed before anybody looked.
TEST(names, no_room_for_the_link) {
  OK(symlink("target", "l"));
  const std::string link = here() + "/l";
  char text[100];
  for (int i = 0; i < 3; ++i) FAILS(syscall(SYS_readlink, link.c_str(), text, 0), EINVAL);
  CHECK_STR(link_of(link), "target");
  struct stat st;
  const std::string missing_name = here() + "/x";
  FAILS(stat(missing_name.c_str(), &st), ENOENT);
  for (int i = 0; i < 3; ++i) FAILS(stat("", &st), ENOENT);
}

// Processes, and descriptors of our own, come and go without anybody making a name.
TEST(names, proc) {
  char text[100];
  for (int round = 0; round < 5; ++round) {
    int fd = OK(dup(1));
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    OK(close(fd));
    FAILS(readlink(link.c_str(), text, sizeof(text)), ENOENT);
    CHECK_EQ(OK(dup(1)), fd);
    OK(readlink(link.c_str(), text, sizeof(text)));
    OK(close(fd));
    FAILS(readlink(link.c_str(), text, sizeof(text)), ENOENT);
    pid_t pid = spawn([] {
      sleep_ms(10000);
      return 0;
    });
    const std::string directory = "/proc/" + std::to_string(pid);
    struct stat st;
    OK(stat(directory.c_str(), &st));
    OK(kill(pid, SIGKILL));
    wait_status(pid);
    FAILS(stat(directory.c_str(), &st), ENOENT);
  }
}

TEST(names, rights_and_roots) {
  if (geteuid() != 0) SKIP("not root");
  OK(mkdir("d", 0700));
  OK(chmod(".", 0755));
  const std::string inside = here() + "/d/x", root_file = "/names-root-file";
  missing(inside);
  missing(root_file);
  WAIT_OK(spawn([&] {
    missing(inside);
    OK(seteuid(12345));
    struct stat st;
    FAILS(stat(inside.c_str(), &st), EACCES);
    return 0;
  }));
  OK(chmod("d", 0));
  missing(inside);
  spew("names-root-file", "text");
  WAIT_OK(spawn([&] {
    missing(root_file);
    OK(chroot("."));
    present(root_file);
    return 0;
  }));
  missing(root_file);
}

// Two roots in one memory.
TEST(names, views_apart) {
  if (geteuid() != 0) SKIP("not root");
  OK(mkdir("jail", 0755));
  spew("jail/only-inside", "text");
  spew("only-outside", "text");
  const std::string inside = "/only-inside", outside = here() + "/only-outside";
  missing(inside);
  present(outside);
  std::atomic<int> turn{0};
  std::atomic<bool> bad{false};
  std::thread other([&] {
    OK(unshare(CLONE_FS));
    OK(chroot("jail"));
    struct stat st;
    for (int i = 0; i < 200; ++i) {
      bad = bad || stat(inside.c_str(), &st) != 0 || stat(outside.c_str(), &st) == 0;
      turn = 2 * i + 1;
      while (turn != 2 * i + 2) sched_yield();
    }
  });
  struct stat st;
  for (int i = 0; i < 200; ++i) {
    while (turn != 2 * i + 1) sched_yield();
    bad = bad || stat(inside.c_str(), &st) == 0 || stat(outside.c_str(), &st) != 0;
    turn = 2 * i + 2;
  }
  other.join();
  CHECK(!bad);
}

// One thread's filter is no other's, and is asked for each call.
TEST(names, filtered_thread) {
  const std::string name = here() + "/x";
  missing(name);
  std::atomic<bool> filtered{false}, done{false}, bad{false};
  std::thread other([&] {
    deny(SYS_access, EXDEV);
    filtered = true;
    for (int i = 0; i < 2000 || !done; ++i) {
      bad = bad || syscall(SYS_access, name.c_str(), F_OK) == 0 || errno != EXDEV;
    }
  });
  CHECK(eventually([&] { return filtered.load(); }));
  for (int64_t end = now_ms() + 200; now_ms() < end;) {
    bad = bad || syscall(SYS_access, name.c_str(), F_OK) == 0 || errno != ENOENT;
  }
  done = true;
  other.join();
  CHECK(!bad);
}

// Each thread that looks after another has made it finds it; what was removed before it looked is gone.
TEST(names, in_turns) {
  const std::string name = here() + "/x";
  std::atomic<int> turn{0};
  std::atomic<bool> bad{false};
  std::thread looker([&] {
    struct stat st;
    for (int i = 0; i < 300; ++i) {
      while (turn != 2 * i + 1) stat(name.c_str(), &st);
      bad = bad || stat(name.c_str(), &st) != 0;
      turn = 2 * i + 2;
    }
  });
  for (int i = 0; i < 300; ++i) {
    OK(close(OK(open("x", O_CREAT | O_WRONLY, 0644))));
    turn = 2 * i + 1;
    while (turn != 2 * i + 2) sched_yield();
    OK(unlink("x"));
    struct stat st;
    FAILS(stat(name.c_str(), &st), ENOENT);
  }
  looker.join();
  CHECK(!bad);
}
