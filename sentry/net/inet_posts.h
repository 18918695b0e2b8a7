// What a process posts to a stream socket of the host (platform/outbox.h), once the sentry sends it. The process was
// told that it is done, as of bytes in a send buffer: what the host has no room for is kept and sent when it has, and
// nothing else before; an error is told with the next call.
#pragma once
#include <string>

#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/outbox.h"
#include "sentry/platform/stream_lease.h"

namespace sbx::net {

// Kernel lock.
class InetPosts final : public platform::Poster {
 public:
  // host_fd: borrowed.
  explicit InetPosts(int host_fd) : fd_(host_fd) {}
  ~InetPosts() override;
  InetPosts(const InetPosts&) = delete;
  InetPosts& operator=(const InetPosts&) = delete;
  // Whether to ask for the right to post, after a write.
  bool wants_right();
  void got_right(RefPtr<platform::PostRight> right) { right_ = std::move(right); }
  void end_right();

  bool send_posted(const std::array<std::span<const u8>, 2>& pieces) override;

  // Bytes wait for room, or there is an error to tell.
  bool unusual() const { return waits() || owed_ != Errno::kNone; }
  bool waits() const { return !waiting_.empty(); }
  size_t waiting() const { return waiting_.size(); }
  // Sends what waits. True: nothing does any more.
  bool flush();
  // For the call that begins: the error of what was posted, once.
  Errno take_error() { return std::exchange(owed_, Errno::kNone); }
  bool owes() const { return owed_ != Errno::kNone; }
  // shutdown(2) of writing, with bytes waiting: done when they are sent.
  void shut_later() { shuts_ = true; }
  bool shut() const { return shuts_; }
  // The socket is closed with bytes waiting: its descriptor is kept until they are sent, as the host would.
  void linger(UniqueFd fd);

  // Before the sandbox ends, with the kernel lock: waits until all is sent that waits anywhere, for so long at most.
  static void drain(int ms);

 private:
  int fd_;
  RefPtr<platform::PostRight> right_;
  platform::LendLuck luck_;
  std::string waiting_;
  Errno owed_ = Errno::kNone;
  bool shuts_ = false;
};

}  // namespace sbx::net
