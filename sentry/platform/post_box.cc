#include "sentry/platform/post_box.h"

#include <sys/syscall.h>

#include "sentry/base/counters.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {

namespace {

COUNTER(boxes, "platform.post_boxes", "epolls whose thread may post changes");
COUNTER(taken, "platform.posts", "changes of an epoll that were posted");

}  // namespace

PostBox::PostBox(RefPtr<SlotArea> area, u32 slot, int epoll) : area_(std::move(area)) {
  Posts& posts = area_->posts();
  head_ = __atomic_load_n(&posts.tail, __ATOMIC_RELAXED);
  posts.head = head_;
  posts.owner = slot + 1;
  posts.epoll = static_cast<u32>(epoll);
  for (u64& word : posts.known) __atomic_store_n(&word, 0, __ATOMIC_RELAXED);
  for (u64& word : posts.registered) __atomic_store_n(&word, 0, __ATOMIC_RELAXED);
  area_->post_box = this;
  boxes.add();
  __atomic_store_n(&posts.open, 1, __ATOMIC_SEQ_CST);
}

PostBox::~PostBox() { close(); }

void PostBox::set(int fd, bool known, bool registered) {
  if (fd < 0 || static_cast<u32>(fd) >= kMostPostFds || area_->post_box != this) return;
  const u64 bit = 1ull << (fd % 64);
  auto put = [bit](u64& word, bool on) {
    if (on)
      __atomic_fetch_or(&word, bit, __ATOMIC_SEQ_CST);
    else
      __atomic_fetch_and(&word, ~bit, __ATOMIC_SEQ_CST);
  };
  Posts& posts = area_->posts();
  put(posts.registered[fd / 64], registered);
  put(posts.known[fd / 64], known);
}

bool PostBox::empty() const { return __atomic_load_n(&area_->posts().tail, __ATOMIC_SEQ_CST) == head_; }

bool PostBox::take(PostedControl& post) {
  Posts& posts = area_->posts();
  // A hostile tail makes us take what is not there, once around: nothing but calls of its own.
  if (__atomic_load_n(&posts.tail, __ATOMIC_SEQ_CST) == head_) return false;
  const volatile PostedControl& from = posts.ring[head_ % kMostPosts];
  post.data = from.data;
  post.op = from.op;
  post.fd = from.fd;
  post.events = from.events;
  ++head_;
  __atomic_store_n(&posts.head, head_, __ATOMIC_RELEASE);
  taken.add();
  return true;
}

void PostBox::close() {
  if (area_->post_box != this) return;
  area_->post_box = nullptr;
  __atomic_store_n(&area_->posts().open, 0, __ATOMIC_SEQ_CST);
}

RefPtr<PostBox> GuestThreadImpl::open_posts(int epoll) {
  if (!host_ || lost_ || entry_.kind != EntryKind::kSyscall || host_->where != Where::kSentry) return nullptr;
  if (!answers_calls()) return nullptr;
  RefPtr<SlotArea> area = host_->process->area;
  if (area->post_box != nullptr || epoll < 0) return nullptr;
  return make_ref<PostBox>(std::move(area), host_->index, epoll);
}

}  // namespace sbx::platform
