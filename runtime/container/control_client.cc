#include "runtime/container/control_client.h"

#include <poll.h>

#include <cerrno>

#include "runtime/host/process.h"

namespace sbx::container {

HostResult<ControlClient> ControlClient::connect(const Container& container) {
  ControlClient c;
  c.fd_ = TRY(container.connect());
  return c;
}

HostResult<void> ControlClient::send(const control::Request& request, const std::vector<int>& fds) {
  return control::send_packet(fd_.get(), control::encode_request(request), fds);
}

HostResult<control::Reply> ControlClient::receive(int timeout_ms) {
  u64 end = host::monotonic_ms() + static_cast<u64>(timeout_ms < 0 ? 0 : timeout_ms);
  for (;;) {
    int left = -1;
    if (timeout_ms >= 0) {
      u64 now = host::monotonic_ms();
      if (now >= end) return Failure(Errno::kTimedout, "the sandbox does not answer");
      left = static_cast<int>(end - now);
    }
    pollfd p{fd_.get(), POLLIN, 0};
    int n = ::poll(&p, 1, left);
    if (n < 0 && errno != EINTR) return Failure::from_errno("poll");
    if (n > 0) break;
  }
  control::Packet packet = TRY(control::receive_packet(fd_.get()));
  if (packet.bytes.empty()) return Failure(Errno::kConnreset, "the sandbox ended");
  control::Reply reply = TRY(control::decode_reply(packet.bytes));
  if (auto* error = std::get_if<control::ErrorReply>(&reply)) {
    return Failure(static_cast<Errno>(error->code), error->text);
  }
  return reply;
}

HostResult<control::Reply> ControlClient::call(const control::Request& request, const std::vector<int>& fds,
                                               int timeout_ms) {
  TRY(send(request, fds));
  return receive(timeout_ms);
}

}  // namespace sbx::container
