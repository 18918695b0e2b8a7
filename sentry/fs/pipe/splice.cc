#include "sentry/fs/pipe/splice.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>

#include "sentry/vfs/bounce.h"

namespace sbx::fs::pipe {
namespace {

constexpr size_t kChunk = 65536;

Result<size_t> would_block(Stuck* stuck, vfs::File& file, u32 events) {
  if (stuck != nullptr) *stuck = {&file, events};
  return Errno::kAgain;
}

// True: `pipe` is empty but somebody may still write to it.
bool nothing_yet(Pipe& pipe) { return pipe.content().empty() && pipe.writers > 0; }

void drained(Pipe& pipe) {
  if (pipe.content().free_space() >= kAtomicBytes) pipe.wake_writers();
}

Result<size_t> between_pipes(Pipe& from, vfs::File& in, Pipe& to, vfs::File& out, size_t length, bool consume,
                             Stuck* stuck) {
  if (&from == &to) return Errno::kInval;
  if (to.readers == 0) return Errno::kPipe;
  if (from.content().empty()) {
    if (from.writers == 0) return size_t{0};
    return would_block(stuck, in, POLLIN);
  }
  size_t room = to.content_for(length).free_space();
  if (room == 0) return would_block(stuck, out, POLLOUT);
  size_t want = std::min({length, room, from.content().used()});
  size_t done = 0;
  while (done < want) {
    size_t got = 0;
    const u8* bytes =
        consume ? from.content().peek(want - done, &got) : from.content().peek_at(done, want - done, &got);
    vfs::KernelSource source(bytes, got);
    auto added = to.content().write(source, got);
    if (!added) {
      if (done == 0) return added.error();
      break;
    }
    if (consume) from.content().consume(*added);
    done += *added;
    if (*added < got) break;
  }
  if (consume) drained(from);
  to.wake_readers();
  return done;
}

Result<size_t> pipe_to_file(Pipe& from, vfs::File& in, vfs::File& out, u64* out_offset, size_t length, Stuck* stuck) {
  if (from.content().empty()) {
    if (nothing_yet(from)) return would_block(stuck, in, POLLIN);
    return size_t{0};
  }
  size_t done = 0;
  while (done < length && !from.content().empty()) {
    size_t got = 0;
    const u8* bytes = from.content().peek(length - done, &got);
    // The file may park (a gofer write) and the ring move meanwhile: it writes from a copy.
    vfs::Bounce copy(got = std::min(got, vfs::Bounce::kMost));
    std::memcpy(copy.data(), bytes, got);
    vfs::KernelSource source(copy.data(), got);
    auto written = out.write(source, out_offset);
    if (!written) {
      if (done > 0) break;
      if (written.error() == Errno::kAgain) return would_block(stuck, out, POLLOUT);
      return written.error();
    }
    from.content().consume(*written);
    done += *written;
    if (*written < got) break;
  }
  drained(from);
  return done;
}

Result<size_t> file_to_pipe(vfs::File& in, u64* in_offset, Pipe& to, vfs::File& out, size_t length, Stuck* stuck) {
  if (to.readers == 0) return Errno::kPipe;
  size_t room = to.content_for(length).free_space();
  if (room == 0) return would_block(stuck, out, POLLOUT);
  size_t want = std::min({length, room, kChunk});
  vfs::Bounce chunk(want);
  vfs::KernelSink sink(chunk.data(), want);
  auto got = in.read(sink, in_offset);
  if (!got) {
    if (got.error() == Errno::kAgain) return would_block(stuck, in, POLLIN);
    return got.error();
  }
  vfs::KernelSource source(chunk.data(), *got);
  // Room can only have shrunk if the read parked and another writer came; what does not fit exceeds the capacity for a
  // moment rather than being lost.
  size_t done = TRY(to.content().write(source, *got));
  if (done > 0) to.wake_readers();
  return done;
}

// Whether the host has these bytes at hand, as far as their first and last ones tell: who waits for a disk is not to
// hold the kernel lock. A filesystem that cannot tell (an overlay) is read like that, too.
bool at_hand(int fd, u64 offset, size_t n) {
  for (u64 at : {offset, offset + n - 1}) {
    u8 byte;
    iovec to{&byte, 1};
    if (preadv2(fd, &to, 1, static_cast<off64_t>(at), RWF_NOWAIT) < 0) return errno == EOPNOTSUPP;
  }
  return true;
}

// From the host's file to the host's socket, not by way of us. None: these two are not of that kind.
std::optional<Result<size_t>> send_by_host(vfs::File& in, u64 offset, vfs::File& out, size_t length) {
  if (!out.sends_files() || length == 0) return std::nullopt;
  auto handle = in.map_handle(false);
  if (!handle || handle->known_as == nullptr || handle->host_fd < 0) return std::nullopt;
  const size_t n = std::min(length, kChunk);
  if (offset > static_cast<u64>(INT64_MAX) - n || !at_hand(handle->host_fd, offset, n)) return std::nullopt;
  auto sent = out.send_file(handle->host_fd, handle->offset + offset, n);
  if (!sent && sent.error() == Errno::kInval) return std::nullopt;  // the host's filesystem cannot do that
  return sent;
}

}  // namespace

Result<size_t> splice(vfs::File& in, u64* in_offset, vfs::File& out, u64* out_offset, size_t length, Stuck* stuck) {
  if (length == 0) return size_t{0};
  Pipe* from = PipeFile::pipe_of(in);
  Pipe* to = PipeFile::pipe_of(out);
  if (from != nullptr && to != nullptr) return between_pipes(*from, in, *to, out, length, true, stuck);
  if (from != nullptr) return pipe_to_file(*from, in, out, out_offset, length, stuck);
  if (to != nullptr) return file_to_pipe(in, in_offset, *to, out, length, stuck);
  return Errno::kInval;
}

Result<size_t> tee(vfs::File& in, vfs::File& out, size_t length, Stuck* stuck) {
  Pipe* from = PipeFile::pipe_of(in);
  Pipe* to = PipeFile::pipe_of(out);
  if (from == nullptr || to == nullptr) return Errno::kInval;
  if (length == 0) return size_t{0};
  return between_pipes(*from, in, *to, out, length, false, stuck);
}

Result<size_t> copy(vfs::File& in, u64* in_offset, vfs::File& out, u64* out_offset, size_t length, Stuck* stuck) {
  if (!in.seekable() || in_offset == nullptr) return Errno::kInval;
  if (auto sent = send_by_host(in, *in_offset, out, length)) {
    if (!*sent && sent->error() == Errno::kAgain) return would_block(stuck, out, POLLOUT);
    if (*sent) *in_offset += **sent;
    return *sent;
  }
  size_t want = std::min(length, kChunk);
  if (want == 0) return size_t{0};
  vfs::Bounce chunk(want);
  u64 from = *in_offset;
  vfs::KernelSink sink(chunk.data(), want);
  size_t got = TRY(in.read(sink, &from));
  if (got == 0) return size_t{0};
  vfs::KernelSource source(chunk.data(), got);
  auto done = out.write(source, out_offset);
  if (!done) {
    if (done.error() == Errno::kAgain) return would_block(stuck, out, POLLOUT);
    return done.error();
  }
  *in_offset += *done;
  return done;
}

}  // namespace sbx::fs::pipe
