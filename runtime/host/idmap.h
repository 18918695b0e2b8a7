// Id maps of user namespaces.
#pragma once
#include <string>
#include <vector>

#include "oci/spec.h"
#include "sentry/base/result.h"

namespace sbx::host {

// We are in a user namespace that is not the host's: euid 0 there is nobody's root outside (podman without root).
bool in_user_namespace();

// Writes uid_map and gid_map of a process in a new user namespace: directly where we may, else through newuidmap and
// newgidmap. A single id of our own needs neither.
HostResult<void> write_id_maps(i32 pid, const std::vector<oci::IdMapping>& uids,
                               const std::vector<oci::IdMapping>& gids);

// The maps `sbx do --rootless` uses: our own id as root, then the ranges of /etc/subuid and /etc/subgid when newuidmap
// is installed.
std::vector<oci::IdMapping> rootless_map(u32 own_id, const char* ranges_file, const std::string& user);

}  // namespace sbx::host
