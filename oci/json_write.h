// Plain data to JSON documents. Compact unless said otherwise.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "oci/spec.h"
#include "oci/state.h"
#include "sentry/base/types.h"

namespace sbx::oci {

// The whole state file.
std::string write_state_file(const State& state);
// The runtime specification's state, as hooks get it on their standard input.
std::string write_hook_state(const State& state, Status status);
// `sbx state`: runc's fields and layout.
std::string write_public_state(const State& state, Status status);
// `sbx list --format json`.
std::string write_list(const std::vector<std::pair<State, Status>>& containers);
std::string write_pids(const std::vector<i32>& pids);
// `sbx spec`.
std::string write_default_spec(bool rootless, bool cgroup_namespace, u32 uid, u32 gid);

struct Features {
  std::vector<std::string> hooks, mount_options, namespaces, capabilities, seccomp_actions, seccomp_operators,
      seccomp_archs, seccomp_flags;
  bool cgroup_v1 = false, cgroup_v2 = false, systemd = false, rootless = true;
  std::string version, commit, libseccomp;
  StringMap kernel;  // our own probes: feature, "yes" or what is used in its place
};
std::string write_features(const Features& features);

// cgroup figures for `sbx events`; -1 and empty: not known.
struct Stats {
  u64 cpu_total_ns = 0, cpu_user_ns = 0, cpu_system_ns = 0;
  std::vector<u64> cpu_percpu_ns;
  u64 throttle_periods = 0, throttled_periods = 0, throttled_ns = 0;
  u64 memory_usage = 0, memory_max = 0, memory_failcnt = 0, memory_cache = 0;
  u64 memory_limit = 0;
  u64 swap_usage = 0, swap_limit = 0;
  std::vector<std::pair<std::string, u64>> memory_raw;
  u64 pids_current = 0, pids_limit = 0;
  struct BlkioEntry {
    u64 major = 0, minor = 0;
    std::string op;
    u64 value = 0;
  };
  std::vector<BlkioEntry> blkio_bytes, blkio_serviced;
};
std::string write_stats_event(const std::string& id, const Stats& stats);
std::string write_event(const std::string& id, const std::string& type);

}  // namespace sbx::oci
