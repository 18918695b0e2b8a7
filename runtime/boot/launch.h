// Starts a container's two processes: namespaces, identity, cgroup, empty root, descriptors; then the gofer and the
// sentry, re-executed from our own binary.
//
//   sbx create ─clone─> child (pid 1 of the new pid namespace; waits for maps and cgroup)
//                         │ joins namespaces, network up, sysctls, empty root     -> "prepared": on_prepared runs hooks
//                         ├─fork─> gofer  (so it dies with the pid namespace, and needs no pid of ours)
//                         └─exec─> sentry (the container's `pid`)                 -> boot report: ready, or the error
//
// A container that joins another's sandbox has the same gofer, and in place of a sentry of its own a stand-in (its
// `pid`): we ask that sandbox's sentry to take the container in, and the connection to it becomes the stand-in's.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "oci/spec.h"
#include "runtime/boot/stdio.h"
#include "runtime/host/cgroup.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/boot_config.h"

namespace sbx::boot {

// The sandbox of another container that one joins, because it is to share its pid namespace.
struct JoinTarget {
  UniqueFd pid_namespace;
  UniqueFd control;  // a connection to its sentry
};

struct LaunchRequest {
  const oci::Spec* spec = nullptr;
  std::string bundle;          // absolute
  control::BootConfig config;  // from convert_spec, with the command's globals; descriptors are set by launch()
  const host::Cgroup* cgroup = nullptr;
  int control_fd = -1;
  int log_fd = -1;
  int tty = -1;  // slave of the container's terminal; -1: the streams below
  Stream streams[3];
  std::vector<int> extra_fds;
  bool rootless = false;
  JoinTarget* join = nullptr;  // null: a sandbox of its own
  // Called when the child exists in its namespaces and cgroup, and before any of the container's code runs.
  std::function<HostResult<void>(i32 pid)> on_prepared;
};

struct Launched {
  i32 pid = 0;
  UniqueFd pidfd;
};

// On failure nothing is left running. The new process is our child: it is reparented when we exit.
HostResult<Launched> launch(LaunchRequest request);

// What argv[0] of a re-executed binary means: runs the process and returns its exit status.
constexpr const char* kGoferName = "sbx-gofer";
constexpr const char* kSentryName = "sbx-sentry";
int run_gofer(int argc, char** argv);
int run_sentry(int argc, char** argv);

}  // namespace sbx::boot
