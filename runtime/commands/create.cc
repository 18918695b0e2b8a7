#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>

#include "runtime/commands/command.h"
#include "runtime/container/console.h"
#include "runtime/container/control_client.h"
#include "runtime/host/process.h"

namespace sbx::commands {
namespace {

HostResult<std::string> absolute_bundle(const Arguments& args) {
  std::string bundle = args.value("bundle", ".");
  char resolved[PATH_MAX];
  if (::realpath(bundle.c_str(), resolved) == nullptr) return Failure::from_errno("bundle " + bundle);
  return std::string(resolved);
}

HostResult<container::CreateOptions> create_options(const Arguments& args) {
  container::CreateOptions out;
  out.id = args.positional()[0];
  TRY(container::check_id(out.id));
  out.bundle = TRY(absolute_bundle(args));
  out.console_socket = args.value("console-socket");
  out.pid_file = args.value("pid-file");
  u64 fds = TRY(args.number("preserve-fds", 0));
  if (fds > 1024) return Failure("invalid value for flag -preserve-fds");
  out.preserve_fds = static_cast<u32>(fds);
  return out;
}

}  // namespace

HostResult<int> create(Globals& globals, const Arguments& args) {
  auto doing = [&]() -> HostResult<int> {
    container::CreateOptions options = TRY(create_options(args));
    oci::Spec spec = TRY(container::load_spec(options.bundle));
    auto made = TRY(container::create(globals.settings, options, spec));
    return 0;
  };
  return doing().context("sbx create failed");
}

HostResult<int> run(Globals& globals, const Arguments& args) {
  auto doing = [&]() -> HostResult<int> {
    RunOptions options;
    options.create = TRY(create_options(args));
    options.detach = args.on("detach");
    options.keep = args.on("keep");
    oci::Spec spec = TRY(container::load_spec(options.create.bundle));
    return TRY(run_container(globals, options, spec));
  };
  return doing().context("sbx run failed");
}

HostResult<int> run_container(Globals& globals, const RunOptions& options, const oci::Spec& spec) {
  container::CreateOptions create = options.create;
  if (!options.detach) {
    if (!create.console_socket.empty())
      return Failure("cannot use console socket if sbx will not detach or allocate tty");
    create.console = container::Console::kRelay;
  }
  // The process that detaches is the last to see signals; a foreground run passes them on.
  std::optional<container::ForegroundSignals> signals;
  if (!options.detach) signals.emplace();
  auto made = TRY(container::create(globals.settings, create, spec));
  container::Container& c = made.container;
  if (auto started = container::start(c); !started) {
    (void)container::destroy(c);
    return std::move(started).error();
  }
  if (options.detach) return 0;
  c.unlock();
  i32 pid = c.state.pid;
  auto pass_on = [&](int signo) {
    auto client = container::ControlClient::connect(c);
    if (client) (void)client->send(control::SignalRequest{control::SignalTarget::kInit, 0, signo});
  };
  auto resize = [](u16, u16) {};  // the sentry has the terminal and gets SIGWINCH itself
  container::foreground(made.pidfd.get(), made.pty ? made.pty->master.get() : -1, *signals, pass_on, resize);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (options.keep) return code;
  auto again = container::Container::open(globals.settings.root, c.id(), container::Lock::kWait);
  if (again) {  // else somebody else has deleted it meanwhile
    if (auto gone = container::destroy(*again); !gone) return std::move(gone).error();
  }
  return code;
}

}  // namespace sbx::commands
