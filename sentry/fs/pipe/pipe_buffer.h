// PipeBuffer: the bytes of a pipe. A contiguous ring that grows on demand up to the pipe's capacity and gives its
// memory back when it runs empty (to a small shared pool), so an idle pipe holds none. In packet mode it remembers the
// boundaries. No waiting and no policy here: pipe.h has those.
#pragma once
#include <deque>
#include <memory>

#include "sentry/vfs/io.h"

namespace sbx::fs::pipe {

constexpr size_t kAtomicBytes = 4096;  // PIPE_BUF

class PipeBuffer {
 public:
  static constexpr size_t kDefaultCapacity = 65536;
  PipeBuffer() = default;
  PipeBuffer(const PipeBuffer&) = delete;
  PipeBuffer& operator=(const PipeBuffer&) = delete;
  ~PipeBuffer() { release(); }

  size_t capacity() const { return capacity_; }
  size_t used() const { return used_; }
  // Bytes that a write may add now. Packets count as a page at least, as each takes a buffer of its own in Linux.
  size_t free_space() const;
  bool empty() const { return used_ == 0; }
  // False: more is in it than the new capacity holds. Bytes; a multiple of the page size.
  bool set_capacity(size_t capacity);

  // The oldest bytes in one piece (at most max, and not beyond a packet): peek, then consume. Null if empty.
  const u8* peek(size_t max, size_t* got) const;
  // As peek, skipping bytes: tee(2) and the second half of a wrapped ring.
  const u8* peek_at(size_t skip, size_t max, size_t* got) const;
  void consume(size_t n);
  // Copies of the oldest bytes, as many as there are up to max: none of packets, which a read never joins.
  size_t copy_plain(u8* to, size_t max) const;
  // Room for new bytes in one piece (at most max <= free_space()): reserve, fill, commit. Null without memory.
  u8* reserve(size_t max, size_t* got);
  void commit(size_t n) { used_ += n; }

  // Moves min(left, used) bytes; stops short only at a fault of the other side. A packet that does not fit the sink
  // loses its rest (pipe(2), O_DIRECT).
  Result<size_t> read(vfs::Sink& sink);
  // Adds up to max bytes of the source; max <= free_space().
  Result<size_t> write(vfs::Source& source, size_t max);
  // As write, as one packet of at most a page.
  Result<size_t> write_packet(vfs::Source& source, size_t n);

 private:
  struct Packet {
    size_t length;
    bool closed;  // a packet of its own; false: ordinary bytes that later writes extend
  };
  bool grow(size_t needed);
  void release();
  void note_bytes(size_t n, bool packet);

  u8* memory_ = nullptr;
  size_t allocated_ = 0;  // power of two
  size_t head_ = 0;       // index of the oldest byte
  size_t used_ = 0;
  size_t capacity_ = kDefaultCapacity;
  std::unique_ptr<std::deque<Packet>> packets_;  // only once packet mode was used, until empty
};

}  // namespace sbx::fs::pipe
