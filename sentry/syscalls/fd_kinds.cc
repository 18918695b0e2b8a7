// Descriptors that are no files: eventfd, timerfd, memfd, signalfd, inotify, pidfd.
#include <linux/capability.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "sentry/fs/anon/eventfd.h"
#include "sentry/fs/anon/inotify.h"
#include "sentry/fs/anon/memfd.h"
#include "sentry/fs/anon/pidfd.h"
#include "sentry/fs/anon/signalfd.h"
#include "sentry/fs/anon/timerfd.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/vfs/walk.h"

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

// --- signalfd ---

Result<i64> sys_signalfd4(Task& task, Fd fd, InBuf set, Size size, Hex flags) {
  if (size != sizeof(signal::SigSet) || (flags.v & ~u64{SFD_CLOEXEC | SFD_NONBLOCK})) return Errno::kInval;
  auto mask = TRY(In<signal::SigSet>{set.addr}.read(task));
  if (fd.n == -1) {
    auto file = TRY(fs::anon::make_signalfd(mask, static_cast<u32>(flags.v)));
    return add_fd(task, std::move(file), flags.v & SFD_CLOEXEC);
  }
  auto file = TRY(task.fds->get(fd.n));
  TRY(fs::anon::set_signalfd_mask(*file, mask));
  return fd.n;
}

Result<i64> sys_signalfd(Task& task, Fd fd, InBuf set, Size size) { return sys_signalfd4(task, fd, set, size, Hex{0}); }

// --- inotify ---

namespace {
Result<RefPtr<fs::anon::Inotify>> get_inotify(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  auto inotify = ref_cast<fs::anon::Inotify>(file);
  if (!inotify) return Errno::kInval;
  return inotify;
}
}  // namespace

Result<i64> sys_inotify_init1(Task& task, Hex flags) {
  if (flags.v & ~u64{IN_CLOEXEC | IN_NONBLOCK}) return Errno::kInval;
  auto file = TRY(fs::anon::make_inotify(static_cast<u32>(flags.v)));
  return add_fd(task, std::move(file), flags.v & IN_CLOEXEC);
}

Result<i64> sys_inotify_init(Task& task) { return sys_inotify_init1(task, Hex{0}); }

Result<i64> sys_inotify_add_watch(Task& task, Fd fd, UserPath path, Hex mask) {
  auto inotify = TRY(get_inotify(task, fd));
  auto text = TRY(path.read(task));
  vfs::WalkFlags walk;
  walk.follow_last = !(mask.v & IN_DONT_FOLLOW);
  walk.need_dir = mask.v & IN_ONLYDIR;
  vfs::Path at = TRY(vfs::resolve(task.walk_context(), text, walk));
  TRY(vfs::check_access(*task.creds, *at.inode(), vfs::kMayRead));
  return TRY(inotify->add_watch(RefPtr<vfs::Inode>(at.inode()), static_cast<u32>(mask.v)));
}

Result<i64> sys_inotify_rm_watch(Task& task, Fd fd, Int wd) {
  auto inotify = TRY(get_inotify(task, fd));
  TRY(inotify->remove_watch(wd));
  return 0;
}

// --- pidfd (pidfd_send_signal is in signal.cc) ---

Result<i64> sys_pidfd_open(Task& task, Pid pid, Hex flags) {
  if (pid.n <= 0 || (flags.v >> 32)) return Errno::kInval;
  RefPtr<task::ThreadGroup> group(task::kernel().find_group(pid.n));
  // Another thread's id exists but names no process.
  if (!group) return task::kernel().find_task(pid.n) != nullptr ? Errno::kInval : Errno::kSrch;
  auto file = TRY(fs::anon::make_pidfd(std::move(group), static_cast<u32>(flags.v)));
  return add_fd(task, std::move(file), true);
}

namespace {
// Whoever may read a process's memory may have its files (ptrace(2), access mode checking,
// PTRACE_MODE_ATTACH_REALCREDS).
bool may_attach(const Task& task, const Task& target) {
  if (task.group == target.group || task.creds->capable(CAP_SYS_PTRACE)) return true;
  const security::Credentials &own = *task.creds, &other = *target.creds;
  return own.uid == other.uid && own.uid == other.euid && own.uid == other.suid && own.gid == other.gid &&
         own.gid == other.egid && own.gid == other.sgid && (other.permitted & ~own.permitted) == 0 &&
         target.group->image->dumpable;
}
}  // namespace

Result<i64> sys_pidfd_getfd(Task& task, Fd pidfd, Int target_fd, Hex flags) {
  if (flags.v != 0) return Errno::kInval;
  auto file = TRY(task.fds->get(pidfd.n));
  auto reference = ref_cast<fs::anon::PidFd>(file);
  if (!reference) return Errno::kBadf;
  task::ThreadGroup* group = reference->group();
  if (group == nullptr || group->tasks.empty()) return Errno::kSrch;
  Task& target = *group->tasks.front();
  if (!may_attach(task, target)) return Errno::kPerm;
  if (!target.fds) return Errno::kSrch;
  auto wanted = TRY(target.fds->get(target_fd, true));
  return add_fd(task, std::move(wanted), true);
}

}  // namespace sbx::syscalls
