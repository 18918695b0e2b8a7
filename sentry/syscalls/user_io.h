// Guest memory as the two ends of a transfer, and the rules every transfer obeys: counts, partial results, positions.
#pragma once
#include <algorithm>
#include <memory>
#include <optional>

#include "sentry/abi/file.h"
#include "sentry/syscalls/args.h"
#include "sentry/vfs/walk.h"

namespace sbx::syscalls {

constexpr u64 kMaxTransfer = 0x7ffff000;  // MAX_RW_COUNT: one call moves no more
constexpr u64 kMaxIoVecs = 1024;          // UIO_MAXIOV

// A list of guest buffers: one, or the iovecs of a readv-like call, read once from the guest. Empty ones are kept.
class UserBuffers {
 public:
  UserBuffers(u64 addr, u64 length);
  // kInval: too many, negative or overflowing lengths; kFault.
  static Result<UserBuffers> read(Task& task, u64 addr, u64 count);

  size_t total() const { return total_; }
  const abi::IoVec* begin() const { return more_ ? more_.get() : few_; }
  const abi::IoVec* end() const { return begin() + count_; }

 private:
  UserBuffers() = default;
  static constexpr u64 kFew = 8;
  abi::IoVec few_[kFew];
  std::unique_ptr<abi::IoVec[]> more_;
  u64 count_ = 0;
  size_t total_ = 0;
};

// Where a transfer stands in a list of guest buffers.
class UserCursor {
 public:
  UserCursor(Task& task, const UserBuffers& buffers)
      : task_(task), begin_(buffers.begin()), at_(buffers.begin()), end_(buffers.end()) {}
  // Moves n bytes; fewer at a fault, kFault if none.
  Result<size_t> store(const void* from, size_t n);
  Result<size_t> fetch(void* to, size_t n);
  // Where the next n bytes lie, if that is in one piece.
  std::optional<u64> piece(size_t n);
  void forward(size_t n) { skip_ += n; }
  // Address of the next byte; 0 at the end.
  u64 place() const { return at_ != end_ ? at_->base + skip_ : 0; }
  // Stands n bytes earlier again.
  void back(size_t n);

 private:
  template <typename Move>
  Result<size_t> each(size_t n, Move move);
  Task& task_;
  const abi::IoVec* begin_;
  const abi::IoVec* at_;
  const abi::IoVec* end_;
  u64 skip_ = 0;  // bytes of *at_ already used
};

class UserSink final : public vfs::Sink {
 public:
  UserSink(Task& task, const UserBuffers& buffers) : Sink(buffers.total()), task_(task), cursor_(task, buffers) {}
  Result<size_t> put(const void* from, size_t n) override;
  bool take(const platform::FileBytes& bytes) override;
  u64 place() const override { return cursor_.place(); }
  // What take() took; n = 0: nothing.
  const task::FileRead& taken() const { return taken_; }

 private:
  Task& task_;
  UserCursor cursor_;
  task::FileRead taken_{};
};

class UserSource final : public vfs::Source {
 public:
  UserSource(Task& task, const UserBuffers& buffers) : Source(buffers.total()), task_(task), cursor_(task, buffers) {}
  Result<size_t> get(void* to, size_t n) override;
  void put_back(size_t n) override {
    cursor_.back(n);
    left_ += n;
  }
  const u8* view(size_t n) override;
  void pass(size_t n) override {
    cursor_.forward(n);
    left_ -= n;
  }
  u64 place() const override { return cursor_.place(); }
  // No more than n bytes in all (RLIMIT_FSIZE).
  void cap(size_t n) { left_ = std::min(left_, n); }

 private:
  Task& task_;
  UserCursor cursor_;
};

// The partial-transfer rule, here and nowhere else: bytes that moved hide the error that stopped the call. A broken
// pipe with nothing moved sends SIGPIPE to the caller unless it asked for none.
enum class OnBrokenPipe : u8 { kSignal, kErrorOnly };
Result<i64> finish_io(Task& task, size_t done, Result<void> error, OnBrokenPipe broken = OnBrokenPipe::kSignal);

// Keeps a file's position to one user at a time where the transfer may park (f_pos_lock).
class PositionLock {
 public:
  explicit PositionLock(vfs::File& file);
  ~PositionLock();
  PositionLock(const PositionLock&) = delete;
  PositionLock& operator=(const PositionLock&) = delete;

 private:
  fiber::SleepLock* lock_;
};

// No filter of the task's has to see calls on descriptors that its stub answers. What is lent is the process's: once
// anything is lent to a thread it answers all of them.
bool lends_to(const Task& task);
// What follows on this descriptor the stub may answer by itself (platform/file_lease.h), if filters let such calls pass
// anyway.
void lend_position(Task& task, int fd, const RefPtr<vfs::File>& file);
// The process may close by itself the file that it has just written to, or the directory that it has read.
void lend_close(Task& task, int fd, const RefPtr<vfs::File>& file);
// The same with what a read of `asked` bytes that got `got` left in a pipe or socket, and with room there for what is
// written next (platform/stream_lease.h).
void lend_bytes(Task& task, int fd, vfs::File& file, size_t asked, i64 got);
void lend_room(Task& task, int fd, vfs::File& file);
// What is written next to a socket of the host the process may post (platform/outbox.h).
void lend_posts(Task& task, int fd, vfs::File& file);
// With what the process has just been told there is.
void lend_counted(Task& task, int fd, vfs::File& file);

// The loops of read(2) and write(2) for any sink and source. `offset` null: the file's own position (streams ignore
// it).
Result<size_t> read_file(vfs::File& file, vfs::Sink& sink, u64* offset);
// Writes until the source is empty where the file blocks. Result: bytes moved and why it stopped.
struct Written {
  size_t done = 0;
  Result<void> error;
};
Written write_file(const security::Credentials& creds, vfs::File& file, vfs::Source& source, u64* offset);
// RLIMIT_FSIZE: bytes that may be written at `offset`; kFbig and SIGXFSZ if none.
Result<u64> size_limit(Task& task, vfs::File& file, u64 offset, u64 length);

}  // namespace sbx::syscalls
