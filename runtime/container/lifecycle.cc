#include "runtime/container/lifecycle.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <sstream>

#include "oci/json_write.h"
#include "oci/parse.h"
#include "oci/validate.h"
#include "runtime/boot/convert.h"
#include "runtime/boot/launch.h"
#include "runtime/container/control_client.h"
#include "runtime/container/hooks.h"
#include "runtime/container/sandbox.h"
#include "runtime/host/files.h"
#include "runtime/host/process.h"
#include "runtime/systemd/unit.h"
#include "sentry/base/log.h"

namespace sbx::container {
namespace {

std::string now_rfc3339() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  tm parts{};
  ::gmtime_r(&t.tv_sec, &parts);
  char text[64];
  size_t n = ::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  return std::string(text, n) + str_printf(".%09ldZ", t.tv_nsec);
}

// Removes what a failed create has made, in whatever state it is.
class CreateGuard {
 public:
  explicit CreateGuard(Container& container) : container_(container) {}
  CreateGuard(const CreateGuard&) = delete;
  CreateGuard& operator=(const CreateGuard&) = delete;
  ~CreateGuard() {
    if (dismissed_) return;
    (void)container_.cgroup().kill_all(5000);
    (void)container_.remove();
  }
  void dismiss() { dismissed_ = true; }

 private:
  Container& container_;
  bool dismissed_ = false;
};

HostResult<void> write_pid_file(const std::string& path, i32 pid) {
  if (path.empty()) return {};
  return host::replace_file(AT_FDCWD, path, std::to_string(pid), 0644).context("pid file");
}

HostResult<void> check_host(const Settings& settings, const oci::Spec& spec) {
  if (settings.rootless && ::geteuid() != 0 && spec.linux_.find_namespace("user") == nullptr) {
    return Failure("linux.namespaces: rootless container requires user namespaces");
  }
  if (settings.systemd_cgroup && !host::exists("/run/systemd/system")) {
    return Failure("systemd not running on this host, cannot use systemd cgroups manager");
  }
  return {};
}

HostResult<systemd::Scope> start_scope(const systemd::UnitName& unit, const std::string& id, const oci::Spec& spec) {
  std::vector<systemd::Property> properties = TRY(systemd::annotated_properties(spec.annotations));
  for (systemd::Property& p : systemd::limit_properties(spec.linux_.resources, host::only_unified())) {
    properties.push_back(std::move(p));
  }
  return systemd::Scope::start(unit, id, std::move(properties));
}

// --preserve-fds and LISTEN_FDS (sd_listen_fds(3)): descriptors of the caller that init shall have as 3, 4, ...
std::vector<int> inherited_fds(u32 preserve, control::ProcessSpec& process) {
  if (const char* listen = std::getenv("LISTEN_FDS")) {
    u32 n = static_cast<u32>(std::strtoul(listen, nullptr, 10));
    preserve = std::max(preserve, std::min<u32>(n, 1024));
    process.env.push_back("LISTEN_FDS=" + std::string(listen));
    process.env.emplace_back("LISTEN_PID=1");
  }
  std::vector<int> out;
  for (u32 i = 0; i < preserve; ++i) {
    int fd = ::fcntl(static_cast<int>(3 + i), F_DUPFD_CLOEXEC, 3);
    if (fd >= 0) out.push_back(fd);
  }
  return out;
}

}  // namespace

std::string user_name(u32 uid) {
  // getpwuid would load NSS modules, which a static program must not.
  auto text = host::read_file("/etc/passwd");
  if (text) {
    std::istringstream in(*text);
    for (std::string line; std::getline(in, line);) {
      size_t a = line.find(':'), b = a == std::string::npos ? a : line.find(':', a + 1);
      if (b != std::string::npos && std::strtoul(line.c_str() + b + 1, nullptr, 10) == uid) return line.substr(0, a);
    }
  }
  return std::to_string(uid);
}

HostResult<oci::Spec> load_spec(const std::string& bundle) {
  std::string path = bundle + "/config.json";
  auto text = host::read_file(path);
  if (!text) {
    if (text.error().code == Errno::kNoent)
      return Failure(Errno::kNoent, "JSON specification file " + path + " not found");
    return std::move(text).error();
  }
  oci::Spec spec = TRY(oci::parse_spec(*text).context("config.json"));
  auto valid = oci::validate(spec);
  if (!valid) return std::move(valid).error().context("config.json");
  return spec;
}

HostResult<Created> create(const Settings& settings, const CreateOptions& options, const oci::Spec& spec) {
  TRY(check_host(settings, spec));
  bool terminal = spec.process->terminal;
  if (terminal && options.console_socket.empty() && options.console == Console::kSocket) {
    return Failure("cannot allocate tty if sbx will detach without setting console socket");
  }
  if (!options.console_socket.empty() && !terminal) {
    return Failure("cannot use console socket if sbx will not detach or allocate tty");
  }
  boot::LaunchRequest request;
  request.config = TRY(boot::convert_spec(spec, options.id, options.bundle));
  request.config.overlay = settings.overlay;
  request.config.strace = settings.strace;
  request.config.strace_filter = settings.strace_filter;
  request.config.debug = settings.debug;
  request.config.log_format = settings.log_format;
  request.config.log_level = static_cast<u8>(settings.debug ? LogLevel::kDebug : LogLevel::kWarning);
  std::optional<systemd::UnitName> unit;
  if (settings.systemd_cgroup && options.use_cgroup) {
    unit = TRY(systemd::unit_name(spec.linux_.cgroups_path, options.id, ::geteuid() == 0));
  }

  std::optional<Sandbox> sandbox = TRY(find_sandbox(settings.root, spec));
  if (sandbox) {
    control::NamespaceConfig& namespaces = request.config.namespaces;
    namespaces.shares_net = sandbox->shares_net;
    namespaces.shares_ipc = sandbox->shares_ipc;
    namespaces.shares_uts = sandbox->shares_uts;
    request.join = &sandbox->target;
  }

  Container container = TRY(Container::create(settings.root, options.id));
  Created out{std::move(container), UniqueFd(), std::nullopt};
  CreateGuard guard(out.container);
  oci::State& state = out.container.state;
  state.oci_version = spec.oci_version;
  state.bundle = options.bundle;
  state.annotations = spec.annotations;
  state.rootfs = spec.root->path[0] == '/' ? host::clean_path(spec.root->path)
                                           : host::clean_path(options.bundle + "/" + spec.root->path);
  state.created = now_rfc3339();
  state.owner = user_name(::geteuid());
  state.own_user_namespace = spec.linux_.find_namespace("user") != nullptr;
  state.host_pid_namespace = spec.linux_.find_namespace("pid") == nullptr;
  if (sandbox) state.sandbox = sandbox->id;
  state.rootless = settings.rootless;
  state.terminal = terminal;
  state.no_new_privs = spec.process->no_new_privileges;
  state.poststart = spec.hooks.poststart;
  state.poststop = spec.hooks.poststop;
  state.start_container = spec.hooks.start_container;
  state.init_args = spec.process->args;
  state.exec_defaults = *spec.process;
  state.exec_defaults.terminal = false;
  // Saved before anything outside the directory exists: a `delete --force` after a crash finds what to remove.
  host::Cgroup cgroup;
  std::optional<systemd::Scope> scope;  // ends when the container's own processes are in the unit
  if (options.use_cgroup) {
    std::string cgroup_path = host::cgroup_path(spec.linux_.cgroups_path, options.id);
    if (unit) {
      state.systemd_unit = unit->unit;
      TRY(out.container.save());
      auto started = start_scope(*unit, options.id, spec);
      if (!started) {
        state.systemd_unit.clear();  // a unit of that name is somebody else's
        return std::move(started).error();
      }
      scope.emplace(std::move(*started));
      cgroup_path = scope->cgroup_path();
    }
    for (const host::Hierarchy& h : host::find_hierarchies()) state.cgroup_dirs.push_back(h.mount + cgroup_path);
    state.cgroup_path = cgroup_path;
    TRY(out.container.save());
    cgroup = TRY(host::Cgroup::create(cgroup_path, spec.linux_.resources, settings.rootless));
    state.cgroup_dirs = cgroup.dirs();
    if (cgroup.exists()) {
      TRY(cgroup.apply(spec.linux_.resources, "linux.resources"));
    } else {
      state.cgroup_path.clear();
      LOG_WARNING("no cgroup could be made for container %s: its resource limits are not enforced", options.id.c_str());
    }
  }
  request.config.cgroup_path = state.cgroup_path;

  UniqueFd control = TRY(out.container.listen());
  if (terminal) {
    out.pty = TRY(boot::open_pty(request.config.process.console_rows, request.config.process.console_columns));
    request.tty = out.pty->slave.get();
    if (!options.console_socket.empty()) TRY(boot::send_console(options.console_socket, *out.pty));
  } else {
    for (int i = 0; i < 3; ++i) request.streams[i] = boot::prepare_stream(i);
  }
  request.extra_fds = inherited_fds(options.preserve_fds, request.config.process);
  request.spec = &spec;
  request.bundle = options.bundle;
  request.cgroup = cgroup.exists() ? &cgroup : nullptr;
  request.control_fd = control.get();
  // Whoever reads our standard error until its end must not wait for the container's, unless logs were asked for.
  bool quiet = settings.log_is_stderr && options.console == Console::kSocket && !settings.debug && !settings.strace;
  request.log_fd = quiet ? -1 : settings.log_fd;
  request.rootless = settings.rootless;
  request.on_prepared = [&](i32 pid) -> HostResult<void> {
    auto stat = host::process_stat(pid);
    state.pid = pid;
    state.pid_start_time = stat ? stat->start_time : 0;
    const oci::Hooks& hooks = spec.hooks;
    if (hooks.prestart.empty() && hooks.create_runtime.empty() && hooks.create_container.empty()) return {};
    TRY(out.container.save());  // hooks may ask for the state
    std::string json = oci::write_hook_state(state, oci::Status::kCreating);
    TRY(run_hooks("prestart", hooks.prestart, json, options.bundle));
    TRY(run_hooks("createRuntime", hooks.create_runtime, json, options.bundle));
    return run_hooks("createContainer", hooks.create_container, json, options.bundle, HookNamespaces::kContainer, pid);
  };
  std::vector<int> extra = request.extra_fds;
  auto launched = boot::launch(std::move(request));
  for (int fd : extra) ::close(fd);
  if (!launched) return std::move(launched).error().context("unable to start container process");
  out.pidfd = std::move(launched->pidfd);
  if (out.pty) out.pty->slave.reset();
  state.status = oci::Status::kCreated;
  out.container.has_state = true;
  auto finish = [&]() -> HostResult<void> {
    TRY(out.container.save());
    return write_pid_file(options.pid_file, state.pid);
  };
  if (auto done = finish(); !done) {
    (void)out.container.kill_everything();
    return std::move(done).error();
  }
  guard.dismiss();
  return out;
}

namespace {

HostResult<control::StartRequest> start_request(const oci::State& state) {
  if (!state.host_pid_namespace) return control::StartRequest{};
  const std::string text = TRY(host::read_file("/proc/sys/kernel/pid_max"));
  return control::StartRequest{state.pid, static_cast<u32>(strtoul(text.c_str(), nullptr, 10))};
}

// startContainer hooks run inside the container, with its files and namespaces, before its process.
HostResult<void> run_start_container_hooks(Container& container) {
  std::string json = oci::write_hook_state(container.state, oci::Status::kCreated);
  for (size_t i = 0; i < container.state.start_container.size(); ++i) {
    const oci::Hook& hook = container.state.start_container[i];
    std::string what = "error running startContainer hook #" + std::to_string(i);
    UniqueFd input(::memfd_create("state", MFD_CLOEXEC));
    UniqueFd null_fd = TRY(host::open_file("/dev/null", O_RDWR));
    host::write_all(input.get(), json);
    ::lseek(input.get(), 0, SEEK_SET);
    control::ExecRequest exec;
    oci::Process process = container.state.exec_defaults;
    process.args = hook.args;
    if (process.args.empty()) process.args.push_back(hook.path);
    process.args[0] = hook.path;
    process.env = hook.env;
    process.terminal = false;
    exec.process = TRY(boot::convert_process(process, "hooks.startContainer"));
    exec.tied = true;
    ControlClient client = TRY(ControlClient::connect(container));
    auto reply = client.call_for<control::ExecReply>(exec, {input.get(), null_fd.get(), null_fd.get()});
    if (!reply) return std::move(reply).error().context(what);
    int timeout = hook.timeout_s ? static_cast<int>(std::min<i64>(*hook.timeout_s, 1'000'000) * 1000) : -1;
    auto ended = client.call_for<control::WaitReply>(control::WaitRequest{reply->exec_id}, {}, timeout);
    if (!ended) return std::move(ended).error().context(what);
    if (ended->status != 0) return Failure(what + ": exit status " + std::to_string(ended->status));
  }
  return {};
}

}  // namespace

HostResult<void> start(Container& container) {
  switch (container.status()) {
    case oci::Status::kCreated: break;
    case oci::Status::kStopped: return Failure("cannot start a container that has stopped");
    case oci::Status::kRunning:
    case oci::Status::kPaused: return Failure("cannot start an already running container");
    case oci::Status::kCreating: return Failure("cannot start a container in the creating state");
  }
  if (!container.state.start_container.empty()) {
    auto done = run_start_container_hooks(container);
    if (!done) {
      (void)container.kill_everything();
      return done;
    }
  }
  const control::StartRequest request = TRY(start_request(container.state));
  ControlClient client = TRY(ControlClient::connect(container));
  // Recorded first: init may end, and somebody look, before we could.
  container.state.status = oci::Status::kRunning;
  TRY(container.save());
  auto started = client.call_for<control::OkReply>(request, {}, 60'000);
  if (!started) {
    container.state.status = oci::Status::kCreated;
    (void)container.save();
    return std::move(started).error();
  }
  if (!container.state.poststart.empty()) {
    auto done = run_hooks("poststart", container.state.poststart,
                          oci::write_hook_state(container.state, oci::Status::kRunning), container.state.bundle);
    if (!done) LOG_WARNING("%s", done.error().message.c_str());
  }
  return {};
}

HostResult<void> destroy(Container& container) {
  TRY(container.kill_everything());
  auto removed = container.remove();
  if (!container.state.poststop.empty()) {
    auto done = run_hooks("poststop", container.state.poststop,
                          oci::write_hook_state(container.state, oci::Status::kStopped), container.state.bundle);
    if (!done) LOG_WARNING("%s", done.error().message.c_str());
  }
  return removed;
}

}  // namespace sbx::container
