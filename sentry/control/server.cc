#include "sentry/control/server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <map>

#include "sentry/base/log.h"
#include "sentry/control/limits.h"
#include "sentry/control/terminal.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/reactor.h"
#include "sentry/syscalls/table.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::control {

using task::kernel;
using task::ThreadGroup;

namespace {

Container* first_ = nullptr;
Joiner& joiner() {
  static auto* joiner = new Joiner;
  return *joiner;
}

// Execs by id, kept until somebody has waited (or the connection that made a tied one is gone).
struct ExecState : public RefCounted {
  RefPtr<ThreadGroup> group;
  RefPtr<End> end = make_ref<End>();
};
std::map<u32, RefPtr<ExecState>>& execs() {
  static auto* map = new std::map<u32, RefPtr<ExecState>>;
  return *map;
}
u32 next_exec_id = 1;

std::vector<RefPtr<ThreadGroup>> groups_of(const Container& container) {
  std::vector<RefPtr<ThreadGroup>> out;
  for (const auto& [pid, group] : kernel().groups()) {
    if (group->container == container.kernel) out.emplace_back(group);
  }
  return out;
}

// A container that joined is no more: all its processes go.
void end_joined(Container& container, i32 wait_status) {
  if (container.end->done) return;
  container.init_streams = {};
  container.accepts.unwatch();
  container.listener.reset();
  container.kernel->init = nullptr;
  for (const auto& group : groups_of(container)) task::exit_group(*group, SIGKILL);
  container.end->set(wait_status);
}

// Ends a container whose init will not run (any more).
void finish(Container& container, i32 exit_status) {
  if (container.finish)
    container.finish(exit_status);
  else
    end_joined(container, W_EXITCODE(exit_status, 0));
}

ErrorReply error_reply(Errno code, std::string text) { return {static_cast<i32>(code), std::move(text)}; }

HostResult<void> accept_for(Container& container);

class Connection : public RefCounted {
 public:
  Connection(UniqueFd fd, Container& container) : fd_(std::move(fd)), container_(&container) {}

  bool begin() {
    RefPtr<Connection> self(this);
    self_ = self;
    auto watched = watch_.watch(fd_.get(), EPOLLIN | EPOLLRDHUP, [this](u32) { pump(); });
    if (!watched) return false;
    pump();
    return true;
  }

 private:
  // Takes every request that is there. Each is served on a fiber of its own, so a `wait` does not block a `signal`.
  void pump() {
    RefPtr<Connection> keep(this);
    while (!closed_) {
      auto packet = receive_packet(fd_.get(), MSG_DONTWAIT);
      if (!packet) {
        if (packet.error().code == Errno::kAgain) return;
        close();
        return;
      }
      if (packet->bytes.empty()) {
        close();
        return;
      }
      auto shared = std::make_shared<Packet>(std::move(*packet));
      fiber::spawn([keep, shared] { keep->serve(*shared); });
    }
  }

  void serve(Packet& packet) {
    auto request = decode_request(packet.bytes);
    Reply reply = request ? std::visit([&](auto& r) { return handle(r, packet); }, *request)
                          : Reply(error_reply(request.error().code, request.error().message));
    if (closed_) return;
    if (auto sent = send_packet(fd_.get(), encode_reply(reply), {}, MSG_DONTWAIT); !sent) close();
  }

  void close() {
    if (closed_) return;
    closed_ = true;
    watch_.unwatch();
    for (u32 id : tied_) {
      auto it = execs().find(id);
      if (it == execs().end()) continue;
      if (!it->second->end->done) task::exit_group(*it->second->group, SIGKILL);
      execs().erase(it);
    }
    if (joined_) end_joined(*container_, SIGKILL);
    gone_.wake_all();
    fd_.reset();
    self_.reset();
  }

  Reply handle(StartRequest& r, Packet&) {
    if (container_->started)
      return error_reply(Errno::kInval, "cannot start a container that has already been started");
    if (r.pid < 0 || (r.pid > 0 && static_cast<u32>(r.pid) >= r.pid_max))
      return error_reply(Errno::kInval, "the container's pid is not below the host's pid_max");
    if (r.pid > 0 && !joined_) kernel().number_as_host(r.pid, r.pid_max);
    // As runc, whose init has left its runtime behind when it comes to execve(2): the container started, and what went
    // wrong is on its own standard error (an interpreter that is missing, a foreign or broken program).
    const Streams& streams = container_->init_streams;
    const UniqueFd& errors = container_->config.process.terminal ? streams.fd[0] : streams.fd[2];
    UniqueFd kept(errors ? fcntl(errors.get(), F_DUPFD_CLOEXEC, 0) : -1);
    auto started = start_init(*container_);
    if (started) return OkReply{};
    if (auto sent = send_packet(fd_.get(), encode_reply(OkReply{}), {}, MSG_DONTWAIT); !sent) close();
    const std::string text = started.error().message + "\n";
    if (kept) (void)!write(kept.get(), text.data(), text.size());
    finish(*container_, 1);
    return OkReply{};
  }

  Reply handle(SignalRequest& r, Packet&) {
    if (r.signo < 0 || r.signo > signal::kMaxSignal) return error_reply(Errno::kInval, "invalid signal");
    signal::SigInfo info;
    info.signo = r.signo;
    if (!container_->started && r.target != SignalTarget::kPid) {
      signal_init(*container_, r.signo);
      return OkReply{};
    }
    std::vector<RefPtr<ThreadGroup>> targets;
    if (r.target == SignalTarget::kAll) {
      targets = groups_of(*container_);
    } else {
      ThreadGroup* group = nullptr;
      if (r.target == SignalTarget::kExec) {
        auto it = execs().find(r.exec_id);
        group = it != execs().end() ? it->second->group.get() : nullptr;
      } else {
        group = r.target == SignalTarget::kInit ? container_->kernel->init.get() : kernel().find_group(r.pid);
      }
      if (group == nullptr || group->zombie) return error_reply(Errno::kSrch, "no such process");
      targets.emplace_back(group);
    }
    if (r.signo != 0) {
      for (auto& group : targets) task::send_to_group(*group, info, true);
    }
    return OkReply{};
  }

  Reply handle(ExecRequest& r, Packet& packet) {
    Streams streams;
    size_t next = 0;
    auto take = [&]() { return next < packet.fds.size() ? std::move(packet.fds[next++]) : UniqueFd(); };
    if (r.process.terminal) {
      streams.fd[0] = take();
    } else {
      for (int i = 0; i < 3; ++i) {
        if (r.stdio_present[i]) streams.fd[i] = take();
      }
    }
    for (u32 i = 0; i < r.extra_fds && next < packet.fds.size(); ++i) streams.extra.push_back(take());
    if (r.process.args.empty()) return error_reply(Errno::kInval, "process.args is empty");
    if (auto cwd = prepare_cwd(*container_->kernel, r.process); !cwd)
      return error_reply(cwd.error().code, cwd.error().message);
    auto spec =
        make_process(*container_->kernel, r.process, std::move(streams), &container_->config.process.capabilities);
    if (!spec) return error_reply(spec.error().code, spec.error().message);
    auto state = make_ref<ExecState>();
    spec->on_exit = [end = state->end](i32 status) { end->set(status); };
    auto group = kernel().start_process(std::move(*spec));
    if (!group) return error_reply(group.error(), start_error_text(r.process, group.error()));
    state->group = *group;
    u32 id = next_exec_id++;
    execs()[id] = state;
    if (r.tied) {
      if (closed_)
        task::exit_group(**group, SIGKILL);
      else
        tied_.push_back(id);
    }
    return ExecReply{id, (*group)->pid};
  }

  Reply handle(WaitRequest& r, Packet&) {
    // The end of the first container's init is the sentry's: the connection closes then.
    RefPtr<End> end = container_->end;
    if (r.exec_id != 0) {
      auto it = execs().find(r.exec_id);
      if (it == execs().end()) return error_reply(Errno::kSrch, "no such exec");
      end = it->second->end;
    }
    while (!end->done && !closed_) {
      fiber::Waiter gone(fiber::current());
      gone.join(gone_);
      auto waited = end->queue.wait_until([&] { return end->done || closed_; }, "exec wait");
      (void)waited;
    }
    i32 status = end->wait_status;
    execs().erase(r.exec_id);
    return WaitReply{exit_status_of(status), WIFSIGNALED(status), WIFSIGNALED(status) && WCOREDUMP(status)};
  }

  Reply handle(PsRequest&, Packet&) {
    PsReply out;
    for (const auto& group : groups_of(*container_)) {
      PsEntry e;
      e.pid = group->pid;
      e.ppid = group->parent != nullptr ? group->parent->pid : 0;
      e.threads = static_cast<u32>(std::max<size_t>(1, group->tasks.size()));
      e.comm = group->comm_of_leader();
      task::Usage usage = task::group_usage(*group);
      e.cpu_ms = (usage.utime_us + usage.stime_us) / 1000;
      e.rss_bytes = usage.maxrss_kb * 1024;
      e.state = group->zombie ? 'Z' : group->stop_signal != 0 ? 'T' : 'S';
      if (group->leader != nullptr) {
        e.uid = group->leader->creds->uid;
        if (!group->zombie && !group->leader->thread->in_sentry()) e.state = 'R';
      }
      for (task::Task* task : group->tasks) {
        if (e.host_pid == 0) e.host_pid = task->thread->address_space() ? task->thread->address_space()->host_pid() : 0;
      }
      e.cmdline = command_line(*group);
      out.processes.push_back(std::move(e));
    }
    return out;
  }

  // As the guest's memory has it now (ps(1) shows what programs write there); empty for zombies.
  static std::vector<std::string> command_line(ThreadGroup& group) {
    std::vector<std::string> words;
    if (group.tasks.empty() || !group.image || group.image->arg_end <= group.image->arg_start) return words;
    std::string bytes(std::min<u64>(group.image->arg_end - group.image->arg_start, 4096), '\0');
    auto got = group.tasks[0]->memory().read_some(group.image->arg_start, bytes.data(), bytes.size());
    bytes.resize(got ? *got : 0);
    for (size_t at = 0; at < bytes.size();) {
      size_t end = std::min(bytes.find('\0', at), bytes.size());
      words.push_back(bytes.substr(at, end - at));
      at = end + 1;
    }
    return words;
  }

  Reply handle(DebugRequest& r, Packet&) {
    if (r.what.rfind("strace on", 0) == 0) {
      syscalls::strace_start(first_->config.log_fd, r.what.size() > 10 ? r.what.substr(10) : "");
      return OkReply{};
    }
    if (r.what == "strace off") {
      syscalls::trace_flags &= ~static_cast<u32>(syscalls::kTraceStrace);
      return OkReply{};
    }
    return TextReply{debug_text(r.what)};
  }

  // The size itself is the host's terminal's.
  Reply handle(ResizeRequest&, Packet&) {
    host_window_changed();
    return OkReply{};
  }

  Reply handle(EventsRequest&, Packet&) { return error_reply(Errno::kOpnotsupp, "events come from the cgroup"); }

  Reply handle(PauseRequest&, Packet&) {
    signal::SigInfo stop;
    stop.signo = SIGSTOP;
    for (const auto& group : groups_of(*container_)) task::send_to_group(*group, stop, true);
    return OkReply{};
  }

  Reply handle(ResumeRequest&, Packet&) {
    signal::SigInfo cont;
    cont.signo = SIGCONT;
    for (const auto& group : groups_of(*container_)) task::send_to_group(*group, cont, true);
    return OkReply{};
  }

  Reply handle(UpdateRequest& r, Packet&) {
    // A container that joined sees the first's limits.
    if (container_.get() == first_)
      set_limits(r.limits);
    else
      set_pids_limit(*container_->kernel, r.limits.pids);
    return OkReply{};
  }

  Reply handle(StatsRequest&, Packet&) {
    StatsReply out;
    for (const auto& group : groups_of(*container_)) {
      ++out.processes;
      out.threads += group->tasks.size();
    }
    return out;
  }

  Reply handle(JoinRequest&, Packet& packet) {
    if (joined_ || container_.get() != first_) return error_reply(Errno::kInval, "join: not of this connection");
    if (packet.fds.empty()) return error_reply(Errno::kInval, "join: no boot config");
    auto config = read_boot_config(packet.fds[0].get());
    if (!config) return error_reply(config.error().code, "join: " + config.error().message);
    auto made = make_ref<Container>();
    auto take = [&](i32 place) {
      return place > 0 && static_cast<size_t>(place) < packet.fds.size() ? std::move(packet.fds[place]) : UniqueFd();
    };
    UniqueFd gofer = take(config->gofer_fd);
    made->listener = take(config->control_fd);
    for (int i = 0; i < (config->process.terminal ? 1 : 3); ++i) {
      made->init_streams.fd[i] = take(config->stdio[i].fd);
    }
    for (i32 place : config->extra_fds) made->init_streams.extra.push_back(take(place));
    made->kernel = make_ref<task::Container>();
    for (i32 place : config->guest_cgroup_fds) made->kernel->cgroup_procs.push_back(take(place));
    made->config = std::move(*config);
    if (!gofer || !made->listener) return error_reply(Errno::kBadf, "join: gofer_fd, control_fd");
    if (auto joined = joiner()(*made, std::move(gofer)); !joined)
      return error_reply(joined.error().code, joined.error().message);
    if (closed_) return OkReply{};
    if (auto serving = accept_for(*made); !serving) return error_reply(serving.error().code, serving.error().message);
    container_ = made;
    joined_ = true;
    return OkReply{};
  }

  UniqueFd fd_;
  fiber::HostWatch watch_;
  RefPtr<Connection> self_;  // alive while open
  fiber::WaitQueue gone_;
  std::vector<u32> tied_;
  bool closed_ = false;
  RefPtr<Container> container_;
  bool joined_ = false;  // container_ joined through this connection, and lives no longer than it
};

constexpr uid_t kOverflowUid = 65534;

void accept_all(Container& container) {
  const int listener = container.listener.get();
  for (;;) {
    UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return;
    ucred peer{};
    socklen_t size = sizeof(peer);
    // In a user namespace the host's administrator has no uid of ours: the kernel shows the overflow uid. The socket's
    // directory, which is the caller's own, keeps others away.
    bool own_user_namespace = !first_->config.uid_map.empty();
    if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
        (peer.uid != 0 && peer.uid != first_->config.owner_uid && !(own_user_namespace && peer.uid == kOverflowUid))) {
      LOG_WARNING("control: connection of uid %u refused", peer.uid);
      continue;
    }
    auto connection = make_ref<Connection>(std::move(fd), container);
    connection->begin();
  }
}

HostResult<void> accept_for(Container& container) {
  if (fcntl(container.listener.get(), F_SETFL, O_NONBLOCK) != 0) return Failure::from_errno("control socket");
  auto watched = container.accepts.watch(container.listener.get(), EPOLLIN, [&](u32) { accept_all(container); });
  if (!watched) return Failure(watched.error(), "control socket: cannot be watched");
  accept_all(container);
  return {};
}

}  // namespace

void End::set(i32 status) {
  done = true;
  wait_status = status;
  queue.wake_all();
}

i32 exit_status_of(i32 status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

HostResult<void> start_init(Container& container) {
  const ProcessSpec& spec = container.config.process;
  auto made = make_process(*container.kernel, spec, std::move(container.init_streams), nullptr);
  if (!made) return std::move(made).error();
  if (!container.finish) {
    RefPtr<Container> keep(&container);
    made->on_exit = [keep](i32 status) { end_joined(*keep, status); };
  }
  made->init = static_cast<bool>(container.finish);
  auto group = kernel().start_process(std::move(*made));
  if (!group) return Failure(group.error(), exec_failed_text(spec.args[0], group.error()));
  container.started = true;
  container.kernel->init = *group;
  return {};
}

void signal_init(Container& container, int signo) {
  if (!container.started) {
    bool fatal = signo != 0 && signal::default_action(signo) <= signal::DefaultAction::kCore;
    if (fatal) finish(container, 128 + signo);
    return;
  }
  ThreadGroup* init = container.kernel->init.get();
  if (signo == 0 || init == nullptr || init->zombie) return;
  signal::SigInfo info;
  info.signo = signo;
  task::send_to_group(*init, info, true);
}

HostResult<void> serve_control(Container& container, Joiner joiner_for_others) {
  first_ = &container;
  joiner() = std::move(joiner_for_others);
  if (container.config.control_fd < 0) return {};
  container.listener.reset(container.config.control_fd);
  return accept_for(container);
}

}  // namespace sbx::control
