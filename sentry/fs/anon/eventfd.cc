#include "sentry/fs/anon/eventfd.h"

#include <sys/eventfd.h>

#include "sentry/base/log.h"
#include "sentry/fs/anon/node.h"

namespace sbx::fs::anon {

EventFd::EventFd(u64 count, u32 flags, bool semaphore)
    : File(anon_path("[eventfd]"), O_RDWR | flags), count_(count), semaphore_(semaphore) {
  static u32 last_id = 0;
  id_ = last_id++;
}

Result<size_t> EventFd::read(vfs::Sink& sink, u64*) {
  if (sink.left() < sizeof(u64)) return Errno::kInval;
  if (count_ == 0) return Errno::kAgain;
  u64 value = semaphore_ ? 1 : count_;
  // The count is taken before the copy, as Linux does: a fault loses it.
  count_ -= value;
  queue_.wake_all();
  return sink.put(&value, sizeof(value));
}

Result<size_t> EventFd::write(vfs::Source& source, u64*) {
  if (source.left() < sizeof(u64)) return Errno::kInval;
  // The bytes of a source can be fetched only once: a value that is too big for the room waits right here, unlike in
  // other files.
  u64 value = 0;
  size_t got = TRY(source.get(&value, sizeof(value)));
  if (got < sizeof(value)) return Errno::kFault;
  if (value == ~0ull) return Errno::kInval;
  if (kMaxCount - count_ < value) {
    if (nonblocking()) return Errno::kAgain;
    TRY(queue_.wait_until([&] { return kMaxCount - count_ >= value; }, "eventfd write"));
  }
  count_ += value;
  queue_.wake_all();
  return sizeof(value);
}

void EventFd::signal(u64 n) {
  count_ = kMaxCount - count_ < n ? kMaxCount : count_ + n;
  queue_.wake_all();
}

u32 EventFd::readiness() {
  u32 mask = 0;
  if (count_ > 0) mask |= POLLIN | POLLRDNORM;
  if (count_ < kMaxCount) mask |= POLLOUT | POLLWRNORM;
  return mask;
}

std::string EventFd::fdinfo() {
  return str_printf("eventfd-count: %16llx\neventfd-id: %u\neventfd-semaphore: %d\n",
                    static_cast<unsigned long long>(count_), id_, semaphore_ ? 1 : 0);
}

Result<RefPtr<vfs::File>> make_eventfd(u32 count, u32 flags) {
  if (flags & ~u32{EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE}) return Errno::kInval;
  u32 status = flags & EFD_NONBLOCK ? O_NONBLOCK : 0;
  return RefPtr<vfs::File>(make_ref<EventFd>(count, status, flags & EFD_SEMAPHORE));
}

}  // namespace sbx::fs::anon
