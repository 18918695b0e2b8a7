#include "runtime/host/cgroup.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "runtime/host/files.h"

namespace sbx::host {
namespace {

TEST(CgroupPath, Cgroupfs) {
  EXPECT_EQ(cgroup_path("/docker/abc", "abc"), "/docker/abc");
  EXPECT_EQ(cgroup_path("", "abc"), "/abc");
  EXPECT_EQ(cgroup_path("rel/x", "abc"), "/rel/x");
  EXPECT_EQ(cgroup_path("/../../etc", "abc"), "/etc");
}

std::vector<Hierarchy> from(const std::string& text) {
  char name[] = "/tmp/mountinfo.XXXXXX";
  UniqueFd fd(::mkstemp(name));
  write_all(fd.get(), text);
  auto found = find_hierarchies(name);
  ::unlink(name);
  return found;
}

TEST(Hierarchies, HybridV1AndNone) {
  auto found = from(
      "20 1 0:1 / / rw - ext4 /dev/vda rw\n"
      "31 20 0:2 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
      "32 20 0:3 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
      "33 20 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n"
      "34 20 0:3 / /mnt/again rw - cgroup cgroup rw,memory\n"
      "35 20 0:5 / /nonexistent/unified rw - cgroup2 cgroup2 rw\n");
  ASSERT_EQ(found.size(), 4u);
  EXPECT_TRUE(found[0].has("cpu") && found[0].has("cpuacct"));
  EXPECT_TRUE(found[1].has("memory"));
  EXPECT_EQ(found[2].controllers, std::vector<std::string>{"name=systemd"});
  EXPECT_TRUE(found[3].v2);
  EXPECT_TRUE(from("").empty());
}

TEST(Files, CleanPath) {
  EXPECT_EQ(clean_path("/a//b/../c/."), "/a/c");
  EXPECT_EQ(clean_path("../.."), "/");
  EXPECT_EQ(clean_path("x"), "/x");
}

// With a real cgroup; skipped where we may not make one.
TEST(Cgroup, LifeOfOne) {
  oci::Resources r;
  r.memory.limit = 64 << 20;
  r.pids_limit = 10;
  std::string path = "/sbx-unit-" + std::to_string(::getpid());
  if (::geteuid() != 0 || find_hierarchies().empty()) GTEST_SKIP() << "needs root and cgroups";
  auto made = Cgroup::create(path, r, true);
  ASSERT_TRUE(made) << made.error().message;
  if (!made->exists()) GTEST_SKIP() << "no writable hierarchy";
  auto applied = made->apply(r, "linux.resources");
  EXPECT_TRUE(applied) << (applied ? "" : applied.error().message);
  pid_t child = ::fork();
  if (child == 0) {
    for (;;) ::pause();
  }
  ASSERT_TRUE(made->attach(child));
  EXPECT_EQ(made->pids(), std::vector<i32>{child});
  Cgroup again(path, made->dirs());
  EXPECT_EQ(again.dirs(), made->dirs());
  if (again.can_freeze()) {
    EXPECT_TRUE(again.freeze(true));
    EXPECT_TRUE(again.frozen());
  }
  // Killed although frozen, and gone although just killed.
  EXPECT_TRUE(again.kill_all(5000));
  EXPECT_TRUE(again.remove());
  for (const std::string& dir : made->dirs()) EXPECT_FALSE(exists(dir)) << dir;
}

TEST(Cgroup, RootIsNeverKilledOrRemoved) {
  Cgroup root("/", {});
  EXPECT_TRUE(root.kill_all(1));
  EXPECT_TRUE(root.remove());
  EXPECT_TRUE(root.pids().empty());
}

}  // namespace
}  // namespace sbx::host
