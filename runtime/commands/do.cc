// do: a command over the host's own files, without a bundle. Reads come from the host, writes stay in memory.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <ctime>

#include "oci/validate.h"
#include "runtime/commands/command.h"
#include "runtime/host/files.h"
#include "runtime/host/idmap.h"
#include "sentry/base/log.h"

extern char** environ;

namespace sbx::commands {
namespace {

oci::Mount mount(const char* destination, const char* type, std::vector<std::string> options) {
  oci::Mount m;
  m.destination = destination;
  m.type = type;
  m.source = type;
  m.options = std::move(options);
  return m;
}

oci::Spec host_spec(const Arguments& args, bool rootless) {
  oci::Spec s;
  s.oci_version = oci::kSpecVersion;
  s.has_linux = true;
  oci::Process& p = s.process.emplace();
  p.args = args.positional();
  for (char** e = environ; *e != nullptr; ++e) {
    if (**e != '\0' && **e != '=') p.env.emplace_back(*e);
  }
  for (const std::string& e : args.values("env")) p.env.push_back(e);
  char cwd[PATH_MAX];
  p.cwd = args.value("cwd", ::getcwd(cwd, sizeof(cwd)) != nullptr && cwd[0] == '/' ? cwd : "/");
  p.terminal = ::isatty(0) == 1 && ::isatty(1) == 1;
  if (!rootless) {
    p.user.uid = ::geteuid();
    p.user.gid = ::getegid();
  }
  std::vector<std::string> caps;
  for (int i = 0; oci::capability_name(i) != nullptr; ++i) caps.emplace_back(oci::capability_name(i));
  p.capabilities = oci::Capabilities{caps, caps, {}, caps, {}};
  s.root = oci::Root{args.value("root", "/"), false};
  s.mounts = {mount("/proc", "proc", {"nosuid", "noexec", "nodev"}),
              mount("/sys", "sysfs", {"nosuid", "noexec", "nodev", "ro"}),
              mount("/dev", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}),
              mount("/dev/pts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}),
              mount("/dev/shm", "tmpfs", {"nosuid", "noexec", "nodev", "mode=1777"}),
              mount("/dev/mqueue", "mqueue", {"nosuid", "noexec", "nodev"}),
              mount("/tmp", "tmpfs", {"nosuid", "nodev", "mode=1777"})};
  for (const char* type : {"pid", "mount", "ipc", "uts"}) s.linux_.namespaces.push_back({type, ""});
  if (args.value("network", "host") == "none") s.linux_.namespaces.push_back({"network", ""});
  if (rootless) {
    s.linux_.namespaces.push_back({"user", ""});
    std::string user = container::user_name(::geteuid());
    s.linux_.uid_mappings = host::rootless_map(::geteuid(), "/etc/subuid", user);
    s.linux_.gid_mappings = host::rootless_map(::getegid(), "/etc/subgid", user);
  }
  return s;
}

}  // namespace

HostResult<int> do_command(Globals& globals, const Arguments& args) {
  auto doing = [&]() -> HostResult<int> {
    std::string network = args.value("network", "host");
    if (network != "host" && network != "none") return Failure("invalid value \"" + network + "\" for flag -network");
    bool rootless = args.on("rootless") || ::geteuid() != 0;
    oci::Spec spec = host_spec(args, rootless);
    TRY(oci::validate(spec));
    if (!args.on("rw")) globals.settings.overlay = control::OverlayMode::kMemory;
    RunOptions options;
    options.create.id = str_printf("do-%d-%lx", ::getpid(), static_cast<unsigned long>(::time(nullptr)));
    options.create.bundle = "/";
    globals.settings.rootless = rootless;
    // An unprivileged user may have no cgroup delegated: nothing is limited then, and said once.
    return TRY(run_container(globals, options, spec));
  };
  return doing().context("sbx do failed");
}

}  // namespace sbx::commands
