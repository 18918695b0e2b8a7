// Messages over sockets: send, receive, their control data (cmsg(3), unix(7)) and the calls that move several.
#include <linux/capability.h>

#include <algorithm>

#include "sentry/abi/socket.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/socket_args.h"
#include "sentry/syscalls/user_io.h"
#include "sentry/syscalls/wait_mask.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

namespace {

constexpr size_t kMaxRights = 253;     // SCM_MAX_FD
constexpr size_t kMaxControl = 20480;  // net.core.optmem_max
constexpr u32 kMaxMessages = 1024;     // of one sendmmsg or recvmmsg
constexpr u32 kScmRights = 1, kScmCredentials = 2;

// The error queue is never waited for (inet_recv_error).
Wait wait_of(u32 flags) { return flags & (MSG_DONTWAIT | MSG_ERRQUEUE) ? Wait::kNo : Wait::kYes; }

// --- sending ---

// What a message carries beside its bytes.
struct Control {
  std::vector<RefPtr<vfs::File>> files;
  std::optional<net::Identity> credentials;
  std::vector<net::ControlMessage> others;  // the family's own
};

Result<void> read_rights(Task& task, std::string_view payload, Control& control) {
  const size_t count = payload.size() / sizeof(i32);
  if (control.files.size() + count > kMaxRights) return Errno::kInval;
  for (size_t i = 0; i < count; ++i) {
    i32 fd = -1;
    std::memcpy(&fd, payload.data() + i * sizeof(fd), sizeof(fd));
    control.files.push_back(TRY(task.fds->get(fd, true)));
  }
  return {};
}

// Nobody speaks for another without the capability to become it (unix(7), SCM_CREDENTIALS).
Result<void> read_credentials(Task& task, std::string_view payload, Control& control) {
  abi::UCred cred;
  if (payload.size() != sizeof(cred)) return Errno::kInval;
  std::memcpy(&cred, payload.data(), sizeof(cred));
  const security::Credentials& own = *task.creds;
  const bool pid_ok = cred.pid == task.pid() || own.capable(CAP_SYS_ADMIN);
  const bool uid_ok = cred.uid == own.uid || cred.uid == own.euid || cred.uid == own.suid || own.capable(CAP_SETUID);
  const bool gid_ok = cred.gid == own.gid || cred.gid == own.egid || cred.gid == own.sgid || own.capable(CAP_SETGID);
  if (!pid_ok || !uid_ok || !gid_ok) return Errno::kPerm;
  control.credentials = net::Identity{cred.pid, cred.uid, cred.gid};
  return {};
}

Result<Control> read_control(Task& task, u64 addr, u64 length) {
  Control control;
  if (length == 0) return control;
  if (length > kMaxControl) return Errno::kNobufs;
  std::string bytes(length, '\0');
  TRY(task.memory().read(addr, bytes.data(), length));
  for (size_t at = 0; at + sizeof(abi::CmsgHdr) <= length;) {
    abi::CmsgHdr header;
    std::memcpy(&header, bytes.data() + at, sizeof(header));
    if (header.length < sizeof(header) || header.length > length - at) return Errno::kInval;
    std::string_view payload = std::string_view(bytes).substr(at + sizeof(header), header.length - sizeof(header));
    at += abi::cmsg_align(header.length);
    if (header.level != SOL_SOCKET) {
      control.others.push_back({header.level, header.type, std::string(payload)});
      continue;
    }
    if (header.type == kScmRights)
      TRY(read_rights(task, payload, control));
    else if (header.type == kScmCredentials)
      TRY(read_credentials(task, payload, control));
    else
      return Errno::kInval;
  }
  return control;
}

Result<i64> do_send(Task& task, net::Socket& socket, const UserBuffers& buffers, std::string_view address, u32 flags,
                    Control control) {
  UserSource source(task, buffers);
  net::SendRequest request{
      source, address, std::move(control.files), control.credentials, flags, std::move(control.others)};
  const vfs::WalkContext ctx = task.walk_context();
  const bool stream = socket.type() == SOCK_STREAM;
  size_t done = 0;
  Result<void> error;
  do {
    auto sent = wait_for_socket(socket, wait_of(flags), socket.send_timeout, "send",
                                [&] { return socket.send(&ctx, request); });
    if (!sent) {
      error = sent.error();
      break;
    }
    done += *sent;
    if (*sent == 0) break;
    // The rest of a stream follows while it blocks; a short count says that it does not.
  } while (stream && source.left() > 0 && !socket.nonblocking() && !(flags & MSG_DONTWAIT));
  return finish_io(task, done, error,
                   stream && !(flags & MSG_NOSIGNAL) ? OnBrokenPipe::kSignal : OnBrokenPipe::kErrorOnly);
}

Result<i64> send_message(Task& task, net::Socket& socket, const abi::MsgHdr& header, u32 flags) {
  if (header.name_length < 0) return Errno::kInval;
  if (header.iov_count > kMaxIoVecs) return Errno::kMsgsize;
  std::string address;
  if (header.name != 0) {
    const u32 length = std::min<u32>(static_cast<u32>(header.name_length), sizeof(sockaddr_storage));
    address = TRY(read_address(task, header.name, length));
  }
  auto control = TRY(read_control(task, header.control, header.control_length));
  auto buffers = TRY(UserBuffers::read(task, header.iov, header.iov_count));
  return do_send(task, socket, buffers, address, flags, std::move(control));
}

// --- receiving ---

// Bytes received; the request has the rest.
Result<size_t> do_receive(net::Socket& socket, net::ReceiveRequest& request) {
  const bool all = (request.flags & MSG_WAITALL) && !(request.flags & MSG_PEEK) && socket.type() == SOCK_STREAM;
  size_t done = 0;
  do {
    auto got = wait_for_socket(socket, wait_of(request.flags), socket.receive_timeout, "receive",
                               [&] { return socket.receive(request); });
    if (!got) {
      if (done == 0) return got;
      break;
    }
    done += *got;
    if (*got == 0 || !request.files.empty()) break;
  } while (all && request.data.left() > 0);
  return done;
}

// The guest's control buffer while it fills.
class ControlWriter {
 public:
  ControlWriter(Task& task, u64 addr, u64 length) : task_(task), at_(addr), left_(addr == 0 ? 0 : length) {}

  Result<void> put_credentials(const net::Identity& identity) {
    const abi::UCred cred{identity.pid, identity.uid, identity.gid};
    if (left_ < sizeof(abi::CmsgHdr)) {
      truncated = true;
      return {};
    }
    // What does not fit is cut, header included in the length, as Linux does.
    const u64 whole = sizeof(abi::CmsgHdr) + sizeof(cred);
    if (left_ < whole) truncated = true;
    return put(SOL_SOCKET, kScmCredentials, &cred, std::min<u64>(left_, whole) - sizeof(abi::CmsgHdr));
  }

  // What does not fit is cut.
  Result<void> put_other(const net::ControlMessage& message) {
    if (left_ < sizeof(abi::CmsgHdr)) {
      truncated = true;
      return {};
    }
    const u64 room = left_ - sizeof(abi::CmsgHdr);
    if (room < message.bytes.size()) truncated = true;
    return put(message.level, static_cast<u32>(message.type), message.bytes.data(),
               std::min<u64>(room, message.bytes.size()));
  }

  // Installs as many descriptors as there is room for, in the buffer and in the table; the others are closed.
  Result<void> put_files(std::vector<RefPtr<vfs::File>> files, bool cloexec) {
    const size_t room = left_ < sizeof(abi::CmsgHdr) ? 0 : (left_ - sizeof(abi::CmsgHdr)) / sizeof(i32);
    std::vector<i32> numbers;
    for (auto& file : files) {
      if (numbers.size() >= room) break;
      auto fd = task_.fds->add(std::move(file), cloexec, task_.nofile_limit());
      if (!fd) break;
      numbers.push_back(*fd);
    }
    if (numbers.size() < files.size()) truncated = true;
    if (numbers.empty()) return {};
    return put(SOL_SOCKET, kScmRights, numbers.data(), numbers.size() * sizeof(i32));
  }

  u64 written = 0;
  bool truncated = false;

 private:
  Result<void> put(int level, u32 type, const void* payload, u64 n) {
    abi::CmsgHdr header;
    header.length = sizeof(header) + n;
    header.level = level;
    header.type = static_cast<i32>(type);
    TRY(task_.memory().write(at_, &header, sizeof(header)));
    if (n > 0) TRY(task_.memory().write(at_ + sizeof(header), payload, n));
    const u64 step = std::min(abi::cmsg_align(header.length), left_);
    at_ += step;
    left_ -= step;
    written += step;
    return {};
  }

  Task& task_;
  u64 at_, left_;
};

// The header is at addr in the guest; name length, flags and control length change there.
Result<i64> receive_message(Task& task, net::Socket& socket, u64 addr, u32 flags) {
  const abi::MsgHdr header = TRY(In<abi::MsgHdr>{addr}.read(task));
  if (header.name_length < 0) return Errno::kInval;
  if (header.iov_count > kMaxIoVecs) return Errno::kMsgsize;
  auto buffers = TRY(UserBuffers::read(task, header.iov, header.iov_count));
  UserSink sink(task, buffers);
  net::ReceiveRequest request{sink, flags};
  const size_t done = TRY(do_receive(socket, request));
  ControlWriter control(task, header.control, header.control_length);
  for (const net::ControlMessage& message : request.control) TRY(control.put_other(message));
  if (request.credentials) TRY(control.put_credentials(*request.credentials));
  if (!request.files.empty()) TRY(control.put_files(std::move(request.files), flags & MSG_CMSG_CLOEXEC));
  TRY(write_address(task, request.address, header.name, addr + offsetof(abi::MsgHdr, name_length)));
  const u32 out_flags = request.out_flags | (control.truncated ? u32{MSG_CTRUNC} : 0) | (flags & u32{MSG_CMSG_CLOEXEC});
  TRY(Out<u32>{addr + offsetof(abi::MsgHdr, flags)}.write(task, out_flags));
  TRY(Out<u64>{addr + offsetof(abi::MsgHdr, control_length)}.write(task, control.written));
  return static_cast<i64>(done);
}

u64 message_at(UserAddr messages, u32 i) { return messages.addr + u64{i} * sizeof(abi::MMsgHdr); }

Result<void> write_length(Task& task, u64 message, i64 length) {
  return Out<u32>{message + offsetof(abi::MMsgHdr, length)}.write(task, static_cast<u32>(length));
}

}  // namespace

Result<i64> sys_sendto(Task& task, Fd fd, InBuf from, Size n, Hex flags, InBuf addr, UInt addr_length) {
  auto socket = TRY(get_socket(task, fd.n));
  std::string address;
  if (addr.addr != 0) address = TRY(read_address(task, addr.addr, addr_length));
  auto done = do_send(task, *socket, UserBuffers(from.addr, n), address, static_cast<u32>(flags.v), {});
  if (done) lend_room(task, fd.n, *socket);
  if (done) lend_posts(task, fd.n, *socket);
  return done;
}

Result<i64> sys_sendmsg(Task& task, Fd fd, UserAddr message, Hex flags) {
  auto socket = TRY(get_socket(task, fd.n));
  auto header = TRY(In<abi::MsgHdr>{message.addr}.read(task));
  auto done = send_message(task, *socket, header, static_cast<u32>(flags.v));
  if (done) lend_posts(task, fd.n, *socket);
  return done;
}

Result<i64> sys_sendmmsg(Task& task, Fd fd, UserAddr messages, UInt count, Hex flags) {
  auto socket = TRY(get_socket(task, fd.n));
  i64 sent = 0;
  for (u32 i = 0; i < std::min(count, kMaxMessages); ++i) {
    const u64 at = message_at(messages, i);
    auto one = [&]() -> Result<i64> {
      auto header = TRY(In<abi::MsgHdr>{at}.read(task));
      const i64 n = TRY(send_message(task, *socket, header, static_cast<u32>(flags.v)));
      TRY(write_length(task, at, n));
      return n;
    }();
    if (!one && sent == 0) return one;
    if (!one) break;
    ++sent;
  }
  return sent;
}

Result<i64> sys_recvfrom(Task& task, Fd fd, OutBuf to, Size n, Hex flags, OutBuf addr, UserAddr addr_length) {
  auto socket = TRY(get_socket(task, fd.n));
  UserBuffers buffers(to.addr, n);
  UserSink sink(task, buffers);
  net::ReceiveRequest request{sink, static_cast<u32>(flags.v)};
  const size_t done = TRY(do_receive(*socket, request));
  TRY(write_address(task, request.address, addr.addr, addr_length.addr));
  if (request.flags == 0) lend_bytes(task, fd.n, *socket, n, static_cast<i64>(done));
  return static_cast<i64>(done);
}

Result<i64> sys_recvmsg(Task& task, Fd fd, UserAddr message, Hex flags) {
  auto socket = TRY(get_socket(task, fd.n));
  return receive_message(task, *socket, message.addr, static_cast<u32>(flags.v));
}

Result<i64> sys_recvmmsg(Task& task, Fd fd, UserAddr messages, UInt count, Hex raw_flags, InOut<timespec> timeout) {
  auto socket = TRY(get_socket(task, fd.n));
  const fiber::Deadline deadline = TRY(deadline_from(task, timeout.addr));
  u32 flags = static_cast<u32>(raw_flags.v) & ~u32{MSG_WAITFORONE};
  i64 received = 0;
  for (u32 i = 0; i < std::min(count, kMaxMessages); ++i) {
    const u64 at = message_at(messages, i);
    auto one = receive_message(task, *socket, at, flags);
    if (one) {
      auto written = write_length(task, at, *one);
      if (!written) one = written.error();
    }
    if (!one && received == 0) return one;
    if (!one) break;
    ++received;
    if (raw_flags.v & MSG_WAITFORONE) flags |= MSG_DONTWAIT;
    // The timeout is looked at between messages only (recvmmsg(2), BUGS).
    if (fiber::now_ns() >= deadline) break;
  }
  write_remaining(task, timeout.addr, deadline);
  return received;
}

}  // namespace sbx::syscalls
