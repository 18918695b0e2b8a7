// POSIX message queues (mq_overview(7), ipc/mqueue.c): named queues of messages with priorities. All the sandbox has
// one set of names; they are not listed in /dev/mqueue.
#pragma once
#include <functional>
#include <map>
#include <string>

#include "sentry/security/credentials.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::mqueue {

constexpr u32 kMaxPriority = 32768;

// struct mq_attr without the reserved part.
struct Attributes {
  i64 flags = 0, max_messages = 0, message_size = 0, messages = 0;
};

struct Message {
  u32 priority = 0;
  std::string text;
};

struct Queue : public RefCounted {
  std::string name;
  vfs::Path place;
  i64 max_messages = 0, message_size = 0;
  std::multimap<u32, std::string, std::greater<u32>> messages;  // those of one priority in the order they came
  u64 bytes = 0;
  u32 receivers = 0;  // blocked ones: a message for them is not told
  fiber::WaitQueue changed;
  i32 notified = 0;              // pid of the process that wants to be told once; 0: none
  std::function<void()> notify;  // may be empty (SIGEV_NONE)
  u64 capacity() const { return static_cast<u64>(max_messages * (message_size + 16)); }
  ~Queue() override;
};

class QueueFile final : public vfs::File {
 public:
  QueueFile(RefPtr<Queue> queue, u32 flags) : File(queue->place, flags), queue_(std::move(queue)) {}
  Queue& queue() const { return *queue_; }
  // The status text of /dev/mqueue/NAME.
  Result<size_t> read(vfs::Sink& sink, u64* offset) override;
  u32 readiness() override;
  fiber::WaitQueue* wait_queue() override { return &queue_->changed; }

 private:
  RefPtr<Queue> queue_;
};

// What an mq_open may ask for.
struct OpenRequest {
  std::string name;  // without the slash
  u32 flags = 0;     // O_*
  u32 mode = 0;      // umask applied
  bool has_attributes = false;
  Attributes attributes = {};
  u64 byte_limit = 0;  // RLIMIT_MSGQUEUE
};
Result<RefPtr<QueueFile>> open(const security::Credentials& creds, const OpenRequest& request);
Result<void> unlink(const security::Credentials& creds, const std::string& name);
// Blocks unless the descriptor does not (kAgain); kTimedout, kRestartSys.
Result<void> send(QueueFile& file, Message message, fiber::Deadline deadline);
Result<Message> receive(QueueFile& file, u64 room, fiber::Deadline deadline);

}  // namespace sbx::fs::mqueue
