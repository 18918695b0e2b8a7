#include "oci/parse.h"

#include <gtest/gtest.h>

#include "oci/json_write.h"
#include "oci/validate.h"

namespace sbx::oci {
namespace {

TEST(Parse, AnyOneDotVersion) {
  for (const char* v : {"1.0.0", "1.0.2-dev", "1.1.0+dev", "1.2.0", "1.99"}) {
    auto spec = parse_spec(std::string("{\"ociVersion\":\"") + v +
                           "\",\"process\":{\"args\":[\"a\"],\"cwd\":\"/\"},\"root\":{\"path\":\"r\"},\"linux\":{}}");
    ASSERT_TRUE(spec);
    EXPECT_TRUE(validate(*spec)) << v;
  }
}

TEST(Parse, NullAndUnknownFieldsAreAbsent) {
  auto spec = parse_spec(R"({"ociVersion":"1.0.0","mounts":null,"future":{"x":[1]},"linux":{"resources":null}})");
  ASSERT_TRUE(spec);
  EXPECT_TRUE(spec->mounts.empty());
  EXPECT_TRUE(spec->has_linux);
}

TEST(Parse, ProcessDocument) {
  auto p = parse_process(
      R"({"terminal":true,"user":{"uid":7,"gid":8,"additionalGids":[9],"umask":18},"args":["a","b"],"env":["X=1"],
          "cwd":"/w","capabilities":{"bounding":["CAP_KILL"]},"oomScoreAdj":-5,"consoleSize":{"height":3,"width":4}})");
  ASSERT_TRUE(p);
  EXPECT_TRUE(p->terminal);
  EXPECT_EQ(p->user.additional_gids, std::vector<u32>{9});
  EXPECT_EQ(p->user.umask, 18u);
  EXPECT_EQ(p->capabilities->bounding[0], "CAP_KILL");
  EXPECT_EQ(p->oom_score_adj, -5);
  EXPECT_EQ(p->console_size->second, 4u);
  EXPECT_TRUE(validate(*p, ""));
}

TEST(Parse, StateSurvivesTheFile) {
  State s;
  s.oci_version = "1.0.2";
  s.id = "abc";
  s.status = Status::kRunning;
  s.pid = 42;
  s.pid_start_time = 123456789012345;
  s.cgroup_path = "/docker/abc";
  s.cgroup_dirs = {"/sys/fs/cgroup/pids/docker/abc", "/sys/fs/cgroup/pids/docker/abc/guest"};
  s.annotations = {{"k", "v"}};
  s.poststop = {{"/bin/h", {"h"}, {"A=b"}, 3}};
  s.init_args = {"a", "\xff broken"};
  s.exec_defaults.cwd = "/";
  s.exec_defaults.capabilities.emplace().bounding = {"CAP_KILL"};
  auto back = parse_state(write_state_file(s));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->id, "abc");
  EXPECT_EQ(back->status, Status::kRunning);
  EXPECT_EQ(back->pid_start_time, 123456789012345u);
  EXPECT_EQ(back->cgroup_dirs, s.cgroup_dirs);
  EXPECT_EQ(back->poststop[0].timeout_s, 3);
  EXPECT_EQ(back->exec_defaults.capabilities->bounding[0], "CAP_KILL");
}

TEST(Parse, ResourcesOfUpdate) {
  auto r = parse_resources(R"({"memory":{"limit":-1},"cpu":{"quota":-1,"period":100000},"pids":{"limit":5}})");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->memory.limit, -1);
  EXPECT_EQ(r->pids_limit, 5);
  EXPECT_TRUE(validate(*r, ""));
}

TEST(Validate, CpuLists) {
  std::vector<u32> out;
  EXPECT_TRUE(parse_cpu_list("0-2,5\n", out));
  EXPECT_EQ(out, (std::vector<u32>{0, 1, 2, 5}));
  EXPECT_TRUE(parse_cpu_list("", out));
  for (const char* bad : {"1-", "-1", "a", "1,,2", "1,", "2-1", "99999"}) EXPECT_FALSE(parse_cpu_list(bad, out)) << bad;
}

TEST(Validate, CapabilityNames) {
  EXPECT_EQ(capability_number("CAP_CHOWN"), 0);
  EXPECT_EQ(capability_number("CAP_CHECKPOINT_RESTORE"), 40);
  EXPECT_EQ(capability_number("CAP_NOPE"), -1);
  EXPECT_EQ(rlimit_number("RLIMIT_NOFILE"), 7);
}

}  // namespace
}  // namespace sbx::oci
