// Memory where bytes rest between two copies of the kernel's: from the host's file or socket to here, from here to the
// guest, or the other way.
#pragma once
#include <memory>

#include "sentry/base/types.h"

namespace sbx::vfs {

// Its place in a page is chosen for the two copies. `rep movsb`, with which the kernel copies where the processor says
// FSRM, takes up to 25 times as long on AMD's Zen 3 and 4 when the destination is a few bytes (below 64) above the
// source, both taken modulo a page: it looks like an overlap. Host files' and sockets' bytes begin at pages mostly, and
// big guest buffers 16 bytes behind (malloc's header). So it lies at none of the first bytes of a page, and as far from
// a multiple of 64 as the guest's buffer does.
//
// Small ones lie in the object, that is on the fiber's stack; big ones are kept for the next user. Under the kernel
// lock; the bytes are the owner's while the lock is dropped.
class Bounce {
 public:
  static constexpr size_t kMost = 256 * 1024;

  // For n bytes, or kMost if n is more. `peer`: address of the guest's buffer; 0: not known.
  explicit Bounce(size_t n, u64 peer = 0);
  ~Bounce();
  Bounce(const Bounce&) = delete;
  Bounce& operator=(const Bounce&) = delete;

  u8* data() { return at_; }
  // At least min(n, kMost).
  size_t size() const { return big_ ? kMost : kSmall; }

 private:
  static constexpr size_t kSmall = 8 * 1024;
  static constexpr size_t kSlack = 128;
  u8 small_[kSmall + kSlack];
  std::unique_ptr<u8[]> big_;
  u8* at_;
};

}  // namespace sbx::vfs
