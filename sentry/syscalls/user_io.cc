#include "sentry/syscalls/user_io.h"

#include <sys/syscall.h>

#include <algorithm>

#include "sentry/platform/layout.h"
#include "sentry/syscalls/socket_args.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

UserBuffers::UserBuffers(u64 addr, u64 length) : count_(1), total_(std::min(length, kMaxTransfer)) {
  few_[0] = {addr, total_};
}

Result<UserBuffers> UserBuffers::read(Task& task, u64 addr, u64 count) {
  UserBuffers buffers;
  if (count > kMaxIoVecs) return Errno::kInval;
  abi::IoVec* vecs = buffers.few_;
  if (count > kFew) {
    buffers.more_ = std::make_unique<abi::IoVec[]>(count);
    vecs = buffers.more_.get();
  }
  if (count > 0) TRY(task.memory().read(addr, vecs, count * sizeof(abi::IoVec)));
  buffers.count_ = count;
  for (u64 i = 0; i < count; ++i) {
    if (static_cast<i64>(vecs[i].length) < 0) return Errno::kInval;
    if (vecs[i].base > platform::kUserEnd || vecs[i].length > platform::kUserEnd - vecs[i].base)
      return Errno::kFault;  // access_ok()
    vecs[i].length = std::min(vecs[i].length, kMaxTransfer - buffers.total_);
    buffers.total_ += vecs[i].length;
  }
  return buffers;
}

template <typename Move>
Result<size_t> UserCursor::each(size_t n, Move move) {
  size_t done = 0;
  while (done < n && at_ != end_) {
    size_t step = std::min<u64>(n - done, at_->length - skip_);
    if (step > 0) {
      Result<size_t> moved = move(at_->base + skip_, done, step);
      if (!moved) break;
      done += *moved;
      skip_ += *moved;
      if (*moved < step) break;
    }
    if (skip_ == at_->length) {
      ++at_;
      skip_ = 0;
    }
  }
  if (done == 0 && n > 0) return Errno::kFault;
  return done;
}

Result<size_t> UserCursor::store(const void* from, size_t n) {
  return each(n, [&](u64 addr, size_t at, size_t step) {
    return task_.memory().write_some(addr, static_cast<const u8*>(from) + at, step);
  });
}

Result<size_t> UserCursor::fetch(void* to, size_t n) {
  return each(n, [&](u64 addr, size_t at, size_t step) {
    return task_.memory().read_some(addr, static_cast<u8*>(to) + at, step);
  });
}

std::optional<u64> UserCursor::piece(size_t n) {
  while (at_ != end_ && skip_ == at_->length) {
    ++at_;
    skip_ = 0;
  }
  if (at_ == end_ || at_->length - skip_ < n) return std::nullopt;
  return at_->base + skip_;
}

void UserCursor::back(size_t n) {
  while (n > skip_ && at_ != begin_) {
    n -= skip_;
    --at_;
    skip_ = at_->length;
  }
  skip_ -= std::min<u64>(n, skip_);
}

Result<size_t> UserSink::put(const void* from, size_t n) {
  size_t done = TRY(cursor_.store(from, n));
  left_ -= done;
  return done;
}

bool UserSink::take(const platform::FileBytes& bytes) {
  auto addr = cursor_.piece(bytes.n);
  if (!addr || !task_.memory().copy_from_file(*addr, bytes)) return false;
  taken_ = {nullptr, -1, false, bytes.offset, *addr, bytes.n};
  cursor_.forward(bytes.n);
  left_ -= bytes.n;
  return true;
}

Result<size_t> UserSource::get(void* to, size_t n) {
  size_t done = TRY(cursor_.fetch(to, n));
  left_ -= done;
  return done;
}

const u8* UserSource::view(size_t n) {
  const auto addr = cursor_.piece(n);
  return addr ? task_.thread->at_hand(*addr, n) : nullptr;
}

Result<i64> finish_io(Task& task, size_t done, Result<void> error, OnBrokenPipe broken) {
  if (!error && error.error() == Errno::kPipe && broken == OnBrokenPipe::kSignal) {
    task::send_to_task(task, task::user_siginfo(task, SIGPIPE));
  }
  if (done > 0 || error) return static_cast<i64>(done);
  return error.error();
}

namespace {
// Few files are used through their position by two tasks at once, so locks are shared by address: a collision costs a
// wait for some other file's transfer, never a wait for a guest, since positions belong to files that do not block.
fiber::SleepLock& position_lock(const vfs::File& file) {
  static auto* locks = new fiber::SleepLock[64];
  return locks[(reinterpret_cast<uintptr_t>(&file) >> 6) % 64];
}
}  // namespace

PositionLock::PositionLock(vfs::File& file) : lock_(&position_lock(file)) { lock_->lock(); }
PositionLock::~PositionLock() { lock_->unlock(); }

namespace {
constexpr size_t kChunk = 65536;  // files with a position may move this much a time

// A nameless object (eventfd, timerfd...) takes one value a call; everything else is a stream of bytes or messages.
bool takes_all(const vfs::File& file) { return file.inode() == nullptr || file.inode()->type() != 0; }

// The blocking loop. Of all files only sockets may have been told for how long (SO_RCVTIMEO, SO_SNDTIMEO).
template <typename Attempt>
Result<size_t> block(vfs::File& file, u64 net::Socket::*timeout, const char* reason, Attempt attempt) {
  if (file.inode() != nullptr && file.inode()->type() == S_IFSOCK) {
    auto* socket = dynamic_cast<net::Socket*>(&file);
    if (socket != nullptr) return wait_for_socket(*socket, Wait::kYes, socket->*timeout, reason, attempt);
  }
  return file.block_until(attempt, reason);
}
}  // namespace

bool lends_to(const Task& task) {
  constexpr u32 kAnswered[] = {SYS_read,    SYS_pread64,    SYS_recvfrom, SYS_write, SYS_writev, SYS_sendto,
                               SYS_sendmsg, SYS_newfstatat, SYS_fstat,    SYS_lseek, SYS_ioctl,  SYS_close};
  return !task.seccomp || std::all_of(std::begin(kAnswered), std::end(kAnswered),
                                      [&](u32 nr) { return task.seccomp->always_allows(nr); });
}

void lend_position(Task& task, int fd, const RefPtr<vfs::File>& file) {
  if (!file->seekable()) return;
  if (!lends_to(task)) return;
  task.fds->lend_position(fd, file, *task.thread);
}

void lend_close(Task& task, int fd, const RefPtr<vfs::File>& file) {
  if (!file->seekable()) return;
  if (lends_to(task)) task.fds->lend_close(fd, file, *task.thread);
}

void lend_bytes(Task& task, int fd, vfs::File& file, size_t asked, i64 got) {
  constexpr size_t kMost = 16384;  // who reads more leaves little, and comes seldom
  if (asked > kMost || !lends_to(task)) return;
  task.fds->lend_bytes(fd, file, got == static_cast<i64>(asked), *task.thread);
}

void lend_counted(Task& task, int fd, vfs::File& file) {
  if (!file.told_by_host() || !lends_to(task)) return;
  task.fds->lend_rest(fd, file, vfs::File::After::kCount, *task.thread);
}

void lend_room(Task& task, int fd, vfs::File& file) {
  if (lends_to(task)) task.fds->lend_room(fd, file, *task.thread);
}

void lend_posts(Task& task, int fd, vfs::File& file) {
  if (!file.told_by_host() || !lends_to(task)) return;
  task.fds->lend_posts(fd, file, *task.thread);
}

Result<size_t> read_file(vfs::File& file, vfs::Sink& sink, u64* offset) {
  auto moved = block(file, &net::Socket::receive_timeout, "read", [&] { return file.read(sink, offset); });
  if (!moved || *moved == 0) return moved;
  size_t done = *moved;
  // What is no multiple of a chunk was cut short by the end of the file or by a fault.
  while (file.seekable() && sink.left() > 0 && *moved > 0 && *moved % kChunk == 0) {
    moved = file.read(sink, offset);
    if (!moved) break;
    done += *moved;
  }
  vfs::after_read(file);
  return done;
}

Written write_file(const security::Credentials& creds, vfs::File& file, vfs::Source& source, u64* offset) {
  Written written;
  const bool all = takes_all(file);
  const size_t total = source.left();  // not asked again: /dev/null takes bytes without looking at them
  // One attempt even for no bytes: it has the errors, and an empty datagram is a message.
  do {
    auto moved = block(file, &net::Socket::send_timeout, "write", [&] { return file.write(source, offset); });
    if (!moved) {
      written.error = moved.error();
      break;
    }
    written.done += *moved;
    if (*moved == 0) break;
  } while (all && written.done < total);
  if (written.done > 0) vfs::after_write(creds, file);
  return written;
}

Result<u64> size_limit(Task& task, vfs::File& file, u64 offset, u64 length) {
  if (file.inode() == nullptr || file.inode()->type() != S_IFREG) return length;
  u64 limit = std::min<u64>(task.group->limit(RLIMIT_FSIZE), INT64_MAX);
  if (offset + length <= limit) return length;
  if (offset < limit) return limit - offset;
  if (limit != INT64_MAX) task::send_to_task(task, task::user_siginfo(task, SIGXFSZ));
  return Errno::kFbig;
}

}  // namespace sbx::syscalls
