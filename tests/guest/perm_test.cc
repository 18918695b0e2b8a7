// Permissions, ownership, credentials, capabilities.
#include <grp.h>
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "guest.h"
using namespace guest;

static mode_t mode_of(const char* path) {
  struct stat st;
  OK(lstat(path, &st));
  return st.st_mode & 07777;
}

// Runs the body as an unprivileged user in a child; it must return 0.
static void as_user(uid_t uid, gid_t gid, const std::function<int()>& body, const char* file, int line) {
  wait_ok(spawn([&] {
            OK(setgroups(0, nullptr));
            OK(setresgid(gid, gid, gid));
            OK(setresuid(uid, uid, uid));
            return body();
          }),
          file, line);
}
#define AS_USER(uid, gid, body) as_user(uid, gid, body, __FILE__, __LINE__)

TEST(perm, umask_and_chmod) {
  CHECK_EQ(umask(027), 022);
  close(OK(open("f", O_CREAT | O_WRONLY, 0666)));
  CHECK_EQ(mode_of("f"), 0640);
  OK(mkdir("d", 0777));
  CHECK_EQ(mode_of("d"), 0750);
  OK(mkfifo("p", 0666));
  CHECK_EQ(mode_of("p"), 0640);
  OK(chmod("f", 06755));
  CHECK_EQ(mode_of("f"), 06755);
  int fd = OK(open("f", O_RDONLY));
  OK(fchmod(fd, 0600));
  CHECK_EQ(mode_of("f"), 0600);
  OK(chmod("d", 01777));
  CHECK_EQ(mode_of("d"), 01777);
  FAILS(chmod("absent", 0600), ENOENT);
  CHECK_EQ(umask(0), 027);
}

TEST(perm, chown) {
  spew("f", "");
  OK(chown("f", 1000, 1001));
  struct stat st;
  OK(stat("f", &st));
  CHECK_EQ(st.st_uid, 1000);
  CHECK_EQ(st.st_gid, 1001);
  OK(chown("f", -1, 5));
  OK(stat("f", &st));
  CHECK_EQ(st.st_uid, 1000);
  CHECK_EQ(st.st_gid, 5);
  OK(symlink("f", "s"));
  OK(lchown("s", 7, 7));
  OK(lstat("s", &st));
  CHECK_EQ(st.st_uid, 7);
  OK(stat("s", &st));
  CHECK_EQ(st.st_uid, 1000);
  OK(chmod("f", 06755));
  AS_USER(1000, 5, [] {
    OK(chown("f", -1, 5));
    FAILS(chown("f", 0, -1), EPERM);
    FAILS(chown("f", -1, 9), EPERM);
    return 0;
  });
  CHECK_EQ(mode_of("f"), 0755);  // an unprivileged chown drops the set-id bits
}

TEST(perm, write_drops_setuid) {
  spew("f", "x");
  OK(chown("f", 1000, 1000));
  OK(chmod("f", 06777));
  AS_USER(1000, 1000, [] {
    int fd = OK(open("f", O_WRONLY));
    return write(fd, "y", 1) != 1;
  });
  CHECK_EQ(mode_of("f"), 0777);
}

TEST(perm, access_classes) {
  OK(chmod(".", 0755));
  spew("f", "x");
  OK(chown("f", 1000, 2000));
  OK(chmod("f", 0640));
  AS_USER(1000, 1, [] { return open("f", O_RDWR) < 0; });
  AS_USER(1001, 2000, [] {
    OK(open("f", O_RDONLY));
    FAILS(open("f", O_WRONLY), EACCES);
    OK(access("f", R_OK));
    FAILS(access("f", W_OK), EACCES);
    FAILS(access("f", X_OK), EACCES);
    return 0;
  });
  AS_USER(1001, 1001, [] {
    FAILS(open("f", O_RDONLY), EACCES);
    OK(access("f", F_OK));
    FAILS(chmod("f", 0777), EPERM);
    FAILS(unlink("f"), EACCES);
    FAILS(open("new", O_CREAT | O_WRONLY, 0600), EACCES);
    return 0;
  });
  // The owner's class decides alone, even when the group's would allow more.
  OK(chmod("f", 0060));
  AS_USER(1000, 2000, [] {
    FAILS(open("f", O_RDONLY), EACCES);
    return 0;
  });
  FAILS(access("f", X_OK), EACCES);  // root needs one x bit
  OK(access("f", R_OK | W_OK));
}

TEST(perm, supplementary_groups) {
  OK(chmod(".", 0755));
  spew("f", "x");
  OK(chown("f", 0, 3000));
  OK(chmod("f", 0040));
  WAIT_OK(spawn([] {
    gid_t groups[3] = {10, 3000, 20};
    OK(setgroups(3, groups));
    gid_t got[8];
    CHECK_EQ(getgroups(8, got), 3);
    CHECK_EQ(getgroups(0, nullptr), 3);
    FAILS(getgroups(1, got), EINVAL);
    OK(setresgid(5, 5, 5));
    OK(setresuid(5, 5, 5));
    OK(open("f", O_RDONLY));
    FAILS(setgroups(0, nullptr), EPERM);
    return 0;
  }));
}

TEST(perm, search_and_sticky) {
  OK(chmod(".", 0755));
  OK(mkdir("d", 0755));
  spew("d/f", "");
  OK(chmod("d", 0644));
  AS_USER(9, 9, [] {
    FAILS(open("d/f", O_RDONLY), EACCES);
    OK(open("d", O_RDONLY));
    FAILS(chdir("d"), EACCES);
    return 0;
  });
  OK(chmod("d", 0711));
  AS_USER(9, 9, [] {
    FAILS(open("d", O_RDONLY), EACCES);
    OK(access("d/f", F_OK));
    return 0;
  });
  OK(chmod("d", 01777));
  OK(chown("d/f", 8, 8));
  AS_USER(9, 9, [] {
    FAILS(unlink("d/f"), EPERM);
    FAILS(rename("d/f", "d/g"), EPERM);
    spew("d/mine", "");
    OK(unlink("d/mine"));
    return 0;
  });
  AS_USER(8, 8, [] { return unlink("d/f"); });
}

TEST(perm, setgid_directory) {
  OK(mkdir("d", 0755));
  OK(chown("d", 0, 4000));
  OK(chmod("d", 02775));
  spew("d/f", "");
  OK(mkdir("d/e", 0755));
  struct stat st;
  OK(stat("d/f", &st));
  CHECK_EQ(st.st_gid, 4000);
  OK(stat("d/e", &st));
  CHECK_EQ(st.st_gid, 4000);
  CHECK_EQ(st.st_mode & 07000, 02000);
}

TEST(cred, set_ids) {
  WAIT_OK(spawn([] {
    uid_t r, e, s;
    OK(setresuid(1, 2, 3));
    OK(getresuid(&r, &e, &s));
    CHECK(r == 1 && e == 2 && s == 3);
    CHECK_EQ(getuid(), 1);
    CHECK_EQ(geteuid(), 2);
    FAILS(setuid(0), EPERM);
    FAILS(setresuid(9, -1, -1), EPERM);
    OK(setuid(3));
    CHECK_EQ(geteuid(), 3);
    CHECK_EQ(getuid(), 1);
    OK(setreuid(-1, 1));
    CHECK_EQ(geteuid(), 1);
    return 0;
  }));
  WAIT_OK(spawn([] {
    OK(setgid(77));
    CHECK_EQ(getegid(), 77);
    OK(setuid(1000));
    FAILS(setgid(0), EPERM);
    FAILS(setuid(0), EPERM);
    OK(setgid(77));
    return 0;
  }));
  WAIT_OK(spawn([] {
    CHECK_EQ(setfsuid(1000), 0);
    CHECK_EQ(setfsuid(-1), 1000);
    return 0;
  }));
}

TEST(cred, capabilities_follow_the_uid) {
  WAIT_OK(spawn([] {
    long long before = field("/proc/self/status", "CapEff:", 16);
    CHECK(before > 0);
    OK(setresuid(-1, 1000, -1));
    CHECK_EQ(field("/proc/self/status", "CapEff:", 16), 0);
    CHECK_EQ(field("/proc/self/status", "CapPrm:", 16), before);
    OK(setresuid(-1, 0, -1));
    CHECK_EQ(field("/proc/self/status", "CapEff:", 16), before);
    OK(prctl(PR_SET_KEEPCAPS, 1));
    OK(setresuid(1000, 1000, 1000));
    CHECK_EQ(field("/proc/self/status", "CapPrm:", 16), before);
    CHECK_EQ(field("/proc/self/status", "CapEff:", 16), 0);
    return 0;
  }));
}

TEST(cred, capset) {
  WAIT_OK(spawn([] {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    OK(syscall(SYS_capget, &header, data));
    CHECK(data[0].effective & (1 << CAP_CHOWN));
    data[0].effective &= ~(1u << CAP_CHOWN);
    data[0].permitted &= ~(1u << CAP_CHOWN);
    OK(syscall(SYS_capset, &header, data));
    spew("f", "");
    FAILS(chown("f", 5, 5), EPERM);
    data[0].permitted |= 1u << CAP_CHOWN;
    FAILS(syscall(SYS_capset, &header, data), EPERM);
    header.version = 1;
    FAILS(syscall(SYS_capget, &header, data), EINVAL);
    CHECK_EQ(header.version, _LINUX_CAPABILITY_VERSION_3);
    CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
    OK(prctl(PR_CAPBSET_DROP, CAP_CHOWN));
    CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 0);
    return 0;
  }));
}

TEST(cred, setuid_program) {
  OK(chmod(".", 0755));
  std::string copy = "cp " + std::string(self()) + " prog 2>/dev/null";
  std::string image = slurp(self());
  spew("prog", image);
  OK(chown("prog", 1234, 1234));
  OK(chmod("prog", 04755));
  OK(mkdir("out", 0777));
  OK(chmod("out", 0777));
  pid_t pid = spawn([] {
    OK(setgroups(0, nullptr));
    OK(setresgid(1000, 1000, 1000));
    OK(setresuid(1000, 1000, 1000));
    CHECK_EQ(open("out/x", O_CREAT | O_WRONLY, 0600) >= 0, 1);
    execl("./prog", "prog", "--helper", "exit", "7", nullptr);
    return 1;
  });
  CHECK_EQ(WEXITSTATUS(wait_status(pid)), 7);
}

TEST(cred, no_new_privs) {
  WAIT_OK(spawn([] {
    CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
    OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    FAILS(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    return 0;
  }));
}

TEST(cred, kill_permission) {
  pid_t target = spawn([] {
    pause();
    return 0;
  });
  AS_USER(1000, 1000, [&] {
    FAILS(kill(target, SIGTERM), EPERM);
    FAILS(kill(target, 0), EPERM);
    return 0;
  });
  OK(kill(target, SIGKILL));
  CHECK_EQ(WTERMSIG(wait_status(target)), SIGKILL);
}
