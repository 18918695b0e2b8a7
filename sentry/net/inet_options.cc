// Options and ioctls of host sockets (socket(7), ip(7), ipv6(7), tcp(7), udp(7), netdevice(7)).
#include "sentry/net/inet_options.h"

#include <net/if.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/net/inet_socket.h"
#include "sentry/net/timeouts.h"

namespace sbx::net {
namespace {

const HostOption* find_option(int level, int name) {
  for (const HostOption& option : kHostOptions) {
    if (option.level == level && option.name == name) return &option;
  }
  return nullptr;
}

// struct ifconf as x86-64 programs have it.
struct GuestIfConf {
  i32 length = 0, pad = 0;
  u64 buffer = 0;
};

Result<i64> interface_list(int fd, vfs::IoctlCaller& caller, u64 arg) {
  GuestIfConf guest;
  TRY(caller.read(arg, &guest, sizeof(guest)));
  constexpr size_t kMost = 64;
  ifreq requests[kMost]{};
  ifconf host{};
  host.ifc_len = sizeof(requests);
  host.ifc_req = requests;
  if (guest.buffer != 0) {
    if (guest.length < 0) return Errno::kInval;
    host.ifc_len = static_cast<int>(std::min<size_t>(static_cast<size_t>(guest.length), sizeof(requests)));
  }
  if (::ioctl(fd, SIOCGIFCONF, &host) != 0) return last_errno();
  if (guest.buffer != 0 && host.ifc_len > 0) {
    TRY(caller.write(guest.buffer, requests, std::min<size_t>(static_cast<size_t>(host.ifc_len), sizeof(requests))));
  }
  guest.length = host.ifc_len;
  TRY(caller.write(arg, &guest, sizeof(guest)));
  return i64{0};
}

}  // namespace

Result<void> InetSocket::set_option(int level, int name, std::string_view value) {
  if (level == SOL_SOCKET && (name == SO_RCVTIMEO || name == SO_SNDTIMEO)) {
    (name == SO_RCVTIMEO ? receive_timeout : send_timeout) = TRY(timeout_from(value));
    return {};
  }
  // Without the capability to go beyond the limits they are the plain options (socket(7)).
  if (level == SOL_SOCKET && name == SO_SNDBUFFORCE) name = SO_SNDBUF;
  if (level == SOL_SOCKET && name == SO_RCVBUFFORCE) name = SO_RCVBUF;
  const HostOption* option = find_option(level, name);
  if (option == nullptr || !option->settable) {
    STUB("host socket option", level * 1000 + name);
    return Errno::kNoprotoopt;
  }
  if (::setsockopt(fd_.get(), level, name, value.data(), static_cast<socklen_t>(value.size())) != 0)
    return last_errno();
  constexpr int kSmall = 16 * 1024;
  int bytes = 0;
  if (level == SOL_SOCKET && name == SO_RCVBUF && value.size() >= sizeof(bytes)) {
    std::memcpy(&bytes, value.data(), sizeof(bytes));
    small_ |= bytes < kSmall;
    most_rest_ = 0;
  }
  return {};
}

Result<std::string> InetSocket::get_option(int level, int name, size_t max) {
  if (level == SOL_SOCKET && (name == SO_RCVTIMEO || name == SO_SNDTIMEO)) {
    return timeout_bytes(name == SO_RCVTIMEO ? receive_timeout : send_timeout, max);
  }
  if (find_option(level, name) == nullptr) {
    STUB("host socket option", level * 1000 + name);
    return Errno::kNoprotoopt;
  }
  std::string value(max, '\0');
  auto length = static_cast<socklen_t>(max);
  if (::getsockopt(fd_.get(), level, name, value.data(), &length) != 0) return last_errno();
  value.resize(std::min<size_t>(length, max));
  int error = 0;
  if (level == SOL_SOCKET && name == SO_ERROR && value.size() == sizeof(error) && posts_ && posts_->owes()) {
    std::memcpy(&error, value.data(), sizeof(error));
    if (error == 0) error = static_cast<int>(posts_->take_error());
    std::memcpy(value.data(), &error, sizeof(error));
  }
  return value;
}

Result<i64> InetSocket::ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) {
  take_lent();
  if (cmd == FIONREAD || cmd == TIOCOUTQ || cmd == SIOCATMARK) {
    int value = 0;
    if (::ioctl(fd_.get(), cmd, &value) != 0) return last_errno();
    if (cmd == FIONREAD) value += static_cast<int>(kept_.size());
    if (cmd == TIOCOUTQ && posts_) value += static_cast<int>(posts_->waiting());
    TRY(caller.write(arg, &value, sizeof(value)));
    return i64{0};
  }
  return interface_ioctl(caller, cmd, arg);
}

namespace {

// One for all questions about interfaces, which no socket of the guest's has to be asked through.
Result<int> interface_socket() {
  Network& network = caller_network();
  if (!network.interfaces) network.interfaces = TRY(network.host_socket(AF_INET, SOCK_DGRAM, 0));
  return network.interfaces.get();
}

}  // namespace

Result<InterfaceFacts> interface_facts(const std::string& name) {
  if (name.size() >= IFNAMSIZ) return Errno::kNodev;
  const int fd = TRY(interface_socket());
  ifreq request{};
  auto ask = [&](unsigned long question) {
    request = {};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    return ::ioctl(fd, question, &request) == 0;
  };
  InterfaceFacts facts;
  if (!ask(SIOCGIFINDEX)) return Errno::kNodev;
  facts.index = request.ifr_ifindex;
  if (ask(SIOCGIFFLAGS)) facts.flags = static_cast<u16>(request.ifr_flags);
  if (ask(SIOCGIFMTU)) facts.mtu = request.ifr_mtu;
  if (ask(SIOCGIFTXQLEN)) facts.queue_length = request.ifr_qlen;
  if (ask(SIOCGIFHWADDR)) {
    facts.hardware = request.ifr_hwaddr.sa_family;
    std::memcpy(facts.address, request.ifr_hwaddr.sa_data, sizeof(facts.address));
  }
  return facts;
}

Result<i64> interface_ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) {
  // As an interface whose driver has nothing to tell: libpcap goes on after that.
  if (cmd == SIOCETHTOOL) return Errno::kOpnotsupp;
  const bool list = cmd == SIOCGIFCONF;
  if (!list && std::find(std::begin(kInterfaceIoctls), std::end(kInterfaceIoctls), cmd) == std::end(kInterfaceIoctls)) {
    STUB("socket ioctl", cmd);
    return Errno::kNotty;
  }
  const int fd = TRY(interface_socket());
  if (list) return interface_list(fd, caller, arg);
  ifreq request{};
  TRY(caller.read(arg, &request, sizeof(request)));
  if (::ioctl(fd, cmd, &request) != 0) return last_errno();
  TRY(caller.write(arg, &request, sizeof(request)));
  return i64{0};
}

}  // namespace sbx::net
