// start, state, kill, delete, pause, resume.
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "oci/json_write.h"
#include "runtime/commands/command.h"
#include "runtime/container/control_client.h"
#include "runtime/host/process.h"

namespace sbx::commands {

using container::Container;
using container::Lock;

HostResult<int> start(Globals& globals, const Arguments& args) {
  Container c = TRY(Container::open(globals.settings.root, args.positional()[0], Lock::kWait));
  TRY(container::start(c));
  return 0;
}

HostResult<int> state(Globals& globals, const Arguments& args) {
  Container c = TRY(Container::open(globals.settings.root, args.positional()[0], Lock::kNone));
  print(oci::write_public_state(c.state, c.status()) + "\n");
  return 0;
}

int signal_number(const std::string& text) {
  char* end = nullptr;
  unsigned long n = std::strtoul(text.c_str(), &end, 10);
  if (!text.empty() && *end == '\0') return n >= 1 && n <= 64 ? static_cast<int>(n) : 0;
  std::string name = text;
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (name.compare(0, 3, "SIG") == 0) name = name.substr(3);
  for (int signo = 1; signo < 32; ++signo) {
    const char* known = ::sigabbrev_np(signo);
    if (known != nullptr && name == known) return signo;
  }
  if (name == "IOT") return SIGABRT;
  if (name == "CLD") return SIGCHLD;
  if (name == "POLL") return SIGIO;
  auto offset = [&](size_t from) { return static_cast<int>(std::strtol(name.c_str() + from, nullptr, 10)); };
  int found = 0;
  if (name.compare(0, 6, "RTMIN+") == 0)
    found = 34 + offset(6);
  else if (name == "RTMIN")
    found = 34;
  else if (name.compare(0, 6, "RTMAX-") == 0)
    found = 64 - offset(6);
  else if (name == "RTMAX")
    found = 64;
  return found >= 34 && found <= 64 ? found : 0;
}

HostResult<int> kill(Globals& globals, const Arguments& args) {
  std::string word = args.positional().size() > 1 ? args.positional()[1] : "SIGTERM";
  int signo = signal_number(word);
  if (signo == 0) return Failure("unknown signal \"" + word + "\"");
  // No lock: a hanging start must stay killable.
  Container c = TRY(Container::open(globals.settings.root, args.positional()[0], Lock::kNone));
  oci::Status status = c.status();
  bool all = args.on("all");
  bool alive = status != oci::Status::kStopped && status != oci::Status::kCreating;
  if (all && (signo == SIGKILL || !alive)) {
    // Also after init has ended: whatever is left of the container.
    host::Cgroup group = c.cgroup();
    if (signo == SIGKILL) {
      host::kill_process(c.state.pid, c.state.pid_start_time, SIGKILL);
      if (group.exists()) group.kill_all(5000);
    }
    return 0;
  }
  if (!alive) return Failure("container not running");
  if (signo == SIGKILL) {
    // Straight to the host's process: it is pid 1 of the sandbox, and needs nobody's cooperation.
    if (!host::kill_process(c.state.pid, c.state.pid_start_time, SIGKILL)) return Failure("container not running");
    host::Cgroup group = c.cgroup();
    if (status == oci::Status::kPaused) (void)group.freeze(false);
    return 0;
  }
  auto client = container::ControlClient::connect(c);
  if (!client) {
    if (!c.alive()) return Failure("container not running");
    return std::move(client).error();
  }
  control::SignalRequest request{all ? control::SignalTarget::kAll : control::SignalTarget::kInit, 0, signo};
  if (status == oci::Status::kPaused) {
    TRY(client->send(request));  // read when it is resumed
    return 0;
  }
  auto reply = client->call(request, {}, 10'000);
  if (!reply) {
    if (!c.alive()) return Failure("container not running");
    if (reply.error().code == Errno::kSrch) return Failure(Errno::kSrch, "no such process");
    return std::move(reply).error();
  }
  return 0;
}

HostResult<int> remove(Globals& globals, const Arguments& args) {
  bool force = args.on("force");
  const std::string& id = args.positional()[0];
  if (force) {
    // A command that holds the lock may hang on the sandbox: ending that ends the command.
    if (auto early = Container::open(globals.settings.root, id, Lock::kNone); early && early->alive()) {
      host::kill_process(early->state.pid, early->state.pid_start_time, SIGKILL);
      if (auto group = early->cgroup(); group.exists() && group.frozen()) (void)group.freeze(false);
    }
  }
  auto opened = Container::open(globals.settings.root, id, Lock::kWait);
  if (!opened) {
    if (force && opened.error().code == Errno::kNoent) return 0;
    return std::move(opened).error();
  }
  Container c = std::move(opened).value();
  if (!force) {
    switch (c.status()) {
      case oci::Status::kStopped: break;
      case oci::Status::kCreated:  // runc kills a container that was never started
        break;
      default:
        return Failure("cannot delete container " + id + " that is not stopped: " + oci::status_name(c.status()));
    }
  }
  TRY(container::destroy(c));
  return 0;
}

HostResult<int> pause(Globals& globals, const Arguments& args) {
  Container c = TRY(Container::open(globals.settings.root, args.positional()[0], Lock::kWait));
  oci::Status status = c.status();
  if (status != oci::Status::kRunning && status != oci::Status::kCreated) {
    return Failure(std::string("container not running"));
  }
  host::Cgroup group = c.cgroup();
  if (group.can_freeze()) {
    TRY(group.freeze(true));
    return 0;
  }
  auto client = TRY(container::ControlClient::connect(c));
  TRY(client.call(control::PauseRequest{}));
  return 0;
}

HostResult<int> resume(Globals& globals, const Arguments& args) {
  Container c = TRY(Container::open(globals.settings.root, args.positional()[0], Lock::kWait));
  host::Cgroup group = c.cgroup();
  if (group.can_freeze()) {
    if (!c.alive() || !group.frozen()) return Failure("container not paused");
    TRY(group.freeze(false));
    return 0;
  }
  if (!c.alive()) return Failure("container not running");
  auto client = TRY(container::ControlClient::connect(c));
  TRY(client.call(control::ResumeRequest{}));
  return 0;
}

}  // namespace sbx::commands
