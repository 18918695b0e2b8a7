// pipe(7) and fifo(7): the shared pipe and its open ends. splice.h moves bytes between pipes and files.
#pragma once
#include "sentry/fs/pipe/pipe_buffer.h"
#include "sentry/platform/stream_lease.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::pipe {

// The object both ends refer to. Kept alive by the open ends (and by a FIFO's inode, memory-free while nobody has it
// open).
class Pipe final : public RefCounted {
 public:
  // What is in it, with all that processes have written and taken by themselves.
  PipeBuffer& content() {
    if (lent.any()) settle();
    return buffer_;
  }
  // The same for somebody who adds up to n bytes: what is free there is nobody else's.
  PipeBuffer& content_for(size_t n) {
    if (lent.any()) make_room(n);
    return buffer_;
  }
  platform::LentStream lent{[this] {
    (void)content();
    return !read_queue.empty();
  }};
  u32 readers = 0, writers = 0;
  // How many ends were ever opened: FIFO opens wait for these to move, and a reader that was there before the first
  // writer sees no POLLHUP (fs/pipe.c, f_version).
  u64 reader_opens = 0, writer_opens = 0;
  // Read ends wait in `read_queue`, write ends in `write_queue`; an end open for both listens to the first, which then
  // hears of everything.
  fiber::WaitQueue read_queue, write_queue;
  u32 both_ways = 0;

  // After bytes came, went, or an end opened or closed.
  void wake_readers();
  void wake_writers();
  void wake_everybody();
  // F_SETPIPE_SZ: rounds up to a power of two of pages, answers the new size. kPerm above the limit of unprivileged
  // users (1 MiB), kBusy if it holds more, kInval for sizes that cannot be.
  Result<u64> resize(u64 bytes, bool privileged);

 private:
  void settle();
  void make_room(size_t n);
  PipeBuffer buffer_;
};

class PipeFile final : public vfs::File {
 public:
  // Counts itself in the pipe.
  PipeFile(vfs::Path path, u32 flags, RefPtr<Pipe> pipe);
  Pipe& pipe() const { return *pipe_; }

  Result<size_t> read(vfs::Sink& sink, u64* offset) override;
  // May be short for a blocking file: the caller goes on until the source is empty. kPipe: the caller sends SIGPIPE.
  Result<size_t> write(vfs::Source& source, u64* offset) override;
  u32 readiness() override;
  fiber::WaitQueue* wait_queue() override;
  bool tells_async() const override { return true; }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override;
  void set_flags(u32 flags) override;
  platform::LentStream* lent_reads() override;
  platform::LentStream* lent_writes() override;
  size_t bytes_left() override { return pipe_->content().used(); }
  size_t peek_bytes(u8* to, size_t most) override;
  void room_lent(RefPtr<platform::WriteRing> ring) override;
  void take_lent() override { (void)pipe_->content(); }

  // The pipe behind a file, or null (F_SETPIPE_SZ, splice).
  static Pipe* pipe_of(vfs::File& file);

 private:
  friend Result<RefPtr<vfs::File>> open_fifo(vfs::Inode& inode, const vfs::Path& path, u32 flags);
  ~PipeFile() override;
  RefPtr<Pipe> pipe_;
  u64 writers_seen_ = ~0ull;  // writer_opens when a read end was opened without a writer
};

struct PipePair {
  RefPtr<vfs::File> reader, writer;
};
// pipe2(2). flags: O_NONBLOCK, O_DIRECT (O_CLOEXEC is the descriptor's business); kInval for others. uid, gid: the
// owner fstat(2) shows.
Result<PipePair> make_pipe(u32 flags, u32 uid, u32 gid);

// Opens a FIFO; parks until the other end is there unless O_NONBLOCK (fifo(7)). The pipe lives in
// inode.special_state().
Result<RefPtr<vfs::File>> open_fifo(vfs::Inode& inode, const vfs::Path& path, u32 flags);
// Makes FIFOs of all filesystems open through open_fifo. Once, at start.
void register_fifo();

}  // namespace sbx::fs::pipe
