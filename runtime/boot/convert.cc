#include "runtime/boot/convert.h"

#include <linux/capability.h>
#include <sys/personality.h>

#include <algorithm>
#include <cstring>

#include "oci/validate.h"
#include "runtime/host/files.h"
#include "sentry/base/log.h"

namespace sbx::boot {
namespace {

using control::MountFlag;
using control::Propagation;

u64 capability_mask(const std::vector<std::string>& names) {
  u64 mask = 0;
  for (const std::string& name : names) {
    int number = oci::capability_number(name);
    // Unknown ones are left out with a warning, like runc: newer configs on older runtimes still start.
    if (number < 0)
      LOG_WARNING("ignoring unknown capability %s", name.c_str());
    else
      mask |= u64{1} << number;
  }
  return mask;
}

struct FlagOption {
  const char* name;
  u32 set;
  u32 clear;
};

constexpr u32 bit(MountFlag f) { return static_cast<u32>(f); }
constexpr u32 kAtimeBits = bit(MountFlag::kNoAtime) | bit(MountFlag::kRelAtime) | bit(MountFlag::kStrictAtime);

// mount(8)'s options. The recursive forms (rro...) of attributes count as the plain ones but for rro itself, since
// mounts below a bind belong to it here.
constexpr FlagOption kFlagOptions[] = {
    {"acl", 0, 0},
    {"async", 0, bit(MountFlag::kSynchronous)},
    {"atime", 0, bit(MountFlag::kNoAtime)},
    {"bind", bit(MountFlag::kBind), 0},
    {"defaults", 0, 0},
    {"dev", 0, bit(MountFlag::kNoDev)},
    {"diratime", 0, bit(MountFlag::kNoDirAtime)},
    {"dirsync", bit(MountFlag::kDirSync), 0},
    {"exec", 0, bit(MountFlag::kNoExec)},
    {"idmap", bit(MountFlag::kIdMapped), 0},
    {"iversion", bit(MountFlag::kIversion), 0},
    {"lazytime", 0, 0},
    {"loud", 0, bit(MountFlag::kSilent)},
    {"mand", bit(MountFlag::kMandLock), 0},
    {"noacl", 0, 0},
    {"noatime", bit(MountFlag::kNoAtime), kAtimeBits},
    {"nodev", bit(MountFlag::kNoDev), 0},
    {"nodiratime", bit(MountFlag::kNoDirAtime), 0},
    {"noexec", bit(MountFlag::kNoExec), 0},
    {"noiversion", 0, bit(MountFlag::kIversion)},
    {"nolazytime", 0, 0},
    {"nomand", 0, bit(MountFlag::kMandLock)},
    {"norelatime", 0, bit(MountFlag::kRelAtime)},
    {"nostrictatime", 0, bit(MountFlag::kStrictAtime)},
    {"nosuid", bit(MountFlag::kNoSuid), 0},
    {"nosymfollow", bit(MountFlag::kNoSymFollow), 0},
    {"ratime", 0, bit(MountFlag::kNoAtime)},
    {"rbind", bit(MountFlag::kBind) | bit(MountFlag::kRecursive), 0},
    {"rdev", 0, bit(MountFlag::kNoDev)},
    {"rdiratime", 0, bit(MountFlag::kNoDirAtime)},
    {"relatime", bit(MountFlag::kRelAtime), kAtimeBits},
    {"remount", 0, 0},
    {"rexec", 0, bit(MountFlag::kNoExec)},
    {"ridmap", bit(MountFlag::kIdMapped), 0},
    {"rnoatime", bit(MountFlag::kNoAtime), kAtimeBits},
    {"rnodev", bit(MountFlag::kNoDev), 0},
    {"rnodiratime", bit(MountFlag::kNoDirAtime), 0},
    {"rnoexec", bit(MountFlag::kNoExec), 0},
    {"rnorelatime", 0, bit(MountFlag::kRelAtime)},
    {"rnostrictatime", 0, bit(MountFlag::kStrictAtime)},
    {"rnosuid", bit(MountFlag::kNoSuid), 0},
    {"rnosymfollow", bit(MountFlag::kNoSymFollow), 0},
    {"ro", bit(MountFlag::kReadOnly), 0},
    {"rrelatime", bit(MountFlag::kRelAtime), kAtimeBits},
    {"rro", bit(MountFlag::kReadOnly) | bit(MountFlag::kRecursiveReadOnly), 0},
    {"rrw", 0, bit(MountFlag::kReadOnly)},
    {"rstrictatime", bit(MountFlag::kStrictAtime), kAtimeBits},
    {"rsuid", 0, bit(MountFlag::kNoSuid)},
    {"rsymfollow", 0, bit(MountFlag::kNoSymFollow)},
    {"rw", 0, bit(MountFlag::kReadOnly)},
    {"silent", bit(MountFlag::kSilent), 0},
    {"strictatime", bit(MountFlag::kStrictAtime), kAtimeBits},
    {"suid", 0, bit(MountFlag::kNoSuid)},
    {"symfollow", 0, bit(MountFlag::kNoSymFollow)},
    {"sync", bit(MountFlag::kSynchronous), 0},
    {"tmpcopyup", bit(MountFlag::kCopyUp), 0},
};

struct PropagationOption {
  const char* name;
  Propagation value;
  bool recursive;
};
constexpr PropagationOption kPropagationOptions[] = {
    {"private", Propagation::kPrivate, false},       {"rprivate", Propagation::kPrivate, true},
    {"rshared", Propagation::kShared, true},         {"rslave", Propagation::kSlave, true},
    {"runbindable", Propagation::kUnbindable, true}, {"shared", Propagation::kShared, false},
    {"slave", Propagation::kSlave, false},           {"unbindable", Propagation::kUnbindable, false},
};

bool find_propagation(const std::string& name, Propagation& value, bool& recursive) {
  for (const PropagationOption& p : kPropagationOptions) {
    if (name != p.name) continue;
    value = p.value;
    recursive = p.recursive;
    return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> mount_option_names() {
  std::vector<std::string> out;
  for (const FlagOption& o : kFlagOptions) out.emplace_back(o.name);
  for (const PropagationOption& o : kPropagationOptions) out.emplace_back(o.name);
  std::sort(out.begin(), out.end());
  return out;
}

HostResult<control::ProcessSpec> convert_process(const oci::Process& p, const std::string& field) {
  control::ProcessSpec out;
  out.args = p.args;
  out.env = p.env;
  out.cwd = host::clean_path(p.cwd);
  out.uid = p.user.uid;
  out.gid = p.user.gid;
  out.groups = p.user.additional_gids;
  if (p.user.umask) out.umask = static_cast<i32>(*p.user.umask);
  if (p.capabilities) {
    out.has_capabilities = true;
    out.capabilities = {capability_mask(p.capabilities->bounding), capability_mask(p.capabilities->effective),
                        capability_mask(p.capabilities->inheritable), capability_mask(p.capabilities->permitted),
                        capability_mask(p.capabilities->ambient)};
  }
  for (const oci::Rlimit& r : p.rlimits) out.rlimits.push_back({r.resource, r.soft, r.hard});
  out.no_new_privs = p.no_new_privileges;
  out.terminal = p.terminal;
  if (p.console_size) {
    out.console_rows = static_cast<u16>(p.console_size->first);
    out.console_columns = static_cast<u16>(p.console_size->second);
  }
  if (p.oom_score_adj) {
    out.has_oom_score_adj = true;
    out.oom_score_adj = static_cast<i32>(*p.oom_score_adj);
  }
  out.apparmor_profile = p.apparmor_profile;
  out.selinux_label = p.selinux_label;
  out.nice = p.nice;
  out.io_class = p.io_priority_class == "IOPRIO_CLASS_RT"     ? 1
                 : p.io_priority_class == "IOPRIO_CLASS_BE"   ? 2
                 : p.io_priority_class == "IOPRIO_CLASS_IDLE" ? 3
                                                              : 0;
  out.io_priority = p.io_priority;
  const std::string& affinity =
      p.exec_cpu_affinity_final.empty() ? p.exec_cpu_affinity_initial : p.exec_cpu_affinity_final;
  if (!oci::parse_cpu_list(affinity, out.cpu_affinity)) return Failure(field + ".execCPUAffinity: not a CPU list");
  return out;
}

control::VisibleLimits convert_limits(const oci::Resources& r, i64 absent) {
  control::VisibleLimits out;
  // 0 is "not given" to engines, negative "none".
  auto limit = [&](const auto& v) -> i64 {
    if (!v || *v == 0) return absent;
    return static_cast<i64>(*v) > 0 ? static_cast<i64>(*v) : -1;
  };
  out.memory_bytes = limit(r.memory.limit);
  out.memory_swap_bytes = limit(r.memory.swap);
  out.pids = limit(r.pids_limit);
  out.cpu_quota_us = limit(r.cpu.quota);
  out.cpu_period_us = limit(r.cpu.period);
  out.cpu_shares = limit(r.cpu.shares);
  out.cpuset_cpus = r.cpu.cpus;
  out.cpuset_mems = r.cpu.mems;
  return out;
}

HostResult<control::BootMount> convert_mount(const oci::Mount& m, const std::string& field) {
  control::BootMount out;
  out.destination = host::clean_path(m.destination);
  out.type = m.type;
  out.source = m.source;
  for (size_t i = 0; i < m.options.size(); ++i) {
    const std::string& option = m.options[i];
    auto known = std::find_if(std::begin(kFlagOptions), std::end(kFlagOptions),
                              [&](const FlagOption& o) { return option == o.name; });
    if (known != std::end(kFlagOptions)) {
      out.flags = (out.flags & ~known->clear) | known->set;
      continue;
    }
    if (find_propagation(option, out.propagation, out.propagation_recursive)) continue;
    if (option.rfind("idmap=", 0) == 0 || option.rfind("ridmap=", 0) == 0) {
      return Failure(field + ".options[" + std::to_string(i) + "]: mappings of \"" + option + "\" are not supported");
    }
    if (option.find('\n') != std::string::npos || option.find(',') != std::string::npos) {
      return Failure(field + ".options[" + std::to_string(i) + "]: \"" + option + "\" is not an option");
    }
    // What is not a generic option is the file system's own.
    if (!out.data.empty()) out.data += ',';
    out.data += option;
  }
  if (m.type == "bind" || m.type == "rbind") out.flags |= bit(MountFlag::kBind);
  if (m.type == "rbind") out.flags |= bit(MountFlag::kRecursive);
  if (!m.uid_mappings.empty() || out.has(MountFlag::kIdMapped)) {
    return Failure(field + ".uidMappings: id-mapped mounts are not supported");
  }
  if (out.has(MountFlag::kBind)) {
    out.type = "bind";
    out.data.clear();
  } else if (out.type.empty()) {
    return Failure(field + ".type: is required");
  }
  return out;
}

std::vector<control::BootDevice> convert_devices(const oci::Spec& spec) {
  std::vector<control::BootDevice> out = {
      {"/dev/null", 'c', 1, 3, 0666, 0, 0},    {"/dev/zero", 'c', 1, 5, 0666, 0, 0},
      {"/dev/full", 'c', 1, 7, 0666, 0, 0},    {"/dev/random", 'c', 1, 8, 0666, 0, 0},
      {"/dev/urandom", 'c', 1, 9, 0666, 0, 0}, {"/dev/tty", 'c', 5, 0, 0666, 0, 0}};
  for (const oci::Device& d : spec.linux_.devices) {
    control::BootDevice device;
    device.path = host::clean_path(d.path);
    device.type = d.type == "b" ? 'b' : d.type == "p" ? 'p' : 'c';
    device.major = static_cast<u32>(d.major);
    device.minor = static_cast<u32>(d.minor);
    device.mode = d.file_mode ? *d.file_mode & 07777 : 0666;
    device.uid = d.uid.value_or(0);
    device.gid = d.gid.value_or(0);
    out.erase(std::remove_if(out.begin(), out.end(), [&](const auto& k) { return k.path == device.path; }), out.end());
    out.push_back(std::move(device));
  }
  return out;
}

std::vector<control::DeviceRule> convert_device_rules(const oci::Resources& r) {
  std::vector<control::DeviceRule> out;
  for (const oci::DeviceRule& d : r.devices) {
    control::DeviceRule rule;
    rule.allow = d.allow;
    rule.type = d.type.empty() ? 'a' : d.type[0] == 'u' ? 'c' : d.type[0];
    rule.major = d.major.value_or(-1);
    rule.minor = d.minor.value_or(-1);
    const std::string& access = d.access.empty() ? std::string("rwm") : d.access;
    rule.read = access.find('r') != std::string::npos;
    rule.write = access.find('w') != std::string::npos;
    rule.mknod = access.find('m') != std::string::npos;
    out.push_back(rule);
  }
  return out;
}

namespace {

std::vector<control::IdMapping> mappings(const std::vector<oci::IdMapping>& in) {
  std::vector<control::IdMapping> out;
  for (const oci::IdMapping& m : in) out.push_back({m.container_id, m.host_id, m.size});
  return out;
}

constexpr const char* kHostSockets = "org.sbx.host-sockets";

HostResult<control::HostSockets> convert_host_sockets(const std::vector<std::pair<std::string, std::string>>& all) {
  for (const auto& [name, value] : all) {
    if (name != kHostSockets) continue;
    if (value == "none") return control::HostSockets::kNone;
    if (value == "mounted") return control::HostSockets::kMounted;
    if (value == "all") return control::HostSockets::kAll;
    return Failure(Errno::kInval,
                   std::string("annotations[\"") + kHostSockets + "\"]: \"" + value + "\": none, mounted or all");
  }
  return control::HostSockets::kMounted;
}

}  // namespace

HostResult<control::BootConfig> convert_spec(const oci::Spec& spec, const std::string& id, const std::string& bundle) {
  control::BootConfig out;
  const oci::Linux& l = spec.linux_;
  out.id = id;
  out.bundle = bundle;
  out.process = TRY(convert_process(*spec.process, "process"));
  out.hostname = spec.hostname;
  out.domainname = spec.domainname;
  out.annotations = spec.annotations;
  out.host_sockets = TRY(convert_host_sockets(spec.annotations));
  const control::CapabilitySets& capabilities = out.process.capabilities;
  out.raw_sockets = ((capabilities.bounding | capabilities.permitted) >> CAP_NET_RAW & 1) != 0;
  auto own = [&](const char* type) {
    const oci::Namespace* n = l.find_namespace(type);
    return n != nullptr && n->path.empty();
  };
  out.namespaces.own_net = own("network");
  out.namespaces.net_is_host = l.find_namespace("network") == nullptr;
  out.namespaces.own_ipc = own("ipc");
  out.namespaces.own_uts = own("uts");
  out.namespaces.own_mount = own("mount");
  out.namespaces.own_cgroup = own("cgroup");
  out.namespaces.own_user = own("user");
  out.uid_map = mappings(l.uid_mappings);
  out.gid_map = mappings(l.gid_mappings);
  for (const oci::TimeOffset& t : l.time_offsets) {
    out.time_offsets_ns.emplace_back(t.clock, t.secs * 1'000'000'000 + static_cast<i64>(t.nanosecs));
  }
  out.root_mount.destination = "/";
  out.root_mount.type = "bind";
  out.root_mount.source = "rootfs";
  out.root_mount.gofer_index = 0;
  if (spec.root->readonly) out.root_mount.flags |= bit(MountFlag::kReadOnly);
  if (!l.rootfs_propagation.empty()) {
    find_propagation(l.rootfs_propagation, out.root_mount.propagation, out.root_mount.propagation_recursive);
  }
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    auto mount = TRY(convert_mount(spec.mounts[i], "mounts[" + std::to_string(i) + "]"));
    out.mounts.push_back(std::move(mount));
  }
  for (const std::string& p : l.masked_paths) out.masked_paths.push_back(host::clean_path(p));
  for (const std::string& p : l.readonly_paths) out.readonly_paths.push_back(host::clean_path(p));
  out.devices = convert_devices(spec);
  out.device_rules = convert_device_rules(l.resources);
  out.sysctls = l.sysctl;
  if (l.seccomp) out.seccomp = TRY(convert_seccomp(*l.seccomp));
  out.limits = convert_limits(l.resources);
  if (l.personality_domain == "LINUX32") out.personality = PER_LINUX32;
  return out;
}

}  // namespace sbx::boot
