// spec, features, version, syscalls, debug: text about sbx and its sandboxes.
#include <fcntl.h>
#include <seccomp.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "oci/json_write.h"
#include "oci/validate.h"
#include "runtime/boot/convert.h"
#include "runtime/commands/command.h"
#include "runtime/container/control_client.h"
#include "runtime/host/cgroup.h"
#include "runtime/host/files.h"

#if __has_include("sentry/syscalls/report.h")
#include "sentry/syscalls/report.h"
#define SBX_HAVE_SYSCALL_REPORT 1
#endif

#ifndef SBX_VERSION
#define SBX_VERSION "0.0.0"
#endif
#ifndef SBX_COMMIT
#define SBX_COMMIT "unknown"
#endif

namespace sbx::commands {

void print(const std::string& text) { host::write_all(1, text); }

std::string version_text() {
  // Three lines: engines parse exactly these.
  return "sbx version " SBX_VERSION "\ncommit: " SBX_COMMIT "\nspec: " + std::string(oci::kSpecVersion) + "\n";
}

HostResult<int> version(Globals&, const Arguments&) {
  print(version_text());
  return 0;
}

namespace {
// On v1 a cgroup namespace hides nothing that matters, and runc leaves it out.
bool unified_only() {
  auto found = host::find_hierarchies();
  return std::all_of(found.begin(), found.end(), [](const host::Hierarchy& h) { return h.v2; });
}
}  // namespace

HostResult<int> spec(Globals& globals, const Arguments& args) {
  std::string path = args.value("bundle", ".") + "/config.json";
  bool rootless = args.has("rootless") ? args.on("rootless") : globals.settings.rootless;
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd) {
    if (last_errno() == Errno::kExist) return Failure("File " + path + " exists. Remove it first");
    return Failure::from_errno(path);
  }
  host::write_all(fd.get(), oci::write_default_spec(rootless, unified_only(), ::geteuid(), ::getegid()));
  return 0;
}

HostResult<int> features(Globals&, const Arguments&) {
  oci::Features f;
  f.hooks = {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"};
  f.mount_options = boot::mount_option_names();
  f.namespaces = {"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"};
  for (int i = 0; oci::capability_name(i) != nullptr; ++i) f.capabilities.emplace_back(oci::capability_name(i));
  f.seccomp_actions = {"SCMP_ACT_ALLOW",       "SCMP_ACT_ERRNO", "SCMP_ACT_KILL",  "SCMP_ACT_KILL_PROCESS",
                       "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG",   "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"};
  f.seccomp_operators = {"SCMP_CMP_EQ", "SCMP_CMP_GE",        "SCMP_CMP_GT", "SCMP_CMP_LE",
                         "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"};
  f.seccomp_archs = {"SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"};
  f.seccomp_flags = {"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"};
  for (const host::Hierarchy& h : host::find_hierarchies()) (h.v2 ? f.cgroup_v2 : f.cgroup_v1) = true;
  f.systemd = host::exists("/run/systemd/system");
  f.version = SBX_VERSION;
  f.commit = SBX_COMMIT;
  if (const scmp_version* v = ::seccomp_version()) {
    f.libseccomp = std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->micro);
  }
  utsname host{};
  ::uname(&host);
  f.kernel.emplace_back("org.sbx.kernel", host.release);
  int major = 0, minor = 0;
  std::sscanf(host.release, "%d.%d", &major, &minor);
  bool sync = major > 6 || (major == 6 && minor >= 6);
  bool killable = major > 5 || (major == 5 && minor >= 19);
  f.kernel.emplace_back("org.sbx.kernel.seccomp-notify-sync-wake-up", sync ? "yes" : "no, slower hand-over");
  f.kernel.emplace_back("org.sbx.kernel.seccomp-wait-killable",
                        killable ? "yes" : "no, 5.19 is the oldest kernel supported");
  print(oci::write_features(f));
  return 0;
}

HostResult<int> syscalls(Globals&, const Arguments& args) {
  std::string format = args.value("format", "table");
  if (format != "table" && format != "json") return Failure("invalid format option");
#ifdef SBX_HAVE_SYSCALL_REPORT
  print(sbx::syscalls::syscalls_table(format == "json"));
  return 0;
#else
  return Failure(Errno::kNosys, "this build has no system call table");
#endif
}

HostResult<int> debug(Globals& globals, const Arguments& args) {
  auto c = TRY(container::Container::open(globals.settings.root, args.positional()[0], container::Lock::kNone));
  if (!c.alive()) return Failure("container not running");
  std::string what;
  for (size_t i = 1; i < args.positional().size(); ++i) what += (i > 1 ? " " : "") + args.positional()[i];
  auto client = TRY(container::ControlClient::connect(c));
  auto reply = TRY(client.call_for<control::TextReply>(control::DebugRequest{what.empty() ? "all" : what}, {}, 20'000));
  print(reply.text);
  return 0;
}

}  // namespace sbx::commands
