// Socket options and ioctls of AF_UNIX sockets (socket(7), unix(7)).
#include <sys/ioctl.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/net/timeouts.h"
#include "sentry/net/unix_host.h"
#include "sentry/net/unix_socket.h"

namespace sbx::net {
namespace {

constexpr size_t kLeastSend = 4608, kLeastReceive = 2304, kMostBuffer = 2 * 212992;
constexpr int kPeerGroups = 59, kPassPidfd = 76, kPeerPidfd = 77;

std::string bytes_of(const void* value, size_t n, size_t max) {
  return std::string(static_cast<const char*>(value), std::min(n, max));
}
std::string number(i32 value, size_t max) { return bytes_of(&value, sizeof(value), max); }

Result<i32> to_number(std::string_view value) {
  if (value.size() < sizeof(i32)) return Errno::kInval;
  i32 out = 0;
  std::memcpy(&out, value.data(), sizeof(out));
  return out;
}

// Options that Linux keeps for a unix socket although they do nothing there; all numbers are below 32.
bool plain_flag(int name) {
  switch (name) {
    case SO_DEBUG:
    case SO_REUSEADDR:
    case SO_DONTROUTE:
    case SO_BROADCAST:
    case SO_KEEPALIVE:
    case SO_OOBINLINE:
    case SO_NO_CHECK:
    case SO_REUSEPORT:
    case SO_TIMESTAMP: return true;
    default: return false;
  }
}

}  // namespace

Result<void> UnixSocket::set_option(int level, int name, std::string_view value) {
  if (level != SOL_SOCKET) return Errno::kOpnotsupp;
  end_lent();
  if (peer_ != nullptr) peer_->end_lent();
  switch (name) {
    case SO_RCVTIMEO: receive_timeout = TRY(timeout_from(value)); return {};
    case SO_SNDTIMEO: send_timeout = TRY(timeout_from(value)); return {};
    case SO_LINGER:
      if (value.size() < sizeof(linger_)) return Errno::kInval;
      std::memcpy(linger_, value.data(), sizeof(linger_));
      return {};
    default: break;
  }
  i32 n = TRY(to_number(value));
  if (plain_flag(name)) {
    plain_options_ = n != 0 ? plain_options_ | (1u << name) : plain_options_ & ~(1u << name);
    return {};
  }
  // Linux doubles what is asked for (socket(7)).
  auto buffer = [n](size_t least) {
    return std::clamp<size_t>(n < 0 ? 0 : static_cast<size_t>(n) * 2, least, kMostBuffer);
  };
  switch (name) {
    case SO_PASSCRED: pass_credentials_ = n != 0; return {};
    case SO_SNDBUF:
    case SO_SNDBUFFORCE:
      send_buffer_ = buffer(kLeastSend);
      queue_.wake_all();
      return {};
    case SO_RCVBUF:
    case SO_RCVBUFFORCE: receive_buffer_ = buffer(kLeastReceive); return {};
    case SO_RCVLOWAT: receive_least_ = n < 0 ? INT32_MAX : std::max(n, 1); return {};
    case SO_PRIORITY:
      if (n != 0 && n != 1) STUB("unix socket option", name);
      return {};
    default: STUB("unix socket option", name); return Errno::kNoprotoopt;
  }
}

Result<std::string> UnixSocket::get_option(int level, int name, size_t max) {
  if (level != SOL_SOCKET) return Errno::kOpnotsupp;
  if (plain_flag(name)) return number((plain_options_ >> name) & 1, max);
  switch (name) {
    case SO_TYPE: return number(type(), max);
    case SO_DOMAIN: return number(AF_UNIX, max);
    case SO_PROTOCOL: return number(0, max);
    case SO_ERROR:
      if (host_) return number(host_->take_error(), max);
      return number(static_cast<i32>(take_error()), max);
    case SO_ACCEPTCONN: return number(state_ == State::kListening, max);
    case SO_SNDBUF: return number(static_cast<i32>(send_buffer_), max);
    case SO_RCVBUF: return number(static_cast<i32>(receive_buffer_), max);
    case SO_PASSCRED: return number(pass_credentials_, max);
    case SO_RCVLOWAT: return number(receive_least_, max);
    case SO_SNDLOWAT: return number(1, max);
    case SO_PRIORITY: return number(0, max);
    case SO_LINGER: return bytes_of(linger_, sizeof(linger_), max);
    case SO_RCVTIMEO: return timeout_bytes(receive_timeout, max);
    case SO_SNDTIMEO: return timeout_bytes(send_timeout, max);
    case SO_PEERCRED: {
      // A datagram socket that was only connected has no peer credentials: pid 0, ids -1.
      Identity out = state_ == State::kListening ? own_identity_ : peer_identity_;
      return bytes_of(&out, sizeof(out), max);
    }
    case SO_COOKIE: {
      u64 cookie = TRY(attr()).ino;
      return bytes_of(&cookie, sizeof(cookie), max);
    }
    case kPeerGroups:
    case kPassPidfd:
    case kPeerPidfd:
    case SO_PEERSEC: return Errno::kNoprotoopt;
    default: STUB("unix socket option", name); return Errno::kNoprotoopt;
  }
}

Result<i64> UnixSocket::ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) {
  size_t n = 0;
  settle_both();
  if (cmd == FIONREAD) {  // SIOCINQ
    if (state_ == State::kListening) return Errno::kInval;
    if (host_)
      n = host_->readable();
    else
      n = datagram() ? (inbox_.empty() ? 0 : inbox_.front().length) : inbox_bytes_;
  } else if (cmd == TIOCOUTQ) {  // SIOCOUTQ
    n = peer_ != nullptr ? peer_->inbox_bytes_ : 0;
  } else {
    return interface_ioctl(caller, cmd, arg);
  }
  auto value = static_cast<i32>(n);
  TRY(caller.write(arg, &value, sizeof(value)));
  return i64{0};
}

}  // namespace sbx::net
