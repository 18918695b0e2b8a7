#include "sentry/net/network.h"

namespace sbx::net {

namespace {

Network& only_network() {
  static auto* network = new RefPtr<Network>(make_ref<Network>());
  return **network;
}

}  // namespace

Network& (*caller_network)() = &only_network;

Result<UniqueFd> Network::host_socket(int family, int type, int protocol) const {
  if (make) return make(family, type, protocol);
  UniqueFd fd(::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
  if (!fd) return last_errno();
  return fd;
}

}  // namespace sbx::net
