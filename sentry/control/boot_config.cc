#include "sentry/control/boot_config.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>

namespace sbx::control {
namespace {

constexpr u32 kMagic = 0x31584253;  // "SBX1"
constexpr u32 kVersion = 2;

// Writer and Reader have the same shape, so that each struct lists its fields once (`fields` below).
struct Writer {
  Encoder& e;
  void operator()(const bool& v) { e.boolean(v); }
  void operator()(const char& v) { e.u8v(static_cast<u8>(v)); }
  void operator()(const u8& v) { e.u8v(v); }
  void operator()(const u16& v) { e.u32v(v); }
  void operator()(const u32& v) { e.u32v(v); }
  void operator()(const i32& v) { e.u32v(static_cast<u32>(v)); }
  void operator()(const u64& v) { e.u64v(v); }
  void operator()(const i64& v) { e.i64v(v); }
  void operator()(const std::string& v) { e.str(v); }
  template <typename E>
  requires std::is_enum_v<E>
  void operator()(const E& v) { e.u8v(static_cast<u8>(v)); }
  template <typename A, typename B>
  void operator()(const std::pair<A, B>& v) {
    (*this)(v.first);
    (*this)(v.second);
  }
  template <typename T>
  void operator()(const std::vector<T>& v) {
    e.u32v(static_cast<u32>(v.size()));
    for (const auto& x : v) (*this)(x);
  }
  template <typename T>
  requires requires(T& t) { fields(std::declval<Writer&>(), t); }
  void operator()(const T& v) { fields(*this, const_cast<T&>(v)); }
};

struct Reader {
  Decoder& d;
  bool valid = true;
  void operator()(bool& v) { v = d.boolean(); }
  void operator()(char& v) { v = static_cast<char>(d.u8v()); }
  void operator()(u8& v) { v = d.u8v(); }
  void operator()(u16& v) { v = static_cast<u16>(d.u32v()); }
  void operator()(u32& v) { v = d.u32v(); }
  void operator()(i32& v) { v = static_cast<i32>(d.u32v()); }
  void operator()(u64& v) { v = d.u64v(); }
  void operator()(i64& v) { v = d.i64v(); }
  void operator()(std::string& v) { v = d.str(); }
  template <typename E>
  requires std::is_enum_v<E>
  void operator()(E& v) { v = static_cast<E>(d.u8v()); }
  template <typename A, typename B>
  void operator()(std::pair<A, B>& v) {
    (*this)(v.first);
    (*this)(v.second);
  }
  template <typename T>
  void operator()(std::vector<T>& v) {
    u32 n = d.u32v();
    v.clear();
    for (u32 i = 0; i < n && d.ok(); ++i) (*this)(v.emplace_back());
  }
  template <typename T>
  requires requires(T& t) { fields(std::declval<Reader&>(), t); }
  void operator()(T& v) { fields(*this, v); }
};

template <typename A, typename... T>
void all(A& a, T&... v) {
  (a(v), ...);
}

template <typename A>
void fields(A& a, Rlimit& v) {
  all(a, v.resource, v.soft, v.hard);
}
template <typename A>
void fields(A& a, CapabilitySets& v) {
  all(a, v.bounding, v.effective, v.inheritable, v.permitted, v.ambient);
}
template <typename A>
void fields(A& a, ProcessSpec& v) {
  all(a, v.args, v.env, v.cwd, v.uid, v.gid, v.groups, v.umask, v.has_capabilities, v.capabilities, v.rlimits,
      v.no_new_privs, v.terminal, v.console_rows, v.console_columns, v.has_oom_score_adj, v.oom_score_adj,
      v.apparmor_profile, v.selinux_label, v.nice, v.io_class, v.io_priority, v.cpu_affinity);
}
template <typename A>
void fields(A& a, StdioFd& v) {
  all(a, v.fd, v.nonblocking);
}
template <typename A>
void fields(A& a, BootMount& v) {
  all(a, v.destination, v.type, v.source, v.gofer_index, v.is_directory, v.flags, v.propagation,
      v.propagation_recursive, v.data);
}
template <typename A>
void fields(A& a, BootDevice& v) {
  all(a, v.path, v.type, v.major, v.minor, v.mode, v.uid, v.gid);
}
template <typename A>
void fields(A& a, DeviceRule& v) {
  all(a, v.allow, v.type, v.major, v.minor, v.read, v.write, v.mknod);
}
template <typename A>
void fields(A& a, SeccompArg& v) {
  all(a, v.index, v.op, v.value, v.value_two);
}
template <typename A>
void fields(A& a, SeccompRule& v) {
  all(a, v.syscalls, v.action, v.errno_value, v.args);
}
template <typename A>
void fields(A& a, SeccompConfig& v) {
  all(a, v.present, v.default_action, v.default_errno, v.x86, v.x32, v.flags, v.rules);
}
template <typename A>
void fields(A& a, IdMapping& v) {
  all(a, v.container_id, v.host_id, v.size);
}
template <typename A>
void fields(A& a, NamespaceConfig& v) {
  all(a, v.own_net, v.own_ipc, v.own_uts, v.own_mount, v.own_cgroup, v.own_user, v.net_is_host, v.shares_net,
      v.shares_ipc, v.shares_uts);
}
template <typename A>
void fields(A& a, VisibleLimits& v) {
  all(a, v.memory_bytes, v.memory_swap_bytes, v.pids, v.cpu_quota_us, v.cpu_period_us, v.cpu_shares, v.cpuset_cpus,
      v.cpuset_mems);
}
template <typename A>
void fields(A& a, BootConfig& v) {
  all(a, v.id, v.bundle, v.process, v.stdio[0], v.stdio[1], v.stdio[2], v.extra_fds, v.hostname, v.domainname,
      v.cgroup_path, v.annotations, v.namespaces, v.uid_map, v.gid_map, v.time_offsets_ns, v.root_mount, v.mounts,
      v.masked_paths, v.readonly_paths, v.devices, v.device_rules, v.sysctls, v.overlay, v.seccomp, v.limits,
      v.host_sockets, v.raw_sockets, v.personality, v.rootless, v.owner_uid, v.strace, v.strace_filter, v.debug,
      v.log_format, v.log_level, v.gofer_fd, v.gofer_notify_fd, v.control_fd, v.log_fd, v.sync_fd, v.guest_cgroup_fds,
      v.device_fds);
}

// Go's spelling of an errno, which is what engines match.
std::string lower_text(Errno error) {
  std::string s = errno_text(error);
  if (!s.empty()) s[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(s[0])));
  return s;
}

}  // namespace

void encode(Encoder& out, const ProcessSpec& process) {
  Writer w{out};
  w(process);
}

ProcessSpec decode_process(Decoder& in) {
  Reader r{in};
  ProcessSpec p;
  r(p);
  return p;
}

void encode(Encoder& out, const VisibleLimits& limits) {
  Writer w{out};
  w(limits);
}

VisibleLimits decode_limits(Decoder& in) {
  Reader r{in};
  VisibleLimits v;
  r(v);
  return v;
}

std::string encode_boot_config(const BootConfig& config) {
  Encoder e;
  e.u32v(kMagic);
  e.u32v(kVersion);
  Writer w{e};
  w(config);
  return e.take();
}

HostResult<BootConfig> decode_boot_config(std::string_view bytes) {
  Decoder d(bytes);
  if (d.u32v() != kMagic || d.u32v() != kVersion) return Failure("boot config: not of this version");
  BootConfig config;
  Reader r{d};
  r(config);
  if (!d.at_end()) return Failure("boot config: damaged");
  return config;
}

HostResult<UniqueFd> write_boot_config(const BootConfig& config) {
  UniqueFd fd(::memfd_create("sbx-boot", MFD_ALLOW_SEALING));
  if (!fd) return Failure::from_errno("memfd_create");
  std::string bytes = encode_boot_config(config);
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = ::write(fd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0) return Failure::from_errno("writing the boot config");
    done += static_cast<size_t>(n);
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0) {
    return Failure::from_errno("sealing the boot config");
  }
  return fd;
}

HostResult<BootConfig> read_boot_config(int memfd) {
  struct stat st {};
  if (::fstat(memfd, &st) < 0) return Failure::from_errno("boot config");
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = ::pread(memfd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n < 0) return Failure::from_errno("boot config");
    if (n == 0) return Failure("boot config: short");
    done += static_cast<size_t>(n);
  }
  return decode_boot_config(bytes);
}

std::string encode_boot_report(const BootReport& report) {
  Encoder e;
  e.u32v(kMagic);
  e.boolean(report.ready);
  e.str(report.text);
  return e.take();
}

HostResult<BootReport> decode_boot_report(std::string_view bytes) {
  Decoder d(bytes);
  if (d.u32v() != kMagic) return Failure("boot report: damaged");
  BootReport report;
  report.ready = d.boolean();
  report.text = d.str();
  if (!d.at_end()) return Failure("boot report: damaged");
  return report;
}

void send_boot_report(int sync_fd, const BootReport& report) {
  std::string bytes = encode_boot_report(report);
  while (::write(sync_fd, bytes.data(), bytes.size()) < 0 && errno == EINTR) {
  }
}

std::string command_not_in_path_text(std::string_view command) {
  return "exec: \"" + std::string(command) + "\": executable file not found in $PATH";
}

std::string command_error_text(std::string_view command, Errno error) {
  std::string quoted = "exec: \"" + std::string(command) + "\": ";
  if (error == Errno::kNoent || error == Errno::kNotdir || error == Errno::kLoop) {
    return quoted + "stat " + std::string(command) + ": " + lower_text(error);
  }
  return quoted + lower_text(error);
}

std::string exec_failed_text(std::string_view path, Errno error) {
  return "exec " + std::string(path) + ": " + lower_text(error);
}

}  // namespace sbx::control
