#include "sentry/fs/pipe/pipe.h"

#include <sys/ioctl.h>

#include <bit>

#include "sentry/base/counters.h"
#include "sentry/fs/anon/node.h"
#include "sentry/vfs/special.h"

namespace sbx::fs::pipe {
namespace {

constexpr u64 kUnprivilegedMax = 1 << 20;  // /proc/sys/fs/pipe-max-size
constexpr u64 kMax = 1ull << 31;

COUNTER(pipes_made, "pipe.made", "pipes made by pipe(2)");

anon::NamelessFs& pipefs() {
  constexpr u64 kMagic = 0x50495045;  // PIPEFS_MAGIC
  static auto* fs = make_ref<anon::NamelessFs>("pipefs", kMagic).leak();
  return *fs;
}

}  // namespace

void Pipe::wake_readers() {
  if (!read_queue.empty()) read_queue.wake_all();
}

void Pipe::wake_writers() {
  if (!write_queue.empty()) write_queue.wake_all();
  if (both_ways > 0) wake_readers();
}

void Pipe::wake_everybody() {
  wake_readers();
  if (!write_queue.empty()) write_queue.wake_all();
}

Result<u64> Pipe::resize(u64 bytes, bool privileged) {
  if (bytes > kMax) return Errno::kInval;
  u64 size = std::bit_ceil(bytes < kPageSize ? kPageSize : bytes);
  lent.end();
  if (size > content().capacity() && size > kUnprivilegedMax && !privileged) return Errno::kPerm;
  if (!content().set_capacity(size)) return Errno::kBusy;
  wake_writers();
  return size;
}

void Pipe::settle() {
  if (const size_t taken = lent.take_back(); taken > 0) buffer_.consume(taken);
  const bool news = lent.collect([this](const u8* from, size_t n) {
    vfs::KernelSource source(from, n);
    auto added = buffer_.write(source, n);
    return added && *added == n;
  });
  if (news) wake_readers();
  lent.allow(buffer_.free_space());
}

void Pipe::make_room(size_t n) {
  settle();
  if (buffer_.free_space() >= n + lent.claim()) return;
  lent.end();
  settle();
}

PipeFile::PipeFile(vfs::Path path, u32 flags, RefPtr<Pipe> pipe)
    : File(std::move(path), flags), pipe_(std::move(pipe)) {
  if (readable()) {
    ++pipe_->readers;
    ++pipe_->reader_opens;
  }
  if (writable()) {
    ++pipe_->writers;
    ++pipe_->writer_opens;
  }
  if (readable() && writable()) ++pipe_->both_ways;
}

PipeFile::~PipeFile() {
  if (readable()) pipe_->lent.end();  // who writes may be in for a SIGPIPE
  if (readable()) --pipe_->readers;
  if (writable()) --pipe_->writers;
  if (readable() && writable()) --pipe_->both_ways;
  if (pipe_->readers == 0 && pipe_->writers == 0) pipe_->content().consume(pipe_->content().used());
  pipe_->wake_everybody();
}

Result<size_t> PipeFile::read(vfs::Sink& sink, u64*) {
  Pipe& p = *pipe_;
  if (sink.left() == 0) return size_t{0};
  PipeBuffer& buffer = p.content();
  if (buffer.empty()) {
    if (p.writers == 0) return size_t{0};
    return Errno::kAgain;
  }
  auto done = buffer.read(sink);
  // A parked writer needs at most PIPE_BUF bytes of room, and so much is what POLLOUT promises.
  if (done && *done > 0 && buffer.free_space() >= kAtomicBytes) p.wake_writers();
  return done;
}

Result<size_t> PipeFile::write(vfs::Source& source, u64*) {
  Pipe& p = *pipe_;
  size_t left = source.left();
  if (left == 0) return size_t{0};
  if (p.readers == 0) return Errno::kPipe;
  PipeBuffer& buffer = p.content_for(left);
  size_t room = buffer.free_space();
  Result<size_t> done = Errno::kAgain;
  if (flags() & O_DIRECT) {
    size_t total = 0;
    while (source.left() > 0) {
      size_t packet = source.left() < kAtomicBytes ? source.left() : kAtomicBytes;
      if (buffer.free_space() < kAtomicBytes) break;
      done = buffer.write_packet(source, packet);
      if (!done) break;
      total += *done;
      if (*done < packet) break;
    }
    if (total > 0) done = total;
  } else if (left <= kAtomicBytes ? room >= left : room > 0) {
    done = buffer.write(source, left < room ? left : room);
  }
  if (done && *done > 0) p.wake_readers();
  return done;
}

u32 PipeFile::readiness() {
  Pipe& p = *pipe_;
  u32 mask = 0;
  if (readable()) {
    if (!p.content().empty()) mask |= POLLIN | POLLRDNORM;
    if (p.writers == 0 && writers_seen_ != p.writer_opens) mask |= POLLHUP;
  }
  if (writable()) {
    if (p.content().free_space() >= kAtomicBytes) mask |= POLLOUT | POLLWRNORM;
    if (p.readers == 0) mask |= POLLERR;
  }
  return mask;
}

// Who joins is to hear of what comes and goes from here on.
fiber::WaitQueue* PipeFile::wait_queue() {
  if (readable() && !writable())
    pipe_->lent.await();
  else
    pipe_->lent.end();
  (void)pipe_->content();
  return readable() ? &pipe_->read_queue : &pipe_->write_queue;
}

void PipeFile::set_flags(u32 flags) {
  pipe_->lent.end();
  (void)pipe_->content();
  File::set_flags(flags);
}

// Nobody waits for room, who would have to hear of what is taken.
platform::LentStream* PipeFile::lent_reads() {
  const bool waited_for = !pipe_->write_queue.empty() || (pipe_->both_ways > 0 && !pipe_->read_queue.empty());
  return waited_for ? nullptr : &pipe_->lent;
}

// Somebody is there to read them.
platform::LentStream* PipeFile::lent_writes() {
  return pipe_->both_ways > 0 || pipe_->readers == 0 || (flags() & O_DIRECT) != 0 ? nullptr : &pipe_->lent;
}

size_t PipeFile::peek_bytes(u8* to, size_t most) { return pipe_->content().copy_plain(to, most); }

void PipeFile::room_lent(RefPtr<platform::WriteRing> ring) {
  pipe_->lent.room_lent(std::move(ring));
  if (!pipe_->read_queue.empty()) pipe_->lent.await();
  (void)pipe_->content();
}

Result<i64> PipeFile::ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) {
  if (cmd != FIONREAD) return Errno::kNotty;
  auto bytes = static_cast<int>(pipe_->content().used());
  TRY(caller.write(arg, &bytes, sizeof(bytes)));
  return i64{0};
}

Pipe* PipeFile::pipe_of(vfs::File& file) {
  auto* pipe_file = dynamic_cast<PipeFile*>(&file);
  return pipe_file == nullptr ? nullptr : pipe_file->pipe_.get();
}

Result<PipePair> make_pipe(u32 flags, u32 uid, u32 gid) {
  if (flags & ~u32{O_NONBLOCK | O_DIRECT | O_CLOEXEC}) return Errno::kInval;
  flags &= ~u32{O_CLOEXEC};
  auto pipe = make_ref<Pipe>();
  auto inode = make_ref<anon::NamelessInode>(pipefs(), S_IFIFO | 0600, uid, gid);
  // Opening /proc/PID/fd/N gives a new end, as if it were a FIFO.
  inode->special_state() = pipe;
  anon::NamelessInode* self = inode.get();
  inode->reopen = [self](const vfs::Path& at, u32 open_flags) { return open_fifo(*self, at, open_flags); };
  vfs::Path path = anon::nameless_path(pipefs(), "pipe", inode);
  PipePair pair;
  pair.reader = make_ref<PipeFile>(path, O_RDONLY | flags, pipe);
  pair.writer = make_ref<PipeFile>(path, O_WRONLY | flags, pipe);
  pipes_made.add();
  return pair;
}

Result<RefPtr<vfs::File>> open_fifo(vfs::Inode& inode, const vfs::Path& path, u32 flags) {
  RefPtr<Pipe> pipe = ref_cast<Pipe>(inode.special_state());
  if (!pipe) {
    pipe = make_ref<Pipe>();
    inode.special_state() = pipe;
  }
  u32 mode = flags & O_ACCMODE;
  if (mode != O_RDONLY && mode != O_WRONLY && mode != O_RDWR) return Errno::kInval;
  bool nonblocking = flags & O_NONBLOCK;
  if (mode == O_WRONLY && nonblocking && pipe->readers == 0 && &inode.fs() != &pipefs()) return Errno::kNxio;
  auto file = make_ref<PipeFile>(path, flags, pipe);
  // The other side may be waiting for us in open or in read.
  pipe->wake_everybody();
  // Only named pipes wait for their other end (fs/pipe.c fifo_open: "is_pipe"); a nameless one is opened by
  // /proc/PID/fd.
  bool named = &inode.fs() != &pipefs();
  if (named && mode == O_RDONLY && pipe->writers == 0) {
    if (nonblocking) {
      file->writers_seen_ = pipe->writer_opens;
    } else {
      u64 before = pipe->writer_opens;
      TRY(pipe->read_queue.wait_until([&] { return pipe->writer_opens != before; }, "fifo open"));
    }
  } else if (named && mode == O_WRONLY && pipe->readers == 0) {
    u64 before = pipe->reader_opens;
    TRY(pipe->write_queue.wait_until([&] { return pipe->reader_opens != before; }, "fifo open"));
  }
  return RefPtr<vfs::File>(file);
}

void register_fifo() {
  vfs::register_special(
      S_IFIFO, [](vfs::Inode& inode, u64, const vfs::Path& path, u32 flags) { return open_fifo(inode, path, flags); });
}

}  // namespace sbx::fs::pipe
