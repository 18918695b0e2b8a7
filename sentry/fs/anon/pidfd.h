// pidfd_open(2): a descriptor for a process. Readable once the process has ended.
#pragma once
#include "sentry/task/kernel.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::anon {

class PidFd final : public vfs::File, public task::PidReference {
 public:
  // group may be null until set_group(): it then names nobody.
  PidFd(RefPtr<task::ThreadGroup> group, u32 flags);
  void set_group(RefPtr<task::ThreadGroup> group) { group_ = std::move(group); }
  // -1 once the process was waited for: its number may be another's by then.
  i32 pid() const override { return group() != nullptr ? group_->pid : -1; }
  // For pidfd_send_signal and pidfd_getfd; null once the process was waited for (ESRCH).
  task::ThreadGroup* group() const { return group_ && group_->group ? group_.get() : nullptr; }
  u32 readiness() override;
  fiber::WaitQueue* wait_queue() override { return group_ ? &group_->exit_queue : nullptr; }
  std::string fdinfo() override;

 private:
  RefPtr<task::ThreadGroup> group_;
};

// flags: PIDFD_NONBLOCK (O_NONBLOCK) only; kInval for others. The descriptor is close-on-exec.
Result<RefPtr<vfs::File>> make_pidfd(RefPtr<task::ThreadGroup> group, u32 flags);

}  // namespace sbx::fs::anon
