// Sandboxes with several containers: those that are to share a pid namespace share the sentry, which is its kernel.
#pragma once
#include <optional>
#include <string>

#include "oci/spec.h"
#include "runtime/boot/launch.h"
#include "runtime/container/container.h"

namespace sbx::container {

struct Sandbox {
  std::string id;  // of the container that it was made for
  boot::JoinTarget target;
  bool shares_net = false, shares_ipc = false, shares_uts = false;
};

// The sandbox whose pid namespace linux.namespaces names by path, among the containers below `root`. None: no path, or
// the namespace is not a sandbox's.
HostResult<std::optional<Sandbox>> find_sandbox(const std::string& root, const oci::Spec& spec);

}  // namespace sbx::container
