// One connection to a container's sentry.
#pragma once
#include <vector>

#include "runtime/container/container.h"
#include "sentry/base/result.h"
#include "sentry/control/messages.h"

namespace sbx::container {

class ControlClient {
 public:
  static HostResult<ControlClient> connect(const Container& container);

  // Sends and waits for the reply. An ErrorReply comes back as a Failure with its text and code. kTimedout after
  // `timeout_ms` (-1: never); the connection is of no use afterwards.
  HostResult<control::Reply> call(const control::Request& request, const std::vector<int>& fds = {},
                                  int timeout_ms = 30'000);
  HostResult<void> send(const control::Request& request, const std::vector<int>& fds = {});
  HostResult<control::Reply> receive(int timeout_ms);
  int fd() const { return fd_.get(); }

  template <typename T>
  HostResult<T> call_for(const control::Request& request, const std::vector<int>& fds = {}, int timeout_ms = 30'000) {
    control::Reply reply = TRY(call(request, fds, timeout_ms));
    if (!std::holds_alternative<T>(reply)) return Failure("the sandbox gave an answer of the wrong kind");
    return std::get<T>(std::move(reply));
  }

 private:
  UniqueFd fd_;
};

}  // namespace sbx::container
