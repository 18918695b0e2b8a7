// Changes of an epoll that are posted (sentry/platform/post_box.h).
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kAdd = 1, kDel = 2, kMod = 3;
constexpr u32 kNotPosted = 3u << 28;  // EPOLLEXCLUSIVE, EPOLLWAKEUP

Posts& posts() { return *reinterpret_cast<Posts*>(kSlotsBase + kPostsOffset); }

}  // namespace

Posted post_control(const Context& ctx) {
  const Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  Posts& p = posts();
  const u64 own = (reinterpret_cast<u64>(&slot) - kSlotsBase) / kSlotBytes + 1;
  if (__atomic_load_n(&p.open, __ATOMIC_ACQUIRE) == 0 || p.owner != own) return Posted::kNo;
  if (slot.report_all != 0 || slot.see_native != 0) return Posted::kNo;
  const u32 op = static_cast<u32>(a[1]), fd = static_cast<u32>(a[2]);
  if (p.epoll != static_cast<u32>(a[0]) || fd >= kMostPostFds || op < kAdd || op > kMod) return Posted::kNo;
  const u64 bit = 1ull << (fd % 64);
  if ((__atomic_load_n(&p.known[fd / 64], __ATOMIC_ACQUIRE) & bit) == 0) return Posted::kNo;
  const bool registered = (__atomic_load_n(&p.registered[fd / 64], __ATOMIC_RELAXED) & bit) != 0;
  if (registered == (op == kAdd)) return Posted::kNo;  // an error, which is the sentry's to tell
  struct [[gnu::packed]] {
    u32 events;
    u64 data;
  } event{};
  if (op != kDel && (!copy_in(&event, a[3], sizeof(event)) || (event.events & kNotPosted) != 0)) return Posted::kNo;
  const u32 tail = p.tail;
  if (tail - __atomic_load_n(&p.head, __ATOMIC_ACQUIRE) >= kMostPosts) return Posted::kNo;
  PostedControl& post = p.ring[tail % kMostPosts];
  post.data = event.data;
  post.op = op;
  post.fd = fd;
  post.events = event.events;
  if (op == kAdd)
    __atomic_fetch_or(&p.registered[fd / 64], bit, __ATOMIC_SEQ_CST);
  else if (op == kDel)
    __atomic_fetch_and(&p.registered[fd / 64], ~bit, __ATOMIC_SEQ_CST);
  __atomic_store_n(&p.tail, tail + 1, __ATOMIC_SEQ_CST);
  // Who closed it meanwhile may not have seen this post.
  return __atomic_load_n(&p.open, __ATOMIC_SEQ_CST) != 0 ? Posted::kYes : Posted::kComeIn;
}

}  // namespace sbx::platform::stub
