#include "runtime/host/process.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "runtime/host/files.h"

namespace sbx::host {

std::optional<ProcessStat> process_stat(i32 pid) {
  auto text = read_file("/proc/" + std::to_string(pid) + "/stat");
  if (!text) return std::nullopt;
  // The name may hold spaces and parentheses: fields start after the last one.
  size_t at = text->rfind(')');
  if (at == std::string::npos || at + 2 >= text->size()) return std::nullopt;
  ProcessStat out;
  out.state = (*text)[at + 2];
  size_t field = 3;
  for (size_t i = at + 2; i < text->size(); ++i) {
    if ((*text)[i] != ' ') continue;
    if (++field == 22) {
      out.start_time = std::strtoull(text->c_str() + i + 1, nullptr, 10);
      return out;
    }
  }
  return std::nullopt;
}

bool process_alive(i32 pid, u64 start_time) {
  if (pid <= 0) return false;
  auto stat = process_stat(pid);
  return stat && stat->state != 'Z' && stat->state != 'X' && stat->start_time == start_time;
}

UniqueFd open_pidfd(i32 pid) { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

bool kill_process(i32 pid, u64 start_time, int signo) {
  if (pid <= 0) return false;
  UniqueFd fd = open_pidfd(pid);
  if (!fd || !process_alive(pid, start_time)) return false;
  return ::syscall(SYS_pidfd_send_signal, fd.get(), signo, nullptr, 0) == 0;
}

u64 monotonic_ms() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<u64>(t.tv_sec) * 1000 + static_cast<u64>(t.tv_nsec) / 1000000;
}

bool wait_dead(i32 pid, u64 start_time, int timeout_ms) {
  if (!process_alive(pid, start_time)) return true;
  UniqueFd fd = open_pidfd(pid);
  if (!fd) return true;
  // A pidfd becomes readable when the process has exited, reaped or not.
  u64 end = monotonic_ms() + static_cast<u64>(timeout_ms);
  for (;;) {
    i64 left = static_cast<i64>(end) - static_cast<i64>(monotonic_ms());
    if (left <= 0) return !process_alive(pid, start_time);
    pollfd p{fd.get(), POLLIN, 0};
    if (::poll(&p, 1, static_cast<int>(left)) > 0) return true;
  }
}

}  // namespace sbx::host
