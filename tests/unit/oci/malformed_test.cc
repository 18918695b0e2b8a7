// Every rejected config gets one line that names the field.
#include <gtest/gtest.h>

#include "oci/json_write.h"
#include "oci/parse.h"
#include "oci/validate.h"

namespace sbx::oci {
namespace {

// Replaces the first `from` of the default config by `to`.
std::string edited(const std::string& from, const std::string& to) {
  std::string text = write_default_spec(false, true, 0, 0);
  size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string error_of(const std::string& text) {
  auto spec = parse_spec(text);
  if (!spec) return spec.error().message;
  auto valid = validate(*spec);
  return valid ? "" : valid.error().message;
}

// `add` becomes the first members of the linux object.
std::string with_linux(const std::string& add) { return edited("\"linux\": {", "\"linux\": {" + add + ","); }
std::string with_resources(const std::string& add) {
  return edited("\"resources\": {", "\"resources\": {" + add + ",");
}
std::string with_process(const std::string& add) { return edited("\"process\": {", "\"process\": {" + add + ","); }
std::string with_root(const std::string& add) { return edited("{\n", "{" + add + ","); }

TEST(Malformed, TheDefaultConfigIsFine) { EXPECT_EQ(error_of(write_default_spec(false, true, 0, 0)), ""); }

TEST(Malformed, EachNamesItsField) {
  const std::pair<std::string, std::string> kCases[] = {
      {"", "not valid JSON"},
      {"{", "line 1: not valid JSON"},
      {"{\n\n\"a\":,}", "line 3: not valid JSON"},
      {"[]", "expected a JSON object"},
      {"{}", "ociVersion: is required"},
      {std::string(100000, '['), "not valid JSON"},
      {edited("\"1.0.2-dev\"", "\"2.0.0\""), "ociVersion: unsupported version \"2.0.0\""},
      {edited("\"1.0.2-dev\"", "\"1\""), "ociVersion: unsupported"},
      {edited("\"1.0.2-dev\"", "\"1.x\""), "ociVersion: unsupported"},
      {edited("\"1.0.2-dev\"", "1"), "ociVersion: expected a string"},
      {edited("\"terminal\": true", "\"terminal\": 1"), "process.terminal: expected true or false"},
      {edited("\"uid\": 0", "\"uid\": -1"), "process.user.uid: number out of range"},
      {edited("\"uid\": 0", "\"uid\": 4294967296"), "process.user.uid: number out of range"},
      {edited("\"uid\": 0", "\"uid\": 4294967295"), "process.user.uid: out of range"},
      {edited("\"uid\": 0", "\"uid\": 1.5"), "process.user.uid: expected an integer"},
      {edited("\"gid\": 0", "\"gid\": \"root\""), "process.user.gid: expected an integer"},
      {edited("\"sh\"", ""), "process.args: must not be empty"},
      {edited("\"sh\"", "\"\""), "process.args[0]: is empty"},
      {edited("\"sh\"", "null"), "process.args[0]: is null"},
      {edited("\"sh\"", "\"a\\u0000b\""), "process.args[0]: contains a NUL"},
      {edited("\"cwd\": \"/\"", "\"cwd\": \"tmp\""), "process.cwd: Cwd must be an absolute path"},
      {edited("\"cwd\": \"/\"", "\"cwd\": \"\""), "process.cwd: is required"},
      {edited("\"TERM=xterm\"", "\"=xterm\""), "process.env[1]: "},
      {edited("RLIMIT_NOFILE", "RLIMIT_FILES"), "process.rlimits[0].type: unknown rlimit"},
      {edited("\"soft\": 1024", "\"soft\": 2048"), "process.rlimits[0].soft: is greater"},
      {edited("\"hard\": 1024", "\"hard\": -1"), "process.rlimits[0].hard: number out of range"},
      {with_process("\"oomScoreAdj\": 2000"), "process.oomScoreAdj: must be"},
      {with_process("\"scheduler\": {\"policy\": \"FAST\"}"), "process.scheduler.policy: unknown"},
      {with_process("\"ioPriority\": {\"class\": \"X\"}"), "process.ioPriority.class: unknown"},
      {with_process("\"execCPUAffinity\": {\"initial\": \"3-1\"}"), "process.execCPUAffinity.initial: not a CPU list"},
      {edited("\"path\": \"rootfs\"", "\"path\": \"\""), "root.path: is required"},
      {edited("\"root\": {", "\"root\": null, \"x\": {"), "root: is required"},
      {edited("\"process\": {", "\"process\": null, \"x\": {"), "process: is required"},
      {edited("\"linux\": {", "\"linux\": null, \"x\": {"), "linux: is required"},
      {edited("\"linux\": {", "\"linux\": [], \"x\": {"), "linux: expected an object"},
      {edited("\"hostname\": \"sbx\"", "\"hostname\": \"" + std::string(65, 'a') + "\""), "hostname: longer than"},
      {edited("\"destination\": \"/proc\"", "\"destination\": \"\""), "mounts[0].destination: is required"},
      {edited("\"type\": \"proc\",", ""), "mounts[0].type: is required"},
      {edited("\"type\": \"proc\",\n\t\t\t\"source\": \"proc\"", "\"type\": \"bind\""),
       "mounts[0].source: is required"},
      {edited("\"nosuid\"", "7"), "mounts[1].options[0]: expected a string"},
      {with_root("\"hooks\": {\"prestart\": [{\"path\": \"hook\"}]}"), "hooks.prestart[0].path: \"hook\" is not"},
      {with_root("\"hooks\": {\"poststop\": [{}]}"), "hooks.poststop[0].path: is required"},
      {with_root("\"hooks\": {\"poststart\": [{\"path\": \"/h\", \"timeout\": 0}]}"),
       "hooks.poststart[0].timeout: must"},
      {with_root("\"hooks\": {\"createRuntime\": {}}"), "hooks.createRuntime: expected an array"},
      {with_root("\"annotations\": {\"a\": 1}"), "annotations[\"a\"]: expected a string"},
      {edited("\"type\": \"pid\"", "\"type\": \"pids\""), "linux.namespaces[0].type: unknown namespace \"pids\""},
      {edited("\"type\": \"pid\"", "\"type\": \"ipc\""), "linux.namespaces[2].type: namespace \"ipc\" is given twice"},
      {edited("\"type\": \"pid\"", "\"type\": \"pid\", \"path\": \"x\""), "linux.namespaces[0].path: \"x\" is not"},
      {edited("\"type\": \"pid\"", "\"type\": \"user\""), "linux.uidMappings: a new user namespace needs mappings"},
      {edited("\"type\": \"uts\"", "\"type\": \"time\""), "hostname: unable to set hostname without a private UTS"},
      {with_linux("\"uidMappings\": [{\"size\": 0}]"), "linux.uidMappings: given, but"},
      {with_linux("\"devices\": [{\"path\": \"/dev/x\", \"type\": \"q\"}]"), "linux.devices[0].type: unknown"},
      {with_linux("\"devices\": [{\"path\": \"x\", \"type\": \"c\"}]"), "linux.devices[0].path: \"x\" is not"},
      {with_linux("\"sysctl\": {\"vm.swappiness\": \"1\"}"), "linux.sysctl[\"vm.swappiness\"]: sysctl is not in"},
      {with_linux("\"sysctl\": {\"net.x\": 1}"), "linux.sysctl[\"net.x\"]: expected a string"},
      {with_linux("\"rootfsPropagation\": \"up\""), "linux.rootfsPropagation: unknown"},
      {with_linux("\"personality\": {\"domain\": \"BSD\"}"), "linux.personality.domain: unknown"},
      {with_linux("\"timeOffsets\": {\"monotonic\": {\"secs\": 1}}"), "linux.timeOffsets: given, but"},
      {with_linux("\"seccomp\": {\"defaultAction\": \"NO\"}"), "linux.seccomp.defaultAction: unknown action \"NO\""},
      {with_linux("\"seccomp\": {\"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [\"Z80\"]}"),
       "linux.seccomp.architectures[0]: unknown"},
      {with_linux(
           "\"seccomp\": {\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"action\": \"SCMP_ACT_ERRNO\"}]}"),
       "linux.seccomp.syscalls[0].names: is empty"},
      {with_linux(
           "\"seccomp\": {\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"read\"], \"action\": "
           "\"SCMP_ACT_ERRNO\", \"args\": [{\"index\": 6, \"op\": \"SCMP_CMP_EQ\"}]}]}"),
       "linux.seccomp.syscalls[0].args[0].index: must be"},
      {with_linux(
           "\"seccomp\": {\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"read\"], \"action\": "
           "\"SCMP_ACT_ERRNO\", \"args\": [{\"index\": 0, \"op\": \"EQ\"}]}]}"),
       "linux.seccomp.syscalls[0].args[0].op: unknown"},
      {with_resources("\"memory\": {\"limit\": \"1g\"}"), "linux.resources.memory.limit: expected an integer"},
      {with_resources("\"memory\": {\"limit\": -2}"), "linux.resources.memory.limit: must be"},
      {with_resources("\"memory\": {\"limit\": 200, \"swap\": 100}"), "linux.resources.memory.swap: "},
      {with_resources("\"memory\": {\"swappiness\": 101}"), "linux.resources.memory.swappiness: must be"},
      {with_resources("\"cpu\": {\"cpus\": \"a\"}"), "linux.resources.cpu.cpus: \"a\" is not a CPU list"},
      {with_resources("\"cpu\": {\"shares\": -1}"), "linux.resources.cpu.shares: number out of range"},
      {with_resources("\"blockIO\": {\"weight\": 5}"), "linux.resources.blockIO.weight: must be"},
      {with_resources("\"hugepageLimits\": [{\"pageSize\": \"big\"}]"), "linux.resources.hugepageLimits[0].pageSize: "},
      {with_resources("\"unified\": {\"../x\": \"1\"}"), "linux.resources.unified[\"../x\"]: not a cgroup file"},
      {edited("\"access\": \"rwm\"", "\"access\": \"rx\""), "linux.resources.devices[0].access: "},
  };
  for (const auto& [text, wanted] : kCases) {
    std::string error = error_of(text);
    EXPECT_NE(error.find(wanted), std::string::npos) << "wanted: " << wanted << "\n   got: " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  }
}

TEST(Malformed, EveryTruncationIsAnError) {
  std::string text = write_default_spec(false, true, 0, 0);
  for (size_t n = 0; n + 2 < text.size(); n += 7) EXPECT_FALSE(parse_spec(text.substr(0, n)).has_value()) << n;
}

}  // namespace
}  // namespace sbx::oci
