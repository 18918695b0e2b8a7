// The two ends of a data transfer: where a read puts bytes and where a write gets them. Guest iovecs (task/) and kernel
// buffers implement them, so files never know whose memory it is.
#pragma once
#include <cstring>

#include "sentry/base/result.h"
#include "sentry/base/types.h"

namespace sbx::platform {
struct FileBytes;
}

namespace sbx::vfs {

// Destination of a read. put() may be called several times; it stores consecutively.
class Sink {
 public:
  virtual ~Sink() = default;
  size_t left() const { return left_; }
  // Stores n <= left() bytes; kFault if nothing could be stored. Short counts only at a fault.
  virtual Result<size_t> put(const void* from, size_t n) = 0;
  // Memory into which up to n next bytes may be placed directly (then call commit), or null: use put().
  virtual u8* window(size_t n) { return n == 0 ? nullptr : nullptr; }
  virtual void commit(size_t) {}
  // Takes bytes.n <= left() bytes of a host file as they are, at some later time but before the reader goes on. False:
  // use the other ways.
  virtual bool take(const platform::FileBytes&) { return false; }
  // Address of the next byte in the memory it is of, for Bounce; 0: not known.
  virtual u64 place() const { return 0; }

 protected:
  explicit Sink(size_t n) : left_(n) {}
  size_t left_;
};

// Source of a write.
class Source {
 public:
  virtual ~Source() = default;
  size_t left() const { return left_; }
  // Fetches n <= left() bytes; kFault if none could be fetched. Short counts only at a fault.
  virtual Result<size_t> get(void* to, size_t n) = 0;
  // Takes back the last n bytes fetched by the last get(): they were not used.
  virtual void put_back(size_t n) = 0;
  // The next n bytes where they lie, in memory that others may change: for the host's kernel to read, once. Null: get()
  // them. pass(): so many of them were used.
  virtual const u8* view(size_t /*n*/) { return nullptr; }
  virtual void pass(size_t /*n*/) {}
  // As Sink::place().
  virtual u64 place() const { return 0; }

 protected:
  explicit Source(size_t n) : left_(n) {}
  size_t left_;
};

class KernelSink final : public Sink {
 public:
  KernelSink(void* to, size_t n) : Sink(n), to_(static_cast<u8*>(to)) {}
  Result<size_t> put(const void* from, size_t n) override {
    std::memcpy(to_, from, n);
    commit(n);
    return n;
  }
  u8* window(size_t n) override { return n <= left_ ? to_ : nullptr; }
  void commit(size_t n) override {
    to_ += n;
    left_ -= n;
  }

 private:
  u8* to_;
};

class KernelSource final : public Source {
 public:
  KernelSource(const void* from, size_t n) : Source(n), from_(static_cast<const u8*>(from)) {}
  Result<size_t> get(void* to, size_t n) override {
    std::memcpy(to, from_, n);
    from_ += n;
    left_ -= n;
    return n;
  }
  void put_back(size_t n) override {
    from_ -= n;
    left_ += n;
  }

 private:
  const u8* from_;
};

}  // namespace sbx::vfs
