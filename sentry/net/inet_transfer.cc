// Data of host sockets.
#include <netinet/in.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/net/inet_options.h"
#include "sentry/net/inet_socket.h"
#include "sentry/platform/file_lease.h"
#include "sentry/vfs/bounce.h"

namespace sbx::net {
namespace {

constexpr size_t kBuffer = vfs::Bounce::kMost;
constexpr size_t kMaxDatagram = 65535;
constexpr size_t kMaxControl = 1024;
constexpr u32 kSendFlags = MSG_OOB | MSG_DONTROUTE | MSG_EOR | MSG_MORE | MSG_CONFIRM;
constexpr u32 kReceiveFlags = MSG_OOB | MSG_PEEK | MSG_TRUNC | MSG_ERRQUEUE;

// In the host's form, which is the guest's. Checked against the list; what is not on it is refused as unknown.
Result<size_t> encode_control(const std::vector<ControlMessage>& messages, u8 (&to)[kMaxControl]) {
  size_t used = 0;
  for (const ControlMessage& m : messages) {
    auto known = std::find_if(std::begin(kSendControls), std::end(kSendControls), [&](const HostControl& c) {
      return c.level == m.level && c.type == m.type && m.bytes.size() <= c.most;
    });
    if (known == std::end(kSendControls)) {
      STUB("control message", m.type);
      return Errno::kInval;
    }
    if (used + CMSG_SPACE(m.bytes.size()) > sizeof(to)) return Errno::kInval;
    cmsghdr header{};
    header.cmsg_len = CMSG_LEN(m.bytes.size());
    header.cmsg_level = m.level;
    header.cmsg_type = m.type;
    std::memcpy(to + used, &header, sizeof(header));
    std::memcpy(to + used + CMSG_LEN(0), m.bytes.data(), m.bytes.size());
    used += CMSG_SPACE(m.bytes.size());
  }
  return used;
}

void decode_control(msghdr& message, std::vector<ControlMessage>& to) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_len < CMSG_LEN(0)) break;
    // Nothing that would have to be translated comes from these families.
    if (c->cmsg_level == SOL_SOCKET && (c->cmsg_type == SCM_RIGHTS || c->cmsg_type == SCM_CREDENTIALS)) continue;
    to.push_back({c->cmsg_level, c->cmsg_type,
                  std::string(reinterpret_cast<const char*>(CMSG_DATA(c)), c->cmsg_len - CMSG_LEN(0))});
  }
}

}  // namespace

Result<size_t> InetSocket::send(const vfs::WalkContext*, SendRequest& request) {
  if (!request.files.empty() || request.credentials) return Errno::kInval;
  const bool stream = type() == SOCK_STREAM;
  TRY(send_begins());
  alignas(cmsghdr) u8 control[kMaxControl];
  const size_t control_used = TRY(encode_control(request.control, control));
  // One byte more than a datagram can have is enough for the host to refuse it, and to tell its error queue so.
  const size_t want = std::min(request.data.left(), stream ? kBuffer : kMaxDatagram + 1);
  size_t n = want;
  vfs::Bounce bounce(want, request.data.place());
  const u8* there = stream ? request.data.view(want) : nullptr;
  if (want > 0 && there == nullptr) {
    n = TRY(request.data.get(bounce.data(), want));
    if (!stream && n < want) return Errno::kFault;
  }
  iovec vec{there != nullptr ? const_cast<u8*>(there) : bounce.data(), n};
  msghdr message{};
  message.msg_iov = &vec;
  message.msg_iovlen = 1;
  message.msg_name = request.address.empty() ? nullptr : const_cast<char*>(request.address.data());
  message.msg_namelen = static_cast<socklen_t>(request.address.size());
  message.msg_control = control_used > 0 ? control : nullptr;
  message.msg_controllen = control_used;
  u32 flags = (request.flags & kSendFlags) | MSG_DONTWAIT | MSG_NOSIGNAL;
  // connect(2) and send(2) in one (tcp(7)): where the host has no cookie for the peer it only begins to connect.
  const bool connects = stream && (request.flags & MSG_FASTOPEN) != 0;
  if (connects) {
    if (connecting_)
      message.msg_namelen = 0;
    else
      flags |= MSG_FASTOPEN;
  }
  ssize_t sent = ::sendmsg(fd_.get(), &message, static_cast<int>(flags));
  if (connects && (sent >= 0 || errno != EAGAIN)) connecting_ = sent < 0 && errno == EINPROGRESS && !nonblocking();
  if (sent < 0) {
    Errno error = errno == EINTR || (connects && connecting_) ? Errno::kAgain : last_errno();
    if (there == nullptr) request.data.put_back(n);
    wants_room_ = true;
    room_ = 0;
    return error;
  }
  room_ -= std::min(room_, static_cast<u32>(sent));
  if (there != nullptr) request.data.pass(static_cast<size_t>(sent));
  if (static_cast<size_t>(sent) < n) {
    room_ = 0;
    if (there == nullptr) request.data.put_back(n - static_cast<size_t>(sent));
    wants_room_ = true;
  }
  return static_cast<size_t>(sent);
}

Result<void> InetSocket::send_begins() {
  if (!posts_ || !(posts_->unusual() || posts_->shut())) return {};
  if (posts_->shut()) return Errno::kPipe;
  const bool room = posts_->flush();
  if (const Errno error = posts_->take_error(); error != Errno::kNone) return error;
  if (room) return {};
  wants_room_ = true;
  room_ = 0;
  return Errno::kAgain;
}

platform::Poster* InetSocket::poster() {
  if (type() != SOCK_STREAM || connecting_ || wants_room_ || peer_ends_) return nullptr;
  // The end of the connection is to be heard of.
  (void)wait_queue();
  if (!watch_.watching()) return nullptr;
  if (!posts_) posts_ = std::make_unique<InetPosts>(fd_.get());
  return posts_->wants_right() ? posts_.get() : nullptr;
}

Result<size_t> InetSocket::send_file(int host_fd, u64 offset, size_t n) {
  TRY(send_begins());
  auto at = static_cast<off64_t>(offset);
  const ssize_t sent = ::sendfile64(fd_.get(), host_fd, &at, n);
  const Errno error = sent >= 0 ? Errno::kNone : errno == EINTR ? Errno::kAgain : last_errno();
  // Less than was asked for: the file's end, or no room.
  const bool full = error == Errno::kAgain || (sent >= 0 && static_cast<size_t>(sent) < n);
  wants_room_ |= full;
  room_ = full || sent < 0 ? 0 : room_ - std::min(room_, static_cast<u32>(sent));
  if (sent < 0) return error;
  return static_cast<size_t>(sent);
}

int InetSocket::stream_to_lend() {
  constexpr u32 kSeldom = 64;  // without luck, so many go by between two tries
  take_lent();
  if (type() != SOCK_STREAM || !kept_.empty() || connecting_ || small_) return -1;
  lent_whole_ = true;
  rest_luck_ = nullptr;
  return luck_ != 0 || ++passed_by_ % kSeldom == 0 ? fd_.get() : -1;
}

bool InetSocket::lends_rest(After after) {
  take_lent();
  rest_luck_ = &luck_after_[static_cast<size_t>(after)];
  return type() == SOCK_STREAM && kept_.empty() && !connecting_ && !small_ && rest_luck_->tries();
}

// The sender gets no room for them before they are back here: never more than a part of what it may send.
size_t InetSocket::peek_bytes(u8* to, size_t most) {
  if (most_rest_ == 0) {
    int bytes = 0;
    socklen_t n = sizeof(bytes);
    if (::getsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &bytes, &n) != 0 || bytes < 4) return 0;
    most_rest_ = static_cast<u32>(bytes) / 4;
  }
  most = std::min<size_t>(most, most_rest_);
  // Who asks how much there is does so before each read.
  if (rest_luck_ == &luck_after_[static_cast<size_t>(After::kCount)]) most = std::min(most, last_asked_);
  if (most == 0) return 0;
  const ssize_t got = ::recv(fd_.get(), to, most, MSG_PEEK | MSG_DONTWAIT);
  if (got <= 0) return 0;
  lent_whole_ = static_cast<size_t>(got) < most;
  return static_cast<size_t>(got);
}

void InetSocket::stream_lent(const RefPtr<platform::FileLease>& lease) {
  lent_ = lease;
  news_ = quiet_ = false;
  if (lease) return;
  if (rest_luck_ != nullptr)
    rest_luck_->came_back(false);
  else if (luck_ > 0)
    --luck_;
}

void InetSocket::take_lent() {
  constexpr u32 kMostLuck = 8;
  if (!lent_) return;
  u64 taken = 0;
  lent_->collect(taken);
  quiet_ = lent_->took_all() && lent_whole_ && !news_ && watch_.watching();
  lent_ = nullptr;
  if (rest_luck_ != nullptr) {
    rest_luck_->came_back(taken > 0);
  } else if (taken > 0) {
    if (luck_ < kMostLuck) ++luck_;
  } else if (luck_ > 0) {
    --luck_;
  }
  // They were there and nobody else has the host's socket. A stream throws them away (tcp(7), MSG_TRUNC).
  while (taken > 0) {
    const ssize_t gone = ::recv(fd_.get(), nullptr, taken, MSG_TRUNC | MSG_DONTWAIT);
    if (gone <= 0) return;
    taken -= std::min(taken, static_cast<u64>(gone));
  }
}

// What an earlier receive could not hand over.
Result<size_t> InetSocket::receive_kept(ReceiveRequest& request) {
  size_t n = std::min(kept_.size(), request.data.left());
  if (!(request.flags & MSG_TRUNC)) n = TRY(request.data.put(kept_.data(), n));
  if (!(request.flags & MSG_PEEK)) kept_.erase(0, n);
  return n;
}

Result<size_t> InetSocket::receive(ReceiveRequest& request) {
  const bool stream = type() == SOCK_STREAM;
  const bool errors = request.flags & MSG_ERRQUEUE;
  take_lent();
  quiet_ = false;
  if (!kept_.empty() && !errors) return receive_kept(request);
  const size_t want = std::min(request.data.left(), kBuffer);
  last_asked_ = want;
  sockaddr_storage address{};
  alignas(cmsghdr) u8 control[kMaxControl];
  vfs::Bounce bounce(want, request.data.place());
  iovec vec{bounce.data(), want};
  msghdr message{};
  message.msg_iov = &vec;
  message.msg_iovlen = 1;
  message.msg_name = &address;
  message.msg_namelen = sizeof(address);
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t got = ::recvmsg(fd_.get(), &message, static_cast<int>((request.flags & kReceiveFlags) | MSG_DONTWAIT));
  if (got < 0) {
    // Who would wait for a datagram of a socket that was shut down gets an end of file (__skb_wait_for_more_packets).
    const bool waits = !nonblocking() && !(request.flags & (MSG_DONTWAIT | MSG_ERRQUEUE));
    if (errno == EAGAIN && posts_ && posts_->owes()) return posts_->take_error();
    if (errno == EAGAIN && !stream && receives_no_more_ && waits) return size_t{0};
    return errno == EINTR ? Errno::kAgain : last_errno();
  }
  if (got == 0 && posts_ && posts_->owes()) return posts_->take_error();
  auto n = static_cast<size_t>(got);
  // With MSG_TRUNC the length is the datagram's; a stream's bytes are then thrown away.
  const bool discarded = stream && (request.flags & MSG_TRUNC);
  const size_t filled = discarded ? 0 : std::min(n, want);
  if (filled > 0) {
    auto put = request.data.put(bounce.data(), filled);
    const size_t taken = put ? *put : 0;
    if (taken < filled && stream && !(request.flags & (MSG_PEEK | MSG_OOB))) {
      kept_.assign(reinterpret_cast<const char*>(bounce.data()) + taken, filled - taken);
    }
    if (!put) return put.error();
    if (taken < filled) {
      if (!stream) return Errno::kFault;
      n = taken;
    }
  }
  request.address.assign(reinterpret_cast<const char*>(&address),
                         std::min<size_t>(message.msg_namelen, sizeof(address)));
  decode_control(message, request.control);
  request.out_flags |=
      static_cast<u32>(message.msg_flags) & u32{MSG_TRUNC | MSG_CTRUNC | MSG_OOB | MSG_EOR | MSG_ERRQUEUE};
  return n;
}

}  // namespace sbx::net
