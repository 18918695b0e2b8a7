// inotify(7): the file type. vfs/notify.h has the watches' side: who tells of events, and when.
#pragma once
#include <deque>
#include <map>
#include <memory>

#include "sentry/vfs/notify.h"

namespace sbx::fs::anon {

class Inotify final : public vfs::File {
 public:
  explicit Inotify(u32 flags);
  Result<size_t> read(vfs::Sink& sink, u64* offset) override;
  u32 readiness() override { return events_.empty() ? 0 : POLLIN | POLLRDNORM; }
  fiber::WaitQueue* wait_queue() override { return &queue_; }
  bool tells_async() const override { return true; }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override;
  std::string fdinfo() override;

  // inotify_add_watch(2): the caller resolved the path (IN_DONT_FOLLOW, IN_ONLYDIR) and checked that it may read.
  // Answers the watch descriptor. kInval without events, kExist with IN_MASK_CREATE, kNospc beyond the limit.
  Result<int> add_watch(const RefPtr<vfs::Inode>& inode, u32 mask);
  Result<void> remove_watch(int wd);

 private:
  static void see_reads();
  class Watch;
  struct Event {
    int wd;
    u32 mask, cookie;
    std::string name;
    size_t bytes() const;
    bool operator==(const Event&) const = default;
  };
  ~Inotify() override;
  void queue_event(Event event);
  // The watch is done: IN_IGNORED follows and its number is never used again.
  void end_watch(int wd);

  std::map<int, std::unique_ptr<Watch>> watches_;
  int last_wd_ = 0;
  std::deque<Event> events_;
  fiber::WaitQueue queue_;
};

// inotify_init1(2): flags IN_NONBLOCK, IN_CLOEXEC; kInval for others.
Result<RefPtr<vfs::File>> make_inotify(u32 flags);

}  // namespace sbx::fs::anon
