#include "sentry/containers.h"

#include <linux/seccomp.h>
#include <sys/utsname.h>

#include <algorithm>

#include "sentry/control/limits.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/rootfs.h"
#include "sentry/task/kernel.h"

namespace sbx {

namespace {

using control::BootConfig;

u32 seccomp_verdict(control::SeccompAction action, u32 errno_value) {
  using control::SeccompAction;
  switch (action) {
    case SeccompAction::kKillProcess: return SECCOMP_RET_KILL_PROCESS;
    case SeccompAction::kKillThread: return SECCOMP_RET_KILL_THREAD;
    case SeccompAction::kTrap: return SECCOMP_RET_TRAP;
    case SeccompAction::kErrno: return SECCOMP_RET_ERRNO | (errno_value & SECCOMP_RET_DATA);
    case SeccompAction::kNotify: return SECCOMP_RET_USER_NOTIF;
    case SeccompAction::kTrace: return SECCOMP_RET_TRACE | (errno_value & SECCOMP_RET_DATA);
    case SeccompAction::kLog: return SECCOMP_RET_LOG;
    case SeccompAction::kAllow: return SECCOMP_RET_ALLOW;
  }
  return SECCOMP_RET_KILL_PROCESS;
}

RefPtr<const task::SeccompFilter> container_filter(const control::SeccompConfig& config) {
  if (!config.present) return nullptr;
  std::vector<task::SeccompRule> rules;
  for (const control::SeccompRule& rule : config.rules) {
    task::SeccompRule& out = rules.emplace_back();
    out.numbers = rule.syscalls;
    out.action = seccomp_verdict(rule.action, rule.errno_value);
    for (const control::SeccompArg& arg : rule.args) {
      // The enumerations have the same order.
      out.conditions.push_back({arg.index, static_cast<task::SeccompOp>(arg.op), arg.value, arg.value_two});
    }
  }
  return task::rules_filter(std::move(rules), seccomp_verdict(config.default_action, config.default_errno));
}

RefPtr<task::UtsNamespace> uts_namespace(const BootConfig& config) {
  auto uts = make_ref<task::UtsNamespace>();
  // Not given: what the uts namespace has that the sentry is in, the host's or a copy of it.
  utsname host{};
  if (uname(&host) == 0) {
    uts->hostname = host.nodename;
    uts->domainname = host.domainname;
  }
  if (!config.hostname.empty()) uts->hostname = config.hostname;
  if (!config.domainname.empty()) uts->domainname = config.domainname;
  return uts;
}

RefPtr<net::Network> own_network(const BootConfig& config, const std::shared_ptr<gofer::Client>& gofer, bool joined) {
  auto network = make_ref<net::Network>();
  auto by_gofer = [gofer](int family, int type, int protocol) {
    return fs::gofer::host_socket(*gofer, family, type, protocol);
  };
  if (joined) network->make = by_gofer;
  // Their options are in the sentry's filter only where the first container has them.
  const bool raw = config.raw_sockets && (!joined || task::kernel().container->network->make_raw);
  if (raw) network->make_raw = by_gofer;
  return network;
}

void apply_sysctls(const BootConfig& config, task::Container& to) {
  for (auto [name, value] : config.sysctls) {
    // config.json writes them with dots; files have slashes.
    std::replace(name.begin(), name.end(), '.', '/');
    const u64 number = strtoull(value.c_str(), nullptr, 10);
    ipc::Namespace& ipc = *to.ipc;
    if (name == "kernel/domainname") to.uts->domainname = value;
    if (name == "net/ipv4/ip_unprivileged_port_start") to.network->unprivileged_port_start = static_cast<u32>(number);
    if (name == "kernel/shmmax") ipc.shmmax = number;
    if (name == "kernel/shmall") ipc.shmall = number;
    if (name == "kernel/shmmni") ipc.segments.limit = static_cast<u32>(std::min<u64>(number, ipc::kMaxIds));
    if (name == "kernel/msgmax") ipc.msgmax = std::min<u64>(number, 1 << 20);
    if (name == "kernel/msgmnb") ipc.msgmnb = number;
    if (name == "kernel/msgmni") ipc.queues.limit = static_cast<u32>(std::min<u64>(number, ipc::kMaxIds));
    to.sysctls[name] = value;
  }
}

}  // namespace

HostResult<void> set_up_container(control::Container& container, std::shared_ptr<gofer::Client> gofer) {
  const BootConfig& config = container.config;
  const task::Container& first = *task::kernel().container;
  task::Container& made = *container.kernel;
  const bool joined = &made != &first;
  made.uts = joined && config.namespaces.shares_uts ? first.uts : uts_namespace(config);
  made.ipc = joined && config.namespaces.shares_ipc ? first.ipc : make_ref<ipc::Namespace>();
  made.network = joined && config.namespaces.shares_net ? first.network : own_network(config, gofer, joined);
  made.seccomp = container_filter(config.seccomp);
  if (!config.namespaces.own_cgroup && !config.cgroup_path.empty()) made.cgroup_shown = config.cgroup_path;
  apply_sysctls(config, made);
  if (joined)
    control::set_pids_limit(made, config.limits.pids);
  else
    register_filesystems(config, gofer);
  made.mounts = TRY(control::build_mounts(config, gofer_bind_maker(gofer)));
  TRY(control::prepare_cwd(made, config.process));

  task::ProcessSpec probe;
  probe.container = container.kernel;
  probe.args = config.process.args;
  probe.env = config.process.env;
  probe.cwd = config.process.cwd;
  RefPtr<security::Credentials> creds(new security::Credentials);
  creds->uid = creds->euid = creds->suid = creds->fsuid = config.process.uid;
  creds->gid = creds->egid = creds->sgid = creds->fsgid = config.process.gid;
  creds->effective = config.process.capabilities.effective;
  probe.creds = creds;
  auto found = task::kernel().find_command(probe);
  if (!found) return Failure(found.error(), control::start_error_text(config.process, found.error()));
  return {};
}

HostResult<void> join_container(control::Container& container, UniqueFd gofer_socket) {
  if (!task::kernel().init) return Failure(Errno::kSrch, "the container whose pid namespace it shares has not started");
  task::kernel().platform->tell_nobody(platform::Platform::Differ::kTrees);  // it has a tree of its own
  std::unique_ptr<gofer::Client> client;
  {
    fiber::HostBlock block;  // until it greets
    client = TRY(gofer::Client::connect(std::move(gofer_socket)));
  }
  return set_up_container(container, std::move(client));
}

}  // namespace sbx
