// Network: a network namespace as the sentry sees it. The first container's is the one the sentry itself is in; that of
// a container that joined the sandbox with its own has a gofer in it that makes the sockets. Kernel lock throughout.
#pragma once
#include <sys/socket.h>

#include <functional>
#include <string>
#include <unordered_map>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"

namespace sbx::net {

class UnixSocket;

class Network : public RefCounted {
 public:
  using Maker = std::function<Result<UniqueFd>(int family, int type, int protocol)>;
  // Makes a non-blocking host socket of this namespace. Null: socket(2) of the sentry does.
  Maker make;
  // Raw and packet sockets, for which the sentry has no capability: the gofer. Null: there are none (kPerm).
  Maker make_raw;
  // Ports below this need CAP_NET_BIND_SERVICE (net.ipv4.ip_unprivileged_port_start as the guest has it; the
  // namespace's own is 0, because the sentry has no capability).
  u32 unprivileged_port_start = 1024;
  // Abstract names of AF_UNIX; each type of socket has its own (net/unix/af_unix.c: the hash has the type in it).
  std::unordered_map<std::string, UnixSocket*> abstract_names[SOCK_SEQPACKET + 1];
  UniqueFd interfaces;  // for all questions about interfaces; made by the first

  // type without flags. Non-blocking, close-on-exec.
  Result<UniqueFd> host_socket(int family, int type, int protocol) const;
};

// The calling task's; the first container's for anybody else. Set once at start.
extern Network& (*caller_network)();

}  // namespace sbx::net
