// strace(1)-compatible lines for `--strace`.
#pragma once
#include <string>

#include "sentry/syscalls/args.h"

namespace sbx::syscalls {
// One finished call; result is the value for rax or -errno (restart codes are shown as strace does), ns: the time it
// took here, from when it was taken up.
void strace_call(Task& task, u32 nr, const u64* args, i64 result, u64 ns);
// "--- SIGCHLD {...} ---", "+++ exited with 0 +++".
void strace_event(Task& task, const std::string& text);
}  // namespace sbx::syscalls
