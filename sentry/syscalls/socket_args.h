// What the socket calls share: finding the socket, its addresses in guest memory, and the loop that waits.
#pragma once
#include <string>

#include "sentry/net/socket.h"
#include "sentry/syscalls/args.h"

namespace sbx::syscalls {

// kBadf, kNotsock.
Result<RefPtr<net::Socket>> get_socket(Task& task, i32 fd);
// A sockaddr from the guest. kInval (longer than any address), kFault.
Result<std::string> read_address(Task& task, u64 addr, u32 length);
// Gives the guest as much of an address as it has room for, and the length of the whole (accept(2)). No room wanted
// (addr 0): nothing. The room's length lies at length_addr.
Result<void> write_address(Task& task, std::string_view address, u64 addr, u64 length_addr);

enum class Wait : bool { kNo, kYes };

// Repeats `attempt` until it answers something else than kAgain. timeout in ns (0: none): kAgain when it is over, and a
// signal then ends the call for good (signal(7)).
template <typename Attempt>
auto wait_for_socket(net::Socket& socket, Wait wait, u64 timeout, const char* reason, Attempt attempt)
    -> decltype(attempt()) {
  if (wait == Wait::kNo) return attempt();
  const fiber::Deadline deadline = timeout == 0 ? fiber::kNever : fiber::now_ns() + timeout;
  auto result = socket.block_until(attempt, reason, deadline);
  if (!result && result.error() == Errno::kRestartSys && timeout != 0) return Errno::kIntr;
  return result;
}

}  // namespace sbx::syscalls
