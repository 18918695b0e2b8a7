// Moving bytes between descriptors without passing through the guest: sendfile, splice, tee, vmsplice, copy_file_range.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "sentry/fs/pipe/splice.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/user_io.h"

namespace sbx::syscalls {
namespace {

using fs::pipe::PipeFile;
using fs::pipe::Stuck;

// Repeats an attempt until it moved something, failed, or would wait and must not. Interrupted: kRestartSys.
template <typename Attempt>
Result<size_t> wait_and_move(Attempt attempt, bool nonblocking, const char* reason) {
  Stuck stuck;
  Result<size_t> moved = attempt(&stuck);
  while (!moved && moved.error() == Errno::kAgain && stuck.file != nullptr) {
    RefPtr<vfs::File> file(stuck.file);
    fiber::WaitQueue* queue = file->wait_queue();
    if (nonblocking || file->nonblocking() || queue == nullptr) break;
    fiber::Waiter waiter(fiber::current());
    waiter.join(*queue);
    // Both sides take turns at being in the way: each wait is for the one that is now.
    moved = attempt(&stuck);
    if (moved || moved.error() != Errno::kAgain || stuck.file != file.get()) continue;
    if (fiber::current()->interrupted()) return Errno::kRestartSys;
    fiber::current()->set_wait_reason(reason);
    fiber::park();
    moved = attempt(&stuck);
  }
  return moved;
}

// The position one side of a transfer uses: the guest's own variable, the file's position, or none (streams).
class Offset {
 public:
  // kSpipe: an offset for a file that has none.
  static Result<Offset> of(Task& task, vfs::File& file, u64 addr) {
    Offset offset;
    offset.addr_ = addr;
    if (addr == 0) {
      offset.value_ = file.position;
      offset.file_ = file.seekable() ? &file : nullptr;
      return offset;
    }
    if (!file.seekable()) return Errno::kSpipe;
    i64 value = TRY(In<i64>{addr}.read(task));
    if (value < 0) return Errno::kInval;
    offset.value_ = static_cast<u64>(value);
    return offset;
  }
  u64* get() { return addr_ != 0 || file_ != nullptr ? &value_ : nullptr; }
  Result<void> finish(Task& task) {
    if (addr_ != 0) return Out<i64>{addr_}.write(task, static_cast<i64>(value_));
    if (file_ != nullptr) file_->position = value_;
    return {};
  }

 private:
  u64 addr_ = 0, value_ = 0;
  vfs::File* file_ = nullptr;
};

Result<RefPtr<vfs::File>> readable(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  if (!file->readable()) return Errno::kBadf;
  return file;
}

Result<RefPtr<vfs::File>> writable(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  if (!file->writable()) return Errno::kBadf;
  return file;
}

u32 type_of(const vfs::File& file) { return file.inode() != nullptr ? file.inode()->type() : 0; }

void told(Task& task, vfs::File& in, vfs::File& out, size_t done) {
  if (done == 0) return;
  vfs::after_read(in);
  vfs::after_write(*task.creds, out);
}

// Copies until `length` bytes moved or the input ends.
Result<i64> copy_all(Task& task, vfs::File& in, Offset& from, vfs::File& out, Offset& to, u64 length) {
  const bool to_pipe = PipeFile::pipe_of(out) != nullptr;
  if (to.get() != nullptr) length = TRY(size_limit(task, out, *to.get(), length));
  size_t done = 0;
  Result<void> error;
  while (done < length) {
    auto moved = wait_and_move(
        [&](Stuck* stuck) {
          return to_pipe ? fs::pipe::splice(in, from.get(), out, to.get(), length - done, stuck)
                         : fs::pipe::copy(in, from.get(), out, to.get(), length - done, stuck);
        },
        false, "sendfile");
    if (!moved) {
      error = moved.error();
      break;
    }
    if (*moved == 0) break;
    done += *moved;
  }
  told(task, in, out, done);
  TRY(from.finish(task));
  TRY(to.finish(task));
  return finish_io(task, done, error);
}

}  // namespace

Result<i64> sys_sendfile(Task& task, Fd out_fd, Fd in_fd, UserAddr offset, Size length) {
  if (static_cast<i64>(length) < 0) return Errno::kInval;
  auto in = TRY(readable(task, in_fd));
  Offset from = TRY(Offset::of(task, *in, offset.addr));
  auto out = TRY(writable(task, out_fd));
  if (!in->seekable() || (out->flags() & O_APPEND)) return Errno::kInval;
  Offset to = TRY(Offset::of(task, *out, 0));
  return copy_all(task, *in, from, *out, to, std::min(length, kMaxTransfer));
}

Result<i64> sys_copy_file_range(Task& task, Fd in_fd, UserAddr in_offset, Fd out_fd, UserAddr out_offset, Size length,
                                Hex flags) {
  auto in = TRY(readable(task, in_fd));
  auto out = TRY(writable(task, out_fd));
  if (flags.v != 0) return Errno::kInval;
  if (out->flags() & O_APPEND) return Errno::kBadf;
  if (type_of(*in) == S_IFDIR || type_of(*out) == S_IFDIR) return Errno::kIsdir;
  if (type_of(*in) != S_IFREG || type_of(*out) != S_IFREG) return Errno::kInval;
  Offset from = TRY(Offset::of(task, *in, in_offset.addr));
  Offset to = TRY(Offset::of(task, *out, out_offset.addr));
  if (from.get() == nullptr || to.get() == nullptr) return Errno::kInval;
  length = std::min(length, kMaxTransfer);
  const u64 a = *from.get(), b = *to.get();
  if (in->inode() == out->inode() && a < b + length && b < a + length) return Errno::kInval;
  auto done = copy_all(task, *in, from, *out, to, length);
  lend_close(task, out_fd.n, out);
  return done;
}

namespace {
constexpr u64 kSpliceFlags = 0xf, kSpliceNonblock = 2;  // SPLICE_F_*
}

Result<i64> sys_splice(Task& task, Fd in_fd, UserAddr in_offset, Fd out_fd, UserAddr out_offset, Size length,
                       Hex flags) {
  if (length == 0) return 0;
  if (flags.v & ~kSpliceFlags) return Errno::kInval;
  auto in = TRY(readable(task, in_fd));
  auto out = TRY(writable(task, out_fd));
  const bool from_pipe = PipeFile::pipe_of(*in) != nullptr, to_pipe = PipeFile::pipe_of(*out) != nullptr;
  if ((from_pipe && in_offset.addr != 0) || (to_pipe && out_offset.addr != 0)) return Errno::kSpipe;
  if (!from_pipe && !to_pipe) return Errno::kInval;
  if (!to_pipe && (out->flags() & O_APPEND)) return Errno::kInval;
  Offset from = TRY(Offset::of(task, *in, in_offset.addr));
  Offset to = TRY(Offset::of(task, *out, out_offset.addr));
  length = std::min(length, kMaxTransfer);
  if (to.get() != nullptr) length = TRY(size_limit(task, *out, *to.get(), length));
  auto moved =
      wait_and_move([&](Stuck* stuck) { return fs::pipe::splice(*in, from.get(), *out, to.get(), length, stuck); },
                    flags.v & kSpliceNonblock, "splice");
  if (!moved) return finish_io(task, 0, moved.error());
  told(task, *in, *out, *moved);
  TRY(from.finish(task));
  TRY(to.finish(task));
  return static_cast<i64>(*moved);
}

Result<i64> sys_tee(Task& task, Fd in_fd, Fd out_fd, Size length, Hex flags) {
  if (flags.v & ~kSpliceFlags) return Errno::kInval;
  if (length == 0) return 0;
  auto in = TRY(readable(task, in_fd));
  auto out = TRY(writable(task, out_fd));
  length = std::min(length, kMaxTransfer);
  auto moved = wait_and_move([&](Stuck* stuck) { return fs::pipe::tee(*in, *out, length, stuck); },
                             flags.v & kSpliceNonblock, "tee");
  if (!moved) return finish_io(task, 0, moved.error());
  return static_cast<i64>(*moved);
}

// Copies: whether pages are given away or shared, nobody can tell but by time.
Result<i64> sys_vmsplice(Task& task, Fd fd, Array<iovec> vecs, ULong count, Hex flags) {
  if (flags.v & ~kSpliceFlags) return Errno::kInval;
  auto file = TRY(task.fds->get(fd.n));
  if (PipeFile::pipe_of(*file) == nullptr) return Errno::kBadf;
  auto buffers = TRY(UserBuffers::read(task, vecs.addr, count));
  if (buffers.total() == 0) return 0;
  const bool nonblocking = flags.v & kSpliceNonblock;
  if (file->writable()) {
    UserSource source(task, buffers);
    if (!nonblocking) {
      Written written = write_file(*task.creds, *file, source, nullptr);
      return finish_io(task, written.done, written.error);
    }
    auto moved = file->write(source, nullptr);
    if (!moved) return finish_io(task, 0, moved.error());
    return static_cast<i64>(*moved);
  }
  UserSink sink(task, buffers);
  auto moved = nonblocking ? file->read(sink, nullptr) : read_file(*file, sink, nullptr);
  if (!moved) return moved.error();
  return static_cast<i64>(*moved);
}

}  // namespace sbx::syscalls
