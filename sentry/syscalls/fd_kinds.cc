// Descriptors that are no files: eventfd, timerfd, memfd.
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>

#include "sentry/fs/anon/eventfd.h"
#include "sentry/fs/anon/memfd.h"
#include "sentry/fs/anon/timerfd.h"
#include "sentry/syscalls/handlers.h"

namespace sbx::syscalls {

namespace {
Result<i64> add_fd(Task& task, RefPtr<vfs::File> file, bool cloexec) {
  return TRY(task.fds->add(std::move(file), cloexec, task.nofile_limit()));
}
}  // namespace

// --- eventfd ---

Result<i64> sys_eventfd2(Task& task, UInt count, Hex flags) {
  if (flags.v >> 32) return Errno::kInval;
  auto file = TRY(fs::anon::make_eventfd(count, static_cast<u32>(flags.v)));
  return add_fd(task, std::move(file), flags.v & EFD_CLOEXEC);
}

Result<i64> sys_eventfd(Task& task, UInt count) { return sys_eventfd2(task, count, Hex{0}); }

// --- timerfd ---

namespace {
Result<RefPtr<fs::anon::TimerFd>> get_timer(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  auto timer = ref_cast<fs::anon::TimerFd>(file);
  if (!timer) return Errno::kInval;
  return timer;
}
}  // namespace

Result<i64> sys_timerfd_create(Task& task, Int clock, Hex flags) {
  auto file = TRY(fs::anon::make_timerfd(clock, static_cast<u32>(flags.v)));
  return add_fd(task, std::move(file), flags.v & TFD_CLOEXEC);
}

Result<i64> sys_timerfd_settime(Task& task, Fd fd, Hex flags, InBuf spec_addr, OutBuf old_addr) {
  auto spec = TRY(In<itimerspec>{spec_addr.addr}.read(task));
  auto timer = TRY(get_timer(task, fd));
  itimerspec old{};
  TRY(timer->set(static_cast<u32>(flags.v), spec, &old));
  if (old_addr.addr != 0) TRY(Out<itimerspec>{old_addr.addr}.write(task, old));
  return 0;
}

Result<i64> sys_timerfd_gettime(Task& task, Fd fd, OutBuf to) {
  auto timer = TRY(get_timer(task, fd));
  TRY(Out<itimerspec>{to.addr}.write(task, timer->get()));
  return 0;
}

// --- memfd ---

Result<i64> sys_memfd_create(Task& task, UserString name_addr, Hex flags) {
  constexpr size_t kNameMax = 249;
  auto name = task.memory().read_string(name_addr.addr, kNameMax);
  if (!name) return name.error() == Errno::kNametoolong ? Errno::kInval : name.error();
  auto file = TRY(fs::anon::make_memfd(*name, static_cast<u32>(flags.v), task.creds->fsuid, task.creds->fsgid));
  return add_fd(task, std::move(file), flags.v & MFD_CLOEXEC);
}

}  // namespace sbx::syscalls
