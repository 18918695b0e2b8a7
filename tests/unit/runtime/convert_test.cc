#include "runtime/boot/convert.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "oci/json_write.h"
#include "oci/parse.h"
#include "oci/validate.h"

namespace sbx::boot {
namespace {

using control::MountFlag;

TEST(Convert, DefaultSpec) {
  auto spec = oci::parse_spec(oci::write_default_spec(false, false, 0, 0));
  ASSERT_TRUE(spec);
  ASSERT_TRUE(oci::validate(*spec));
  auto config = convert_spec(*spec, "id", "/b");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->process.capabilities.bounding, (u64{1} << 29) | (1 << 5) | (1 << 10));
  EXPECT_TRUE(config->root_mount.has(MountFlag::kReadOnly));
  EXPECT_TRUE(config->namespaces.own_net);
  EXPECT_EQ(config->mounts[1].data, "mode=755,size=65536k");
  EXPECT_TRUE(config->mounts[1].has(MountFlag::kStrictAtime));
  EXPECT_GE(config->devices.size(), 6u);
}

TEST(Convert, MountOptions) {
  oci::Mount m{"/m/../n", "bind", "/s", {"rbind", "ro", "rw", "nodev", "rslave", "noatime", "relatime"}, {}, {}};
  auto out = convert_mount(m, "mounts[0]");
  ASSERT_TRUE(out);
  EXPECT_EQ(out->destination, "/n");
  EXPECT_TRUE(out->has(MountFlag::kBind) && out->has(MountFlag::kRecursive) && out->has(MountFlag::kNoDev));
  EXPECT_FALSE(out->has(MountFlag::kReadOnly));
  EXPECT_FALSE(out->has(MountFlag::kNoAtime));
  EXPECT_TRUE(out->propagation == control::Propagation::kSlave && out->propagation_recursive);
  oci::Mount none{"/m", "none", "/s", {"bind"}, {}, {}};
  EXPECT_EQ(convert_mount(none, "m")->type, "bind");
  oci::Mount bad{"/m", "tmpfs", "t", {"size=1m,mode=7"}, {}, {}};
  EXPECT_NE(convert_mount(bad, "mounts[3]").error().message.find("mounts[3].options[0]"), std::string::npos);
}

TEST(Convert, SeccompNumbersAndAlternatives) {
  oci::Seccomp s;
  s.default_action = "SCMP_ACT_ERRNO";
  s.syscalls = {
      {{"read", "no_such_call", "clone3"}, "SCMP_ACT_ALLOW", std::nullopt, {}},
      {{"no_such_call"}, "SCMP_ACT_ALLOW", std::nullopt, {}},
      {{"personality"}, "SCMP_ACT_ALLOW", std::nullopt, {{0, 0, 0, "SCMP_CMP_EQ"}, {0, 8, 0, "SCMP_CMP_EQ"}}}};
  auto out = convert_seccomp(s);
  ASSERT_TRUE(out);
  EXPECT_EQ(out->default_errno, 1u);
  ASSERT_EQ(out->rules.size(), 3u);
  EXPECT_EQ(out->rules[0].syscalls, (std::vector<u32>{0, 435}));
  EXPECT_EQ(out->rules[1].args.size(), 1u);
  EXPECT_EQ(out->rules[2].args[0].value, 8u);
}

TEST(Convert, OptionNamesAreSorted) {
  auto names = mount_option_names();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
}

TEST(Limits, UpdateKeepsWhatIsNotGiven) {
  oci::Resources r;
  r.memory.limit = 64 << 20;
  r.memory.swap = 0;
  r.pids_limit = -1;
  r.cpu.period = 50'000;
  auto update = convert_limits(r, control::VisibleLimits::kUnchanged);
  EXPECT_EQ(update.memory_bytes, 64 << 20);
  EXPECT_EQ(update.memory_swap_bytes, control::VisibleLimits::kUnchanged);
  EXPECT_EQ(update.pids, -1);
  EXPECT_EQ(update.cpu_period_us, 50'000);
  EXPECT_EQ(update.cpu_quota_us, control::VisibleLimits::kUnchanged);
  EXPECT_EQ(convert_limits(r).cpu_shares, -1);
}

}  // namespace
}  // namespace sbx::boot
