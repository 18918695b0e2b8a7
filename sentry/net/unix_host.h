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
  HostPeer(UniqueFd fd, int type) : fd_(std::move(fd)), type_(type) {}
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
  // Who is there, as the host says it; the process id means nothing here.
  Identity identity() const;

 private:
  UniqueFd fd_;
  const int type_;
  std::string kept_;  // received and not taken by the guest, because its buffer was bad; streams only
  fiber::HostWatch watch_;
};

// A listening socket of the host under a name that a guest has bound in a bind mount: programs outside connect to it.
class HostListener {
 public:
  // Not bound yet. kPerm where no socket of the host may be reached.
  static Result<std::unique_ptr<HostListener>> make(int type);
  int fd() const { return fd_.get(); }
  // Whoever waits in `queue`, which outlives this, hears of connections from now on.
  Result<void> listen(int backlog, fiber::WaitQueue& queue);
  // kAgain: nobody is there.
  Result<std::unique_ptr<HostPeer>> accept();
  bool readable() const;
  void shut();

 private:
  HostListener(UniqueFd fd, int type) : fd_(std::move(fd)), type_(type) {}
  UniqueFd fd_;
  const int type_;
  fiber::HostWatch watch_;
};

}  // namespace sbx::net
