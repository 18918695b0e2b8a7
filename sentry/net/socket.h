// Socket: the one interface behind which every address family stands (socket(2) and friends). Families register a
// factory. As in vfs::File all data calls are attempts: kAgain where a blocking call would wait; MSG_DONTWAIT,
// MSG_WAITALL and the timeouts are the caller's loop. Addresses are sockaddr bytes as the guest gave them or gets them.
//
// This room lies below task/: who calls is asked through caller_identity.
#pragma once
#include <sys/socket.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/vfs/walk.h"

namespace sbx::net {

// SCM_CREDENTIALS, SO_PEERCRED: struct ucred.
struct Identity {
  i32 pid = 0;
  u32 uid = ~0u, gid = ~0u;
  friend bool operator==(const Identity&, const Identity&) = default;
};
// Process id and effective ids (real ones for messages are the same for nearly all) of the calling task; set once at
// start. Null: {0, 0, 0}.
extern Identity (*caller_identity)();

// A control message of another level than SOL_SOCKET, or one of SOL_SOCKET that needs no translation.
struct ControlMessage {
  int level = 0, type = 0;
  std::string bytes = {};
};

struct SendRequest {
  vfs::Source& data;
  std::string_view address;              // destination; empty: the connected peer
  std::vector<RefPtr<vfs::File>> files;  // SCM_RIGHTS; at most 253 (the caller checked)
  std::optional<Identity> credentials;   // SCM_CREDENTIALS, checked by the caller; else the caller's identity
  u32 flags = 0;                         // MSG_*
  std::vector<ControlMessage> control = {};
};

struct ReceiveRequest {
  vfs::Sink& data;
  u32 flags = 0;  // MSG_PEEK, MSG_TRUNC...
  // Results.
  std::string address = {};                   // of the sender
  std::vector<RefPtr<vfs::File>> files = {};  // to be installed by the caller, or dropped (MSG_CTRUNC)
  std::optional<Identity> credentials = {};   // present if SO_PASSCRED
  u32 out_flags = 0;                          // MSG_TRUNC, MSG_EOR
  std::vector<ControlMessage> control = {};
};

class Socket : public vfs::File {
 public:
  Socket(vfs::Path path, u32 flags, int family, int type, int protocol)
      : File(std::move(path), flags), family_(family), type_(type), protocol_(protocol) {}
  int family() const { return family_; }
  int type() const { return type_; }  // SOCK_STREAM..., without SOCK_NONBLOCK and SOCK_CLOEXEC
  int protocol() const { return protocol_; }

  virtual Result<void> bind(const vfs::WalkContext& ctx, u32 umask, std::string_view address) = 0;
  virtual Result<void> listen(int backlog) = 0;
  // An attempt. The new socket's flags: O_NONBLOCK or 0.
  virtual Result<RefPtr<Socket>> accept(u32 flags) = 0;
  // An attempt (kAgain: a full backlog; kInprogress as connect(2)).
  virtual Result<void> connect(const vfs::WalkContext& ctx, std::string_view address) = 0;
  // kPipe: the caller sends SIGPIPE unless MSG_NOSIGNAL. May be short for streams.
  virtual Result<size_t> send(const vfs::WalkContext* ctx, SendRequest& request) = 0;
  virtual Result<size_t> receive(ReceiveRequest& request) = 0;
  virtual Result<void> shutdown(int how) = 0;
  virtual Result<std::string> local_address() = 0;
  virtual Result<std::string> peer_address() = 0;
  // get_option answers at most max bytes. The value of SO_ATTACH_FILTER is the program's instructions.
  virtual Result<void> set_option(int level, int name, std::string_view value) = 0;
  virtual Result<std::string> get_option(int level, int name, size_t max) = 0;
  // get_option for those whose value is a question first: PACKET_HDRLEN.
  virtual Result<std::string> ask_option(int level, int name, std::string_view question);

  // Whose connection an accepted socket is, as accept(2) tells it even if it was reset meanwhile; empty:
  // peer_address().
  std::string accepted_from;
  // SO_RCVTIMEO, SO_SNDTIMEO in ns for the caller's loop; 0: none.
  u64 receive_timeout = 0, send_timeout = 0;

  bool tells_async() const override { return true; }

  // read(2) and write(2) on a socket.
  Result<size_t> read(vfs::Sink& sink, u64* offset) override;
  Result<size_t> write(vfs::Source& source, u64* offset) override;

 private:
  const int family_, type_, protocol_;
};

// A family's maker. type has no flag bits; flags: O_NONBLOCK or 0.
struct Family {
  std::function<Result<RefPtr<Socket>>(int type, int protocol, u32 flags)> make;
  std::function<Result<std::pair<RefPtr<Socket>, RefPtr<Socket>>>(int type, int protocol, u32 flags)> make_pair;
};
void register_family(int family, Family maker);
// socket(2), socketpair(2). type with SOCK_NONBLOCK | SOCK_CLOEXEC (the latter is the descriptor's business).
// kAfnosupport for families nobody serves.
Result<RefPtr<Socket>> make_socket(int family, int type, int protocol);
Result<std::pair<RefPtr<Socket>, RefPtr<Socket>>> make_socket_pair(int family, int type, int protocol);

// The place of a new socket, "socket:[ino]".
vfs::Path socket_path();
// The ioctls about network interfaces, the same for sockets of every family (netdevice(7)). kNotty: none of them.
Result<i64> interface_ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg);
// The text of /proc/net/unix: all AF_UNIX sockets (net/unix/af_unix.c, unix_seq_show).
std::string unix_table();
// AF_UNIX. Once, at start.
void register_unix();

}  // namespace sbx::net
