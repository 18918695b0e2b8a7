#include "sentry/syscalls/async_owner.h"

#include <fcntl.h>

#include <climits>

#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {
namespace {

// si_code of SIGIO by event, and the poll bits that go with it (fs/fcntl.c, send_sigio_to_task).
struct Reason {
  u32 event;
  i32 code;
};
constexpr Reason kReasons[] = {
    {POLLIN, POLL_IN}, {POLLOUT, POLL_OUT}, {POLLERR, POLL_ERR}, {POLLPRI, POLL_PRI}, {POLLHUP, POLL_HUP}};

class TaskOwner final : public vfs::AsyncOwner {
 public:
  TaskOwner(abi::OwnerEx owner, const security::Credentials& creds)
      : owner(owner), uid_(creds.uid), euid_(creds.euid) {}

  void send_sigio(int fd, u32 events) override {
    signal::SigInfo info;
    info.signo = signo != 0 ? signo : SIGIO;
    info.code = SI_KERNEL;
    if (signo != 0) {
      for (const Reason& reason : kReasons) {
        if (events & reason.event) {
          info.code = reason.code;
          break;
        }
      }
      info.band = events;
      info.fd = fd;
    }
    if (owner.type == F_OWNER_TID) {
      task::Task* target = task::kernel().find_task(owner.pid);
      if (target != nullptr && may_signal(*target->group)) task::send_to_task(*target, info);
    } else if (owner.type == F_OWNER_PID) {
      task::ThreadGroup* target = task::kernel().find_group(owner.pid);
      if (target != nullptr && may_signal(*target)) task::send_to_group(*target, info);
    } else if (task::ProcessGroup* target = task::kernel().find_process_group(owner.pid); target != nullptr) {
      auto members = target->members;
      for (task::ThreadGroup* member : members) {
        if (may_signal(*member)) task::send_to_group(*member, info);
      }
    }
  }

  const abi::OwnerEx owner;
  int signo = 0;

 private:
  // The rule of kill(2), for the ids of the task that named the owner.
  bool may_signal(const task::ThreadGroup& group) const {
    if (group.tasks.empty()) return false;
    const security::Credentials& creds = *group.tasks.front()->creds;
    return euid_ == 0 || euid_ == creds.suid || euid_ == creds.uid || uid_ == creds.suid || uid_ == creds.uid;
  }
  const u32 uid_, euid_;
};

const TaskOwner* owner_of(const vfs::File& file) { return static_cast<const TaskOwner*>(file.async_owner.get()); }

}  // namespace

Result<void> set_owner_ex(Task& task, vfs::File& file, const abi::OwnerEx& owner) {
  if (owner.type < F_OWNER_TID || owner.type > F_OWNER_PGRP) return Errno::kInval;
  if (owner.pid == 0) {
    file.async_owner.reset();
    return {};
  }
  bool found = owner.pid > 0 && (owner.type == F_OWNER_TID   ? task::kernel().find_task(owner.pid) != nullptr
                                 : owner.type == F_OWNER_PID ? task::kernel().find_group(owner.pid) != nullptr
                                                             : task::kernel().find_process_group(owner.pid) != nullptr);
  if (!found) return Errno::kSrch;
  auto made = make_ref<TaskOwner>(owner, *task.creds);
  made->signo = file.async_signal;
  file.async_owner = made;
  return {};
}

Result<void> set_owner(Task& task, vfs::File& file, i32 id) {
  if (id == INT_MIN) return Errno::kInval;
  return set_owner_ex(task, file, id < 0 ? abi::OwnerEx{F_OWNER_PGRP, -id} : abi::OwnerEx{F_OWNER_PID, id});
}

abi::OwnerEx get_owner_ex(const vfs::File& file) {
  const TaskOwner* owner = owner_of(file);
  return owner != nullptr ? owner->owner : abi::OwnerEx{F_OWNER_PID, 0};
}

i32 get_owner(const vfs::File& file) {
  abi::OwnerEx owner = get_owner_ex(file);
  return owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid;
}

void watch_async(vfs::File& file, int fd) {
  fiber::WaitQueue* queue = (file.flags() & O_ASYNC) != 0 ? file.wait_queue() : nullptr;
  if (queue == nullptr) {
    file.async_watch.reset();
    return;
  }
  if (file.async_watch) return;
  // The file's own queue goes with the file, and its waiters leave it then.
  file.async_watch = std::make_unique<fiber::Waiter>([&file, fd] {
    if (!file.async_owner) return;
    if (u32 events = file.readiness(); events != 0) file.async_owner->send_sigio(fd, events);
  });
  file.async_watch->join(*queue);
  (void)file.readiness();  // a host socket is told of room only if somebody wants it
}

Result<void> set_owner_signal(vfs::File& file, u64 signo) {
  if (signo > signal::kMaxSignal) return Errno::kInval;
  file.async_signal = static_cast<int>(signo);
  if (file.async_owner) static_cast<TaskOwner*>(file.async_owner.get())->signo = file.async_signal;
  return {};
}

}  // namespace sbx::syscalls
