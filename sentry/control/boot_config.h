// What the runtime tells a sentry when it starts it: plain data, no JSON, no paths that the sentry would have to open.
//
// The runtime re-executes its own binary with argv {"sbx-sentry", "<boot fd>"}: the boot fd is a sealed memfd with an
// encoded BootConfig. The process is pid 1 of its own pid namespace, has an empty read-only root, and holds only the
// descriptors named here plus 0 (/dev/null), 1 and 2 (the log, or /dev/null).
//
// The report: exactly one message on `sync_fd` once boot has finished, made by encode_boot_report():
//   ready            the container's init is loaded (the command was found, cwd entered...) and waits for `start`
//                    on the control socket;
//   error            boot failed; `text` is a sentence for the user. A command that cannot be run uses runc's words, so
//                    that engines derive exit codes 126 and 127: missing_command_text() and its siblings make them.
// After the report the sentry closes sync_fd. A sentry that reported an error exits at once (status 1).
// Closing without a report means that the sentry crashed.
//
// The sentry exits with the status of the container's init: its exit code, or 128 + signal.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sentry/base/codec.h"
#include "sentry/base/result.h"
#include "sentry/base/types.h"
#include "sentry/base/unique_fd.h"

namespace sbx::control {

struct Rlimit {
  u32 resource = 0;  // RLIMIT_* number
  u64 soft = 0;      // ~0: unlimited
  u64 hard = 0;
};

// The five capability sets of capabilities(7), bit n = capability n.
struct CapabilitySets {
  u64 bounding = 0;
  u64 effective = 0;
  u64 inheritable = 0;
  u64 permitted = 0;
  u64 ambient = 0;
};

// One process to start in the container: the init of config.json or an exec's process.json.
struct ProcessSpec {
  std::vector<std::string> args;  // never empty
  std::vector<std::string> env;   // NAME=value; the runtime adds nothing (HOME is the sentry's to add when absent,
                                  // from the container's /etc/passwd)
  std::string cwd;                // absolute; created when missing, like runc
  u32 uid = 0;
  u32 gid = 0;
  std::vector<u32> groups;        // supplementary
  i32 umask = -1;                 // -1: not given (022)
  bool has_capabilities = false;  // false: process.capabilities is absent. An exec then takes those of the container's
                                  // init; an init has none
  CapabilitySets capabilities;
  std::vector<Rlimit> rlimits;
  bool no_new_privs = false;
  bool terminal = false;
  u16 console_rows = 0;  // 0: not given
  u16 console_columns = 0;
  bool has_oom_score_adj = false;
  i32 oom_score_adj = 0;
  std::string apparmor_profile;  // shown, not enforced
  std::string selinux_label;     // shown, not enforced
  i32 nice = 0;                  // process.scheduler
  i32 io_class = 0;              // IOPRIO_CLASS_*, 0: not given (process.ioPriority)
  i32 io_priority = 0;
  std::vector<u32> cpu_affinity;  // process.execCPUAffinity, empty: not given
};

// A host descriptor that becomes one of a process's standard streams.
struct StdioFd {
  i32 fd = -1;  // -1: closed
  // O_NONBLOCK is set, and the open file description is ours alone. Otherwise a read or write may block the calling
  // thread (regular files never do; sockets take MSG_DONTWAIT; what else is left was not reopenable).
  bool nonblocking = false;
};

enum class MountFlag : u32 {
  kReadOnly = 1 << 0,
  kNoSuid = 1 << 1,
  kNoDev = 1 << 2,
  kNoExec = 1 << 3,
  kSynchronous = 1 << 4,
  kDirSync = 1 << 5,
  kMandLock = 1 << 6,
  kNoAtime = 1 << 7,
  kNoDirAtime = 1 << 8,
  kRelAtime = 1 << 9,
  kStrictAtime = 1 << 10,
  kBind = 1 << 11,
  kRecursive = 1 << 12,  // rbind
  kCopyUp = 1 << 13,     // tmpcopyup: a tmpfs that starts with a copy of what it hides
  kNoSymFollow = 1 << 14,
  kIversion = 1 << 15,
  kSilent = 1 << 16,
  kIdMapped = 1 << 17,
  kRecursiveReadOnly = 1 << 18,  // rro
};

enum class Propagation : u8 { kDefault, kPrivate, kSlave, kShared, kUnbindable };

// Which AF_UNIX sockets of the host the container may connect to.
enum class HostSockets : u8 {
  kNone,
  kMounted,  // those that are bind mounts themselves
  kAll,      // those in directories that are bind mounts, too
};

struct BootMount {
  std::string destination;  // absolute, cleaned; "/" is only the root (BootConfig::root_mount)
  std::string type;      // "bind" for every host directory or file, else proc, tmpfs, sysfs, devpts, mqueue, cgroup...
  std::string source;    // what /proc/mounts shows in its first column
  i32 gofer_index = -1;  // GoferBoot::mounts index for a bind
  bool is_directory = true;  // of a bind: what to create at a missing destination
  u32 flags = 0;             // MountFlag bits
  Propagation propagation = Propagation::kDefault;
  bool propagation_recursive = false;
  std::string data;  // the file system's own options, comma separated (size=64k,mode=755)
  bool has(MountFlag f) const { return (flags & static_cast<u32>(f)) != 0; }
};

struct BootDevice {
  std::string path;
  char type = 'c';  // c, b, p
  u32 major = 0;
  u32 minor = 0;
  u32 mode = 0666;  // permission bits
  u32 uid = 0;
  u32 gid = 0;
};

// A row of linux.resources.devices, in order: the last that matches decides. -1 and 'a': any.
struct DeviceRule {
  bool allow = false;
  char type = 'a';
  i64 major = -1;
  i64 minor = -1;
  bool read = false, write = false, mknod = false;
};

enum class SeccompAction : u8 { kKillProcess, kKillThread, kTrap, kErrno, kNotify, kTrace, kLog, kAllow };
enum class SeccompCompare : u8 { kNe, kLt, kLe, kEq, kGe, kGt, kMaskedEq };

struct SeccompArg {
  u32 index = 0;
  SeccompCompare op = SeccompCompare::kEq;
  u64 value = 0;      // the mask of kMaskedEq
  u64 value_two = 0;  // what the masked argument shall equal
};

// One entry of linux.seccomp.syscalls. All args must hold, save that several conditions on one index are alternatives
// split by the runtime into rules of their own (libseccomp's reading of the same JSON).
struct SeccompRule {
  std::vector<u32> syscalls;  // x86-64 numbers; names unknown here were dropped
  SeccompAction action = SeccompAction::kAllow;
  u32 errno_value = 1;
  std::vector<SeccompArg> args;
};

struct SeccompConfig {
  bool present = false;
  SeccompAction default_action = SeccompAction::kAllow;
  u32 default_errno = 1;
  bool x86 = false;  // linux.seccomp.architectures lists SCMP_ARCH_X86
  bool x32 = false;
  u32 flags = 0;  // SECCOMP_FILTER_FLAG_* (TSYNC, LOG, SPEC_ALLOW)
  std::vector<SeccompRule> rules;
};

struct IdMapping {
  u32 container_id = 0;
  u32 host_id = 0;
  u32 size = 0;
};

// Namespaces as the guest shall believe them. A namespace that is not listed in the config is the host's.
struct NamespaceConfig {
  bool own_net = false;  // new for this container; false: the host's or another's, whose addresses must not be changed
  bool own_ipc = true;
  bool own_uts = true;
  bool own_mount = true;
  bool own_cgroup = false;
  bool own_user = false;
  bool net_is_host = false;  // the runtime's own network namespace
  // Of a container that joins a sandbox: the same as the first container's.
  bool shares_net = false;
  bool shares_ipc = false;
  bool shares_uts = false;
};

enum class OverlayMode : u8 { kNone, kMemory };

// Limits that the guest can see (/proc/meminfo, sched_getaffinity, cgroup files) and the pids limit, which the sentry
// enforces itself as well: it counts guest tasks, never our threads. -1: none.
struct VisibleLimits {
  static constexpr i64 kUnchanged = -2;  // in an update; -1: none
  i64 memory_bytes = -1;
  i64 memory_swap_bytes = -1;
  i64 pids = -1;
  i64 cpu_quota_us = -1;
  i64 cpu_period_us = -1;
  i64 cpu_shares = -1;
  std::string cpuset_cpus;
  std::string cpuset_mems;
};

struct BootConfig {
  // --- what to run
  std::string id;
  std::string bundle;  // only to be shown
  ProcessSpec process;
  StdioFd stdio[3];            // all three the tty's slave with process.terminal
  std::vector<i32> extra_fds;  // become 3, 4, ... of init (--preserve-fds, LISTEN_FDS)
  std::string hostname;        // empty: uname(2) of the uts namespace we are in
  std::string domainname;
  std::string cgroup_path;  // container's cgroup as /proc/PID/cgroup of the host shows it ("/docker/ID")
  std::vector<std::pair<std::string, std::string>> annotations;
  NamespaceConfig namespaces;
  std::vector<IdMapping> uid_map, gid_map;  // of the user namespace the sentry is in; empty: none of its own
  std::vector<std::pair<std::string, i64>> time_offsets_ns;  // "monotonic", "boottime"

  // --- files
  BootMount root_mount;           // gofer_index 0
  std::vector<BootMount> mounts;  // in order
  std::vector<std::string> masked_paths;
  std::vector<std::string> readonly_paths;
  std::vector<BootDevice> devices;  // the default set of the runtime specification and linux.devices
  std::vector<DeviceRule> device_rules;
  std::vector<std::pair<std::string, std::string>> sysctls;  // net.* are already applied to the network namespace
  OverlayMode overlay = OverlayMode::kNone;

  // --- policy
  SeccompConfig seccomp;
  VisibleLimits limits;
  u32 personality = 0;
  HostSockets host_sockets = HostSockets::kNone;
  bool raw_sockets = false;  // the container has CAP_NET_RAW: the gofer makes raw and packet sockets
  u32 owner_uid = 0;         // who started us, as the sentry's user namespace shows that user
  bool rootless = false;     // no privilege on the host: one or few ids are mapped

  // --- watching
  bool strace = false;
  std::string strace_filter;  // comma separated names; empty: all
  bool debug = false;
  u8 log_format = 0;  // sbx::LogFormat
  u8 log_level = 1;   // sbx::LogLevel

  // --- descriptors (numbers in the sentry's table, in a JoinRequest places among its descriptors; -1: none)
  i32 gofer_fd = -1;         // requests, SOCK_SEQPACKET
  i32 gofer_notify_fd = -1;  // host changes, SOCK_SEQPACKET
  i32 control_fd = -1;       // listening SOCK_SEQPACKET (messages.h)
  i32 log_fd = -1;
  i32 sync_fd = -1;  // the report, see above
  // Writable cgroup.procs files of the `guest` child cgroup (one for each hierarchy that has one). The sentry writes
  // the decimal pid (as it sees it) of the stub that all others are forked from, before that forks, then closes them;
  // those of a container that joined it keeps, as every exec's stub has to be moved.
  std::vector<i32> guest_cgroup_fds;
  // A descriptor of the host's /dev/kvm, TUN... by guest path, for devices that are passed through: none yet.
  std::vector<std::pair<std::string, i32>> device_fds;
};

void encode(Encoder& out, const ProcessSpec& process);
// `in.ok()` tells whether it was complete.
ProcessSpec decode_process(Decoder& in);

std::string encode_boot_config(const BootConfig& config);
// kInval for another version or a damaged message.
HostResult<BootConfig> decode_boot_config(std::string_view bytes);

// A sealed memfd holding encode_boot_config (not close-on-exec), and its reader.
HostResult<UniqueFd> write_boot_config(const BootConfig& config);
HostResult<BootConfig> read_boot_config(int memfd);

struct BootReport {
  bool ready = false;
  std::string text;  // the error
};
std::string encode_boot_report(const BootReport& report);
HostResult<BootReport> decode_boot_report(std::string_view bytes);
// One write of the report to the sync pipe; errors are ignored (nobody listens then).
void send_boot_report(int sync_fd, const BootReport& report);

// runc's words for a command that cannot be started. Engines look for them (exit codes 127 and 126).
//   exec: "nope": executable file not found in $PATH                 (a name without '/')
//   exec: "/nope": stat /nope: no such file or directory             (a path)
//   exec: "/etc": permission denied                                  (a directory, or no x bit)
//   exec /bin/script: exec format error                              (execve itself failed)
std::string command_not_in_path_text(std::string_view command);
std::string command_error_text(std::string_view command, Errno error);
std::string exec_failed_text(std::string_view path, Errno error);

}  // namespace sbx::control
