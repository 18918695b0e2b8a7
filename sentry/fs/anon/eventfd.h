// eventfd(2). The smallest complete file type: read it first when writing a new one.
#pragma once
#include "sentry/vfs/file.h"

namespace sbx::fs::anon {

class EventFd final : public vfs::File {
 public:
  EventFd(u64 count, u32 flags, bool semaphore);

  // An attempt: it answers kAgain where a blocking call would wait. Who waits, and until when, is not our business:
  // File::block_until repeats the attempt each time wait_queue() wakes.
  Result<size_t> read(vfs::Sink& sink, u64* offset) override;
  Result<size_t> write(vfs::Source& source, u64* offset) override;
  // What poll(2) would say now; computed from the state, never stored.
  u32 readiness() override;
  // Woken after each change that may turn an attempt or the readiness.
  fiber::WaitQueue* wait_queue() override { return &queue_; }
  std::string fdinfo() override;

  // For the kernel's own use (AIO): adds without waiting, saturating.
  void signal(u64 n);

 private:
  static constexpr u64 kMaxCount = ~0ull - 1;
  u64 count_;
  bool semaphore_;
  u32 id_;
  fiber::WaitQueue queue_;
};

// eventfd2(2): flags EFD_CLOEXEC (the descriptor's business), EFD_NONBLOCK, EFD_SEMAPHORE; kInval for others.
Result<RefPtr<vfs::File>> make_eventfd(u32 count, u32 flags);

}  // namespace sbx::fs::anon
