// What the calls share that wait with a deadline and perhaps with a signal mask of their own (ppoll, pselect,
// epoll_pwait, recvmmsg).
#pragma once
#include "sentry/fiber/fiber.h"
#include "sentry/syscalls/args.h"

namespace sbx::syscalls {

// now + ns, or what it was when the interrupted call began: a repeated call does not wait longer.
fiber::Deadline deadline_after(Task& task, u64 ns);
// A timespec in guest memory as a deadline; null: kNever. kInval, kFault.
Result<fiber::Deadline> deadline_from(Task& task, u64 timespec_addr);
// What is left, as the calls with a timespec tell the guest at their end. Faults are nobody's business (select(2)).
void write_remaining(Task& task, u64 timespec_addr, fiber::Deadline deadline);
// Installs the mask at set_addr (null: none) until the call ends. kInval unless size is 8.
Result<void> install_mask(Task& task, u64 set_addr, u64 size);

}  // namespace sbx::syscalls
