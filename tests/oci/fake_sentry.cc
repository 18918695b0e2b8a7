// A sentry without a kernel: speaks the boot and control protocols and "runs" a handful of commands itself, so that the
// runtime can be tested alone. Commands: true, false, echo WORDS, cat, sleep SECONDS, sh -c "exit N".
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <vector>

#include "sentry/control/boot_config.h"
#include "sentry/control/messages.h"
#include "sentry/main.h"

namespace sbx {
namespace {

using namespace control;

// A guest process is a plain fork of the double.
struct Guest {
  pid_t pid = 0;
  int waiter = -1;  // connection that waits
  int owner = -1;   // connection of a tied exec
  bool ended = false;
  int status = 0;
};

[[noreturn]] void perform(const std::vector<std::string>& args, int in, int out) {
  signal(SIGPIPE, SIG_DFL);
  if (args[0] == "echo") {
    std::string line;
    for (size_t i = 1; i < args.size(); ++i) line += (i > 1 ? " " : "") + args[i];
    line += "\n";
    if (write(out, line.data(), line.size()) < 0) _exit(1);
  } else if (args[0] == "cat") {
    char buffer[4096];
    for (;;) {
      ssize_t n = read(in, buffer, sizeof(buffer));
      if (n < 0 && errno == EAGAIN) {
        pollfd p{in, POLLIN, 0};
        poll(&p, 1, -1);
        continue;
      }
      if (n <= 0) break;
      if (write(out, buffer, static_cast<size_t>(n)) < 0) break;
    }
  } else if (args[0] == "sleep") {
    usleep(static_cast<useconds_t>(std::atof(args[1].c_str()) * 1e6));
  } else if (args[0] == "false") {
    _exit(1);
  } else if (args[0] == "sh" && args.size() == 3) {
    _exit(std::atoi(args[2].c_str() + 5));
  }
  _exit(0);
}

std::string missing(const std::vector<std::string>& args) {
  static const char* const kKnown[] = {"true", "false", "echo", "cat", "sleep", "sh"};
  for (const char* k : kKnown) {
    if (args[0] == k) return "";
  }
  if (args[0].find('/') == std::string::npos) return command_not_in_path_text(args[0]);
  return command_error_text(args[0], args[0] == "/etc" ? Errno::kAcces : Errno::kNoent);
}

pid_t spawn(const std::vector<std::string>& args, int in, int out) {
  pid_t pid = fork();
  if (pid == 0) perform(args, in, out);
  return pid;
}

class FakeSentry {
 public:
  explicit FakeSentry(BootConfig config) : config_(std::move(config)) {}

  int run() {
    std::string error = missing(config_.process.args);
    send_boot_report(config_.sync_fd, {error.empty(), error});
    close(config_.sync_fd);
    if (!error.empty()) return 1;
    for (;;) {
      std::vector<pollfd> fds = {{config_.control_fd, POLLIN, 0}};
      for (int c : connections_) fds.push_back({c, POLLIN, 0});
      poll(fds.data(), fds.size(), 5);
      reap();
      if (fds[0].revents != 0) connections_.push_back(accept4(config_.control_fd, nullptr, nullptr, SOCK_CLOEXEC));
      for (size_t i = 1; i < fds.size(); ++i) {
        if (fds[i].revents != 0) serve(fds[i].fd);
      }
    }
  }

 private:
  void reply(int connection, const Reply& r) { (void)send_packet(connection, encode_reply(r), {}); }

  void reap() {
    int status = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
      int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (pid == init_) _exit(code);
      for (auto& [id, g] : execs_) {
        if (g.pid != pid) continue;
        g.ended = true;
        g.status = code;
        if (g.waiter >= 0) reply(g.waiter, WaitReply{code, WIFSIGNALED(status), false});
      }
    }
  }

  void drop(int connection) {
    for (auto& [id, g] : execs_) {
      if (g.owner == connection && !g.ended) kill(g.pid, SIGKILL);
    }
    std::erase(connections_, connection);
    close(connection);
  }

  void serve(int connection) {
    auto packet = receive_packet(connection);
    if (!packet || packet->bytes.empty()) return drop(connection);
    auto request = decode_request(packet->bytes);
    if (!request) return reply(connection, ErrorReply{22, request.error().message});
    if (std::holds_alternative<StartRequest>(*request)) {
      init_ = spawn(config_.process.args, config_.stdio[0].fd, config_.stdio[1].fd);
      // The real one keeps its streams as long as init does: here nobody else shall hold them.
      for (auto& s : config_.stdio) close(s.fd);
      return reply(connection, OkReply{});
    }
    if (auto* s = std::get_if<SignalRequest>(&*request)) {
      if (s->target == SignalTarget::kExec)
        kill(execs_[s->exec_id].pid, s->signo);
      else if (init_ > 0)
        kill(init_, s->signo);
      else if (s->signo == SIGTERM)
        _exit(128 + SIGTERM);
      return reply(connection, OkReply{});
    }
    if (auto* e = std::get_if<ExecRequest>(&*request)) {
      std::string error = missing(e->process.args);
      if (!error.empty()) return reply(connection, ErrorReply{2, error});
      size_t out = e->process.terminal ? 0 : 1;
      u32 id = ++last_exec_;
      Guest& g = execs_[id];
      g.pid = spawn(e->process.args, packet->fds[0].get(), packet->fds[out].get());
      if (e->tied) g.owner = connection;
      return reply(connection, ExecReply{id, g.pid});
    }
    if (auto* w = std::get_if<WaitRequest>(&*request)) {
      Guest& g = execs_[w->exec_id];
      if (g.ended) return reply(connection, WaitReply{g.status, g.status > 128, false});
      g.waiter = connection;
      return;
    }
    if (std::holds_alternative<PsRequest>(*request)) {
      PsReply ps;
      PsEntry entry;
      entry.pid = 1;
      entry.host_pid = init_;
      entry.comm = config_.process.args[0];
      entry.cmdline = config_.process.args;
      ps.processes.push_back(entry);
      return reply(connection, ps);
    }
    if (std::holds_alternative<DebugRequest>(*request)) return reply(connection, TextReply{"fake\n"});
    reply(connection, OkReply{});
  }

  BootConfig config_;
  std::vector<int> connections_;
  std::map<u32, Guest> execs_;
  pid_t init_ = 0;
  u32 last_exec_ = 0;
};

}  // namespace

int sentry_main(int boot_fd) {
  auto config = read_boot_config(boot_fd);
  if (!config) return 1;
  close(boot_fd);
  return FakeSentry(std::move(config).value()).run();
}

}  // namespace sbx
