#include "sentry/platform/stream_lease.h"

#include <cpuid.h>
#include <x86intrin.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "sentry/base/counters.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

COUNTER(rings, "platform.write_rings", "descriptors whose process writes to a pipe or socket by itself");
COUNTER(ring_bytes, "platform.ring_bytes", "bytes that were written like that");
COUNTER(bytes_lent, "platform.pipe_bytes_lent", "pipes and sockets whose bytes were given along with a read");
COUNTER(own_lent, "platform.pipes_within", "pipes and sockets that a process may read what it writes itself");

constexpr u64 kUsed = 4 * ring_record_bytes(1);  // a ring that spared fewer writes was not worth while

std::vector<WriteRing*>& open_rings() {
  static auto* all = new std::vector<WriteRing*>;
  return *all;
}

// Time stamps of several CPUs can be compared: they are one clock (CPUID 80000007H, "invariant TSC").
bool one_clock() {
  static const bool is_so = [] {
    constexpr u32 kPower = 0x80000007, kInvariant = 1u << 8;
    u32 a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(kPower, &a, &b, &c, &d) != 0 && (d & kInvariant) != 0;
  }();
  return is_so;
}

// Position 0, and different from all words before.
u64 fresh_word(SlotArea& area) {
  area.lease_generation = (area.lease_generation + SlotLease::kGeneration) & SlotLease::kGenerations;
  return SlotLease::kLent | area.lease_generation;
}

}  // namespace

WriteRing::WriteRing(RefPtr<SlotArea> area, u32 place, int fd)
    : keep_(std::move(area)), area_(keep_.get()), place_(place) {
  begin(static_cast<u32>(fd));
  __atomic_store_n(&area_->lease(static_cast<u32>(fd)).ring, static_cast<u16>(place + 1), __ATOMIC_RELEASE);
  open_rings().push_back(this);
  rings.add();
}

WriteRing::WriteRing(SlotArea& area, u32 place) : area_(&area), place_(place) { begin(SlotRing::kAnyFd); }

void WriteRing::begin(u32 fd) {
  SlotRing& ring = area_->ring(place_);
  area_->free_rings &= ~(1u << place_);
  ring.fd = fd;
  ring.posts = 0;
  ring.discards = 0;
  ring.end = 0;
  __atomic_store_n(&ring.word, fresh_word(*area_), __ATOMIC_RELEASE);
}

WriteRing::~WriteRing() {
  close();
  area_->free_rings |= 1u << place_;
}

void WriteRing::close(bool quietly) {
  if (!open_) return;
  LentStream* waited_for = waited_for_;
  nobody_waits();
  // From here on a write that has not ended comes in, as if it had not begun.
  const u64 word = __atomic_exchange_n(&area_->ring(place_).word, 0, __ATOMIC_SEQ_CST);
  last_ = position_in(word);
  open_ = false;
  std::erase(open_rings(), this);
  ring_bytes.add(before_ + last_);
  if (waited_for != nullptr && !quietly) (void)waited_for->deliver_();
}

bool WriteRing::post_to(LentStream& stream) {
  if (!open_ || waited_for_ != nullptr) return true;
  if (!area_->outbox || !area_->outbox->takes_rings() || !area_->outbox->gives_right()) return false;
  waited_for_ = &stream;
  area_->outbox->add(*this);
  __atomic_store_n(&area_->ring(place_).posts, 1u, __ATOMIC_SEQ_CST);
  return true;
}

void WriteRing::discard() { __atomic_store_n(&area_->ring(place_).discards, 1u, __ATOMIC_RELEASE); }

void WriteRing::nobody_waits() {
  if (waited_for_ == nullptr) return;
  waited_for_ = nullptr;
  __atomic_store_n(&area_->ring(place_).posts, 0u, __ATOMIC_RELAXED);
  area_->outbox->remove(*this);
}

void WriteRing::close_all() {
  while (!open_rings().empty()) open_rings().back()->close();
}

u64 WriteRing::written() const {
  if (!open_) return last_;
  return position_in(__atomic_load_n(&area_->ring(place_).word, __ATOMIC_ACQUIRE));
}

// Whatever the process says: not less than was seen, not more than it may, and where a record can end.
u64 WriteRing::position_in(u64 word) const {
  if ((word & SlotLease::kLent) == 0) return seen_;
  return std::clamp(word & SlotLease::kPosition, seen_, std::max(seen_, end_)) / sizeof(RingRecord) *
         sizeof(RingRecord);
}

void WriteRing::look() { seen_ = written(); }

bool WriteRing::first(u64* time) const {
  if (taken_ == seen_) return false;
  const auto* record = reinterpret_cast<const RingRecord*>(area_->ring_bytes(place_) + taken_ % kRingBytes);
  *time = __atomic_load_n(&record->time, __ATOMIC_RELAXED);
  return true;
}

// Its length can change at any time, in the hands of an attacker: it is looked at once, here, and once in consume(),
// which goes by it where it is possible.
size_t WriteRing::bytes(std::array<std::span<const u8>, 2>& pieces) const {
  const u8* ring = area_->ring_bytes(place_);
  const auto* record = reinterpret_cast<const RingRecord*>(ring + taken_ % kRingBytes);
  const u64 there = seen_ - taken_ - sizeof(RingRecord);
  const u64 n = std::min<u64>(__atomic_load_n(&record->length, __ATOMIC_RELAXED), there);
  const u64 at = (taken_ + sizeof(RingRecord)) % kRingBytes, whole = std::min(n, kRingBytes - at);
  pieces = {std::span(ring + at, whole), std::span(ring, n - whole)};
  return n;
}

u32 WriteRing::descriptor() const {
  const auto* record = reinterpret_cast<const RingRecord*>(area_->ring_bytes(place_) + taken_ % kRingBytes);
  return __atomic_load_n(&record->fd, __ATOMIC_RELAXED);
}

void WriteRing::interrupt() {
  if (!open_) return;
  u64& word = area_->ring(place_).word;
  const u64 at = position_in(__atomic_exchange_n(&word, 0, __ATOMIC_SEQ_CST));
  __atomic_store_n(&word, fresh_word(*area_) | at, __ATOMIC_SEQ_CST);
}

void WriteRing::consume() {
  std::array<std::span<const u8>, 2> pieces;
  taken_ = std::min(seen_, taken_ + ring_record_bytes(bytes(pieces)));
}

void WriteRing::consume_to(u64 position) {
  taken_ = std::clamp(position / sizeof(RingRecord) * sizeof(RingRecord), taken_, seen_);
}

void WriteRing::rewind() {
  constexpr u64 kAtHand = kRingBytes / 4;  // little was used: it goes on
  if (taken_ < kAtHand || taken_ != seen_ || !open_) return;
  SlotRing& ring = area_->ring(place_);
  u64 word = __atomic_load_n(&ring.word, __ATOMIC_ACQUIRE);
  if ((word & SlotLease::kLent) == 0 || (word & (SlotLease::kClosed | SlotLease::kPosition)) != taken_) return;
  // Who reads this end together with the old word, or the new one, has no room.
  __atomic_store_n(&ring.end, u64{0}, __ATOMIC_SEQ_CST);
  if (__atomic_compare_exchange_n(&ring.word, &word, fresh_word(*area_), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    before_ += taken_;
    end_ -= taken_;
    taken_ = seen_ = 0;
  }
  __atomic_store_n(&ring.end, end_, __ATOMIC_RELEASE);
}

bool WriteRing::hold() {
  if (!open_) return all_taken();
  SlotRing& ring = area_->ring(place_);
  u64 word = __atomic_load_n(&ring.word, __ATOMIC_ACQUIRE);
  if (taken_ != seen_ || (word & SlotLease::kLent) == 0) return false;
  if ((word & (SlotLease::kClosed | SlotLease::kPosition)) != taken_) return false;
  // As in rewind().
  __atomic_store_n(&ring.end, u64{0}, __ATOMIC_SEQ_CST);
  const bool held = __atomic_compare_exchange_n(&ring.word, &word, fresh_word(*area_) | taken_, false, __ATOMIC_SEQ_CST,
                                                __ATOMIC_SEQ_CST);
  if (held) end_ = taken_;
  __atomic_store_n(&ring.end, end_, __ATOMIC_RELEASE);
  return held;
}

void WriteRing::allow(size_t more) {
  if (!open_ || more == 0) return;
  if (taken_ > SlotLease::kMostLent) return close(true);
  end_ = std::max(end_, std::min(end_ + more, taken_ + kRingBytes));
  __atomic_store_n(&area_->ring(place_).end, end_, __ATOMIC_RELEASE);
}

LentStream::~LentStream() {
  for (const auto& ring : rings_) ring->close(true);
}

void LentStream::end() {
  bool waits = false;
  for (const auto& ring : rings_) {
    waits |= ring->waited_for();
    ring->close(true);
  }
  if (waits) (void)deliver_();
}

void LentStream::await() {
  for (const auto& ring : rings_) {
    if (!ring->post_to(*this)) ring->close(true);
  }
}

bool LentStream::hold() {
  held_ = std::all_of(rings_.begin(), rings_.end(), [](const auto& ring) { return ring->hold(); });
  return held_;
}

size_t LentStream::take_back() {
  held_ = false;
  if (!lent_) return 0;
  u64 taken = 0;
  lent_->collect(taken);
  lent_ = nullptr;
  if (own_) {
    own_ = false;
    const u64 before = rings_[0]->total();
    rings_[0]->look();
    rings_[0]->consume_to(taken);
    reads_.came_back(rings_[0]->total() > before);
    return 0;
  }
  reads_.came_back(taken > 0);
  return taken;
}

bool LentStream::collect(const Add& add) {
  // Of one ring the order is that of its records.
  const u64 now = rings_.size() > 1 ? __rdtsc() : ~0ull;
  for (const auto& ring : rings_) ring->look();
  bool any = false;
  for (;;) {
    WriteRing* next = nullptr;
    u64 earliest = ~0ull, time = 0;
    for (const auto& ring : rings_) {
      // What nobody adds to any more goes by no time: a false one must not keep it here.
      if (!ring->first(&time) || (time > now && ring->open())) continue;
      if (next == nullptr || time < earliest) {
        next = ring.get();
        earliest = time;
      }
    }
    if (next == nullptr) break;
    std::array<std::span<const u8>, 2> pieces;
    next->bytes(pieces);
    for (std::span<const u8> piece : pieces) {
      if (!piece.empty() && !add(piece.data(), piece.size())) return any;
    }
    any = true;
    next->consume();
  }
  std::erase_if(rings_, [&](const RefPtr<WriteRing>& ring) {
    if (ring->open()) {
      ring->rewind();
      return false;
    }
    if (!ring->all_taken()) return false;
    writes_.came_back(ring->total() >= kUsed);
    return true;
  });
  return any;
}

bool LentStream::lends_room() { return rings_.size() < (one_clock() ? kMostRings : 1) && writes_.tries(); }

size_t LentStream::claim() const {
  size_t sum = 0;
  for (const auto& ring : rings_) sum += ring->claim();
  return sum;
}

void LentStream::allow(size_t room) {
  if (rings_.empty()) return;
  // Some of it is left to those who have no ring, or they would take them all away.
  const size_t claimed = claim(), lendable = room / 4 * 3, share = room / 2 / rings_.size();
  size_t left = lendable > claimed ? lendable - claimed : 0;
  for (const auto& ring : rings_) {
    const size_t before = ring->claim();
    if (before < share) ring->allow(std::min(left, share - before));
    left -= ring->claim() - before;
  }
}

RefPtr<WriteRing> GuestThreadImpl::lend_room(int fd, u64 table) {
  RefPtr<SlotArea> area = area_to_lend(fd, table);
  if (!area || area->free_rings == 0) return nullptr;
  const auto place = static_cast<u32>(std::countr_zero(area->free_rings));
  host_->slot().positions = 1;
  if (!area->outbox) area->outbox = std::make_unique<Outbox>(*area, *host_->process);
  return make_ref<WriteRing>(std::move(area), place, fd);
}

bool GuestThreadImpl::lend_own(RefPtr<FileLease>& lease, int fd, u64 table, const WriteRing& ring) {
  RefPtr<SlotArea> area = area_to_lend(fd, table);
  if (!area || area.get() != ring.area_) return false;
  lend_stream_bytes(lease, std::move(area), fd, kOwnPlaces + ring.place_, 0, false, ring.taken_);
  own_lent.add();
  return true;
}

bool GuestThreadImpl::lend_bytes(RefPtr<FileLease>& lease, int fd, u64 table, size_t there,
                                 const std::function<size_t(u8* to, size_t most)>& fill) {
  RefPtr<SlotArea> area = area_to_lend(fd, table);
  if (!area || area->free_rings == 0) return false;
  const auto place = static_cast<u32>(std::countr_zero(area->free_rings));
  const size_t n = fill(area->ring_bytes(place), kRingBytes);
  if (n == 0) return false;
  lend_stream_bytes(lease, std::move(area), fd, kRingPlaces + place, n, n == there);
  bytes_lent.add();
  return true;
}

}  // namespace sbx::platform
