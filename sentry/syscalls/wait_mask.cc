#include "sentry/syscalls/wait_mask.h"

#include <algorithm>

#include "sentry/task/signals.h"
#include "sentry/time/clock.h"

namespace sbx::syscalls {

fiber::Deadline deadline_after(Task& task, u64 ns) {
  if (!task.restarting) {
    const u64 now = fiber::now_ns();
    task.restart_deadline = ns >= time::kForever ? fiber::kNever : now + ns;
  }
  return task.restart_deadline;
}

Result<fiber::Deadline> deadline_from(Task& task, u64 timespec_addr) {
  if (timespec_addr == 0) return deadline_after(task, time::kForever);
  auto timeout = TRY(In<timespec>{timespec_addr}.read(task));
  u64 ns = TRY(time::to_ns(timeout));
  return deadline_after(task, ns);
}

void write_remaining(Task& task, u64 timespec_addr, fiber::Deadline deadline) {
  if (timespec_addr == 0) return;
  const u64 now = fiber::now_ns();
  timespec left = time::to_timespec(deadline > now ? deadline - now : 0);
  (void)Out<timespec>{timespec_addr}.write(task, left);
}

Result<void> install_mask(Task& task, u64 set_addr, u64 size) {
  if (set_addr == 0) return {};
  if (size != sizeof(signal::SigSet)) return Errno::kInval;
  auto mask = TRY(In<signal::SigSet>{set_addr}.read(task));
  task::set_temporary_mask(task, mask);
  return {};
}

}  // namespace sbx::syscalls
