#include "sentry/platform/outbox.h"

#include <x86intrin.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "sentry/base/counters.h"
#include "sentry/platform/internal.h"
#include "sentry/platform/stream_lease.h"

namespace sbx::platform {
namespace {

COUNTER(posts_sent, "platform.posted_writes", "writes to sockets that a process has posted");
COUNTER(posts_late, "platform.late_posts", "times that something waited because its process did not come in");
COUNTER(posts_lost, "platform.bad_posts", "of these, for descriptors that may not");

constexpr u64 kLookAfterNs = 1'000'000;
constexpr u64 kLate = 1 << 19;  // cycles: about 200 us
constexpr u32 kMostIdle = 4;
// One of so many may be late: its thread may have lost its processor to others than ours. Who is late more often is
// refused so many rights, twice as many each time, and half with each that many writes in time.
constexpr u64 kSeldomLate = 128, kMostCredit = 32 * kSeldomLate;
constexpr u32 kFewPasses = 64, kMostLateness = 10;
constexpr u64 kInTime = 4096;

std::vector<Outbox*>& all_outboxes() {
  static auto* all = new std::vector<Outbox*>;
  return *all;
}

std::vector<RefPtr<SlotArea>>& watched() {
  static auto* all = new std::vector<RefPtr<SlotArea>>;
  return *all;
}

fiber::Timer& timer() {
  static auto* one = new fiber::Timer([] {
    std::vector<RefPtr<SlotArea>> left;
    left.swap(watched());
    std::erase_if(left, [](const RefPtr<SlotArea>& area) { return !area->outbox->look_after(); });
    watched().insert(watched().end(), left.begin(), left.end());
    if (!watched().empty()) timer().arm(fiber::now_ns() + kLookAfterNs);
  });
  return *one;
}

}  // namespace

PostRight::PostRight(RefPtr<SlotArea> area, int fd, Poster& poster)
    : area_(std::move(area)), fd_(static_cast<u32>(fd)), poster_(poster) {
  area_->outbox->add(*this);
}

PostRight::~PostRight() = default;

void PostRight::end() {
  if (!open_) return;
  area_->outbox->remove(*this);
  open_ = false;
}

Outbox::Outbox(SlotArea& area, Process& process) : area_(area), process_(&process) { all_outboxes().push_back(this); }
Outbox::~Outbox() { std::erase(all_outboxes(), this); }

void Outbox::take_all_there_is() {
  for (size_t i = 0; i < all_outboxes().size(); ++i) all_outboxes()[i]->take_all();
}

OutboxHead& Outbox::head() const { return area_.outbox_head(); }

bool Outbox::make_ring() {
  if (ring_) return true;
  if (area_.free_rings == 0) return false;
  ring_ = make_ref<WriteRing>(area_, static_cast<u32>(std::countr_zero(area_.free_rings)));
  ring_->allow(kRingBytes);
  return true;
}

bool Outbox::takes_rings() const {
  constexpr size_t kFewThreads = 4;
  return process_ != nullptr && process_->threads.size() <= kFewThreads;
}

void Outbox::add(WriteRing& ring) {
  rings_.push_back(&ring);
  watch();
}

void Outbox::add(PostRight& right) {
  rights_[right.fd_] = &right;
  ++rights_open_;
  ++PostRight::all_open_;
  SlotLease& lease = area_.lease(right.fd_);
  __atomic_store_n(&lease.may_post, kMostPosted, __ATOMIC_RELAXED);
  __atomic_store_n(&lease.ring, static_cast<u16>((ring_->place() + 1) | SlotLease::kOutbox), __ATOMIC_RELEASE);
}

void Outbox::remove(PostRight& right) {
  SlotLease& lease = area_.lease(right.fd_);
  __atomic_store_n(&lease.ring, u16{0}, __ATOMIC_SEQ_CST);
  __atomic_store_n(&lease.may_post, 0u, __ATOMIC_SEQ_CST);
  ring_->interrupt();
  // An honest process has one write there at most: it is the one that is sent now, if any is.
  send_all();
  rights_[right.fd_] = nullptr;
  --rights_open_;
  --PostRight::all_open_;
}

void Outbox::end_all() {
  for (PostRight* right : rights_) {
    if (right != nullptr) right->end();
  }
  while (!rings_.empty()) rings_.back()->close();
}

void Outbox::take_all() {
  __atomic_store_n(&head().posted, 0u, __ATOMIC_SEQ_CST);
  send_all();
  deliver_all();
}

void Outbox::send_all() {
  if (sending_ || !ring_) return;
  ring_->look();
  if (ring_->all_taken()) return;
  sending_ = true;
  size_t sent = 0;
  u64 time = 0;
  // As many as a ring has room for: none is added meanwhile.
  for (; ring_->first(&time); ++sent) {
    const u32 fd = ring_->descriptor();
    PostRight* right = fd < kMaxLeases ? rights_[fd] : nullptr;
    std::array<std::span<const u8>, 2> pieces;
    if (right == nullptr || ring_->bytes(pieces) == 0) {
      posts_lost.add();
      ring_->consume();
      continue;
    }
    ++right->used_;
    const bool more = right->poster_.send_posted(pieces);
    ring_->consume();
    if (more && right->open_)
      __atomic_store_n(&area_.lease(fd).may_post, kMostPosted, __ATOMIC_RELEASE);
    else
      right->end();
  }
  sending_ = false;
  ring_->rewind();
  ring_->allow(kRingBytes);
  count(sent);
}

// In its course rings come and go.
void Outbox::deliver_all() {
  const std::vector<WriteRing*> before = rings_;
  for (WriteRing* ring : before) {
    if (std::find(rings_.begin(), rings_.end(), ring) == rings_.end()) continue;
    LentStream& stream = *ring->waited_for_;
    ring->look();
    if (ring->all_taken()) continue;
    const RefPtr<WriteRing> keep(ring);
    count(1);
    if (!stream.deliver_()) ring->nobody_waits();
  }
}

void Outbox::count(size_t writes) {
  posts_sent.add(writes);
  credit_ = std::min(credit_ + writes, kMostCredit);
  in_time_ += writes;
  if (in_time_ >= kInTime) {
    in_time_ = 0;
    if (lateness_ > 0) --lateness_;
  }
}

void Outbox::watch() {
  if (watched_) return;
  watched_ = true;
  idle_ = 0;
  watched().emplace_back(&area_);
  if (!timer().armed()) timer().arm(fiber::now_ns() + kLookAfterNs);
}

bool Outbox::is_late() {
  const u64 now = __rdtsc();
  auto late = [&](WriteRing& ring) {
    u64 time = 0;
    ring.look();
    return ring.first(&time) && now - time > kLate;
  };
  return (ring_ && late(*ring_)) || std::any_of(rings_.begin(), rings_.end(), [&](WriteRing* r) { return late(*r); });
}

void Outbox::was_late() {
  if (credit_ >= kSeldomLate) {
    credit_ -= kSeldomLate;
    return;
  }
  end_all();
  passes_ = kFewPasses << lateness_;
  lateness_ = std::min(lateness_ + 1, kMostLateness);
  in_time_ = 0;
}

bool Outbox::look_after() {
  if (is_late()) {
    posts_late.add();
    take_all();
    // Who has to wait for a processor is not late.
    if (process_ != nullptr && !process_->platform.is_crowded()) was_late();
  }
  idle_ = calls_ == calls_seen_ ? idle_ + 1 : 0;
  calls_seen_ = calls_;
  if (idle_ >= kMostIdle) {
    // Those who are here, or are not yet there, write nothing.
    const bool runs =
        process_ != nullptr && std::any_of(process_->threads.begin(), process_->threads.end(),
                                           [](const HostThread* t) { return t->where == Where::kNative; });
    if (runs) end_all();
    watched_ = false;
  }
  if (!posts()) watched_ = false;
  return watched_;
}

RefPtr<PostRight> GuestThreadImpl::give_post_right(int fd, u64 table, Poster& poster) {
  RefPtr<SlotArea> area = area_to_lend(fd, table);
  if (!area) return nullptr;
  if (!area->outbox) area->outbox = std::make_unique<Outbox>(*area, *host_->process);
  if (!area->outbox->make_ring() || !area->outbox->gives_right()) return nullptr;
  host_->slot().positions = 1;
  return make_ref<PostRight>(std::move(area), fd, poster);
}

}  // namespace sbx::platform
