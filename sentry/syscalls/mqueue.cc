// POSIX message queues: mq_overview(7).
#include "sentry/fs/mqueue/mqueue.h"

#include <fcntl.h>
#include <time.h>

#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"
#include "sentry/time/clock.h"

namespace sbx::syscalls {
namespace {

using fs::mqueue::QueueFile;

struct GuestAttributes {
  i64 flags, max_messages, message_size, messages, reserved[4];
};
static_assert(sizeof(GuestAttributes) == 64);

struct GuestSigevent {
  u64 value;
  i32 signo, notify, tid;
  u8 unused[44];
};
static_assert(sizeof(GuestSigevent) == 64);
constexpr i32 kSigevSignal = 0, kSigevNone = 1, kSigevThread = 2;
constexpr i32 kSiMesgq = -3;

Result<RefPtr<QueueFile>> get_queue(Task& task, Fd fd) {
  auto queue = ref_cast<QueueFile>(TRY(task.fds->get(fd.n)));
  if (!queue) return Errno::kBadf;
  return queue;
}

// An absolute time of CLOCK_REALTIME; null: kNever.
Result<fiber::Deadline> deadline_at(Task& task, InBuf at) {
  if (at.addr == 0) return fiber::kNever;
  const u64 ns = TRY(time::to_ns(TRY(In<timespec>{at.addr}.read(task))));
  timespec real{};
  ::clock_gettime(CLOCK_REALTIME, &real);
  const u64 now = static_cast<u64>(real.tv_sec) * 1'000'000'000 + static_cast<u64>(real.tv_nsec);
  const u64 mono = fiber::now_ns();
  if (ns <= now) return mono;
  return ns - now >= time::kForever ? fiber::kNever : mono + (ns - now);
}

}  // namespace

Result<i64> sys_mq_open(Task& task, UserPath name, Hex flags, Mode mode, InBuf attributes) {
  fs::mqueue::OpenRequest request;
  request.name = TRY(name.read(task));
  request.flags = static_cast<u32>(flags.v);
  if ((request.flags & O_ACCMODE) == O_ACCMODE) return Errno::kInval;
  request.mode = mode.bits & 0777 & ~task.fs->umask;
  if (attributes.addr != 0 && (request.flags & O_CREAT) != 0) {
    const auto in = TRY(In<GuestAttributes>{attributes.addr}.read(task));
    request.has_attributes = true;
    request.attributes = {in.flags, in.max_messages, in.message_size, in.messages};
  }
  request.byte_limit = task.group->limit(RLIMIT_MSGQUEUE);
  auto file = TRY(fs::mqueue::open(*task.creds, request));
  // The C library asks for it always; the kernel sets it whether asked or not.
  return TRY(task.fds->add(RefPtr<vfs::File>(std::move(file)), true, task.nofile_limit()));
}

Result<i64> sys_mq_unlink(Task& task, UserPath name) {
  TRY(fs::mqueue::unlink(*task.creds, TRY(name.read(task))));
  return 0;
}

Result<i64> sys_mq_timedsend(Task& task, Fd fd, InBuf text, Size size, UInt priority, InBuf timeout) {
  if (priority >= fs::mqueue::kMaxPriority) return Errno::kInval;
  const auto deadline = TRY(deadline_at(task, timeout));
  auto file = TRY(get_queue(task, fd));
  if (!file->writable()) return Errno::kBadf;
  if (size > static_cast<u64>(file->queue().message_size)) return Errno::kMsgsize;
  fs::mqueue::Message message;
  message.priority = priority;
  message.text.resize(size);
  if (size > 0) TRY(task.memory().read(text.addr, message.text.data(), size));
  TRY(fs::mqueue::send(*file, std::move(message), deadline));
  return 0;
}

Result<i64> sys_mq_timedreceive(Task& task, Fd fd, OutBuf to, Size size, OutBuf priority, InBuf timeout) {
  const auto deadline = TRY(deadline_at(task, timeout));
  auto file = TRY(get_queue(task, fd));
  if (!file->readable()) return Errno::kBadf;
  const auto message = TRY(fs::mqueue::receive(*file, size, deadline));
  // As in Linux a message that cannot be handed over is lost.
  if (!message.text.empty()) TRY(task.memory().write(to.addr, message.text.data(), message.text.size()));
  if (priority.addr != 0) TRY(Out<u32>{priority.addr}.write(task, message.priority));
  return static_cast<i64>(message.text.size());
}

Result<i64> sys_mq_notify(Task& task, Fd fd, InBuf event) {
  GuestSigevent wanted{};
  if (event.addr != 0) {
    wanted = TRY(In<GuestSigevent>{event.addr}.read(task));
    if (wanted.notify == kSigevThread) {  // told by a netlink socket that the C library makes
      STUB("mq_notify SIGEV_THREAD", wanted.notify);
      return Errno::kNosys;
    }
    if (wanted.notify != kSigevSignal && wanted.notify != kSigevNone) return Errno::kInval;
    if (wanted.notify == kSigevSignal && !signal::valid(wanted.signo)) return Errno::kInval;
  }
  auto file = TRY(get_queue(task, fd));
  fs::mqueue::Queue& queue = file->queue();
  const i32 self = task.group->pid;
  if (event.addr == 0) {
    if (queue.notified == self) queue.notified = 0;
    return 0;
  }
  // A registration ends with its process.
  task::ThreadGroup* other = queue.notified != 0 ? task::kernel().find_group(queue.notified) : nullptr;
  if (other != nullptr && !other->zombie) return Errno::kBusy;
  queue.notified = self;
  queue.notify = nullptr;
  if (wanted.notify == kSigevNone) return 0;
  queue.notify = [self, signo = wanted.signo, value = wanted.value] {
    task::ThreadGroup* target = task::kernel().find_group(self);
    const Task* sender = task::current_task();
    if (target == nullptr) return;
    signal::SigInfo info;
    info.signo = signo;
    info.code = kSiMesgq;
    info.value = value;
    if (sender != nullptr) {
      info.pid = sender->pid();
      info.uid = sender->creds->uid;
    }
    task::send_to_group(*target, info);
  };
  return 0;
}

Result<i64> sys_mq_getsetattr(Task& task, Fd fd, InBuf fresh, OutBuf old) {
  GuestAttributes wanted{};
  if (fresh.addr != 0) {
    wanted = TRY(In<GuestAttributes>{fresh.addr}.read(task));
    if ((wanted.flags & ~i64{O_NONBLOCK}) != 0) return Errno::kInval;
  }
  auto file = TRY(get_queue(task, fd));
  const fs::mqueue::Queue& queue = file->queue();
  if (old.addr != 0) {
    const GuestAttributes now{file->flags() & O_NONBLOCK,
                              queue.max_messages,
                              queue.message_size,
                              static_cast<i64>(queue.messages.size()),
                              {}};
    TRY(Out<GuestAttributes>{old.addr}.write(task, now));
  }
  if (fresh.addr != 0) {
    file->set_flags((file->flags() & ~u32{O_NONBLOCK}) | static_cast<u32>(wanted.flags));
  }
  return 0;
}

}  // namespace sbx::syscalls
