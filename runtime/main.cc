// The sbx command. One binary is three programs: its name tells which (runtime/boot re-executes it as the others).
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/boot/launch.h"
#include "runtime/commands/command.h"
#include "runtime/host/files.h"
#include "runtime/host/idmap.h"
#include "sentry/base/log.h"

namespace sbx {
namespace {

using commands::Globals;

HostResult<void> apply_globals(Globals& g, const commands::Arguments& args) {
  std::string rootless = args.value("rootless", "auto");
  if (rootless != "auto" && rootless != "true" && rootless != "false" && rootless != "0" && rootless != "1") {
    return Failure("invalid value \"" + rootless + "\" for flag -rootless");
  }
  bool in_namespace = host::in_user_namespace();
  g.settings.rootless = rootless == "auto" ? ::geteuid() != 0 || in_namespace : rootless == "true" || rootless == "1";
  // Root of a user namespace has the directory of the user who made it, as with runc: told by a name that is not root.
  const char* user = std::getenv("USER");
  bool users = ::geteuid() != 0 || (in_namespace && user != nullptr && std::strcmp(user, "root") != 0);
  const char* run_dir = std::getenv("XDG_RUNTIME_DIR");
  std::string root = (g.settings.rootless || users) && run_dir != nullptr && *run_dir != '\0'
                         ? std::string(run_dir) + "/sbx"
                     : ::geteuid() != 0 ? "/tmp/sbx-" + std::to_string(::geteuid())
                                        : "/run/sbx";
  root = args.value("root", root);
  if (root.empty()) return Failure("invalid value \"\" for flag -root");
  if (root[0] != '/') {
    char* cwd = ::getcwd(nullptr, 0);
    if (cwd == nullptr) return Failure::from_errno("getcwd");
    root = std::string(cwd) + "/" + root;
    std::free(cwd);
  }
  g.settings.root = host::clean_path(root);
  g.settings.systemd_cgroup = args.on("systemd-cgroup");
  g.settings.debug = args.on("debug");
  if (args.has("strace")) {
    std::string filter = args.value("strace");
    g.settings.strace = filter != "false";
    g.settings.strace_filter = filter == "true" || filter == "false" ? "" : filter;
  }
  std::string overlay = args.value("overlay", "none");
  if (overlay == "memory")
    g.settings.overlay = control::OverlayMode::kMemory;
  else if (overlay != "none")
    return Failure("invalid value \"" + overlay + "\" for flag -overlay");
  g.log_path = args.value("log");
  g.log_format = args.value("log-format", "text");
  if (g.log_format != "text" && g.log_format != "json") return Failure("invalid log-format: " + g.log_format);
  return {};
}

HostResult<void> open_log(Globals& g) {
  LogFormat format = g.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
  int fd = 2;
  if (!g.log_path.empty()) {
    UniqueFd log = TRY(host::open_file(g.log_path, O_WRONLY | O_CREAT | O_APPEND, 0644));
    fd = log.release();
  } else {
    fd = ::fcntl(2, F_DUPFD_CLOEXEC, 3);
    g.settings.log_is_stderr = true;
  }
  g.settings.log_fd = fd;
  g.settings.log_format = static_cast<u8>(format);
  log_init(fd, format, g.settings.debug ? LogLevel::kDebug : LogLevel::kWarning);
  return {};
}

// The log has it, and standard error unless that is the log.
int report(const Globals& g, const Failure& failure, int status) {
  log_line(LogLevel::kError, failure.message);
  if (!g.log_path.empty() || g.settings.log_fd < 0) host::write_all(2, failure.message + "\n");
  return status;
}

int run_verb(const std::vector<std::string>& words) {
  static const std::vector<commands::Option> kGlobalOptions = {
      {"root", commands::Option::kValue, ""},       {"log", commands::Option::kValue, ""},
      {"log-format", commands::Option::kValue, ""}, {"rootless", commands::Option::kValue, ""},
      {"overlay", commands::Option::kValue, ""},    {"criu", commands::Option::kValue, ""},
      {"debug", commands::Option::kSwitch, ""},     {"systemd-cgroup", commands::Option::kSwitch, ""},
      {"version,v", commands::Option::kSwitch, ""}, {"strace", commands::Option::kOptional, ""}};
  Globals globals;
  auto global = commands::Arguments::parse(kGlobalOptions, words, false);
  if (!global) return report(globals, global.error(), 1);
  const std::vector<std::string>& left = global->positional();
  if (global->on("version")) {
    commands::print(commands::version_text());
    return 0;
  }
  if (auto ok = apply_globals(globals, *global); !ok) return report(globals, ok.error(), 1);
  if (auto ok = open_log(globals); !ok) return report(globals, ok.error(), 1);
  if (left.empty() || global->has("help")) {
    auto help = commands::help(globals, commands::Arguments());
    return help ? 0 : 1;
  }
  const commands::Verb* verb = commands::find_verb(left[0]);
  if (verb == nullptr) return report(globals, Failure("No help topic for '" + left[0] + "'"), 3);
  std::vector<std::string> rest(left.begin() + 1, left.end());
  auto args = commands::Arguments::parse(verb->options, rest, verb->interleaved);
  if (!args) return report(globals, args.error(), verb->failure_status);
  if (args->has("help")) {
    auto topic = commands::Arguments::parse({}, {verb->name}, true);
    auto shown = commands::help(globals, *topic);
    return shown ? 0 : 1;
  }
  size_t n = args->positional().size();
  if (n < verb->min_positional || n > verb->max_positional) {
    std::string wanted = verb->min_positional == verb->max_positional
                             ? "requires exactly " + std::to_string(verb->min_positional)
                         : n < verb->min_positional ? "requires a minimum of " + std::to_string(verb->min_positional)
                                                    : "requires a maximum of " + std::to_string(verb->max_positional);
    return report(globals, Failure("sbx: \"" + std::string(verb->name) + "\" " + wanted + " argument(s)"),
                  verb->failure_status);
  }
  auto status = verb->run(globals, *args);
  if (!status) return report(globals, status.error(), verb->failure_status);
  return *status;
}

// Descriptors 0 to 2 exist, so that nothing we open is taken for one of them; nothing else leaks into what we start.
void tidy_descriptors() {
  int fd;
  do {
    fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  } while (fd >= 0 && fd <= 2);
  if (fd > 2) ::close(fd);
  ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
}

int start(int argc, char** argv) {
  const char* name = argc > 0 ? std::strrchr(argv[0], '/') : nullptr;
  name = name != nullptr ? name + 1 : argc > 0 ? argv[0] : "sbx";
  if (std::strcmp(name, boot::kGoferName) == 0) return boot::run_gofer(argc, argv);
  if (std::strcmp(name, boot::kSentryName) == 0) return boot::run_sentry(argc, argv);
  tidy_descriptors();
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) words.emplace_back(argv[i]);
  return run_verb(words);
}

}  // namespace
}  // namespace sbx

int main(int argc, char** argv) { return sbx::start(argc, argv); }
