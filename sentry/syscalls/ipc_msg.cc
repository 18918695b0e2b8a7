// Message queues of System V: msgget(2), msgop(2), msgctl(2).
#include <linux/capability.h>

#include "sentry/base/counters.h"
#include "sentry/ipc/namespace.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"

namespace sbx::syscalls {

namespace {

ipc::Namespace& space() { return *task::kernel().current_container().ipc; }

Result<i64> info(Task& task, i32 command, u64 out) {
  msginfo reply{};
  const auto& queues = space().queues;
  reply.msgmni = static_cast<int>(queues.limit);
  reply.msgmax = static_cast<int>(space().msgmax);
  reply.msgmnb = static_cast<int>(space().msgmnb);
  reply.msgssz = 16;
  reply.msgseg = 0xffff;
  reply.msgpool = static_cast<int>(queues.limit * space().msgmnb / 1024);
  reply.msgmap = reply.msgtql = reply.msgmnb;
  if (command == MSG_INFO) {
    size_t messages = 0, bytes = 0;
    for (const auto& [place, queue] : queues.objects()) {
      messages += queue->messages.size();
      bytes += queue->bytes;
    }
    reply.msgpool = static_cast<int>(queues.objects().size());
    reply.msgmap = static_cast<int>(messages);
    reply.msgtql = static_cast<int>(bytes);
  }
  TRY(task.memory().write(out, &reply, sizeof(reply)));
  return queues.highest();
}

}  // namespace

Result<i64> sys_msgget(Task& task, Int key, Hex flags) {
  return TRY(ipc::get_queue(space(), *task.creds, key, static_cast<u32>(flags.v)));
}

Result<i64> sys_msgsnd(Task& task, Int id, UserAddr message, Size size, Hex flags) {
  if (id < 0 || size > space().msgmax) return Errno::kInval;
  ipc::Message out;
  TRY(task.memory().read(message.addr, &out.type, sizeof(out.type)));
  if (out.type < 1) return Errno::kInval;
  out.text.resize(size);
  TRY(task.memory().read(message.addr + sizeof(out.type), out.text.data(), size));
  RefPtr<ipc::MessageQueue> queue = TRY(space().queues.find(id));
  TRY(queue->check_access(*task.creds, ipc::kMayWrite));
  TRY(ipc::send(*queue, std::move(out), static_cast<u32>(flags.v), task.group->pid));
  return 0;
}

Result<i64> sys_msgrcv(Task& task, Int id, UserAddr message, Size size, Long type, Hex flags) {
  if (id < 0 || static_cast<i64>(size) < 0) return Errno::kInval;
  if ((flags.v & MSG_COPY) != 0) {
    STUB("msgrcv MSG_COPY", flags.v);
    return Errno::kNosys;  // as without CONFIG_CHECKPOINT_RESTORE
  }
  RefPtr<ipc::MessageQueue> queue = TRY(space().queues.find(id));
  TRY(queue->check_access(*task.creds, ipc::kMayRead));
  ipc::Message got = TRY(ipc::receive(*queue, size, type, static_cast<u32>(flags.v), task.group->pid));
  // Taken from the queue even if the guest's buffer faults, as by Linux.
  size_t n = std::min<size_t>(size, got.text.size());
  TRY(task.memory().write(message.addr, &got.type, sizeof(got.type)));
  TRY(task.memory().write(message.addr + sizeof(got.type), got.text.data(), n));
  return static_cast<i64>(n);
}

Result<i64> sys_msgctl(Task& task, Int id, Int command, ULong buffer) {
  if (id < 0 || command < 0) return Errno::kInval;
  switch (command) {
    case IPC_INFO:
    case MSG_INFO: return info(task, command, buffer);
    case IPC_STAT:
    case MSG_STAT:
    case MSG_STAT_ANY: {
      RefPtr<ipc::MessageQueue> queue = command == IPC_STAT ? TRY(space().queues.find(id)) : TRY(space().queues.at(id));
      if (command != MSG_STAT_ANY) TRY(queue->check_access(*task.creds, ipc::kMayRead));
      msqid_ds out;
      queue->encode(out);
      TRY(task.memory().write(buffer, &out, sizeof(out)));
      return command == IPC_STAT ? 0 : queue->id;
    }
    case IPC_SET: {
      msqid_ds in = TRY(In<msqid_ds>{buffer}.read(task));
      RefPtr<ipc::MessageQueue> queue = TRY(space().queues.find(id));
      TRY(queue->check_owner(*task.creds));
      if (in.msg_qbytes > space().msgmnb && !task.creds->capable(CAP_SYS_RESOURCE)) return Errno::kPerm;
      TRY(queue->set_owner(in.msg_perm.uid, in.msg_perm.gid, in.msg_perm.mode));
      queue->max_bytes = in.msg_qbytes;
      queue->room.wake_all();
      return 0;
    }
    case IPC_RMID: {
      RefPtr<ipc::MessageQueue> queue = TRY(space().queues.find(id));
      TRY(queue->check_owner(*task.creds));
      ipc::remove_queue(space(), *queue);
      return 0;
    }
    default: return Errno::kInval;
  }
}

}  // namespace sbx::syscalls
