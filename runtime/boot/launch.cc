#include "runtime/boot/launch.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "gofer/boot.h"
#include "runtime/boot/child.h"
#include "runtime/boot/mounts.h"
#include "runtime/host/files.h"
#include "runtime/host/idmap.h"
#include "runtime/host/process.h"
#include "sentry/base/log.h"
#include "sentry/control/messages.h"

namespace sbx::boot {
namespace {

constexpr int kBootTimeoutMs = 120'000;

HostResult<std::pair<UniqueFd, UniqueFd>> socket_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) return Failure::from_errno("socketpair");
  return std::pair<UniqueFd, UniqueFd>(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

struct NamespaceKind {
  const char* type;
  int flag;
};
// The user namespace comes first: the others are then ours to join or make. cgroup and time namespaces are the
// sentry's to emulate, mount and pid are always our own.
constexpr NamespaceKind kKinds[] = {
    {"user", CLONE_NEWUSER}, {"network", CLONE_NEWNET}, {"ipc", CLONE_NEWIPC}, {"uts", CLONE_NEWUTS}};

struct NamespacePlan {
  int clone_flags = 0;
  int unshare_flags = 0;
  std::vector<std::pair<UniqueFd, int>> join;
};

HostResult<NamespacePlan> plan_namespaces(const oci::Spec& spec) {
  NamespacePlan out;
  const oci::Namespace* user = spec.linux_.find_namespace("user");
  // Made by the clone when nothing has to be joined before; else after joining, so that the user namespace owns them.
  bool late = user != nullptr && !user->path.empty();
  int& made = late ? out.unshare_flags : out.clone_flags;
  made |= CLONE_NEWNS;
  for (const NamespaceKind& kind : kKinds) {
    for (size_t i = 0; i < spec.linux_.namespaces.size(); ++i) {
      const oci::Namespace& n = spec.linux_.namespaces[i];
      if (n.type != kind.type) continue;
      if (n.path.empty()) {
        made |= kind.flag;
        continue;
      }
      std::string field = "linux.namespaces[" + std::to_string(i) + "].path";
      UniqueFd fd = TRY(host::open_file(n.path, O_RDONLY).context(field));
      out.join.emplace_back(std::move(fd), kind.flag);
    }
  }
  // The sandbox itself never shares the host's ipc namespace: the sentry has no use for it.
  if (spec.linux_.find_namespace("ipc") == nullptr) made |= CLONE_NEWIPC;
  return out;
}

// What is made in `wanted` meanwhile: only children are in another pid namespace after setns(2).
class ChildrenIn {
 public:
  static HostResult<ChildrenIn> enter(const JoinTarget* target) {
    ChildrenIn out;
    if (target == nullptr) return out;
    out.own_ = TRY(host::open_file("/proc/self/ns/pid", O_RDONLY));
    if (::setns(target->pid_namespace.get(), CLONE_NEWPID) < 0) return Failure::from_errno("joining the pid namespace");
    return out;
  }
  ChildrenIn(ChildrenIn&&) = default;
  ChildrenIn& operator=(ChildrenIn&&) = delete;
  ~ChildrenIn() {
    if (own_ && ::setns(own_.get(), CLONE_NEWPID) < 0) LOG_WARNING("leaving the pid namespace: %s", strerror(errno));
  }

 private:
  ChildrenIn() = default;
  UniqueFd own_;
};

// Asks the sandbox that is joined to take the container in. Descriptors of the config become places.
HostResult<void> ask_to_join(int control_fd, control::BootConfig config) {
  std::vector<int> fds = {-1};
  auto place = [&](i32& fd) {
    if (fd < 0) return;
    fds.push_back(fd);
    fd = static_cast<i32>(fds.size() - 1);
  };
  place(config.gofer_fd);
  place(config.control_fd);
  for (int i = 0; i < (config.process.terminal ? 1 : 3); ++i) place(config.stdio[i].fd);
  for (i32& fd : config.extra_fds) place(fd);
  for (i32& fd : config.guest_cgroup_fds) place(fd);
  if (fds.size() > control::kMaxFds) return Failure(Errno::kInval, "too many descriptors to be preserved");
  UniqueFd boot = TRY(control::write_boot_config(config));
  fds[0] = boot.get();
  TRY(control::send_packet(control_fd, control::encode_request(control::JoinRequest{}), fds));
  pollfd p{control_fd, POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&p, 1, kBootTimeoutMs);
  } while (ready < 0 && errno == EINTR);
  if (ready != 1) return Failure(Errno::kTimedout, "the sandbox does not answer");
  control::Packet packet = TRY(control::receive_packet(control_fd));
  if (packet.bytes.empty()) return Failure(Errno::kConnreset, "the sandbox ended");
  control::Reply reply = TRY(control::decode_reply(packet.bytes));
  if (auto* error = std::get_if<control::ErrorReply>(&reply))
    return Failure(static_cast<Errno>(error->code), error->text);
  return {};
}

// Reads packets from the child until `stage` or a report arrives.
HostResult<void> await_stage(int sync_fd, char stage, int timeout_ms) {
  u64 end = host::monotonic_ms() + static_cast<u64>(timeout_ms);
  for (;;) {
    i64 left = static_cast<i64>(end) - static_cast<i64>(host::monotonic_ms());
    if (left <= 0) return Failure(Errno::kTimedout, "the sandbox did not start in time");
    pollfd p{sync_fd, POLLIN, 0};
    int n = ::poll(&p, 1, static_cast<int>(left));
    if (n < 0 && errno != EINTR) return Failure::from_errno("poll");
    if (n <= 0) continue;
    std::string packet(65536, '\0');
    ssize_t got = ::recv(sync_fd, packet.data(), packet.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Failure(Errno::kPipe, "the sandbox ended before it was ready");
    packet.resize(static_cast<size_t>(got));
    if (packet.size() == 1) {
      if (packet[0] == stage) return {};
      return Failure("the sandbox answered out of order");
    }
    control::BootReport report = TRY(control::decode_boot_report(packet));
    if (!report.ready) return Failure(report.text);
    if (stage == '\0') return {};
    return Failure("the sandbox answered out of order");
  }
}

void tell(int sync_fd, char what) {
  if (::write(sync_fd, &what, 1) != 1) LOG_DEBUG("the sandbox's child is gone");
}

HostResult<UniqueFd> own_executable() { return host::open_file("/proc/self/exe", O_RDONLY); }

// Everything that goes wrong after the clone ends the child; its pid namespace goes with it.
class ChildGuard {
 public:
  explicit ChildGuard(i32 pid) : pid_(pid) {}
  ChildGuard(const ChildGuard&) = delete;
  ChildGuard& operator=(const ChildGuard&) = delete;
  ~ChildGuard() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  void dismiss() { pid_ = 0; }

 private:
  i32 pid_;
};

// What an id of ours is called in a namespace with this map. Without a map, or not in it: the same, which is nobody's
// there.
u32 id_inside(const std::vector<oci::IdMapping>& map, u32 id) {
  for (const oci::IdMapping& m : map) {
    if (id >= m.host_id && id - m.host_id < m.size) return m.container_id + (id - m.host_id);
  }
  return id;
}

}  // namespace

HostResult<Launched> launch(LaunchRequest request) {
  const oci::Spec& spec = *request.spec;
  control::BootConfig& config = request.config;
  ChildPlan plan;

  NamespacePlan namespaces = TRY(plan_namespaces(spec));
  std::vector<OpenedMount> mounts = TRY(open_mounts(spec, request.bundle, config));
  auto sync = TRY(socket_pair());
  auto requests = TRY(socket_pair());
  auto notify = TRY(socket_pair());
  UniqueFd null_fd = TRY(host::open_file("/dev/null", O_RDWR));
  UniqueFd exe = TRY(own_executable());
  std::vector<UniqueFd> guest_procs;
  if (request.cgroup != nullptr) guest_procs = TRY(request.cgroup->open_guest_procs(request.join != nullptr));

  gofer::GoferBoot gofer;
  gofer.request_socket = requests.second.get();
  gofer.notify_socket = notify.second.get();
  gofer.log_fd = request.log_fd;
  gofer.log_format = config.log_format;
  gofer.log_level = config.log_level;
  gofer.raw_sockets = config.raw_sockets;
  gofer.sockets = request.join != nullptr && !config.namespaces.shares_net;
  for (const OpenedMount& m : mounts)
    gofer.mounts.push_back({m.fd.get(), m.read_only, m.recursive, m.exclusive, m.sockets});
  UniqueFd gofer_boot = TRY(gofer::write_gofer_boot(gofer));

  config.gofer_fd = requests.first.get();
  config.gofer_notify_fd = notify.first.get();
  config.control_fd = request.control_fd;
  config.log_fd = request.log_fd;
  config.sync_fd = sync.second.get();
  config.rootless = request.rootless;
  config.owner_uid = id_inside(spec.linux_.uid_mappings, ::geteuid());
  for (const UniqueFd& fd : guest_procs) config.guest_cgroup_fds.push_back(fd.get());
  for (int i = 0; i < 3; ++i) {
    config.stdio[i] = request.tty >= 0 ? control::StdioFd{request.tty, true}
                                       : control::StdioFd{request.streams[i].fd, request.streams[i].nonblocking};
  }
  // The sentry's own 0, 1 and 2 are not the container's: those move out of the way.
  UniqueFd moved[3];
  for (int i = 0; i < 3; ++i) {
    if (config.stdio[i].fd < 0 || config.stdio[i].fd > 2) continue;
    moved[i] = UniqueFd(::fcntl(config.stdio[i].fd, F_DUPFD_CLOEXEC, 3));
    if (!moved[i]) return Failure::from_errno("duplicating a standard stream");
    config.stdio[i].fd = moved[i].get();
  }
  for (int fd : request.extra_fds) config.extra_fds.push_back(fd);
  UniqueFd sentry_boot;
  if (request.join == nullptr) {
    namespaces.clone_flags |= CLONE_NEWPID;
    sentry_boot = TRY(control::write_boot_config(config));
  }

  plan.sync_fd = sync.second.get();
  plan.parent_sync_fd = sync.first.get();
  bool new_user = (namespaces.clone_flags & CLONE_NEWUSER) != 0;
  plan.wait_for_maps = new_user;
  plan.set_ids = spec.linux_.find_namespace("user") != nullptr;
  plan.own_net = config.namespaces.own_net;
  plan.unshare_flags = namespaces.unshare_flags;
  for (const auto& [fd, kind] : namespaces.join) plan.join.emplace_back(fd.get(), kind);
  if (config.namespaces.own_uts) {
    plan.hostname = spec.hostname;
    plan.domainname = spec.domainname;
  }
  for (const auto& [name, value] : spec.linux_.sysctl) {
    if (name.compare(0, 4, "net.") == 0 || name.compare(0, 4, "net/") == 0) plan.sysctls.emplace_back(name, value);
  }
  plan.has_oom_score_adj = config.process.has_oom_score_adj;
  plan.oom_score_adj = config.process.oom_score_adj;
  plan.tty = request.tty;
  plan.null_fd = null_fd.get();
  plan.log_fd = request.log_fd;
  plan.exe_fd = exe.get();
  plan.gofer_boot_fd = gofer_boot.get();
  plan.sentry_boot_fd = sentry_boot.get();
  if (request.join != nullptr) plan.stand_in_fd = request.join->control.get();
  plan.gofer_fds = {gofer_boot.get(), gofer.request_socket, gofer.notify_socket, gofer.log_fd};
  for (const OpenedMount& m : mounts) plan.gofer_fds.push_back(m.fd.get());
  plan.sentry_fds = {sentry_boot.get(), config.gofer_fd,    config.gofer_notify_fd, config.control_fd, config.log_fd,
                     config.sync_fd,    config.stdio[0].fd, config.stdio[1].fd,     config.stdio[2].fd};
  plan.sentry_fds.insert(plan.sentry_fds.end(), config.guest_cgroup_fds.begin(), config.guest_cgroup_fds.end());
  plan.sentry_fds.insert(plan.sentry_fds.end(), config.extra_fds.begin(), config.extra_fds.end());

  int pidfd_number = -1;
  clone_args args{};
  args.flags = static_cast<u64>(namespaces.clone_flags) | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<u64>(&pidfd_number);
  args.exit_signal = SIGCHLD;
  long pid = 0;
  {
    ChildrenIn joined = TRY(ChildrenIn::enter(request.join));
    pid = ::syscall(SYS_clone3, &args, sizeof(args));
    if (pid == 0) child_main(plan);
    if (pid < 0) return Failure::from_errno("making the sandbox's namespaces");
  }

  ChildGuard guard(static_cast<i32>(pid));
  UniqueFd pidfd(pidfd_number);
  sync.second.reset();
  requests.second.reset();
  if (request.join == nullptr) requests.first.reset();
  notify.first.reset();
  notify.second.reset();

  if (new_user) {
    TRY(await_stage(sync.first.get(), 'M', kBootTimeoutMs));
    TRY(host::write_id_maps(static_cast<i32>(pid), spec.linux_.uid_mappings, spec.linux_.gid_mappings));
    tell(sync.first.get(), 'M');
  }
  // The child prepares meanwhile.
  if (request.cgroup != nullptr) TRY(request.cgroup->attach(static_cast<i32>(pid)));
  tell(sync.first.get(), 'A');
  TRY(await_stage(sync.first.get(), 'P', kBootTimeoutMs));
  if (request.on_prepared) TRY(request.on_prepared(static_cast<i32>(pid)));
  if (request.join != nullptr) TRY(ask_to_join(request.join->control.get(), config));
  tell(sync.first.get(), 'G');
  TRY(await_stage(sync.first.get(), '\0', kBootTimeoutMs));
  guard.dismiss();
  return Launched{static_cast<i32>(pid), std::move(pidfd)};
}

}  // namespace sbx::boot
