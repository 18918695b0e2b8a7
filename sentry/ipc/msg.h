// Message queues (msgget(2), msgop(2), ipc/msg.c).
#pragma once
#include <sys/msg.h>

#include <list>
#include <string>

#include "sentry/fiber/fiber.h"
#include "sentry/ipc/table.h"

namespace sbx::ipc {

struct Namespace;

struct Message {
  i64 type;
  std::string text;
};

class MessageQueue : public Object {
 public:
  std::list<Message> messages;
  u64 bytes = 0, max_bytes = 0;
  i64 stime = 0, rtime = 0;
  i32 last_sender = 0, last_receiver = 0;
  fiber::WaitQueue room, arrived;
  void encode(msqid_ds& out) const;
};

Result<i32> get_queue(Namespace& ns, const security::Credentials& creds, i32 key, u32 flags);
// kAgain (IPC_NOWAIT and no room), kIntr, kIdrm.
Result<void> send(MessageQueue& queue, Message message, u32 flags, i32 pid);
// The first message that `type` and `flags` (MSG_EXCEPT, MSG_NOERROR) choose. kNomsg, kTooBig (longer than `room`),
// kIntr, kIdrm.
Result<Message> receive(MessageQueue& queue, u64 room, i64 type, u32 flags, i32 pid);
void remove_queue(Namespace& ns, MessageQueue& queue);

}  // namespace sbx::ipc
