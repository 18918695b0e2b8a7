// timerfd_create(2).
#pragma once
#include <time.h>

#include "sentry/vfs/file.h"

namespace sbx::fs::anon {

class TimerFd final : public vfs::File {
 public:
  TimerFd(int clock, u32 flags);
  Result<size_t> read(vfs::Sink& sink, u64* offset) override;
  u32 readiness() override;
  fiber::WaitQueue* wait_queue() override { return &queue_; }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override;
  std::string fdinfo() override;

  // timerfd_settime(2); `old` (may be null) gets the previous setting. flags: TFD_TIMER_*.
  Result<void> set(u32 flags, const itimerspec& spec, itimerspec* old);
  itimerspec get();

 private:
  void expired();
  // Counts the expirations since the timer ran out and notes the time of the next one.
  void catch_up();
  void arm();
  int clock_;
  u64 interval_ = 0;  // ns
  u64 next_ = 0;      // on clock_, ns; 0: disarmed
  u64 expirations_ = 0;
  u32 set_flags_ = 0;
  fiber::Timer timer_;
  fiber::WaitQueue queue_;
};

// clock: CLOCK_REALTIME, MONOTONIC, BOOTTIME, and the _ALARM ones (which count as their plain forms).
Result<RefPtr<vfs::File>> make_timerfd(int clock, u32 flags);

}  // namespace sbx::fs::anon
