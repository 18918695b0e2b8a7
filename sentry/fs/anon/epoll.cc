#include "sentry/fs/anon/epoll.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "sentry/base/log.h"
#include "sentry/fiber/reactor.h"
#include "sentry/fs/anon/node.h"

namespace sbx::fs::anon {
namespace {

constexpr u32 kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
constexpr u32 kExclusiveAllowed = EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
constexpr size_t kMaxNesting = 5;

}  // namespace

struct Epoll::Item {
  Item(Epoll& owner, int fd, vfs::File* file)
      : epoll(owner), fd(fd), file(file), by_host(file->told_by_host()), waiter([this] { epoll.item_woken(*this); }) {}
  Epoll& epoll;
  const int fd;
  vfs::File* const file;  // not owned, see forget()
  const bool by_host;     // told_by_host(), which a file that ends has forgotten
  u32 events = 0;
  u64 data = 0;
  bool ready = false;
  std::list<Item*>::iterator place;  // in ready_ if `ready`
  fiber::Waiter waiter;

  // All items that watch a file, for its end and for the nesting check.
  using Watchers = std::unordered_map<const vfs::File*, std::vector<Item*>>;
  static Watchers& watchers() {
    static auto* all = new Watchers;
    return *all;
  }
  u32 ready_mask() const {
    u32 wanted = events & ~kPrivateBits;
    if (wanted == 0) return 0;  // a fired EPOLLONESHOT
    return file->readiness_for(wanted);
  }
};

Epoll::Epoll(u32 flags) : File(anon_path("[eventpoll]"), O_RDWR | flags) {}

Epoll::~Epoll() {
  end_posts();
  ready_.clear();
  for (auto& [key, item] : items_) {
    auto it = Item::watchers().find(item->file);
    std::erase(it->second, item.get());
    if (it->second.empty()) {
      item->file->epoll_watched = false;
      Item::watchers().erase(it);
    }
  }
}

void Epoll::forget(vfs::File& file) {
  auto it = Item::watchers().find(&file);
  if (it == Item::watchers().end()) return;
  std::vector<Item*> items = std::move(it->second);
  Item::watchers().erase(it);
  for (Item* item : items) {
    Epoll& epoll = item->epoll;
    epoll.unready(*item);
    epoll.host_items_ -= item->by_host;
    epoll.items_.erase({item->fd, item->file});
  }
}

void Epoll::make_ready(Item& item) {
  if (item.ready) return;
  item.ready = true;
  item.place = ready_.insert(ready_.end(), &item);
}

void Epoll::unready(Item& item) {
  if (!item.ready) return;
  item.ready = false;
  ready_.erase(item.place);
}

void Epoll::item_woken(Item& item) {
  if ((item.events & ~kPrivateBits) == 0) return;
  if (!item.ready) {
    make_ready(item);
    waiters_.wake_one();
  }
  if (!poll_queue_.empty()) poll_queue_.wake_all();
}

// Who joins it is woken for changes, which then must not wait for their thread.
fiber::WaitQueue* Epoll::wait_queue() {
  polled_ = true;
  end_posts();
  return &poll_queue_;
}

void Epoll::take_news() {
  take_posts();
  if (host_items_ != 0) fiber::reactor_take_news();
}

u32 Epoll::readiness() {
  take_news();
  while (!ready_.empty()) {
    Item* item = ready_.front();
    if (item->ready_mask() != 0) return POLLIN | POLLRDNORM;
    unready(*item);
  }
  return 0;
}

bool Epoll::reaches(const Epoll& other, int levels) const {
  if (this == &other) return true;
  if (levels == 0) return true;
  for (const auto& [key, item] : items_) {
    auto* inner = dynamic_cast<Epoll*>(item->file);
    if (inner != nullptr && inner->reaches(other, levels - 1)) return true;
  }
  return false;
}

size_t Epoll::depth_below() const {
  size_t deepest = 0;
  for (const auto& [key, item] : items_) {
    if (auto* inner = dynamic_cast<Epoll*>(item->file)) deepest = std::max(deepest, inner->depth_below() + 1);
  }
  return deepest;
}

size_t Epoll::depth_above() const {
  size_t highest = 0;
  auto it = Item::watchers().find(this);
  if (it == Item::watchers().end()) return 0;
  for (const Item* item : it->second) highest = std::max(highest, item->epoll.depth_above() + 1);
  return highest;
}

Result<void> Epoll::check_nesting(Epoll& inner) const {
  if (inner.reaches(*this, kMaxNesting)) return Errno::kLoop;
  if (inner.depth_below() + depth_above() + 1 >= kMaxNesting) return Errno::kLoop;
  return {};
}

Result<void> Epoll::control(int op, int fd, const RefPtr<vfs::File>& file, const epoll_event& event) {
  take_posts();
  return change(op, fd, file, event, Look::kNow);
}

Result<void> Epoll::change(int op, int fd, const RefPtr<vfs::File>& file, const epoll_event& event, Look look) {
  if (file->wait_queue() == nullptr) return Errno::kPerm;
  if (file.get() == this) return Errno::kInval;
  auto* inner = dynamic_cast<Epoll*>(file.get());
  if (op != EPOLL_CTL_DEL && (event.events & EPOLLEXCLUSIVE)) {
    if (op == EPOLL_CTL_MOD || inner != nullptr || (event.events & ~kExclusiveAllowed)) return Errno::kInval;
  }
  auto it = items_.find({fd, file.get()});
  switch (op) {
    case EPOLL_CTL_ADD: {
      if (it != items_.end()) return Errno::kExist;
      if (inner != nullptr) TRY(check_nesting(*inner));
      auto owned = std::make_unique<Item>(*this, fd, file.get());
      Item& item = *owned;
      item.events = event.events | EPOLLERR | EPOLLHUP;  // always, fs/eventpoll.c
      item.data = event.data.u64;
      items_[{fd, file.get()}] = std::move(owned);
      Item::watchers()[file.get()].push_back(&item);
      file->epoll_watched = true;
      vfs::File::on_watched_end = &Epoll::forget;
      item.waiter.join(*file->wait_queue());
      host_items_ += item.by_host;
      if (look == Look::kLater || item.ready_mask() != 0) item_woken(item);
      return {};
    }
    case EPOLL_CTL_MOD: {
      if (it == items_.end()) return Errno::kNoent;
      Item& item = *it->second;
      if (item.events & EPOLLEXCLUSIVE) return Errno::kInval;
      item.events = event.events | EPOLLERR | EPOLLHUP;
      item.data = event.data.u64;
      // As an edge: MOD reports a state that was reported before.
      if (look == Look::kLater || item.ready_mask() != 0) item_woken(item);
      return {};
    }
    case EPOLL_CTL_DEL: {
      if (it == items_.end()) return Errno::kNoent;
      Item* item = it->second.get();
      unready(*item);
      auto watchers = Item::watchers().find(file.get());
      std::erase(watchers->second, item);
      if (watchers->second.empty()) {
        file->epoll_watched = false;
        Item::watchers().erase(watchers);
      }
      host_items_ -= item->by_host;
      items_.erase(it);
      return {};
    }
    default: return Errno::kInval;
  }
}

size_t Epoll::collect(epoll_event* out, size_t max, Source* sources) {
  size_t n = 0;
  // Level-triggered items go back to the end; one round over the list as it is now gives each its turn.
  for (size_t rounds = ready_.size(); rounds > 0 && n < max && !ready_.empty(); --rounds) {
    Item& item = *ready_.front();
    u32 mask = item.ready_mask();
    if (mask == 0) {
      unready(item);
      continue;
    }
    out[n].events = mask;
    out[n].data.u64 = item.data;
    if (sources != nullptr) sources[n] = {item.fd, item.file};
    ++n;
    if (item.events & EPOLLONESHOT) {
      item.events &= kPrivateBits;
      unready(item);
    } else if (item.events & EPOLLET) {
      unready(item);
    } else {
      ready_.splice(ready_.end(), ready_, item.place);
    }
  }
  return n;
}

Result<size_t> Epoll::wait(epoll_event* out, size_t max, fiber::Deadline deadline, Source* sources) {
  take_news();
  size_t n = collect(out, max, sources);
  if (n > 0 || deadline == 0) {
    if (!ready_.empty()) waiters_.wake_one();
    return n;
  }
  RefPtr<Epoll> self(this);  // another thread may close it meanwhile
  fiber::Waiter waiter(fiber::current());
  waiter.join(waiters_);
  Result<size_t> result = size_t{0};
  for (;;) {
    if (fiber::current()->interrupted()) {
      result = Errno::kIntr;
      break;
    }
    fiber::current()->set_wait_reason("epoll");
    bool in_time = fiber::park_until(deadline);
    n = collect(out, max, sources);
    if (n > 0 || !in_time) {
      result = n;
      break;
    }
  }
  waiter.leave();
  if (!ready_.empty()) waiters_.wake_one();
  return result;
}

std::string Epoll::fdinfo() {
  take_posts();
  std::string out;
  for (const auto& [key, item] : items_) {
    u64 ino = 0;
    if (auto attr = item->file->attr()) ino = attr->ino;
    out += str_printf("tfd: %8d events: %8x data: %16llx  pos:0 ino:%llx sdev:0\n", item->fd, item->events,
                      static_cast<unsigned long long>(item->data), static_cast<unsigned long long>(ino));
  }
  return out;
}

Result<RefPtr<vfs::File>> make_epoll(u32 flags) {
  if (flags & ~u32{EPOLL_CLOEXEC}) return Errno::kInval;
  return RefPtr<vfs::File>(make_ref<Epoll>(0));
}

}  // namespace sbx::fs::anon
