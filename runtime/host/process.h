// Host processes: is it still the one that we started?
#pragma once
#include <optional>

#include "sentry/base/result.h"
#include "sentry/base/types.h"
#include "sentry/base/unique_fd.h"

namespace sbx::host {

struct ProcessStat {
  char state = 'X';    // Z and X: dead; a zombie may wait long for its reaper
  u64 start_time = 0;  // clock ticks after boot: tells a reused pid
};
std::optional<ProcessStat> process_stat(i32 pid);
// The process with this pid and start time exists and is no zombie.
bool process_alive(i32 pid, u64 start_time);
UniqueFd open_pidfd(i32 pid);
// SIGKILL through a pidfd, if it is still the process we started. True if a signal was sent.
bool kill_process(i32 pid, u64 start_time, int signo);
// Waits until the process is dead (a zombie counts); false on timeout.
bool wait_dead(i32 pid, u64 start_time, int timeout_ms);
u64 monotonic_ms();

}  // namespace sbx::host
