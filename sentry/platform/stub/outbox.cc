// Writes to sockets that are posted (sentry/platform/outbox.h).
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u32 kMostVecs = 16;

struct MsgHdr {
  u64 name;
  u32 name_length, pad;
  u64 iov, iov_count, control, control_length;
  u32 flags, pad2;
};

// From the guest's vectors, `total` bytes in all, to that position of a ring.
bool gather(u32 place, u64 at, const IoVec* vecs, u64 count) {
  for (u64 i = 0; i < count; ++i) {
    if (vecs[i].length != 0 && !copy_into_ring(place, at, vecs[i].base, vecs[i].length)) return false;
    at += vecs[i].length;
  }
  return true;
}

bool post(Context& ctx, SlotLease& lease, u16 to, const IoVec* vecs, u64 count, u64 total, i64& ret) {
  const u32 place = (to & ~SlotLease::kOutbox) - 1u;
  if (place >= kRings || total == 0 || total > __atomic_load_n(&lease.may_post, __ATOMIC_ACQUIRE)) return false;
  const u64 time = cycles();
  if (posted_long_ago(ctx, time)) return false;
  SlotRing& ring = ring_at(place);
  u64 word = __atomic_load_n(&ring.word, __ATOMIC_ACQUIRE);
  if ((word & SlotLease::kLent) == 0 || (word & SlotLease::kClosed) != 0 || ring.fd != SlotRing::kAnyFd) return false;
  const u64 at = word & SlotLease::kPosition, end = __atomic_load_n(&ring.end, __ATOMIC_ACQUIRE);
  const u64 next = at + ring_record_bytes(total);
  if (end < next || at % sizeof(RingRecord) != 0) return false;
  u64 claimed = word | SlotLease::kClosed;
  if (!__atomic_compare_exchange_n(&ring.word, &word, claimed, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return false;
  // The right may have gone before that; if it goes from here on, the ring's word tells. Another thread may have used
  // it.
  bool done = __atomic_load_n(&lease.ring, __ATOMIC_SEQ_CST) == to &&
              total <= __atomic_load_n(&lease.may_post, __ATOMIC_SEQ_CST);
  if (done) {
    auto& record = *reinterpret_cast<RingRecord*>(ring_base(place) + at % kRingBytes);
    record.time = time;
    record.length = static_cast<u32>(total);
    record.fd = static_cast<u32>(ctx.args[0]);
    done = gather(place, at + sizeof(record), vecs, count);
  }
  // Before it can be seen: who sends it allows the next.
  if (done) __atomic_store_n(&lease.may_post, 0u, __ATOMIC_SEQ_CST);
  const u64 back = done ? word - at + next : word;
  if (!__atomic_compare_exchange_n(&ring.word, &claimed, back, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return false;
  if (!done) return false;
  note_posted(ctx, time);
  ret = static_cast<i64>(total);
  return true;
}

}  // namespace

// Others wait for what was written first.
bool posted_long_ago(const Context& ctx, u64 time) {
  return ctx.priv->posted_at != 0 && time - ctx.priv->posted_at > kLongPosted;
}

void note_posted(Context& ctx, u64 time) {
  if (ctx.priv->posted_at == 0) ctx.priv->posted_at = time;
  u32& posted = reinterpret_cast<OutboxHead*>(kSlotsBase + kOutboxOffset)->posted;
  if (__atomic_load_n(&posted, __ATOMIC_SEQ_CST) == 0) __atomic_store_n(&posted, 1u, __ATOMIC_SEQ_CST);
}

bool post_write(Context& ctx, SlotLease& lease, u16 to, const IoVec& bytes, i64& ret) {
  return post(ctx, lease, to, &bytes, 1, bytes.length, ret);
}

bool do_writev(Context& ctx, u32 nr, i64& ret) {
  const Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  const u64 fd = static_cast<u32>(a[0]);
  if (slot.positions == 0 || slot.report_all != 0 || slot.see_native != 0 || fd >= kMaxLeases) return false;
  const u16 to = __atomic_load_n(&lease_of(fd).ring, __ATOMIC_ACQUIRE);
  if ((to & SlotLease::kOutbox) == 0) return false;
  u64 from = a[1], count = a[2];
  if (nr == kNrSendmsg) {
    MsgHdr header;
    if ((static_cast<u32>(a[2]) & ~(kMsgDontwait | kMsgNosignal)) != 0 || !copy_in(&header, from, sizeof(header)) ||
        header.name != 0 || header.control_length != 0)
      return false;
    from = header.iov;
    count = header.iov_count;
  }
  IoVec vecs[kMostVecs];
  if (count == 0 || count > kMostVecs || !copy_in(vecs, from, count * sizeof(IoVec))) return false;
  u64 total = 0;
  for (u64 i = 0; i < count; ++i) {
    const IoVec& vec = vecs[i];
    if (vec.length > kMostPosted || vec.base + vec.length < vec.base || vec.base + vec.length > kUserEnd) return false;
    total += vec.length;
  }
  return post(ctx, lease_of(fd), to, vecs, count, total, ret);
}

}  // namespace sbx::platform::stub
