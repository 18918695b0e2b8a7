#include "sentry/control/boot_config.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace sbx::control {
namespace {

BootConfig sample() {
  BootConfig c;
  c.id = "box";
  c.process.args = {"sh", "-c", "x"};
  c.process.groups = {1, 2};
  c.process.capabilities.ambient = ~u64{0};
  c.process.rlimits = {{7, 1024, ~u64{0}}};
  c.process.umask = -1;
  c.stdio[1] = {5, true};
  c.annotations = {{"a", "b"}};
  c.time_offsets_ns = {{"monotonic", -5}};
  BootMount m;
  m.destination = "/proc";
  m.flags = static_cast<u32>(MountFlag::kReadOnly) | static_cast<u32>(MountFlag::kRecursiveReadOnly);
  m.propagation = Propagation::kSlave;
  c.mounts = {m, m};
  c.seccomp.present = true;
  c.seccomp.rules = {{{0, 1, 435}, SeccompAction::kErrno, 38, {{2, SeccompCompare::kMaskedEq, 0xff, 1}}}};
  c.device_rules = {{true, 'c', 1, -1, true, false, true}};
  c.guest_cgroup_fds = {9, 10};
  c.sync_fd = 11;
  c.extra_fds = {12};
  return c;
}

TEST(BootConfig, ComesBackAsItWas) {
  auto back = decode_boot_config(encode_boot_config(sample()));
  ASSERT_TRUE(back);
  EXPECT_EQ(encode_boot_config(*back), encode_boot_config(sample()));
  EXPECT_EQ(back->process.umask, -1);
  EXPECT_EQ(back->stdio[1].fd, 5);
  EXPECT_TRUE(back->mounts[1].has(MountFlag::kRecursiveReadOnly));
  EXPECT_EQ(back->seccomp.rules[0].args[0].op, SeccompCompare::kMaskedEq);
  EXPECT_EQ(back->time_offsets_ns[0].second, -5);
  EXPECT_EQ(back->device_rules[0].minor, -1);
}

TEST(BootConfig, DamagedMessagesAreRefused) {
  std::string bytes = encode_boot_config(sample());
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode_boot_config(std::string_view(bytes).substr(0, n)));
  EXPECT_FALSE(decode_boot_config(bytes + "x"));
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string broken = bytes;
    broken[i] = static_cast<char>(broken[i] ^ 0xff);
    (void)decode_boot_config(broken).has_value();  // any answer but a crash
  }
}

TEST(BootConfig, ThroughTheSealedFile) {
  auto fd = write_boot_config(sample());
  ASSERT_TRUE(fd);
  EXPECT_LT(::write(fd->get(), "x", 1), 0);
  auto back = read_boot_config(fd->get());
  ASSERT_TRUE(back);
  EXPECT_EQ(back->id, "box");
}

TEST(BootConfig, Report) {
  auto back = decode_boot_report(encode_boot_report({false, "no"}));
  ASSERT_TRUE(back);
  EXPECT_FALSE(back->ready);
  EXPECT_EQ(back->text, "no");
  EXPECT_FALSE(decode_boot_report("P"));
}

TEST(BootConfig, WordsThatEnginesLookFor) {
  EXPECT_EQ(command_not_in_path_text("nope"), "exec: \"nope\": executable file not found in $PATH");
  EXPECT_EQ(command_error_text("/nope", Errno::kNoent), "exec: \"/nope\": stat /nope: no such file or directory");
  EXPECT_EQ(command_error_text("/etc", Errno::kAcces), "exec: \"/etc\": permission denied");
  EXPECT_EQ(exec_failed_text("/x", Errno::kNoexec), "exec /x: exec format error");
}

}  // namespace
}  // namespace sbx::control
