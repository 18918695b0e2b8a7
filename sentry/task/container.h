// Container: what the processes of one container have in common and others do not. The sandbox is made for the first;
// further ones join it when they are to share its pid namespace (linux.namespaces of config.json). Kernel lock.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/base/unique_fd.h"
#include "sentry/ipc/namespace.h"
#include "sentry/net/network.h"
#include "sentry/vfs/walk.h"

namespace sbx::task {

class SeccompFilter;
class ThreadGroup;

class UtsNamespace : public RefCounted {
 public:
  std::string hostname = "sandbox", domainname = "(none)";
  UtsNamespace() = default;
  UtsNamespace(const UtsNamespace& o) : RefCounted(), hostname(o.hostname), domainname(o.domainname) {}
};

class Container : public RefCounted {
 public:
  RefPtr<vfs::MountNamespace> mounts;
  RefPtr<UtsNamespace> uts;
  RefPtr<ipc::Namespace> ipc;
  RefPtr<net::Network> network;
  // Tunables visible in /proc/sys, set by config.json's sysctl: name with '/' -> value.
  std::map<std::string, std::string> sysctls;
  RefPtr<const SeccompFilter> seccomp;         // linux.seccomp: what init and `sbx exec` begin with; null: none
  std::string cgroup_shown = "/";              // in /proc/PID/cgroup
  static constexpr size_t kMostTasks = 30000;  // without a limit, and of all together
  size_t tasks = 0;
  size_t max_tasks = kMostTasks;  // its pids limit: kAgain beyond
  // Its first process: null before start, and in a joined container once that has ended.
  RefPtr<ThreadGroup> init;
  // cgroup.procs of where its processes belong; none: where the sandbox's zygotes are already.
  std::vector<UniqueFd> cgroup_procs;

  Container();
  // Moves a new stub (pid in the sentry's namespace) to where it belongs. Takes a grace period of the host's RCU.
  void adopt(i32 host_pid) const;
  // Its root directory as the kernel itself looks into it.
  vfs::WalkContext kernel_context() const;

 protected:
  ~Container() override;
};

}  // namespace sbx::task
