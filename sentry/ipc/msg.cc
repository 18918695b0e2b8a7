#include "sentry/ipc/msg.h"

#include <algorithm>

#include "sentry/ipc/namespace.h"

namespace sbx::ipc {

void MessageQueue::encode(msqid_ds& out) const {
  out = {};
  Object::encode(out.msg_perm);
  out.msg_stime = stime;
  out.msg_rtime = rtime;
  out.msg_ctime = ctime;
  out.__msg_cbytes = bytes;
  out.msg_qnum = messages.size();
  out.msg_qbytes = max_bytes;
  out.msg_lspid = last_sender;
  out.msg_lrpid = last_receiver;
}

Result<i32> get_queue(Namespace& ns, const security::Credentials& creds, i32 key, u32 flags) {
  auto check = [](const MessageQueue&) -> Result<void> { return {}; };
  auto make = [&]() -> Result<RefPtr<MessageQueue>> {
    auto queue = make_ref<MessageQueue>();
    queue->max_bytes = ns.msgmnb;
    return queue;
  };
  return ns.queues.get(creds, key, flags, check, make);
}

Result<void> send(MessageQueue& queue, Message message, u32 flags, i32 pid) {
  RefPtr<MessageQueue> keep(&queue);
  // An empty message takes no bytes, so their number is limited too (ipc/msg.c msg_fits_inqueue).
  auto fits = [&] {
    return queue.removed ||
           (queue.bytes + message.text.size() <= queue.max_bytes && queue.messages.size() + 1 <= queue.max_bytes);
  };
  if (!fits()) {
    if ((flags & IPC_NOWAIT) != 0) return Errno::kAgain;
    if (!queue.room.wait_until(fits, "msgsnd")) return Errno::kIntr;  // never restarted (signal(7))
  }
  if (queue.removed) return Errno::kIdrm;
  queue.bytes += message.text.size();
  queue.messages.push_back(std::move(message));
  queue.stime = now();
  queue.last_sender = pid;
  queue.arrived.wake_all();
  return {};
}

Result<Message> receive(MessageQueue& queue, u64 room, i64 type, u32 flags, i32 pid) {
  RefPtr<MessageQueue> keep(&queue);
  auto& messages = queue.messages;
  auto chosen = messages.end();
  auto choose = [&] {
    if (queue.removed) return true;
    if (type == 0) {
      chosen = messages.begin();
    } else if (type > 0) {
      bool except = (flags & MSG_EXCEPT) != 0;
      chosen =
          std::find_if(messages.begin(), messages.end(), [&](const Message& m) { return (m.type == type) != except; });
    } else {
      // The lowest type of those up to -type. The lowest number has no negative.
      i64 most = type == INT64_MIN ? INT64_MAX : -type;
      chosen = messages.end();
      for (auto it = messages.begin(); it != messages.end(); ++it) {
        if (it->type <= most && (chosen == messages.end() || it->type < chosen->type)) chosen = it;
      }
    }
    return chosen != messages.end();
  };
  if (!choose()) {
    if ((flags & IPC_NOWAIT) != 0) return Errno::kNomsg;
    if (!queue.arrived.wait_until(choose, "msgrcv")) return Errno::kIntr;
  }
  if (queue.removed) return Errno::kIdrm;
  if (chosen->text.size() > room && (flags & MSG_NOERROR) == 0) return Errno::kTooBig;
  Message out = std::move(*chosen);
  queue.bytes -= out.text.size();
  messages.erase(chosen);
  queue.rtime = now();
  queue.last_receiver = pid;
  queue.room.wake_all();
  return out;
}

void remove_queue(Namespace& ns, MessageQueue& queue) {
  RefPtr<MessageQueue> keep(&queue);
  ns.queues.remove(queue);
  queue.messages.clear();
  queue.bytes = 0;
  queue.room.wake_all();
  queue.arrived.wake_all();
}

}  // namespace sbx::ipc
