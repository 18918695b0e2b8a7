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
COUNTER(posts_late, "platform.late_posts", "of these, sent because their process did not come in");
COUNTER(posts_lost, "platform.bad_posts", "of these, for descriptors that may not");

constexpr u64 kLookAfterNs = 500'000;
constexpr u64 kLate = 1 << 19;  // cycles: about 200 us
constexpr u32 kMostIdle = 4;
// One of so many may be late: its thread may have lost its processor. Who is late more often is refused so many rights,
// twice as many each time, and half with each that many writes in time.
constexpr u64 kSeldomLate = 128, kMostCredit = 32 * kSeldomLate;
constexpr u32 kFewPasses = 64, kMostLateness = 10;
constexpr u64 kInTime = 4096;

std::vector<RefPtr<Process>>& watched() {
  static auto* all = new std::vector<RefPtr<Process>>;
  return *all;
}

fiber::Timer& timer() {
  static auto* one = new fiber::Timer([] {
    std::vector<RefPtr<Process>> left;
    left.swap(watched());
    std::erase_if(left, [](const RefPtr<Process>& process) { return !process->area->outbox->look_after(*process); });
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

Outbox::Outbox(SlotArea& area, RefPtr<WriteRing> ring) : area_(area), ring_(std::move(ring)) {
  ring_->allow(kRingBytes);
}

Outbox::~Outbox() = default;

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
  if (!sending_) (void)send_all();
  rights_[right.fd_] = nullptr;
  --rights_open_;
  --PostRight::all_open_;
}

void Outbox::end_all() {
  for (PostRight* right : rights_) {
    if (right != nullptr) right->end();
  }
}

size_t Outbox::send_all() {
  if (sending_) return 0;
  ring_->look();
  if (ring_->all_taken()) return 0;
  sending_ = true;
  size_t count = 0;
  u64 time = 0;
  // As many as a ring has room for: none is added meanwhile.
  for (; ring_->first(&time); ++count) {
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
  posts_sent.add(count);
  credit_ = std::min(credit_ + count, kMostCredit);
  in_time_ += count;
  if (in_time_ >= kInTime) {
    in_time_ = 0;
    if (lateness_ > 0) --lateness_;
  }
  return count;
}

void Outbox::watch(Process& process) {
  watched_ = true;
  idle_ = 0;
  watched().emplace_back(&process);
  if (!timer().armed()) timer().arm(fiber::now_ns() + kLookAfterNs);
}

bool Outbox::look_after(const Process& process) {
  u64 time = 0;
  ring_->look();
  if (ring_->first(&time) && __rdtsc() - time > kLate) {
    posts_late.add(send_all());
    if (credit_ < kSeldomLate) {
      end_all();
      passes_ = kFewPasses << lateness_;
      lateness_ = std::min(lateness_ + 1, kMostLateness);
      in_time_ = 0;
    } else {
      credit_ -= kSeldomLate;
    }
  }
  idle_ = calls_ == calls_seen_ ? idle_ + 1 : 0;
  calls_seen_ = calls_;
  if (idle_ >= kMostIdle) {
    // Those who are here, or are not yet there, write nothing.
    const bool runs = std::any_of(process.threads.begin(), process.threads.end(),
                                  [](const HostThread* thread) { return thread->where == Where::kNative; });
    if (runs) end_all();
    watched_ = false;
  }
  if (rights_open_ == 0) watched_ = false;
  return watched_;
}

RefPtr<PostRight> GuestThreadImpl::give_post_right(int fd, u64 table, Poster& poster) {
  RefPtr<SlotArea> area = area_to_lend(fd, table);
  if (!area) return nullptr;
  if (!area->outbox) {
    if (area->free_rings == 0) return nullptr;
    const auto place = static_cast<u32>(std::countr_zero(area->free_rings));
    area->outbox = std::make_unique<Outbox>(*area, make_ref<WriteRing>(*area, place));
  }
  if (!area->outbox->gives_right()) return nullptr;
  host_->slot().positions = 1;
  return make_ref<PostRight>(std::move(area), fd, poster);
}

}  // namespace sbx::platform
