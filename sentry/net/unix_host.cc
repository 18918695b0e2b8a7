#include "sentry/net/unix_host.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/vfs/bounce.h"

namespace sbx::net {
namespace {

COUNTER(connected, "net.host_unix", "connections to AF_UNIX sockets of the host");

COUNTER(accepted, "net.host_unix_accepted", "connections of the host to AF_UNIX sockets of guests");

constexpr size_t kBuffer = 64 * 1024;
constexpr size_t kMaxPacket = vfs::Bounce::kMost;
// A blocking connect waits for room in the listener's backlog; nobody tells when there is.
constexpr u64 kRetryNs = 5'000'000;

}  // namespace

Result<std::unique_ptr<HostPeer>> HostPeer::connect(vfs::Inode& inode, int type, const security::Credentials& creds,
                                                    bool nonblocking) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  // The filter refuses it where no socket of the host may be reached.
  if (!fd) return errno == EPERM ? Errno::kConnrefused : last_errno();
  for (;;) {
    auto done = inode.connect_host_socket(fd.get(), creds);
    if (done) break;
    if (done.error() != Errno::kAgain || nonblocking) return done.error();
    fiber::Fiber* self = fiber::current();
    self->set_wait_reason("connect");
    fiber::park_until(fiber::now_ns() + kRetryNs);
    if (self->interrupted()) return Errno::kRestartSys;
  }
  connected.add();
  return std::make_unique<HostPeer>(std::move(fd), type);
}

void HostPeer::watch(fiber::WaitQueue& queue) {
  auto watched =
      watch_.watch(fd_.get(), EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP, [&queue](u32) { queue.wake_all(); });
  if (!watched) LOG_WARNING("cannot watch a host socket: %s", errno_name(watched.error()));
}

Result<size_t> HostPeer::send(SendRequest& request) {
  if (!request.files.empty()) {
    STUB("descriptors to a socket of the host", request.files.size());
    return Errno::kOpnotsupp;
  }
  if (!request.address.empty()) return type_ == SOCK_DGRAM ? Errno::kOpnotsupp : Errno::kIsconn;
  const bool stream = type_ == SOCK_STREAM;
  if (!stream && request.data.left() > kMaxPacket) return Errno::kMsgsize;
  const size_t want = std::min(request.data.left(), stream ? kBuffer : kMaxPacket);
  size_t n = 0;
  vfs::Bounce bounce(want, request.data.place());
  if (want > 0) {
    n = TRY(request.data.get(bounce.data(), want));
    if (!stream && n < want) return Errno::kFault;
  }
  iovec vec{bounce.data(), n};
  msghdr message{};
  message.msg_iov = &vec;
  message.msg_iovlen = 1;
  constexpr u32 kFlags = MSG_EOR | MSG_OOB;
  ssize_t sent =
      ::sendmsg(fd_.get(), &message, static_cast<int>((request.flags & kFlags) | MSG_DONTWAIT | MSG_NOSIGNAL));
  if (sent < 0) {
    Errno error = errno == EINTR ? Errno::kAgain : last_errno();
    request.data.put_back(n);
    return error;
  }
  if (static_cast<size_t>(sent) < n) request.data.put_back(n - static_cast<size_t>(sent));
  return static_cast<size_t>(sent);
}

Result<size_t> HostPeer::receive(ReceiveRequest& request) {
  const bool stream = type_ == SOCK_STREAM;
  if (!kept_.empty()) {
    size_t n = TRY(request.data.put(kept_.data(), std::min(kept_.size(), request.data.left())));
    if (!(request.flags & MSG_PEEK)) kept_.erase(0, n);
    return n;
  }
  const size_t want = std::min(request.data.left(), stream ? kBuffer : kMaxPacket);
  vfs::Bounce bounce(want, request.data.place());
  iovec vec{bounce.data(), want};
  msghdr message{};
  message.msg_iov = &vec;
  message.msg_iovlen = 1;  // no room for control messages: the kernel drops descriptors that come along
  constexpr u32 kFlags = MSG_PEEK | MSG_TRUNC | MSG_OOB;
  u32 flags = request.flags & (stream ? kFlags & ~u32{MSG_TRUNC} : kFlags);
  ssize_t got = ::recvmsg(fd_.get(), &message, static_cast<int>(flags | MSG_DONTWAIT));
  if (got < 0) return errno == EINTR ? Errno::kAgain : last_errno();
  const auto n = static_cast<size_t>(got);
  const size_t filled = std::min(n, want);
  size_t taken = 0;
  if (filled > 0) {
    auto put = request.data.put(bounce.data(), filled);
    taken = put ? *put : 0;
    if (taken < filled && stream && !(request.flags & (MSG_PEEK | MSG_OOB))) {
      kept_.assign(reinterpret_cast<const char*>(bounce.data()) + taken, filled - taken);
    }
    if (!put) return put.error();
    if (taken < filled && !stream) return Errno::kFault;
  }
  request.out_flags |= static_cast<u32>(message.msg_flags) & u32{MSG_TRUNC | MSG_CTRUNC | MSG_OOB | MSG_EOR};
  return stream ? taken : n;
}

Result<void> HostPeer::shutdown(int how) {
  if (::shutdown(fd_.get(), how) != 0) return last_errno();
  return {};
}

u32 HostPeer::readiness() const {
  pollfd p{fd_.get(), POLLIN | POLLPRI | POLLOUT | POLLRDNORM | POLLWRNORM | POLLRDHUP, 0};
  if (::poll(&p, 1, 0) < 0) return POLLERR;
  return static_cast<u16>(p.revents) | (kept_.empty() ? 0u : u32{POLLIN | POLLRDNORM});
}

i32 HostPeer::take_error() {
  int error = 0;
  socklen_t n = sizeof(error);
  return ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &n) == 0 ? error : errno;
}

size_t HostPeer::readable() const {
  int n = 0;
  if (::ioctl(fd_.get(), FIONREAD, &n) != 0 || n < 0) n = 0;
  return kept_.size() + static_cast<size_t>(n);
}

Identity HostPeer::identity() const {
  ucred who{};
  socklen_t n = sizeof(who);
  if (::getsockopt(fd_.get(), SOL_SOCKET, SO_PEERCRED, &who, &n) != 0) return {};
  return {0, who.uid, who.gid};
}

Result<std::unique_ptr<HostListener>> HostListener::make(int type) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return last_errno();
  return std::unique_ptr<HostListener>(new HostListener(std::move(fd), type));
}

Result<void> HostListener::listen(int backlog, fiber::WaitQueue& queue) {
  if (::listen(fd_.get(), backlog) != 0) return last_errno();
  if (!watch_.watching()) TRY(watch_.watch(fd_.get(), EPOLLIN, [&queue](u32) { queue.wake_all(); }));
  return {};
}

Result<std::unique_ptr<HostPeer>> HostListener::accept() {
  UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) return errno == EINTR ? Errno::kAgain : last_errno();
  accepted.add();
  return std::make_unique<HostPeer>(std::move(fd), type_);
}

bool HostListener::readable() const {
  pollfd p{fd_.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & POLLIN) != 0;
}

void HostListener::shut() { (void)::shutdown(fd_.get(), SHUT_RDWR); }

}  // namespace sbx::net
