// exec: a further process in a running container. Detached, a stand-in process stays behind in its place: engines wait
// for a host process whose exit status is the exec's.
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "oci/parse.h"
#include "oci/validate.h"
#include "runtime/boot/convert.h"
#include "runtime/boot/stand_in.h"
#include "runtime/boot/stdio.h"
#include "runtime/commands/command.h"
#include "runtime/container/console.h"
#include "runtime/container/control_client.h"
#include "runtime/host/files.h"
#include "sentry/base/descriptors.h"

namespace sbx::commands {
namespace {

using container::Container;
using container::ControlClient;

constexpr int kExecTimeoutMs = 60'000;

HostResult<oci::Process> process_from_flags(const oci::State& state, const Arguments& args) {
  oci::Process p = state.exec_defaults;
  p.args.assign(args.positional().begin() + 1, args.positional().end());
  p.terminal = args.on("tty");
  if (args.has("cwd")) p.cwd = args.value("cwd");
  for (const std::string& e : args.values("env")) p.env.push_back(e);
  if (args.has("user")) {
    std::string user = args.value("user");
    size_t colon = user.find(':');
    char* end = nullptr;
    p.user.uid = static_cast<u32>(std::strtoul(user.c_str(), &end, 10));
    if (end == user.c_str() || (*end != '\0' && *end != ':'))
      return Failure("parsing " + user + " as int for uid failed");
    if (colon != std::string::npos) {
      p.user.gid = static_cast<u32>(std::strtoul(user.c_str() + colon + 1, &end, 10));
      if (*end != '\0' || colon + 1 == user.size()) return Failure("parsing " + user + " as int for gid failed");
    }
  }
  for (const std::string& g : args.values("additional-gids")) {
    char* end = nullptr;
    p.user.additional_gids.push_back(static_cast<u32>(std::strtoul(g.c_str(), &end, 10)));
    if (g.empty() || *end != '\0') return Failure("invalid value \"" + g + "\" for flag -additional-gids");
  }
  for (const std::string& cap : args.values("cap")) {
    if (!p.capabilities) p.capabilities.emplace();
    oci::Capabilities& c = *p.capabilities;
    for (auto* set : {&c.bounding, &c.effective, &c.permitted}) {
      if (std::find(set->begin(), set->end(), cap) == set->end()) set->push_back(cap);
    }
  }
  if (args.has("no-new-privs")) p.no_new_privileges = args.on("no-new-privs");
  if (args.has("apparmor")) p.apparmor_profile = args.value("apparmor");
  if (args.has("process-label")) p.selinux_label = args.value("process-label");
  return p;
}

HostResult<oci::Process> exec_process(const oci::State& state, const Arguments& args) {
  if (args.has("process")) {
    std::string path = args.value("process");
    std::string text = TRY(host::read_file(path));
    oci::Process p = TRY(oci::parse_process(text).context(path));
    if (auto ok = oci::validate(p, ""); !ok) return std::move(ok).error().context(path);
    // podman gives both; the document wins where it says more.
    if (args.on("tty")) p.terminal = true;
    return p;
  }
  if (args.positional().size() < 2) return Failure("process args cannot be empty");
  oci::Process p = TRY(process_from_flags(state, args));
  if (auto ok = oci::validate(p, "process"); !ok) return std::move(ok).error();
  return p;
}

struct Prepared {
  control::ExecRequest request;
  std::vector<int> fds;
  boot::Stream streams[3];
  std::optional<boot::Pty> pty;
};

HostResult<Prepared> prepare(const Container& c, const Arguments& args) {
  Prepared out;
  oci::Process process = TRY(exec_process(c.state, args));
  if (!process.capabilities) process.capabilities = c.state.exec_defaults.capabilities;
  out.request.process = TRY(boot::convert_process(process, "process"));
  out.request.cgroup = args.value("cgroup");
  std::string socket = args.value("console-socket");
  if (process.terminal) {
    if (args.on("detach") && socket.empty()) {
      return Failure("cannot allocate tty if sbx will detach without setting console socket");
    }
    out.pty = TRY(boot::open_pty(out.request.process.console_rows, out.request.process.console_columns));
    if (!socket.empty()) TRY(boot::send_console(socket, *out.pty));
    out.fds.push_back(out.pty->slave.get());
  } else {
    if (!socket.empty()) return Failure("cannot use console socket if sbx will not detach or allocate tty");
    for (int i = 0; i < 3; ++i) {
      out.streams[i] = boot::prepare_stream(i);
      out.request.stdio_present[i] = out.streams[i].fd >= 0;
      out.request.stdio_nonblocking[i] = out.streams[i].nonblocking;
      if (out.streams[i].fd >= 0) out.fds.push_back(out.streams[i].fd);
    }
  }
  u64 extra = TRY(args.number("preserve-fds", 0));
  for (u64 i = 0; i < extra && out.fds.size() < control::kMaxFds; ++i) {
    int fd = static_cast<int>(3 + i);
    if (::fcntl(fd, F_GETFD) < 0) continue;
    out.fds.push_back(fd);
    ++out.request.extra_fds;
  }
  return out;
}

// Waits for the exec'd process; signals that reach us are for it.
HostResult<int> wait_exec(ControlClient& client, u32 exec_id, const container::ForegroundSignals& signals,
                          int pty_master) {
  TRY(client.send(control::WaitRequest{exec_id}));
  std::optional<control::WaitReply> ended;
  auto pass_on = [&](int signo) {
    (void)client.send(control::SignalRequest{control::SignalTarget::kExec, 0, signo, exec_id});
  };
  auto resize = [&](u16 rows, u16 columns) { (void)client.send(control::ResizeRequest{exec_id, rows, columns}); };
  while (!ended) {
    container::foreground(client.fd(), pty_master, signals, pass_on, resize);
    auto reply = client.receive(-1);
    if (!reply) {
      // Acknowledgements of signals and sizes may be errors (it has just ended): the wait's answer still comes.
      Errno code = reply.error().code;
      if (code == Errno::kConnreset || code == Errno::kConnrefused || code == Errno::kPipe) {
        return 128 + SIGKILL;  // the sandbox has died, and the process with it
      }
      continue;
    }
    if (auto* wait = std::get_if<control::WaitReply>(&*reply)) ended = *wait;
  }
  return ended->status & 0xff;
}

void write_result(int fd, const std::string& text) {
  host::write_all(fd, text);
  ::close(fd);
}

// The child of a detached exec. Reports on `result_fd`: "" and end of file is success.
[[noreturn]] void stand_in_for_exec(const Container& c, Prepared prepared, int result_fd) {
  ::setsid();
  int tty = -1;
  if (prepared.pty) {
    tty = prepared.pty->slave.get();
    ::ioctl(tty, TIOCSCTTY, 0);
  }
  container::ForegroundSignals signals;
  host::Cgroup group = c.cgroup();
  if (group.exists()) {
    if (auto joined = group.attach(::getpid()); !joined) {
      write_result(result_fd, joined.error().message);
      ::_exit(255);
    }
  }
  auto client = ControlClient::connect(c);
  if (!client) {
    write_result(result_fd, client.error().message);
    ::_exit(255);
  }
  prepared.request.tied = true;
  auto started = client->call_for<control::ExecReply>(prepared.request, prepared.fds, kExecTimeoutMs);
  if (!started) {
    write_result(result_fd, "unable to start container process: " + started.error().message);
    ::_exit(255);
  }
  // The streams are the container's now: engines wait for the last holder to close them.
  int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int i = 0; i < 3; ++i) ::dup2(null_fd, i);
  close_all_but({0, 1, 2, client->fd(), signals.fd(), result_fd, tty});
  if (::chdir("/") < 0) ::_exit(255);
  ::prctl(PR_SET_NAME, "sbx-exec");
  ::close(result_fd);
  ::_exit(boot::stand_in(client->fd(), signals.fd(), tty, started->exec_id));
}

HostResult<int> detached(const Container& c, Prepared prepared, const std::string& pid_file) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) < 0) return Failure::from_errno("pipe");
  UniqueFd result_read(pipe_fds[0]), result_write(pipe_fds[1]);
  pid_t child = ::fork();
  if (child < 0) return Failure::from_errno("fork");
  if (child == 0) {
    result_read.reset();
    stand_in_for_exec(c, std::move(prepared), result_write.release());
  }
  result_write.reset();
  std::string error = TRY(host::read_fd(result_read.get()));
  if (!error.empty()) return Failure(error);
  if (!pid_file.empty()) {
    auto written = host::replace_file(AT_FDCWD, pid_file, std::to_string(child), 0644);
    if (!written) {
      ::kill(child, SIGKILL);  // tied: the process in the container ends as well
      return std::move(written).error().context("pid file");
    }
  }
  return 0;
}

}  // namespace

HostResult<int> exec(Globals& globals, const Arguments& args) {
  auto doing = [&]() -> HostResult<int> {
    Container c = TRY(Container::open(globals.settings.root, args.positional()[0], container::Lock::kNone));
    oci::Status status = c.status();
    if (status == oci::Status::kStopped || status == oci::Status::kCreating) {
      return Failure("cannot exec in a stopped container");
    }
    if (status == oci::Status::kPaused && !args.on("ignore-paused")) {
      return Failure("cannot exec in a paused container (use --ignore-paused to override)");
    }
    Prepared prepared = TRY(prepare(c, args));
    if (args.on("detach")) return TRY(detached(c, std::move(prepared), args.value("pid-file")));
    container::ForegroundSignals signals;
    ControlClient client = TRY(ControlClient::connect(c));
    auto started = client.call_for<control::ExecReply>(prepared.request, prepared.fds, kExecTimeoutMs);
    if (!started) return std::move(started).error().context("unable to start container process");
    if (args.has("pid-file")) {
      TRY(host::replace_file(AT_FDCWD, args.value("pid-file"), std::to_string(::getpid()), 0644).context("pid file"));
    }
    int master = -1;
    if (prepared.pty) {
      prepared.pty->slave.reset();
      if (!args.has("console-socket")) master = prepared.pty->master.get();
    }
    for (boot::Stream& s : prepared.streams) s.owned.reset();
    return TRY(wait_exec(client, started->exec_id, signals, master));
  };
  return doing().context("exec failed");
}

}  // namespace sbx::commands
