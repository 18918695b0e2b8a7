// The container's standard streams and terminals.
#pragma once
#include <string>
#include <vector>

#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/boot_config.h"

namespace sbx::boot {

// One stream to give away, and the descriptor behind it when we had to make one.
struct Stream {
  int fd = -1;
  bool nonblocking = false;
  UniqueFd owned;
};

// Pipes and character devices are reopened through /proc/self/fd with O_NONBLOCK: a description of their own, so that
// neither the sentry blocks nor the other users of the original see O_NONBLOCK. What cannot be reopened is passed as
// is.
Stream prepare_stream(int fd);

struct Pty {
  UniqueFd master;
  UniqueFd slave;    // raw: the sentry's terminal has the line discipline
  std::string name;  // /dev/pts/N
};
HostResult<Pty> open_pty(u16 rows, u16 columns);

// Connects to the unix socket at `path` and sends the master over it, with the name as the message.
HostResult<void> send_console(const std::string& path, const Pty& pty);

// Puts the caller's terminal (descriptor 0) in raw mode while alive.
class RawTerminal {
 public:
  RawTerminal() = default;
  explicit RawTerminal(int fd);
  RawTerminal(RawTerminal&& o) noexcept;
  RawTerminal& operator=(RawTerminal&& o) = delete;
  ~RawTerminal() { restore(); }
  void restore();

 private:
  int fd_ = -1;
  std::string saved_;  // a termios
};

}  // namespace sbx::boot
