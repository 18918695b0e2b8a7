// The control socket: how the `sbx` commands talk to a running sentry.
//
// A SOCK_SEQPACKET listening socket (BootConfig::control_fd; control.sock in the container's state directory). A
// connection carries requests one after another; each is one packet (kMaxMessage at most) with its descriptors as
// SCM_RIGHTS, and gets exactly one reply packet, in order. `wait` and `events` are answered late: the server goes on
// serving other connections meanwhile, and the client sends nothing more on this one until the answer is there
// (except `signal`, `resize`: allowed while a `wait` is pending, answered before it).
// A server checks SO_PEERCRED: only root of its own user namespace's owner, i.e. the uid that started it, may ask.
//
// What a closed connection means: nothing, except for execs made with `tied` and for a container that joined through
// it: they are killed (SIGKILL).
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "sentry/base/result.h"
#include "sentry/base/types.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/boot_config.h"

namespace sbx::control {

constexpr u32 kProtocolVersion = 1;
constexpr size_t kMaxMessage = 160 * 1024;
constexpr size_t kMaxFds = 64;

// Lets the created init run. Error "container already started" the second time.
struct StartRequest {
  // What the host calls it, where its pid namespace is to be the host's; 0: it is pid 1.
  i32 pid = 0;
  u32 pid_max = 0;  // with a pid: the host's kernel.pid_max
};

enum class SignalTarget : u8 {
  kInit,  // the container's init
  kAll,   // every guest process
  kPid,   // one guest process by guest pid
  kExec,  // the process of an exec
};
// Sends a signal as the host's administrator would from outside the pid namespace: SIGKILL and SIGSTOP work on init,
// other signals reach init only if it has a handler. Before `start`, a signal whose default action is to terminate ends
// the container. Reply Errno kSrch when there is no such process.
struct SignalRequest {
  SignalTarget target = SignalTarget::kInit;
  i32 pid = 0;  // kPid
  i32 signo = 0;
  u32 exec_id = 0;  // kExec
};

// Starts a further process. Descriptors by SCM_RIGHTS: stdin, stdout, stderr (present ones in this order), or one tty
// slave when process.terminal. May be asked before `start` (startContainer hooks are run so).
// Reply: ExecReply. A command that cannot run answers an error with the texts of boot_config.h.
struct ExecRequest {
  ProcessSpec process;
  bool stdio_present[3] = {true, true, true};
  bool stdio_nonblocking[3] = {false, false, false};  // as StdioFd::nonblocking
  // The exec belongs to this connection: kill it when the connection closes before it has exited.
  bool tied = false;
  // Descriptors after the streams become 3, 4, ... of the process (--preserve-fds).
  u32 extra_fds = 0;
  std::string cgroup;  // child cgroup of the guest's to start in (exec --cgroup), empty: init's
};

// Answers WaitReply when the exec'd process has ended. exec_id 0: the container's init.
struct WaitRequest {
  u32 exec_id = 0;
};

struct PsRequest {};

// Text for people: "stacks" (fibers: call, waiting on what, how long), "counters", "tasks", "maps", "mounts", "fds",
// "missing" (stubs that were hit), "all"; "strace on [filter]" and "strace off" switch tracing.
struct DebugRequest {
  std::string what;
};

// New size of a terminal. exec_id 0: init's.
struct ResizeRequest {
  u32 exec_id = 0;
  u16 rows = 0;
  u16 columns = 0;
};

// Waits for the next event after `after` (0: from now on): guest OOM, init's exit.
struct EventsRequest {
  u64 after = 0;
};

// Guest-level stop and continue, for hosts without a freezer. `sbx pause` uses the cgroup freezer where there is one.
struct PauseRequest {};
struct ResumeRequest {};

// `sbx update`: limits changed on the host; what the guest sees and the pids limit follow.
struct UpdateRequest {
  VisibleLimits limits;
};

// Counters of guest tasks for `sbx events --stats`.
struct StatsRequest {};

// Takes a further container into the sandbox, which then shares its pid namespace. The first descriptor is a memfd with
// a BootConfig, whose own descriptors are places among all that come along; its control_fd is the listening socket that
// the new container is asked through. OkReply: created, its command found. From then on this connection is its own:
// WaitRequest of exec 0 answers the end of its init, and closing the connection ends it (SIGKILL).
struct JoinRequest {};

using Request =
    std::variant<StartRequest, SignalRequest, ExecRequest, WaitRequest, PsRequest, DebugRequest, ResizeRequest,
                 EventsRequest, PauseRequest, ResumeRequest, UpdateRequest, StatsRequest, JoinRequest>;

struct OkReply {};
struct ErrorReply {
  i32 code = 0;  // Linux errno
  std::string text;
};
struct ExecReply {
  u32 exec_id = 0;  // for wait, signal and resize; never 0
  i32 pid = 0;      // in the guest's root pid namespace
};
struct WaitReply {
  i32 status = 0;  // exit code, or 128 + signal
  bool signaled = false;
  bool core_dumped = false;
};
struct PsEntry {
  i32 pid = 0;  // guest's
  i32 ppid = 0;
  i32 host_pid = 0;  // pid of the process's stub in the sentry's pid namespace; 0: none (zombie)
  u32 uid = 0;
  u32 threads = 1;
  char state = 'S';  // as /proc/PID/stat
  i32 tty_nr = 0;
  u64 cpu_ms = 0;
  i64 start_time_s = 0;  // seconds since the epoch
  u64 rss_bytes = 0;
  std::string comm;
  std::vector<std::string> cmdline;
};
struct PsReply {
  std::vector<PsEntry> processes;
};
struct TextReply {
  std::string text;
};
enum class EventKind : u8 { kNone, kOom, kExit };
struct EventReply {
  u64 sequence = 0;
  EventKind kind = EventKind::kNone;
  std::string text;
};
struct StatsReply {
  u64 processes = 0;
  u64 threads = 0;
};

using Reply = std::variant<OkReply, ErrorReply, ExecReply, WaitReply, PsReply, TextReply, EventReply, StatsReply>;

std::string encode_request(const Request& request);
// kInval: damaged or of an unknown kind or version; the server answers ErrorReply and keeps the connection.
HostResult<Request> decode_request(std::string_view bytes);
std::string encode_reply(const Reply& reply);
HostResult<Reply> decode_reply(std::string_view bytes);

// One packet with descriptors. kMsgsize when larger than kMaxMessage; texts longer than that are cut by the sender.
// `flags` are sendmsg's (MSG_NOSIGNAL is added).
HostResult<void> send_packet(int socket, std::string_view bytes, const std::vector<int>& fds, int flags = 0);
struct Packet {
  std::string bytes;          // empty: end of file
  std::vector<UniqueFd> fds;  // close-on-exec
};
// kAgain with MSG_DONTWAIT when nothing is there; kMsgsize for a truncated packet.
HostResult<Packet> receive_packet(int socket, int flags = 0);

}  // namespace sbx::control
