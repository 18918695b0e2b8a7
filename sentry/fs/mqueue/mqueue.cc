#include "sentry/fs/mqueue/mqueue.h"

#include <linux/capability.h>

#include <algorithm>

#include "sentry/base/log.h"
#include "sentry/fs/anon/node.h"

namespace sbx::fs::mqueue {
namespace {

// /proc/sys/fs/mqueue, and the hard limits of who may pass them (HARD_MSGMAX, HARD_MSGSIZEMAX).
constexpr size_t kMaxQueues = 256;
constexpr i64 kMaxMessages = 10, kMaxSize = 8192;
constexpr i64 kHardMessages = 65536, kHardSize = 16 << 20;

// Messages lie in the sentry's memory: whatever limit a guest may set itself, all queues together hold no more.
constexpr u64 kMostBytes = 64 << 20;

using Names = std::map<std::string, RefPtr<Queue>>;
Names& names() {
  static auto* all = new Names;
  return *all;
}
// Of all queues that exist, named or not.
u64 all_capacity = 0;

anon::NamelessFs& mqueuefs() {
  constexpr u64 kMagic = 0x19800202;
  static auto* fs = make_ref<anon::NamelessFs>("mqueue", kMagic).leak();
  return *fs;
}

Result<void> check_name(const std::string& name) {
  if (name.empty()) return Errno::kNoent;
  if (name.size() > 255) return Errno::kNametoolong;
  if (name == "." || name == ".." || name.find('/') != std::string::npos) return Errno::kAcces;
  return {};
}

Result<void> check_access(const security::Credentials& creds, const Queue& queue, u32 flags) {
  const vfs::Attr attr = TRY(queue.place.inode()->attr());
  u32 want = (flags & O_ACCMODE) == O_RDONLY ? 4u : (flags & O_ACCMODE) == O_WRONLY ? 2u : 6u;
  u32 granted = attr.mode;
  if (creds.fsuid == attr.uid)
    granted >>= 6;
  else if (creds.in_group(attr.gid))
    granted >>= 3;
  if ((want & ~granted & 7) != 0 && !creds.capable(CAP_DAC_OVERRIDE)) return Errno::kAcces;
  return {};
}

Result<RefPtr<Queue>> make(const security::Credentials& creds, const OpenRequest& request) {
  if (names().size() >= kMaxQueues && !creds.capable(CAP_SYS_RESOURCE)) return Errno::kNospc;
  Attributes wanted = request.attributes;
  if (!request.has_attributes) wanted = {0, kMaxMessages, kMaxSize, 0};
  const bool beyond = creds.capable(CAP_SYS_RESOURCE);
  if (wanted.max_messages <= 0 || wanted.message_size <= 0) return Errno::kInval;
  if (wanted.max_messages > (beyond ? kHardMessages : kMaxMessages)) return Errno::kInval;
  if (wanted.message_size > (beyond ? kHardSize : kMaxSize)) return Errno::kInval;
  auto queue = make_ref<Queue>();
  queue->name = request.name;
  queue->max_messages = wanted.max_messages;
  queue->message_size = wanted.message_size;
  if (all_capacity + queue->capacity() > std::min(request.byte_limit, kMostBytes)) {
    queue->max_messages = 0;  // counts for nothing
    return Errno::kMfile;
  }
  all_capacity += queue->capacity();
  auto inode = make_ref<anon::NamelessInode>(mqueuefs(), S_IFREG | (request.mode & 0777), creds.fsuid, creds.fsgid);
  queue->place.dentry =
      vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(&mqueuefs()), RefPtr<vfs::Inode>(inode), "/" + request.name);
  names()[request.name] = queue;
  return queue;
}

}  // namespace

Queue::~Queue() { all_capacity -= capacity(); }

Result<size_t> QueueFile::read(vfs::Sink& sink, u64* offset) {
  const Queue& q = *queue_;
  std::string text = str_printf("QSIZE:%-10llu NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n",
                                static_cast<unsigned long long>(q.bytes), 0, 0, q.notified);
  u64& at = offset != nullptr ? *offset : position;
  if (at >= text.size()) return size_t{0};
  size_t n = TRY(sink.put(text.data() + at, std::min<size_t>(text.size() - at, sink.left())));
  at += n;
  return n;
}

u32 QueueFile::readiness() {
  u32 mask = 0;
  if (!queue_->messages.empty()) mask |= POLLIN | POLLRDNORM;
  if (queue_->messages.size() < static_cast<size_t>(queue_->max_messages)) mask |= POLLOUT | POLLWRNORM;
  return mask;
}

Result<RefPtr<QueueFile>> open(const security::Credentials& creds, const OpenRequest& request) {
  TRY(check_name(request.name));
  RefPtr<Queue> queue;
  if (auto it = names().find(request.name); it != names().end()) {
    if ((request.flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return Errno::kExist;
    queue = it->second;
    TRY(check_access(creds, *queue, request.flags));
  } else {
    if ((request.flags & O_CREAT) == 0) return Errno::kNoent;
    queue = TRY(make(creds, request));
  }
  return make_ref<QueueFile>(std::move(queue), request.flags & u32{O_ACCMODE | O_NONBLOCK});
}

Result<void> unlink(const security::Credentials& creds, const std::string& name) {
  TRY(check_name(name));
  auto it = names().find(name);
  if (it == names().end()) return Errno::kNoent;
  // The directory has the sticky bit: the owner's or root's to remove.
  const vfs::Attr attr = TRY(it->second->place.inode()->attr());
  if (creds.fsuid != attr.uid && !creds.capable(CAP_FOWNER)) return Errno::kPerm;
  names().erase(it);
  return {};
}

Result<void> send(QueueFile& file, Message message, fiber::Deadline deadline) {
  Queue& q = file.queue();
  if (message.text.size() > static_cast<size_t>(q.message_size)) return Errno::kMsgsize;
  auto room = [&q] { return q.messages.size() < static_cast<size_t>(q.max_messages); };
  if (!room()) {
    if (file.nonblocking()) return Errno::kAgain;
    TRY(q.changed.wait_until(room, "mq_timedsend", deadline));
  }
  const bool tells = q.messages.empty() && q.receivers == 0;
  q.bytes += message.text.size();
  q.messages.emplace(message.priority, std::move(message.text));
  q.changed.wake_all();
  if (!tells || q.notified == 0) return {};
  q.notified = 0;  // once (mq_notify(3))
  auto notify = std::exchange(q.notify, nullptr);
  if (notify) notify();
  return {};
}

Result<Message> receive(QueueFile& file, u64 room, fiber::Deadline deadline) {
  Queue& q = file.queue();
  if (room < static_cast<u64>(q.message_size)) return Errno::kMsgsize;
  if (q.messages.empty()) {
    if (file.nonblocking()) return Errno::kAgain;
    ++q.receivers;
    auto waited = q.changed.wait_until([&q] { return !q.messages.empty(); }, "mq_timedreceive", deadline);
    --q.receivers;
    TRY(std::move(waited));
  }
  auto first = q.messages.begin();
  Message out{first->first, std::move(first->second)};
  q.messages.erase(first);
  q.bytes -= out.text.size();
  q.changed.wake_all();
  return out;
}

}  // namespace sbx::fs::mqueue
