// Runs the hooks of config.json: the container's state as JSON on standard input, an optional time limit.
#pragma once
#include <string>
#include <vector>

#include "oci/spec.h"
#include "sentry/base/result.h"

namespace sbx::container {

// Where a hook's process is put before it starts.
enum class HookNamespaces : u8 {
  kRuntime,
  kContainer,  // network, ipc and uts of `pid`; paths still resolve on the host
};

// One after another; stops at the first that fails. Error: `error running <kind> hook #0: ...`, with what it wrote.
HostResult<void> run_hooks(const char* kind, const std::vector<oci::Hook>& hooks, const std::string& state_json,
                           const std::string& cwd, HookNamespaces where = HookNamespaces::kRuntime, i32 pid = 0);

}  // namespace sbx::container
