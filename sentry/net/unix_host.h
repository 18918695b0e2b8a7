// A connection of an AF_UNIX socket to one of the host's, which a bind mount made visible. The gofer connects it (it
// alone knows the host's names), the data pass here call by call. Descriptors are not passed in either direction: the
// host's are none of the guest's, and the guest's are none.
#pragma once
#include "sentry/base/unique_fd.h"
#include "sentry/fiber/reactor.h"
#include "sentry/net/socket.h"

namespace sbx::net {

class HostPeer {
 public:
  // May park while the listener's backlog is full, unless nonblocking (kAgain).
  static Result<std::unique_ptr<HostPeer>> connect(vfs::Inode& inode, int type, const security::Credentials& creds,
                                                   bool nonblocking);
  // Whoever waits in `queue`, which outlives this, hears of the host's events.
  void watch(fiber::WaitQueue& queue);

  Result<size_t> send(SendRequest& request);
  Result<size_t> receive(ReceiveRequest& request);
  Result<void> shutdown(int how);
  u32 readiness() const;
  i32 take_error();
  size_t readable() const;
  // Who listens there, as the host says it; the process id means nothing here.
  Identity identity() const;

 private:
  HostPeer(UniqueFd fd, int type) : fd_(std::move(fd)), type_(type) {}
  UniqueFd fd_;
  const int type_;
  std::string kept_;  // received and not taken by the guest, because its buffer was bad; streams only
  fiber::HostWatch watch_;
};

}  // namespace sbx::net
