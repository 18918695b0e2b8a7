#include "sentry/fs/pipe/pipe_buffer.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <memory>
#include <vector>

namespace sbx::fs::pipe {
namespace {

// Freed rings, kept for the next write: a ping-pong through a pipe would otherwise call malloc for each message. Kernel
// lock.
struct Pool {
  std::vector<u8*> small, large;
};
constexpr size_t kSmall = 4096;
constexpr size_t kLarge = PipeBuffer::kDefaultCapacity;
constexpr size_t kKeepSmall = 32, kKeepLarge = 4;

Pool& pool() {
  static auto* instance = new Pool;
  return *instance;
}

u8* allocate(size_t bytes) {
  std::vector<u8*>* list = bytes == kSmall ? &pool().small : bytes == kLarge ? &pool().large : nullptr;
  if (list != nullptr && !list->empty()) {
    u8* memory = list->back();
    list->pop_back();
    return memory;
  }
  return static_cast<u8*>(std::malloc(bytes));
}

void give_back(u8* memory, size_t bytes) {
  if (bytes == kSmall && pool().small.size() < kKeepSmall)
    pool().small.push_back(memory);
  else if (bytes == kLarge && pool().large.size() < kKeepLarge)
    pool().large.push_back(memory);
  else
    std::free(memory);
}

}  // namespace

size_t PipeBuffer::free_space() const {
  size_t charged = used_;
  if (packets_) {
    charged = 0;
    for (const Packet& p : *packets_) charged += p.closed ? page_up(p.length) : p.length;
  }
  return charged >= capacity_ ? 0 : capacity_ - charged;
}

bool PipeBuffer::set_capacity(size_t capacity) {
  if (used_ > capacity || (packets_ && packets_->size() > capacity / kPageSize)) return false;
  capacity_ = capacity;
  return true;
}

bool PipeBuffer::grow(size_t needed) {
  if (needed <= allocated_) return true;
  size_t size = std::bit_ceil(std::max(needed, kSmall));
  if (size > kSmall && size < kLarge) size = kLarge;
  u8* memory = allocate(size);
  if (memory == nullptr) return false;
  size_t got = 0;
  for (size_t done = 0; done < used_; done += got) {
    const u8* from = peek_at(done, used_ - done, &got);
    std::memcpy(memory + done, from, got);
  }
  if (memory_ != nullptr) give_back(memory_, allocated_);
  memory_ = memory;
  allocated_ = size;
  head_ = 0;
  return true;
}

void PipeBuffer::release() {
  if (memory_ != nullptr) give_back(memory_, allocated_);
  memory_ = nullptr;
  allocated_ = head_ = used_ = 0;
  packets_.reset();
}

const u8* PipeBuffer::peek(size_t max, size_t* got) const {
  if (packets_ && packets_->front().closed) max = std::min(max, packets_->front().length);
  return peek_at(0, max, got);
}

const u8* PipeBuffer::peek_at(size_t skip, size_t max, size_t* got) const {
  *got = 0;
  if (skip >= used_) return nullptr;
  size_t at = (head_ + skip) & (allocated_ - 1);
  *got = std::min({max, used_ - skip, allocated_ - at});
  return memory_ + at;
}

void PipeBuffer::consume(size_t n) {
  n = std::min(n, used_);
  used_ -= n;
  if (used_ == 0) {
    release();
    return;
  }
  head_ = (head_ + n) & (allocated_ - 1);
  while (packets_ && n > 0) {
    Packet& first = packets_->front();
    size_t part = std::min(n, first.length);
    first.length -= part;
    n -= part;
    if (first.length == 0) packets_->pop_front();
  }
}

size_t PipeBuffer::copy_plain(u8* to, size_t max) const {
  if (packets_) return 0;
  size_t done = 0, got = 0;
  for (const u8* from = peek_at(0, max, &got); got > 0; from = peek_at(done, max - done, &got)) {
    std::memcpy(to + done, from, got);
    done += got;
  }
  return done;
}

u8* PipeBuffer::reserve(size_t max, size_t* got) {
  *got = 0;
  if (max == 0 || !grow(std::min(used_ + max, std::bit_ceil(capacity_)))) return nullptr;
  size_t tail = (head_ + used_) & (allocated_ - 1);
  *got = std::min({max, allocated_ - used_, allocated_ - tail});
  return *got == 0 ? nullptr : memory_ + tail;
}

void PipeBuffer::note_bytes(size_t n, bool packet) {
  if (n == 0) return;
  if (!packets_) {
    if (!packet) return;
    packets_ = std::make_unique<std::deque<Packet>>();
    if (used_ > n) packets_->push_back({used_ - n, false});
  }
  if (!packet && !packets_->empty() && !packets_->back().closed)
    packets_->back().length += n;
  else
    packets_->push_back({n, packet});
}

Result<size_t> PipeBuffer::read(vfs::Sink& sink) {
  size_t done = 0;
  while (sink.left() > 0 && used_ > 0) {
    bool packet = packets_ && packets_->front().closed;
    if (packet && done > 0) break;
    size_t whole = packet ? packets_->front().length : used_;
    size_t want = std::min(sink.left(), whole);
    size_t moved = 0;
    while (moved < want) {
      size_t got = 0;
      const u8* from = peek_at(moved, want - moved, &got);
      auto put = sink.put(from, got);
      if (!put) {
        if (done + moved == 0) return put.error();
        consume(moved);
        return done + moved;
      }
      moved += *put;
      if (*put < got) {
        consume(moved);
        return done + moved;
      }
    }
    consume(packet ? whole : moved);
    done += moved;
    if (packet) break;
  }
  return done;
}

Result<size_t> PipeBuffer::write(vfs::Source& source, size_t max) {
  size_t done = 0;
  Errno error = Errno::kNone;
  while (done < max) {
    size_t got = 0;
    u8* to = reserve(max - done, &got);
    if (to == nullptr) {
      error = Errno::kNomem;
      break;
    }
    auto fetched = source.get(to, got);
    if (!fetched) {
      error = fetched.error();
      break;
    }
    commit(*fetched);
    done += *fetched;
    if (*fetched < got) break;
  }
  note_bytes(done, false);
  if (used_ == 0) release();
  if (done == 0 && error != Errno::kNone) return error;
  return done;
}

Result<size_t> PipeBuffer::write_packet(vfs::Source& source, size_t n) {
  size_t done = TRY(write(source, n));
  if (packets_) {
    // write() counted them as ordinary bytes.
    packets_->back().length -= done;
    if (packets_->back().length == 0) packets_->pop_back();
  }
  note_bytes(done, true);
  return done;
}

}  // namespace sbx::fs::pipe
