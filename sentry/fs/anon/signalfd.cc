#include "sentry/fs/anon/signalfd.h"

#include <sys/signalfd.h>

#include "sentry/base/log.h"
#include "sentry/fs/anon/node.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::fs::anon {
namespace {

signalfd_siginfo encode(const signal::SigInfo& info) {
  signalfd_siginfo out{};
  out.ssi_signo = static_cast<u32>(info.signo);
  if (info.raw) {
    // The guest's own siginfo: the fields that every queued signal has.
    const u8* raw = info.raw->data();
    std::memcpy(&out.ssi_errno, raw + 4, 4);
    std::memcpy(&out.ssi_code, raw + 8, 4);
    std::memcpy(&out.ssi_pid, raw + 16, 4);
    std::memcpy(&out.ssi_uid, raw + 20, 4);
    std::memcpy(&out.ssi_ptr, raw + 24, 8);
    out.ssi_int = static_cast<i32>(out.ssi_ptr);
    return out;
  }
  out.ssi_errno = info.error;
  out.ssi_code = info.code;
  out.ssi_pid = static_cast<u32>(info.pid);
  out.ssi_uid = info.uid;
  out.ssi_fd = info.fd;
  out.ssi_band = static_cast<u32>(info.band);
  out.ssi_tid = static_cast<u32>(info.timer_id);
  out.ssi_overrun = static_cast<u32>(info.overrun);
  out.ssi_status = info.status;
  out.ssi_int = static_cast<i32>(info.value);
  out.ssi_ptr = info.value;
  out.ssi_utime = static_cast<u64>(info.utime);
  out.ssi_stime = static_cast<u64>(info.stime);
  out.ssi_addr = info.addr;
  return out;
}

}  // namespace

SignalFd::SignalFd(signal::SigSet mask, u32 flags)
    : File(anon_path("[signalfd]"), O_RDWR | flags), mask_(mask & ~signal::kUnblockable) {}

void SignalFd::set_mask(signal::SigSet mask) {
  mask_ = mask & ~signal::kUnblockable;
  if (fiber::WaitQueue* queue = wait_queue()) queue->wake_all();
}

fiber::WaitQueue* SignalFd::wait_queue() {
  task::Task* task = task::current_task();
  return task != nullptr ? &task->group->signal_queue : &nobody_;
}

u32 SignalFd::readiness() {
  task::Task* task = task::current_task();
  if (task == nullptr) return 0;
  return (task->pending.set() | task->group->pending.set()) & mask_ ? POLLIN | POLLRDNORM : 0;
}

Result<size_t> SignalFd::read(vfs::Sink& sink, u64*) {
  if (sink.left() < sizeof(signalfd_siginfo)) return Errno::kInval;
  task::Task* task = task::current_task();
  if (task == nullptr) return Errno::kAgain;
  size_t total = 0;
  while (sink.left() >= sizeof(signalfd_siginfo)) {
    auto info = task->pending.take(mask_);
    if (!info) info = task->group->pending.take(mask_);
    if (!info) break;
    task::recalc_pending(*task);
    signalfd_siginfo out = encode(*info);
    auto put = sink.put(&out, sizeof(out));
    if (!put) return total > 0 ? Result<size_t>(total) : put;
    total += *put;
  }
  if (total == 0) return Errno::kAgain;
  return total;
}

std::string SignalFd::fdinfo() { return str_printf("sigmask:\t%016llx\n", static_cast<unsigned long long>(mask_)); }

Result<RefPtr<vfs::File>> make_signalfd(signal::SigSet mask, u32 flags) {
  if (flags & ~u32{SFD_NONBLOCK | SFD_CLOEXEC}) return Errno::kInval;
  return RefPtr<vfs::File>(make_ref<SignalFd>(mask, flags & SFD_NONBLOCK ? O_NONBLOCK : 0));
}

Result<void> set_signalfd_mask(vfs::File& file, signal::SigSet mask) {
  auto* signals = dynamic_cast<SignalFd*>(&file);
  if (signals == nullptr) return Errno::kInval;
  signals->set_mask(mask);
  return {};
}

}  // namespace sbx::fs::anon
