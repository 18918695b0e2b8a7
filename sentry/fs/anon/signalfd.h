// signalfd(2).
#pragma once
#include "sentry/signal/signal.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::anon {

// The signals are those of whoever reads or polls, not of whoever made it (signalfd(2), "fork(2) semantics"); off tasks
// there are none.
class SignalFd final : public vfs::File {
 public:
  SignalFd(signal::SigSet mask, u32 flags);
  // The signals it accepts; SIGKILL and SIGSTOP never.
  void set_mask(signal::SigSet mask);
  Result<size_t> read(vfs::Sink& sink, u64* offset) override;
  u32 readiness() override;
  fiber::WaitQueue* wait_queue() override;
  std::string fdinfo() override;

 private:
  signal::SigSet mask_;
  fiber::WaitQueue nobody_;
};

// signalfd4(2) with fd -1: flags SFD_NONBLOCK, SFD_CLOEXEC; kInval for others.
Result<RefPtr<vfs::File>> make_signalfd(signal::SigSet mask, u32 flags);
// signalfd4(2) on an existing one; kInval if the file is none.
Result<void> set_signalfd_mask(vfs::File& file, signal::SigSet mask);

}  // namespace sbx::fs::anon
