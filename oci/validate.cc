#include "oci/validate.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

namespace sbx::oci {
namespace {

constexpr std::array<const char*, 41> kCapabilities = {"CAP_CHOWN",
                                                       "CAP_DAC_OVERRIDE",
                                                       "CAP_DAC_READ_SEARCH",
                                                       "CAP_FOWNER",
                                                       "CAP_FSETID",
                                                       "CAP_KILL",
                                                       "CAP_SETGID",
                                                       "CAP_SETUID",
                                                       "CAP_SETPCAP",
                                                       "CAP_LINUX_IMMUTABLE",
                                                       "CAP_NET_BIND_SERVICE",
                                                       "CAP_NET_BROADCAST",
                                                       "CAP_NET_ADMIN",
                                                       "CAP_NET_RAW",
                                                       "CAP_IPC_LOCK",
                                                       "CAP_IPC_OWNER",
                                                       "CAP_SYS_MODULE",
                                                       "CAP_SYS_RAWIO",
                                                       "CAP_SYS_CHROOT",
                                                       "CAP_SYS_PTRACE",
                                                       "CAP_SYS_PACCT",
                                                       "CAP_SYS_ADMIN",
                                                       "CAP_SYS_BOOT",
                                                       "CAP_SYS_NICE",
                                                       "CAP_SYS_RESOURCE",
                                                       "CAP_SYS_TIME",
                                                       "CAP_SYS_TTY_CONFIG",
                                                       "CAP_MKNOD",
                                                       "CAP_LEASE",
                                                       "CAP_AUDIT_WRITE",
                                                       "CAP_AUDIT_CONTROL",
                                                       "CAP_SETFCAP",
                                                       "CAP_MAC_OVERRIDE",
                                                       "CAP_MAC_ADMIN",
                                                       "CAP_SYSLOG",
                                                       "CAP_WAKE_ALARM",
                                                       "CAP_BLOCK_SUSPEND",
                                                       "CAP_AUDIT_READ",
                                                       "CAP_PERFMON",
                                                       "CAP_BPF",
                                                       "CAP_CHECKPOINT_RESTORE"};

constexpr std::array<std::pair<const char*, u32>, 16> kRlimits = {{{"RLIMIT_CPU", RLIMIT_CPU},
                                                                   {"RLIMIT_FSIZE", RLIMIT_FSIZE},
                                                                   {"RLIMIT_DATA", RLIMIT_DATA},
                                                                   {"RLIMIT_STACK", RLIMIT_STACK},
                                                                   {"RLIMIT_CORE", RLIMIT_CORE},
                                                                   {"RLIMIT_RSS", RLIMIT_RSS},
                                                                   {"RLIMIT_NPROC", RLIMIT_NPROC},
                                                                   {"RLIMIT_NOFILE", RLIMIT_NOFILE},
                                                                   {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
                                                                   {"RLIMIT_AS", RLIMIT_AS},
                                                                   {"RLIMIT_LOCKS", RLIMIT_LOCKS},
                                                                   {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
                                                                   {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE},
                                                                   {"RLIMIT_NICE", RLIMIT_NICE},
                                                                   {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
                                                                   {"RLIMIT_RTTIME", RLIMIT_RTTIME}}};

Failure bad(const std::string& field, const std::string& what) { return Failure(field + ": " + what); }
std::string quoted(const std::string& s) { return "\"" + s + "\""; }
std::string item(const std::string& list, size_t i) { return list + "[" + std::to_string(i) + "]"; }

template <size_t N>
bool one_of(const std::string& s, const std::array<const char*, N>& known) {
  return std::find_if(known.begin(), known.end(), [&](const char* k) { return s == k; }) != known.end();
}

HostResult<void> require_absolute(const std::string& field, const std::string& path) {
  if (path.empty()) return bad(field, "is required");
  if (path[0] != '/') return bad(field, quoted(path) + " is not an absolute path");
  return {};
}

HostResult<void> check_mappings(const std::string& field, const std::vector<IdMapping>& maps) {
  for (size_t i = 0; i < maps.size(); ++i) {
    const IdMapping& m = maps[i];
    if (m.size == 0) return bad(item(field, i) + ".size", "must be greater than 0");
    if (u64{m.container_id} + m.size > 0xffffffffull) return bad(item(field, i), "container ids overflow");
    if (u64{m.host_id} + m.size > 0xffffffffull) return bad(item(field, i), "host ids overflow");
    for (size_t j = 0; j < i; ++j) {
      if (m.container_id < u64{maps[j].container_id} + maps[j].size &&
          maps[j].container_id < u64{m.container_id} + m.size) {
        return bad(item(field, i), "overlaps " + item(field, j));
      }
    }
  }
  return {};
}

HostResult<void> check_namespaces(const Linux& l) {
  static constexpr std::array<const char*, 8> kTypes = {"pid", "network", "mount",  "ipc",
                                                        "uts", "user",    "cgroup", "time"};
  std::set<std::string> seen;
  for (size_t i = 0; i < l.namespaces.size(); ++i) {
    std::string field = item("linux.namespaces", i);
    const Namespace& n = l.namespaces[i];
    if (n.type.empty()) return bad(field + ".type", "is required");
    if (!one_of(n.type, kTypes)) return bad(field + ".type", "unknown namespace " + quoted(n.type));
    if (!seen.insert(n.type).second) return bad(field + ".type", "namespace " + quoted(n.type) + " is given twice");
    if (!n.path.empty()) TRY(require_absolute(field + ".path", n.path));
  }
  const Namespace* user = l.find_namespace("user");
  bool maps = !l.uid_mappings.empty() || !l.gid_mappings.empty();
  if (user == nullptr && maps) {
    return bad(l.uid_mappings.empty() ? "linux.gidMappings" : "linux.uidMappings",
               "given, but linux.namespaces has no user namespace");
  }
  if (user != nullptr && user->path.empty()) {
    if (l.uid_mappings.empty()) return bad("linux.uidMappings", "a new user namespace needs mappings");
    if (l.gid_mappings.empty()) return bad("linux.gidMappings", "a new user namespace needs mappings");
  }
  if (!l.time_offsets.empty() && l.find_namespace("time") == nullptr) {
    return bad("linux.timeOffsets", "given, but linux.namespaces has no time namespace");
  }
  return {};
}

HostResult<void> check_mount(const std::string& field, const Mount& m) {
  if (m.destination.empty()) return bad(field + ".destination", "is required");
  // A relative destination was legal before 1.0 and is taken as below "/" by runc, with a warning: we do the same.
  bool bind = m.type == "bind" || m.type == "rbind";
  for (size_t i = 0; i < m.options.size(); ++i) {
    if (m.options[i] == "bind" || m.options[i] == "rbind") bind = true;
  }
  if (bind && m.source.empty()) return bad(field + ".source", "is required for a bind mount");
  if (!bind && m.type.empty()) return bad(field + ".type", "is required");
  TRY(check_mappings(field + ".uidMappings", m.uid_mappings));
  return check_mappings(field + ".gidMappings", m.gid_mappings);
}

HostResult<void> check_hooks(const std::string& field, const std::vector<Hook>& hooks) {
  for (size_t i = 0; i < hooks.size(); ++i) {
    TRY(require_absolute(item(field, i) + ".path", hooks[i].path));
    if (hooks[i].timeout_s && *hooks[i].timeout_s <= 0)
      return bad(item(field, i) + ".timeout", "must be greater than 0");
    for (size_t j = 0; j < hooks[i].env.size(); ++j) {
      const std::string& e = hooks[i].env[j];
      if (e.empty() || e[0] == '=') return bad(item(item(field, i) + ".env", j), quoted(e) + " is not NAME=value");
    }
  }
  return {};
}

HostResult<void> check_device(const std::string& field, const Device& d) {
  TRY(require_absolute(field + ".path", d.path));
  static constexpr std::array<const char*, 4> kTypes = {"c", "b", "u", "p"};
  if (!one_of(d.type, kTypes)) return bad(field + ".type", "unknown device type " + quoted(d.type));
  if (d.type != "p") {
    if (d.major < 0 || d.major > 0xfff) return bad(field + ".major", "out of range");
    if (d.minor < 0 || d.minor > 0xfffff) return bad(field + ".minor", "out of range");
  }
  if (d.file_mode && (*d.file_mode & ~0170000u) > 07777) return bad(field + ".fileMode", "out of range");
  return {};
}

bool known_action(const std::string& a) {
  static constexpr std::array<const char*, 9> kActions = {
      "SCMP_ACT_KILL",  "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP",  "SCMP_ACT_ERRNO",
      "SCMP_ACT_TRACE", "SCMP_ACT_ALLOW",        "SCMP_ACT_LOG",         "SCMP_ACT_NOTIFY"};
  return one_of(a, kActions);
}

HostResult<void> check_seccomp(const Seccomp& s) {
  static constexpr std::array<const char*, 7> kOps = {"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE",       "SCMP_CMP_EQ",
                                                      "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"};
  static constexpr std::array<const char*, 21> kArchs = {
      "SCMP_ARCH_X86",         "SCMP_ARCH_X86_64", "SCMP_ARCH_X32",       "SCMP_ARCH_ARM",     "SCMP_ARCH_AARCH64",
      "SCMP_ARCH_MIPS",        "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL",  "SCMP_ARCH_MIPSEL64",
      "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PPC",    "SCMP_ARCH_PPC64",     "SCMP_ARCH_PPC64LE", "SCMP_ARCH_S390",
      "SCMP_ARCH_S390X",       "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64",  "SCMP_ARCH_RISCV64", "SCMP_ARCH_LOONGARCH64",
      "SCMP_ARCH_NATIVE"};
  static constexpr std::array<const char*, 4> kFlags = {"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
                                                        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                                                        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"};
  if (!known_action(s.default_action)) {
    return bad("linux.seccomp.defaultAction", "unknown action " + quoted(s.default_action));
  }
  if (s.default_action == "SCMP_ACT_NOTIFY") {
    return bad("linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY cannot be the default action");
  }
  for (size_t i = 0; i < s.architectures.size(); ++i) {
    if (!one_of(s.architectures[i], kArchs)) {
      return bad(item("linux.seccomp.architectures", i), "unknown architecture " + quoted(s.architectures[i]));
    }
  }
  for (size_t i = 0; i < s.flags.size(); ++i) {
    if (!one_of(s.flags[i], kFlags)) return bad(item("linux.seccomp.flags", i), "unknown flag " + quoted(s.flags[i]));
  }
  if (s.default_errno_ret && *s.default_errno_ret > 4095) return bad("linux.seccomp.defaultErrnoRet", "out of range");
  for (size_t i = 0; i < s.syscalls.size(); ++i) {
    const SeccompSyscall& c = s.syscalls[i];
    std::string field = item("linux.seccomp.syscalls", i);
    if (c.names.empty()) return bad(field + ".names", "is empty");
    for (size_t j = 0; j < c.names.size(); ++j) {
      if (c.names[j].empty()) return bad(item(field + ".names", j), "is empty");
    }
    if (!known_action(c.action)) return bad(field + ".action", "unknown action " + quoted(c.action));
    if (c.action == "SCMP_ACT_NOTIFY" && s.listener_path.empty()) {
      return bad("linux.seccomp.listenerPath", "is required by an SCMP_ACT_NOTIFY rule");
    }
    if (c.errno_ret && *c.errno_ret > 4095) return bad(field + ".errnoRet", "out of range");
    for (size_t j = 0; j < c.args.size(); ++j) {
      if (c.args[j].index > 5) return bad(item(field + ".args", j) + ".index", "must be 0 to 5");
      if (!one_of(c.args[j].op, kOps)) {
        return bad(item(field + ".args", j) + ".op", "unknown operator " + quoted(c.args[j].op));
      }
    }
  }
  return {};
}

HostResult<void> check_linux(Linux& l) {
  TRY(check_namespaces(l));
  TRY(check_mappings("linux.uidMappings", l.uid_mappings));
  TRY(check_mappings("linux.gidMappings", l.gid_mappings));
  for (size_t i = 0; i < l.devices.size(); ++i) TRY(check_device(item("linux.devices", i), l.devices[i]));
  TRY(validate(l.resources, "linux.resources"));
  if (l.seccomp) TRY(check_seccomp(*l.seccomp));
  for (size_t i = 0; i < l.masked_paths.size(); ++i) {
    TRY(require_absolute(item("linux.maskedPaths", i), l.masked_paths[i]));
  }
  for (size_t i = 0; i < l.readonly_paths.size(); ++i) {
    TRY(require_absolute(item("linux.readonlyPaths", i), l.readonly_paths[i]));
  }
  static constexpr std::array<const char*, 9> kPropagation = {
      "", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"};
  if (!one_of(l.rootfs_propagation, kPropagation)) {
    return bad("linux.rootfsPropagation", "unknown propagation " + quoted(l.rootfs_propagation));
  }
  static constexpr std::array<const char*, 3> kPersonality = {"", "LINUX", "LINUX32"};
  if (!one_of(l.personality_domain, kPersonality)) {
    return bad("linux.personality.domain", "unknown personality " + quoted(l.personality_domain));
  }
  for (const auto& [name, value] : l.sysctl) {
    std::string field = "linux.sysctl[" + quoted(name) + "]";
    if (name.empty() || name.find("..") != std::string::npos || name[0] == '/' || name[0] == '.') {
      return bad(field, "not a sysctl name");
    }
    auto starts = [&](std::string_view prefix) { return std::string_view(name).starts_with(prefix); };
    bool ipc = starts("kernel.msg") || starts("kernel.sem") || starts("kernel.shm") || starts("fs.mqueue.") ||
               starts("fs/mqueue/") || starts("kernel/msg") || starts("kernel/shm") || name == "kernel/sem";
    bool uts = name == "kernel.domainname" || name == "kernel/domainname" || name == "kernel.hostname";
    bool net = starts("net.") || starts("net/");
    if (!ipc && !uts && !net) return bad(field, "sysctl is not in a separate kernel namespace");
    if (ipc && l.find_namespace("ipc") == nullptr) {
      return bad(field, "sysctl is not allowed in the hosts ipc namespace");
    }
    if (net && l.find_namespace("network") == nullptr) {
      return bad(field, "sysctl is not allowed in the host network namespace");
    }
    if (name == "kernel.hostname") return bad(field, "use hostname instead");
    if (uts && l.find_namespace("uts") == nullptr)
      return bad(field, "sysctl is not allowed in the hosts uts namespace");
  }
  return {};
}

}  // namespace

int capability_number(std::string_view name) {
  for (size_t i = 0; i < kCapabilities.size(); ++i) {
    if (name == kCapabilities[i]) return static_cast<int>(i);
  }
  return -1;
}

const char* capability_name(int number) {
  return number >= 0 && number < static_cast<int>(kCapabilities.size()) ? kCapabilities[static_cast<size_t>(number)]
                                                                        : nullptr;
}

int rlimit_number(std::string_view name) {
  for (const auto& [known, number] : kRlimits) {
    if (name == known) return static_cast<int>(number);
  }
  return -1;
}

bool parse_cpu_list(std::string_view text, std::vector<u32>& out) {
  std::set<u32> found;
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  while (!text.empty()) {
    size_t comma = text.find(',');
    std::string_view part = text.substr(0, comma);
    u32 range[2] = {0, 0};
    size_t dash = part.find('-');
    std::string_view ends[2] = {part.substr(0, dash), dash == std::string_view::npos ? part : part.substr(dash + 1)};
    for (int i = 0; i < 2; ++i) {
      if (ends[i].empty() || ends[i].size() > 5) return false;
      for (char c : ends[i]) {
        if (c < '0' || c > '9') return false;
        range[i] = range[i] * 10 + static_cast<u32>(c - '0');
      }
    }
    if (range[0] > range[1] || range[1] > 8191) return false;
    for (u32 c = range[0]; c <= range[1]; ++c) found.insert(c);
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
    if (text.empty()) return false;
  }
  out.assign(found.begin(), found.end());
  return true;
}

HostResult<void> validate(Process& p, const std::string& prefix) {
  auto field = [&](const char* name) { return prefix.empty() ? std::string(name) : prefix + "." + name; };
  if (p.args.empty()) return bad(field("args"), "must not be empty");
  if (p.args[0].empty()) return bad(item(field("args"), 0), "is empty");
  if (p.cwd.empty()) return bad(field("cwd"), "is required");
  if (p.cwd[0] != '/') return bad(field("cwd"), "Cwd must be an absolute path");
  for (size_t i = 0; i < p.env.size(); ++i) {
    if (p.env[i].empty() || p.env[i][0] == '=') {
      return bad(item(field("env"), i), quoted(p.env[i]) + " is not NAME=value");
    }
  }
  if (p.user.uid == 0xffffffff) return bad(field("user.uid"), "out of range");
  if (p.user.gid == 0xffffffff) return bad(field("user.gid"), "out of range");
  if (p.user.umask && *p.user.umask > 0777) return bad(field("user.umask"), "out of range");
  for (size_t i = 0; i < p.user.additional_gids.size(); ++i) {
    if (p.user.additional_gids[i] == 0xffffffff) return bad(item(field("user.additionalGids"), i), "out of range");
  }
  std::set<std::string> seen;
  for (size_t i = 0; i < p.rlimits.size(); ++i) {
    Rlimit& r = p.rlimits[i];
    int number = rlimit_number(r.type);
    if (number < 0) return bad(item(field("rlimits"), i) + ".type", "unknown rlimit " + quoted(r.type));
    if (!seen.insert(r.type).second)
      return bad(item(field("rlimits"), i) + ".type", quoted(r.type) + " is given twice");
    if (r.soft > r.hard) return bad(item(field("rlimits"), i) + ".soft", "is greater than hard");
    r.resource = static_cast<u32>(number);
  }
  if (p.oom_score_adj && (*p.oom_score_adj < -1000 || *p.oom_score_adj > 1000)) {
    return bad(field("oomScoreAdj"), "must be -1000 to 1000");
  }
  if (p.console_size && (p.console_size->first > 65535 || p.console_size->second > 65535)) {
    return bad(field("consoleSize"), "out of range");
  }
  static constexpr std::array<const char*, 7> kPolicies = {"",           "SCHED_OTHER", "SCHED_BATCH",   "SCHED_IDLE",
                                                           "SCHED_FIFO", "SCHED_RR",    "SCHED_DEADLINE"};
  if (!one_of(p.scheduler_policy, kPolicies)) {
    return bad(field("scheduler.policy"), "unknown policy " + quoted(p.scheduler_policy));
  }
  if (p.nice < -20 || p.nice > 19) return bad(field("scheduler.nice"), "must be -20 to 19");
  static constexpr std::array<const char*, 4> kIoClasses = {"", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE",
                                                            "IOPRIO_CLASS_IDLE"};
  if (!one_of(p.io_priority_class, kIoClasses)) {
    return bad(field("ioPriority.class"), "unknown class " + quoted(p.io_priority_class));
  }
  if (p.io_priority < 0 || p.io_priority > 7) return bad(field("ioPriority.priority"), "must be 0 to 7");
  std::vector<u32> cpus;
  if (!parse_cpu_list(p.exec_cpu_affinity_initial, cpus))
    return bad(field("execCPUAffinity.initial"), "not a CPU list");
  if (!parse_cpu_list(p.exec_cpu_affinity_final, cpus)) return bad(field("execCPUAffinity.final"), "not a CPU list");
  return {};
}

HostResult<void> validate(const Resources& r, const std::string& prefix) {
  auto field = [&](const char* name) { return prefix.empty() ? std::string(name) : prefix + "." + name; };
  static constexpr std::array<const char*, 6> kTypes = {"", "a", "c", "b", "u", "p"};
  for (size_t i = 0; i < r.devices.size(); ++i) {
    std::string name = item(field("devices"), i);
    if (!one_of(r.devices[i].type, kTypes))
      return bad(name + ".type", "unknown device type " + quoted(r.devices[i].type));
    if (r.devices[i].access.find_first_not_of("rwm") != std::string::npos) {
      return bad(name + ".access", quoted(r.devices[i].access) + " has a letter other than r, w and m");
    }
  }
  const MemoryLimits& m = r.memory;
  for (const auto& [name, value] : {std::pair{"memory.limit", &m.limit},
                                    {"memory.reservation", &m.reservation},
                                    {"memory.swap", &m.swap},
                                    {"memory.kernel", &m.kernel},
                                    {"memory.kernelTCP", &m.kernel_tcp}}) {
    if (*value && **value < -1) return bad(field(name), "must be -1 or a number of bytes");
  }
  if (m.swap && *m.swap > 0 && m.limit && *m.limit > *m.swap) {
    return bad(field("memory.swap"), "memory+swap limit should be greater than the memory limit");
  }
  if (m.swappiness && *m.swappiness > 100) return bad(field("memory.swappiness"), "must be 0 to 100");
  if (r.cpu.quota && *r.cpu.quota < -1) return bad(field("cpu.quota"), "must be -1 or microseconds");
  std::vector<u32> list;
  if (!parse_cpu_list(r.cpu.cpus, list)) return bad(field("cpu.cpus"), quoted(r.cpu.cpus) + " is not a CPU list");
  if (!parse_cpu_list(r.cpu.mems, list)) return bad(field("cpu.mems"), quoted(r.cpu.mems) + " is not a node list");
  if (r.cpu.idle && *r.cpu.idle != 0 && *r.cpu.idle != 1) return bad(field("cpu.idle"), "must be 0 or 1");
  const BlockIoLimits& b = r.block_io;
  if (b.weight && *b.weight != 0 && (*b.weight < 10 || *b.weight > 1000)) {
    return bad(field("blockIO.weight"), "must be 10 to 1000");
  }
  for (size_t i = 0; i < r.hugepage_limits.size(); ++i) {
    const std::string& size = r.hugepage_limits[i].page_size;
    size_t digits = size.find_first_not_of("0123456789");
    bool ok = digits != std::string::npos && digits > 0;
    if (ok) {
      std::string unit = size.substr(digits);
      ok = unit == "KB" || unit == "MB" || unit == "GB";
    }
    if (!ok) return bad(item(field("hugepageLimits"), i) + ".pageSize", quoted(size) + " is not a page size like 2MB");
  }
  for (const auto& [name, value] : r.unified) {
    std::string f = field("unified") + "[" + quoted(name) + "]";
    if (name.empty() || name.find('/') != std::string::npos || name.find('.') == std::string::npos || name[0] == '.') {
      return bad(f, "not a cgroup file name");
    }
    if (name.starts_with("cgroup.")) return bad(f, "cgroup core files cannot be set");
  }
  return {};
}

HostResult<void> validate(Spec& s) {
  if (s.oci_version.empty()) return bad("ociVersion", "is required");
  size_t dot = s.oci_version.find('.');
  if (s.oci_version.substr(0, dot) != "1" || dot == std::string::npos || dot + 1 >= s.oci_version.size() ||
      s.oci_version[dot + 1] < '0' || s.oci_version[dot + 1] > '9') {
    return bad("ociVersion", "unsupported version " + quoted(s.oci_version) + ", 1.x is supported");
  }
  if (!s.process) return bad("process", "is required");
  TRY(validate(*s.process, "process"));
  if (!s.root) return bad("root", "is required");
  if (s.root->path.empty()) return bad("root.path", "is required");
  if (!s.has_linux) return bad("linux", "is required");
  if (!s.hostname.empty() && s.linux_.find_namespace("uts") == nullptr) {
    return bad("hostname", "unable to set hostname without a private UTS namespace");
  }
  if (s.hostname.size() > 64) return bad("hostname", "longer than 64 characters");
  if (!s.domainname.empty() && s.linux_.find_namespace("uts") == nullptr) {
    return bad("domainname", "unable to set domainname without a private UTS namespace");
  }
  if (s.domainname.size() > 64) return bad("domainname", "longer than 64 characters");
  for (size_t i = 0; i < s.mounts.size(); ++i) TRY(check_mount(item("mounts", i), s.mounts[i]));
  TRY(check_hooks("hooks.prestart", s.hooks.prestart));
  TRY(check_hooks("hooks.createRuntime", s.hooks.create_runtime));
  TRY(check_hooks("hooks.createContainer", s.hooks.create_container));
  TRY(check_hooks("hooks.startContainer", s.hooks.start_container));
  TRY(check_hooks("hooks.poststart", s.hooks.poststart));
  TRY(check_hooks("hooks.poststop", s.hooks.poststop));
  return check_linux(s.linux_);
}

}  // namespace sbx::oci
