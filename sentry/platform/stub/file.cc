// Reads and seeks of files whose position is lent to this process, and reads of streams whose next bytes are
// (sentry/platform/file_lease.h); writes to pipes and sockets that have a ring (stream_lease.h).
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kMostBytes = 0x7ffff000;  // MAX_RW_COUNT
constexpr u64 kAtEmptyPath = 0x1000, kTcgets = 0x5401;
constexpr i64 kEnotty = 25;
constexpr u64 kSeekSet = 0, kSeekCur = 1, kSeekEnd = 2;

u64* closes() { return reinterpret_cast<u64*>(kSlotsBase + kClosesOffset); }

bool is_sure(const SlotLease& lease) { return cycles() - __atomic_load_n(&lease.lent_at, __ATOMIC_RELAXED) < kIsSure; }

// What was read of the lease together with `word` belongs to it.
bool still(const SlotLease& lease, u64 word) {
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  u64 now = __atomic_load_n(&lease.word, __ATOMIC_SEQ_CST);
  return (now & ~SlotLease::kPosition) == (word & ~SlotLease::kPosition);
}

// What the sentry has read ahead into this thread's window. It is there until our next request, and as good as the
// size.
i64 read_at_hand(Slot& slot, SlotLease& lease, u64 word, u64 from, u64 to, u64 n) {
  const u64 begin = __atomic_load_n(&lease.begin, __ATOMIC_RELAXED);
  const u64 at = __atomic_load_n(&lease.at_hand, __ATOMIC_RELAXED);
  const u64 bytes = __atomic_load_n(&lease.bytes_at_hand, __ATOMIC_RELAXED);
  if (at > kWindowBytes || bytes > kWindowBytes - at) return -1;
  if (from < begin || from - begin > bytes || n > bytes - (from - begin)) return -1;
  if (!is_sure(lease) || !still(lease, word)) return -1;
  if (!copy_out(to, window(slot) + at + (from - begin), n)) return -1;
  lease.used = 1;
  return static_cast<i64>(n);
}

// The bytes at `from` of the file to `to`: how many, or -1: the sentry's.
i64 read_at(Slot& slot, SlotLease& lease, u64 word, u64 from, u64 to, u64 n) {
  if (to + n < to || to + n > kUserEnd) return -1;
  if (n > kMostBytes) n = kMostBytes;
  const u64 size = __atomic_load_n(&lease.size, __ATOMIC_RELAXED);
  if (from >= size || n > size - from) {
    if (!is_sure(lease)) return -1;
    n = from >= size ? 0 : size - from;
    if (n == 0) return still(lease, word) ? 0 : -1;
  }
  const u32 window = __atomic_load_n(&lease.window, __ATOMIC_RELAXED);
  if (slot.turn != 0 && slot.turn == __atomic_load_n(&lease.turn, __ATOMIC_RELAXED)) {
    return read_at_hand(slot, lease, word, from, to, n);
  }
  const u64 begin = __atomic_load_n(&lease.begin, __ATOMIC_RELAXED);
  if (window == 0 || window > kFileWindows || from < begin) return -1;
  if (n > kFileWindowBytes || from - begin > kFileWindowBytes - n) return -1;
  // The sentry takes leases back before it gives a window to another file, and then looks who copies from it.
  __atomic_store_n(&slot.file_window, window, __ATOMIC_SEQ_CST);
  u64 left = n;
  if (still(lease, word)) {
    const u64 at = kFileWindowsBase + (window - 1) * kFileWindowBytes + (from - begin);
    left = stub_copy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(at), n);
  }
  __atomic_store_n(&slot.file_window, 0, __ATOMIC_RELEASE);
  return left == 0 ? static_cast<i64>(n) : -1;
}

// Moves the position unless somebody else did.
bool move(SlotLease& lease, u64 word, u64 to) {
  u64 next = (word & ~SlotLease::kPosition) | to;
  return __atomic_compare_exchange_n(&lease.word, &word, next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

i64 seek(SlotLease& lease, u64 word, i64 offset, u64 whence) {
  i64 base = 0;
  if (whence == kSeekCur) {
    base = static_cast<i64>(word & SlotLease::kPosition);
  } else if (whence == kSeekEnd) {
    if (!is_sure(lease)) return -1;
    base = static_cast<i64>(__atomic_load_n(&lease.size, __ATOMIC_RELAXED));
    if (!still(lease, word)) return -1;
  } else if (whence != kSeekSet) {
    return -1;
  }
  // Results that fail, or are too far off to be lent, are the sentry's.
  const i64 most = static_cast<i64>(SlotLease::kMostLent);
  if (offset > most || offset < -most || base > most) return -1;
  const i64 to = base + offset;
  return to >= 0 && to <= most && move(lease, word, static_cast<u64>(to)) ? to : -1;
}

// The sentry closes it with the next request of any thread here. Until then nobody else can tell.
bool close(SlotLease& lease, u64 word, u64 fd) {
  if (__atomic_load_n(&lease.may_close, __ATOMIC_RELAXED) == 0) return false;
  u64 next = (word & ~SlotLease::kLent) | SlotLease::kClosed;
  if (!__atomic_compare_exchange_n(&lease.word, &word, next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return false;
  __atomic_fetch_or(&closes()[fd / 64], 1ull << (fd % 64), __ATOMIC_SEQ_CST);
  return true;
}

bool stat(const SlotLease& lease, u64 word, u64 to) {
  if (lease.has_stat == 0 || !is_sure(lease)) return false;
  u64 copy[18];
  for (int i = 0; i < 18; ++i) copy[i] = __atomic_load_n(&lease.stat[i], __ATOMIC_RELAXED);
  return still(lease, word) && copy_out(to, copy, sizeof(copy));
}

// From that position of a ring, around its end.
bool copy_from_ring(u64 to, u32 place, u64 at, u64 n) {
  at %= kRingBytes;
  const u64 first = kRingBytes - at < n ? kRingBytes - at : n;
  return copy_out(to, reinterpret_cast<const void*>(ring_base(place) + at), first) &&
         copy_out(to + first, reinterpret_cast<const void*>(ring_base(place)), n - first);
}

// Whole records that this process has written itself, as many as fit.
bool read_own(SlotLease& lease, u64 word, u32 place, u64 to, u64 n, i64& ret) {
  const u64 tail = __atomic_load_n(&ring_at(place).word, __ATOMIC_ACQUIRE);
  const u64 end = tail & SlotLease::kPosition;
  u64 at = word & SlotLease::kPosition, done = 0;
  if ((tail & SlotLease::kLent) == 0 || at % sizeof(RingRecord) != 0) return false;
  while (at < end) {
    const u32 length = reinterpret_cast<const RingRecord*>(ring_base(place) + at % kRingBytes)->length;
    if (length > n - done || length > end - at) break;
    if (!copy_from_ring(to + done, place, at + sizeof(RingRecord), length)) return false;
    done += length;
    at += ring_record_bytes(length);
  }
  // The rest of a record is the sentry's to hand out.
  if (done == 0 || (done < n && at < end) || !move(lease, word, at)) return false;
  lease.used = 1;
  ret = static_cast<i64>(done);
  return true;
}

// read(2) or recv(2) of bytes that the sentry has found in a pipe, or with a socket of the host. Those were all there
// were: who waits for edges goes by it when he gets fewer than he asked for.
bool read_stream(SlotLease& lease, u64 word, u32 nr, const u64* a, i64& ret) {
  const bool plain = nr == kNrRead || (nr == kNrRecvfrom && (static_cast<u32>(a[3]) & ~kMsgDontwait) == 0 && a[4] == 0);
  if (!plain) return false;
  const u64 taken = word & SlotLease::kPosition, to = a[1];
  const u32 place = __atomic_load_n(&lease.stream, __ATOMIC_RELAXED) - 1u;
  const u32 at_hand = __atomic_load_n(&lease.bytes_at_hand, __ATOMIC_RELAXED);
  const u32 bytes = at_hand & ~SlotLease::kAllThereIs;
  u64 n = a[2];
  if (place >= kPlacesEnd || n == 0 || to + n < to || to + n > kUserEnd) return false;
  if (place >= kOwnPlaces) return still(lease, word) && read_own(lease, word, place - kOwnPlaces, to, n, ret);
  const bool in_ring = place >= kRingPlaces;
  if (bytes > (in_ring ? kRingBytes : kStreamBytes) || taken >= bytes) return false;
  if (n > bytes - taken) {
    if (at_hand == bytes) return false;  // there may be more by now
    n = bytes - taken;
  }
  if (!still(lease, word)) return false;
  const u64 from = in_ring ? ring_base(place - kRingPlaces) : kSlotsBase + kStreamsOffset + place * kStreamBytes;
  if (!copy_out(to, reinterpret_cast<const void*>(from + taken), n) || !move(lease, word, taken + n)) return false;
  lease.used = 1;
  ret = static_cast<i64>(n);
  return true;
}

// A record of n bytes from the guest's `from` to that position of a ring, where it fits.
bool put(u32 place, u64 at, u64 from, u64 n, u64 time) {
  auto& record = *reinterpret_cast<RingRecord*>(ring_base(place) + at % kRingBytes);
  record.time = time;
  record.length = static_cast<u32>(n);
  return copy_into_ring(place, at + sizeof(record), from, n);
}

}  // namespace

bool copy_into_ring(u32 place, u64 at, u64 from, u64 n) {
  at %= kRingBytes;
  const u64 first = kRingBytes - at < n ? kRingBytes - at : n;
  return copy_in(reinterpret_cast<void*>(ring_base(place) + at), from, first) &&
         copy_in(reinterpret_cast<void*>(ring_base(place)), from + first, n - first);
}

bool do_write(Context& ctx, u32 nr, i64& ret) {
  constexpr u64 kMostWritten = 0x7ffff000;  // write(2), "Notes"
  Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  const u64 fd = static_cast<u32>(a[0]), n = a[2];
  if (slot.positions == 0 || slot.report_all != 0 || slot.see_native != 0) return false;
  if (fd >= kMaxLeases || n == 0 || n > kMostWritten || a[1] + n < a[1] || a[1] + n > kUserEnd) return false;
  if (nr == kNrSendto && ((static_cast<u32>(a[3]) & ~(kMsgDontwait | kMsgNosignal)) != 0 || a[4] != 0)) return false;
  const u16 to = __atomic_load_n(&lease_of(fd).ring, __ATOMIC_ACQUIRE);
  if ((to & SlotLease::kOutbox) != 0) return post_write(ctx, lease_of(fd), to, IoVec{a[1], n}, ret);
  const u32 place = to - 1u;
  if (place >= kRings) return false;
  SlotRing& ring = ring_at(place);
  u64 word = __atomic_load_n(&ring.word, __ATOMIC_ACQUIRE);
  if ((word & SlotLease::kLent) == 0 || (word & SlotLease::kClosed) != 0 || ring.fd != fd) return false;
  if (__atomic_load_n(&ring.discards, __ATOMIC_RELAXED) != 0) {
    ret = static_cast<i64>(n);
    return nr == kNrWrite;
  }
  if (n > kRingBytes) return false;
  const u64 at = word & SlotLease::kPosition, end = __atomic_load_n(&ring.end, __ATOMIC_ACQUIRE);
  const u64 next = at + ring_record_bytes(n), time = cycles();
  if (posted_long_ago(ctx, time)) return false;
  if (end < next || at % sizeof(RingRecord) != 0) return false;
  // Nobody else writes meanwhile: another thread comes in, and the sentry takes the ring away from both.
  u64 claimed = word | SlotLease::kClosed;
  if (!__atomic_compare_exchange_n(&ring.word, &word, claimed, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return false;
  const bool done = put(place, at, a[1], n, time);
  const u64 back = done ? word - at + next : word;
  if (!__atomic_compare_exchange_n(&ring.word, &claimed, back, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return false;
  // Who begins to wait says so, and then looks.
  if (done && __atomic_load_n(&ring.posts, __ATOMIC_SEQ_CST) != 0) note_posted(ctx, time);
  ret = static_cast<i64>(n);
  return done;
}

bool do_file(Context& ctx, u32 nr, i64& ret) {
  Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  if (slot.positions == 0 || slot.report_all != 0 || slot.see_native != 0) return false;
  const u64 fd = static_cast<u32>(a[0]);
  if (fd >= kMaxLeases) return false;
  SlotLease& lease = lease_of(fd);
  const u64 word = __atomic_load_n(&lease.word, __ATOMIC_ACQUIRE);
  if ((word & SlotLease::kLent) == 0) return false;
  const u16 stream = __atomic_load_n(&lease.stream, __ATOMIC_RELAXED);
  if (stream == SlotLease::kOnlyCloses) {
    ret = 0;
    return nr == kNrClose && close(lease, word, fd);
  }
  if (stream != 0) return read_stream(lease, word, nr, a, ret);
  const u64 position = word & SlotLease::kPosition;
  switch (nr) {
    case kNrRead:
      ret = read_at(slot, lease, word, position, a[1], a[2]);
      // A reader that was overtaken reads again, from where the other one stopped: by the sentry.
      if (ret > 0 && !move(lease, word, position + static_cast<u64>(ret))) return false;
      break;
    case kNrPread64:
      if (a[3] > SlotLease::kMostLent) return false;
      ret = read_at(slot, lease, word, a[3], a[1], a[2]);
      break;
    case kNrClose: ret = 0; return close(lease, word, fd);
    case kNrFstat: ret = 0; return stat(lease, word, a[1]);
    case kNrNewfstatat: {
      char name = 1;
      ret = 0;
      return a[3] == kAtEmptyPath && copy_in(&name, a[1], 1) && name == 0 && stat(lease, word, a[2]);
    }
    case kNrIoctl:  // no terminal, as libraries like to know of what they write to or read
      ret = -kEnotty;
      return static_cast<u32>(a[1]) == kTcgets;
    case kNrLseek: ret = seek(lease, word, static_cast<i64>(a[1]), static_cast<u32>(a[2])); break;
    default: return false;
  }
  return ret >= 0;
}

}  // namespace sbx::platform::stub
