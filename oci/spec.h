// The runtime specification's config.json as plain data (opencontainers/runtime-spec 1.x, Linux parts).
//
// parse.h fills these structs and checks JSON types and number ranges; validate.h checks meaning. Both name the field
// in the error. Strings keep the document's spelling where nothing has to be computed from them; enumerations are
// decoded here. A `has_x` or an optional says that the document had the field.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sentry/base/types.h"

namespace sbx::oci {

constexpr const char* kSpecVersion = "1.2.0";  // the newest we know

using StringMap = std::vector<std::pair<std::string, std::string>>;  // in the document's (sorted) order

struct Rlimit {
  std::string type;  // RLIMIT_NOFILE
  u32 resource = 0;  // its number, from validate
  u64 soft = 0;
  u64 hard = 0;
};

struct User {
  u32 uid = 0;
  u32 gid = 0;
  std::optional<u32> umask;
  std::vector<u32> additional_gids;
  std::string username;  // Windows; kept for the state
};

struct Capabilities {
  std::vector<std::string> bounding, effective, inheritable, permitted, ambient;
};

struct Process {
  bool terminal = false;
  std::optional<std::pair<u32, u32>> console_size;  // height, width
  User user;
  std::vector<std::string> args;
  std::string command_line;
  std::vector<std::string> env;
  std::string cwd;
  std::optional<Capabilities> capabilities;
  std::vector<Rlimit> rlimits;
  bool no_new_privileges = false;
  std::string apparmor_profile;
  std::optional<i64> oom_score_adj;
  std::string selinux_label;
  std::string scheduler_policy;  // SCHED_OTHER...
  i32 nice = 0;
  std::string io_priority_class;  // IOPRIO_CLASS_BE...
  i32 io_priority = 0;
  std::string exec_cpu_affinity_initial, exec_cpu_affinity_final;
};

struct Root {
  std::string path;
  bool readonly = false;
};

struct IdMapping {
  u32 container_id = 0;
  u32 host_id = 0;
  u32 size = 0;
};

struct Mount {
  std::string destination;
  std::string type;
  std::string source;
  std::vector<std::string> options;
  std::vector<IdMapping> uid_mappings, gid_mappings;
};

struct Hook {
  std::string path;
  std::vector<std::string> args;
  std::vector<std::string> env;
  std::optional<i64> timeout_s;
};

struct Hooks {
  std::vector<Hook> prestart, create_runtime, create_container, start_container, poststart, poststop;
};

struct Namespace {
  std::string type;  // pid network mount ipc uts user cgroup time
  std::string path;
};

struct Device {
  std::string type;
  std::string path;
  i64 major = 0;
  i64 minor = 0;
  std::optional<u32> file_mode;
  std::optional<u32> uid, gid;
};

struct DeviceRule {
  bool allow = false;
  std::string type;  // "" or a, c, b
  std::optional<i64> major, minor;
  std::string access;  // "" is rwm
};

struct MemoryLimits {
  std::optional<i64> limit, reservation, swap, kernel, kernel_tcp;
  std::optional<u64> swappiness;
  std::optional<bool> disable_oom_killer, use_hierarchy, check_before_update;
};

struct CpuLimits {
  std::optional<u64> shares, period, burst, realtime_period;
  std::optional<i64> quota, realtime_runtime, idle;
  std::string cpus, mems;
};

struct WeightDevice {
  i64 major = 0, minor = 0;
  std::optional<u16> weight, leaf_weight;
};
struct ThrottleDevice {
  i64 major = 0, minor = 0;
  u64 rate = 0;
};
struct BlockIoLimits {
  std::optional<u16> weight, leaf_weight;
  std::vector<WeightDevice> weight_devices;
  std::vector<ThrottleDevice> read_bps, write_bps, read_iops, write_iops;
};

struct HugepageLimit {
  std::string page_size;
  u64 limit = 0;
};

struct NetworkLimits {
  std::optional<u32> class_id;
  std::vector<std::pair<std::string, u32>> priorities;
};

struct RdmaLimit {
  std::string device;
  std::optional<u32> hca_handles, hca_objects;
};

struct Resources {
  std::vector<DeviceRule> devices;
  MemoryLimits memory;
  CpuLimits cpu;
  std::optional<i64> pids_limit;
  BlockIoLimits block_io;
  std::vector<HugepageLimit> hugepage_limits;
  NetworkLimits network;
  std::vector<RdmaLimit> rdma;
  StringMap unified;
};

struct SeccompArg {
  u32 index = 0;
  u64 value = 0;
  u64 value_two = 0;
  std::string op;
};
struct SeccompSyscall {
  std::vector<std::string> names;
  std::string action;
  std::optional<u32> errno_ret;
  std::vector<SeccompArg> args;
};
struct Seccomp {
  std::string default_action;
  std::optional<u32> default_errno_ret;
  std::vector<std::string> architectures;
  std::vector<std::string> flags;
  std::string listener_path, listener_metadata;
  std::vector<SeccompSyscall> syscalls;
};

struct TimeOffset {
  std::string clock;  // monotonic, boottime
  i64 secs = 0;
  u32 nanosecs = 0;
};

struct Linux {
  std::vector<IdMapping> uid_mappings, gid_mappings;
  StringMap sysctl;
  Resources resources;
  std::string cgroups_path;
  std::vector<Namespace> namespaces;
  std::vector<Device> devices;
  std::optional<Seccomp> seccomp;
  std::string rootfs_propagation;
  std::vector<std::string> masked_paths, readonly_paths;
  std::string mount_label;
  std::string intel_rdt_clos_id;
  std::string personality_domain;  // LINUX, LINUX32
  std::vector<TimeOffset> time_offsets;

  const Namespace* find_namespace(const std::string& type) const {
    for (const Namespace& n : namespaces) {
      if (n.type == type) return &n;
    }
    return nullptr;
  }
};

struct Spec {
  std::string oci_version;
  std::optional<Process> process;
  std::optional<Root> root;
  std::string hostname;
  std::string domainname;
  std::vector<Mount> mounts;
  Hooks hooks;
  StringMap annotations;
  bool has_linux = false;
  Linux linux_;
};

}  // namespace sbx::oci
