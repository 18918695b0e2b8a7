#include "sentry/control/messages.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace sbx::control {

// In boot_config.cc, beside the field lists.
void encode(Encoder& out, const VisibleLimits& limits);
VisibleLimits decode_limits(Decoder& in);

namespace {

// The wire number of a message is its place in the variant; the version guards against a reordering.
void put(Encoder& e, const StartRequest& m) {
  e.u32v(static_cast<u32>(m.pid));
  e.u32v(m.pid_max);
}
void put(Encoder& e, const SignalRequest& m) {
  e.u8v(static_cast<u8>(m.target));
  e.u32v(static_cast<u32>(m.pid));
  e.u32v(static_cast<u32>(m.signo));
  e.u32v(m.exec_id);
}
void put(Encoder& e, const ExecRequest& m) {
  encode(e, m.process);
  for (bool b : m.stdio_present) e.boolean(b);
  for (bool b : m.stdio_nonblocking) e.boolean(b);
  e.boolean(m.tied);
  e.u32v(m.extra_fds);
  e.str(m.cgroup);
}
void put(Encoder& e, const WaitRequest& m) { e.u32v(m.exec_id); }
void put(Encoder&, const PsRequest&) {}
void put(Encoder& e, const DebugRequest& m) { e.str(m.what); }
void put(Encoder& e, const ResizeRequest& m) {
  e.u32v(m.exec_id);
  e.u32v(m.rows);
  e.u32v(m.columns);
}
void put(Encoder& e, const EventsRequest& m) { e.u64v(m.after); }
void put(Encoder&, const PauseRequest&) {}
void put(Encoder&, const ResumeRequest&) {}
void put(Encoder& e, const UpdateRequest& m) { encode(e, m.limits); }
void put(Encoder&, const StatsRequest&) {}
void put(Encoder&, const JoinRequest&) {}

void get(Decoder& d, StartRequest& m) {
  m.pid = static_cast<i32>(d.u32v());
  m.pid_max = d.u32v();
}
void get(Decoder& d, SignalRequest& m) {
  m.target = static_cast<SignalTarget>(std::min<u8>(d.u8v(), static_cast<u8>(SignalTarget::kExec)));
  m.pid = static_cast<i32>(d.u32v());
  m.signo = static_cast<i32>(d.u32v());
  m.exec_id = d.u32v();
}
void get(Decoder& d, ExecRequest& m) {
  m.process = decode_process(d);
  for (bool& b : m.stdio_present) b = d.boolean();
  for (bool& b : m.stdio_nonblocking) b = d.boolean();
  m.tied = d.boolean();
  m.extra_fds = d.u32v();
  m.cgroup = d.str();
}
void get(Decoder& d, WaitRequest& m) { m.exec_id = d.u32v(); }
void get(Decoder&, PsRequest&) {}
void get(Decoder& d, DebugRequest& m) { m.what = d.str(); }
void get(Decoder& d, ResizeRequest& m) {
  m.exec_id = d.u32v();
  m.rows = static_cast<u16>(d.u32v());
  m.columns = static_cast<u16>(d.u32v());
}
void get(Decoder& d, EventsRequest& m) { m.after = d.u64v(); }
void get(Decoder&, PauseRequest&) {}
void get(Decoder&, ResumeRequest&) {}
void get(Decoder& d, UpdateRequest& m) { m.limits = decode_limits(d); }
void get(Decoder&, StatsRequest&) {}
void get(Decoder&, JoinRequest&) {}

void put(Encoder&, const OkReply&) {}
void put(Encoder& e, const ErrorReply& m) {
  e.u32v(static_cast<u32>(m.code));
  e.str(m.text);
}
void put(Encoder& e, const ExecReply& m) {
  e.u32v(m.exec_id);
  e.u32v(static_cast<u32>(m.pid));
}
void put(Encoder& e, const WaitReply& m) {
  e.u32v(static_cast<u32>(m.status));
  e.boolean(m.signaled);
  e.boolean(m.core_dumped);
}
void put(Encoder& e, const PsReply& m) {
  e.u32v(static_cast<u32>(m.processes.size()));
  for (const PsEntry& p : m.processes) {
    e.u32v(static_cast<u32>(p.pid));
    e.u32v(static_cast<u32>(p.ppid));
    e.u32v(static_cast<u32>(p.host_pid));
    e.u32v(p.uid);
    e.u32v(p.threads);
    e.u8v(static_cast<u8>(p.state));
    e.u32v(static_cast<u32>(p.tty_nr));
    e.u64v(p.cpu_ms);
    e.i64v(p.start_time_s);
    e.u64v(p.rss_bytes);
    e.str(p.comm);
    e.strs(p.cmdline);
  }
}
void put(Encoder& e, const TextReply& m) { e.str(std::string_view(m.text).substr(0, kMaxMessage - 64)); }
void put(Encoder& e, const EventReply& m) {
  e.u64v(m.sequence);
  e.u8v(static_cast<u8>(m.kind));
  e.str(m.text);
}
void put(Encoder& e, const StatsReply& m) {
  e.u64v(m.processes);
  e.u64v(m.threads);
}

void get(Decoder&, OkReply&) {}
void get(Decoder& d, ErrorReply& m) {
  m.code = static_cast<i32>(d.u32v());
  m.text = d.str();
}
void get(Decoder& d, ExecReply& m) {
  m.exec_id = d.u32v();
  m.pid = static_cast<i32>(d.u32v());
}
void get(Decoder& d, WaitReply& m) {
  m.status = static_cast<i32>(d.u32v());
  m.signaled = d.boolean();
  m.core_dumped = d.boolean();
}
void get(Decoder& d, PsReply& m) {
  u32 n = d.u32v();
  for (u32 i = 0; i < n && d.ok(); ++i) {
    PsEntry p;
    p.pid = static_cast<i32>(d.u32v());
    p.ppid = static_cast<i32>(d.u32v());
    p.host_pid = static_cast<i32>(d.u32v());
    p.uid = d.u32v();
    p.threads = d.u32v();
    p.state = static_cast<char>(d.u8v());
    p.tty_nr = static_cast<i32>(d.u32v());
    p.cpu_ms = d.u64v();
    p.start_time_s = d.i64v();
    p.rss_bytes = d.u64v();
    p.comm = d.str();
    p.cmdline = d.strs();
    if (d.ok()) m.processes.push_back(std::move(p));
  }
}
void get(Decoder& d, TextReply& m) { m.text = d.str(); }
void get(Decoder& d, EventReply& m) {
  m.sequence = d.u64v();
  u8 kind = d.u8v();
  m.kind = kind <= static_cast<u8>(EventKind::kExit) ? static_cast<EventKind>(kind) : EventKind::kNone;
  m.text = d.str();
}
void get(Decoder& d, StatsReply& m) {
  m.processes = d.u64v();
  m.threads = d.u64v();
}

template <typename Variant>
std::string encode_variant(const Variant& message) {
  Encoder e;
  e.u32v(kProtocolVersion);
  e.u8v(static_cast<u8>(message.index()));
  std::visit([&](const auto& m) { put(e, m); }, message);
  return e.take();
}

template <typename Variant, size_t I = 0>
bool decode_kind(Decoder& d, u8 kind, Variant& out) {
  if constexpr (I == std::variant_size_v<Variant>) {
    return false;
  } else {
    if (kind != I) return decode_kind<Variant, I + 1>(d, kind, out);
    get(d, out.template emplace<I>());
    return true;
  }
}

template <typename Variant>
HostResult<Variant> decode_variant(std::string_view bytes, const char* what) {
  Decoder d(bytes);
  if (d.u32v() != kProtocolVersion) return Failure(std::string(what) + ": not of this version");
  Variant v;
  if (!decode_kind(d, d.u8v(), v)) return Failure(std::string(what) + ": unknown kind");
  if (!d.at_end()) return Failure(std::string(what) + ": damaged");
  return v;
}

}  // namespace

std::string encode_request(const Request& request) { return encode_variant(request); }
HostResult<Request> decode_request(std::string_view bytes) { return decode_variant<Request>(bytes, "control request"); }
std::string encode_reply(const Reply& reply) { return encode_variant(reply); }
HostResult<Reply> decode_reply(std::string_view bytes) { return decode_variant<Reply>(bytes, "control reply"); }

HostResult<void> send_packet(int socket, std::string_view bytes, const std::vector<int>& fds, int flags) {
  if (bytes.size() > kMaxMessage || fds.size() > kMaxFds) {
    return Failure(Errno::kMsgsize, "control message: too large");
  }
  iovec iov{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  if (!fds.empty()) {
    msg.msg_control = control;
    msg.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
  }
  ssize_t n;
  do {
    n = ::sendmsg(socket, &msg, flags | MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return Failure::from_errno("control message");
  return {};
}

HostResult<Packet> receive_packet(int socket, int flags) {
  Packet packet;
  packet.bytes.resize(kMaxMessage);
  iovec iov{packet.bytes.data(), packet.bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof(control);
  ssize_t n = ::recvmsg(socket, &msg, flags | MSG_CMSG_CLOEXEC);
  if (n < 0) return Failure::from_errno("control message");
  for (cmsghdr* c = CMSG_FIRSTHDR(&msg); c != nullptr; c = CMSG_NXTHDR(&msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      packet.fds.emplace_back(fd);
    }
  }
  if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) return Failure(Errno::kMsgsize, "control message: truncated");
  packet.bytes.resize(static_cast<size_t>(n));
  return packet;
}

}  // namespace sbx::control
