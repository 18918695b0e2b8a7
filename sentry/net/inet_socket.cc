#include "sentry/net/inet_socket.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/platform/file_lease.h"

namespace sbx::net {

bool (*caller_capable)(int capability) = nullptr;

namespace {

COUNTER(made, "net.host_sockets", "host sockets made for guests");

constexpr u32 kRoomBits = POLLOUT | POLLWRNORM;
// POLLOUT of a stream says that a third of its buffer is free, which is never smaller than 4.5 KiB (tcp(7)).
constexpr u32 kSureRoom = 1024;

// An address in the form the host's calls want; no longer than its storage.
struct HostAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  explicit HostAddress(std::string_view bytes) : length(static_cast<socklen_t>(bytes.size())) {
    std::memcpy(&storage, bytes.data(), std::min(bytes.size(), sizeof(storage)));
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  // In host order; 0 if there is none. Both families have it at the same place, and bind(2) of an AF_INET socket takes
  // AF_UNSPEC for AF_INET (net/ipv4/af_inet.c): the family says nothing.
  u32 port() const {
    static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
    if (length < offsetof(sockaddr_in, sin_port) + sizeof(in_port_t)) return 0;
    return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
  }
};

using NameCall = int (*)(int, sockaddr*, socklen_t*);
Result<std::string> address_of(int fd, NameCall call) {
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  if (call(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return last_errno();
  return std::string(reinterpret_cast<const char*>(&storage), std::min<size_t>(length, sizeof(storage)));
}

Result<RefPtr<Socket>> make(int family, int type, int protocol, u32 flags) {
  if (type == SOCK_RAW) return raw_socket(family, type, protocol, flags);
  if (type != SOCK_STREAM && type != SOCK_DGRAM) return Errno::kSocktnosupport;
  bool known =
      protocol == 0 || (type == SOCK_STREAM && protocol == IPPROTO_TCP) ||
      (type == SOCK_DGRAM && (protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6));
  if (!known) {
    STUB("socket protocol", protocol);
    return Errno::kProtonosupport;
  }
  UniqueFd fd = TRY(caller_network().host_socket(family, type, protocol));
  made.add();
  return RefPtr<Socket>(make_ref<InetSocket>(std::move(fd), flags, family, type, protocol));
}

}  // namespace

InetSocket::InetSocket(UniqueFd fd, u32 flags, int family, int type, int protocol)
    : Socket(socket_path(), O_RDWR | flags, family, type, protocol), fd_(std::move(fd)) {}

InetSocket::~InetSocket() {
  // The host resets the connection if anything was not read.
  end_posts();
  take_lent();
  watch_.unwatch();
  if (posts_ && posts_->waits()) posts_->linger(std::move(fd_));
  fd_.reset();
  tell_posters();
}

// The peer may be a socket of the sandbox that posts. On Linux its next write meets the end of the connection.
void InetSocket::tell_posters() {
  if (platform::PostRight::any() && fiber::current() != nullptr) fiber::reactor_take_news();
}

Result<void> InetSocket::bind(const vfs::WalkContext&, u32, std::string_view bytes) {
  HostAddress address(bytes);
  u32 port = address.port();
  bool privileged = port != 0 && port < caller_network().unprivileged_port_start;
  if (privileged && (caller_capable == nullptr || !caller_capable(CAP_NET_BIND_SERVICE))) return Errno::kAcces;
  if (::bind(fd_.get(), address.get(), address.length) != 0) return last_errno();
  return {};
}

Result<void> InetSocket::listen(int backlog) {
  forget_readiness();
  if (::listen(fd_.get(), backlog) != 0) return last_errno();
  return {};
}

Result<RefPtr<Socket>> InetSocket::accept(u32 flags) {
  sockaddr_storage peer{};
  socklen_t n = sizeof(peer);
  UniqueFd fd(::accept4(fd_.get(), reinterpret_cast<sockaddr*>(&peer), &n, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) return errno == EINTR ? Errno::kAgain : last_errno();
  made.add();
  auto socket = make_ref<InetSocket>(std::move(fd), flags, family(), type(), protocol());
  socket->small_ = small_;
  socket->accepted_from.assign(reinterpret_cast<const char*>(&peer), std::min<size_t>(n, sizeof(peer)));
  return RefPtr<Socket>(std::move(socket));
}

Result<void> InetSocket::connect(const vfs::WalkContext&, std::string_view bytes) {
  forget_readiness();
  HostAddress address(bytes);
  if (connecting_) {
    // Once more: only that tells the host's socket that it is connected, or takes the error off it.
    if (::connect(fd_.get(), address.get(), address.length) != 0 && errno != EISCONN) {
      if (errno == EALREADY || errno == EINPROGRESS) return nonblocking() ? Errno::kAlready : Errno::kAgain;
      connecting_ = false;
      return last_errno();
    }
    connecting_ = false;
    return {};
  }
  if (::connect(fd_.get(), address.get(), address.length) == 0) return {};
  wants_room_ = true;
  if (errno != EINPROGRESS || nonblocking()) return last_errno();
  connecting_ = true;
  return Errno::kAgain;
}

Result<void> InetSocket::shutdown(int how) {
  take_lent();
  forget_readiness();
  if (how != SHUT_RD) {
    end_posts();
    if (posts_ && !posts_->flush()) {
      posts_->shut_later();
      if (how == SHUT_WR) return {};
      how = SHUT_RD;
    }
  }
  if (::shutdown(fd_.get(), how) != 0) return last_errno();
  if (how != SHUT_WR) receives_no_more_ = true;
  tell_posters();
  return {};
}

Result<std::string> InetSocket::local_address() { return address_of(fd_.get(), &::getsockname); }
Result<std::string> InetSocket::peer_address() { return address_of(fd_.get(), &::getpeername); }

u32 InetSocket::readiness() {
  take_lent();
  const bool waits = posts_ && !posts_->flush();
  pollfd p{fd_.get(), POLLIN | POLLPRI | POLLOUT | POLLRDNORM | POLLWRNORM | POLLRDBAND | POLLWRBAND | POLLRDHUP, 0};
  if (::poll(&p, 1, 0) < 0) return POLLERR;
  u32 ready = static_cast<u16>(p.revents);
  if (waits) ready &= ~kRoomBits;
  if (posts_ && posts_->owes()) ready |= POLLERR;
  if (!(ready & POLLOUT)) wants_room_ = true;
  room_ = ready & POLLOUT ? kSureRoom : 0;
  quiet_ = (ready & ~kRoomBits) == 0 && watch_.watching();
  return ready | (kept_.empty() ? 0u : u32{POLLIN | POLLRDNORM});
}

u32 InetSocket::readiness_for(u32 wanted) {
  take_lent();
  if (!quiet_ || !kept_.empty() || (posts_ && posts_->unusual())) return readiness() & wanted;
  if ((wanted & kRoomBits) == 0) return 0;
  return room_ != 0 ? wanted & kRoomBits : readiness() & wanted;
}

fiber::WaitQueue* InetSocket::wait_queue() {
  if (!watch_.watching()) {
    auto on_events = [this](u32 events) {
      news_ = true;
      small_ |= (events & EPOLLPRI) != 0;
      quiet_ = false;
      if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0 && !std::exchange(peer_ends_, true)) end_posts();
      const bool room = events & EPOLLOUT;
      if (room && posts_ && posts_->waits() && posts_->flush()) wants_room_ = true;
      if (!(events & ~u32{EPOLLOUT}) && !(room && wants_room_)) return;
      if (room) wants_room_ = false;
      queue_.wake_all();
    };
    auto watched =
        watch_.watch(fd_.get(), EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP, on_events, fiber::HostWatch::Does::kWakes);
    if (!watched) LOG_WARNING("cannot watch a host socket: %s", errno_name(watched.error()));
  }
  return &queue_;
}

void register_inet() {
  for (int family : {AF_INET, AF_INET6}) {
    register_family(
        family, {[family](int type, int protocol, u32 flags) { return make(family, type, protocol, flags); }, nullptr});
  }
  auto make_packet = [](int type, int protocol, u32 flags) -> Result<RefPtr<Socket>> {
    if (type != SOCK_RAW && type != SOCK_DGRAM) return Errno::kSocktnosupport;
    return raw_socket(AF_PACKET, type, protocol, flags);
  };
  register_family(AF_PACKET, {make_packet, nullptr});
}

}  // namespace sbx::net
