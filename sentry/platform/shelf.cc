#include "sentry/platform/shelf.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/base/counters.h"

namespace sbx::platform {

COUNTER(shelf_maps, "platform.shelf_maps", "mappings of files whose descriptor the stub had inherited");
COUNTER(shelf_put, "platform.shelf_put", "descriptors put on the shelf for stubs to inherit");

namespace {
constexpr u32 kUses = 2;  // of a file, and it is worth a place
constexpr size_t kMostWanted = 8;
constexpr u64 kIdle = 256;  // finds of others since one was used last: its place may go to another
}  // namespace

int Shelf::find(const View& view, ShelfItem* item) {
  if (item == nullptr || item->place < 0 || item->gone) return -1;
  const auto place = static_cast<size_t>(item->place);
  if (view[place] != item->serial) return -1;
  item->used_at = ++clock_;
  shelf_maps.add();
  return kShelfBase + item->place;
}

void Shelf::want(const RefPtr<ShelfItem>& item, int fd) {
  if (closed_ || !item || item->gone || item->place >= 0) return;
  if (item->epoch != epoch_) {
    item->epoch = epoch_;
    item->uses = 0;
    item->everybodys = false;
  }
  if (++item->uses < kUses || !item->everybodys || wanted_.size() >= kMostWanted) return;
  for (const Wanted& other : wanted_) {
    if (other.item == item) return;
  }
  UniqueFd own(dup(fd));
  if (own) wanted_.push_back({item, std::move(own)});
}

void Shelf::take_down(size_t place) {
  items_[place]->place = -1;
  items_[place]->uses = 0;
  items_[place] = nullptr;
  view_[place] = 0;
  stale_[place] = true;
}

int Shelf::free_place() const {
  int oldest = -1;
  for (size_t i = 0; i < kShelfPlaces; ++i) {
    if (!items_[i]) return static_cast<int>(i);
    const u64 at = items_[i]->used_at;
    if (at + kIdle > clock_) continue;
    if (oldest < 0 || at < items_[static_cast<size_t>(oldest)]->used_at) oldest = static_cast<int>(i);
  }
  return oldest;
}

void Shelf::stock(const std::function<int(int fd, int number)>& put) {
  for (size_t i = 0; i < kShelfPlaces; ++i) {
    if (items_[i] && items_[i]->gone) take_down(i);
  }
  for (Wanted& one : wanted_) {
    const int place = one.item->gone ? -1 : free_place();
    if (place < 0) continue;
    const auto i = static_cast<size_t>(place);
    if (items_[i]) take_down(i);
    if (put(one.fd.get(), kShelfBase + place) < 0) continue;
    shelf_put.add();
    stale_[i] = false;
    one.item->place = place;
    one.item->serial = view_[i] = ++serials_;
    one.item->used_at = ++clock_;
    items_[i] = one.item;
  }
  wanted_.clear();
  for (size_t i = 0; i < kShelfPlaces; ++i) {
    if (!stale_[i]) continue;
    if (!nothing_) nothing_.reset(memfd_create("nothing", MFD_CLOEXEC));
    if (nothing_ && put(nothing_.get(), kShelfBase + static_cast<int>(i)) >= 0) stale_[i] = false;
  }
}

void Shelf::clear() {
  ++epoch_;
  wanted_.clear();
  for (size_t i = 0; i < kShelfPlaces; ++i) {
    if (items_[i]) take_down(i);
  }
}

void Shelf::close() {
  closed_ = true;
  clear();
}

}  // namespace sbx::platform
