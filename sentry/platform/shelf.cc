#include "sentry/platform/shelf.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "sentry/base/counters.h"

namespace sbx::platform {

COUNTER(shelf_maps, "platform.shelf_maps", "mappings of files whose descriptor the stub had inherited");
COUNTER(shelf_put, "platform.shelf_put", "descriptors put on the shelf for stubs to inherit");

namespace {
constexpr i32 kUses = 2;  // of a file, and it is worth a place
constexpr i32 kUsesAfterRefusal = -8;
constexpr size_t kMostWanted = 8;
constexpr u64 kIdle = 256;  // finds of others since one was used last: its place may go to another

UniqueFd make_nothing() {
  UniqueFd fd(memfd_create("nothing", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const bool sealed = fd && fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0;
  return sealed ? std::move(fd) : UniqueFd();
}
}  // namespace

int Shelf::find(const View& view, ShelfItem* item) {
  if (item == nullptr || item->place < 0 || item->gone) return -1;
  const auto place = static_cast<size_t>(item->place);
  if (view[place] != item->serial) return -1;
  item->used_at = ++clock_;
  shelf_maps.add();
  return kShelfBase + item->place;
}

void Shelf::want(const RefPtr<ShelfItem>& item, int fd, const Everybodys& everybodys) {
  if (closed_ || !item || item->gone || item->place >= 0 || ++item->uses < kUses || !everybodys) return;
  if (wanted_.size() >= kMostWanted) return;
  for (const Wanted& other : wanted_) {
    if (other.item == item) return;
  }
  UniqueFd own(dup(fd));
  if (own) wanted_.push_back({item, std::move(own), everybodys});
}

void Shelf::take_down(size_t at) {
  Place& place = places_[at];
  if (!place.item) return;
  place.item->place = -1;
  place.item->uses = 0;
  place = {nullptr, nullptr, true};
  view_[at] = 0;
}

int Shelf::free_place() const {
  int oldest = -1;
  for (size_t i = 0; i < kShelfPlaces; ++i) {
    if (!places_[i].item) return static_cast<int>(i);
    const u64 at = places_[i].item->used_at;
    if (at + kIdle > clock_) continue;
    if (oldest < 0 || at < places_[static_cast<size_t>(oldest)].item->used_at) oldest = static_cast<int>(i);
  }
  return oldest;
}

bool Shelf::holds(const View& view) const {
  for (size_t i = 0; i < kShelfPlaces; ++i) {
    if (view[i] != 0 && view[i] != view_[i]) return false;
  }
  return true;
}

void Shelf::settle() {
  const bool ask = std::exchange(check_again_, false);
  for (size_t i = 0; i < kShelfPlaces; ++i) {
    const Place& place = places_[i];
    if (place.item && (place.item->gone || (ask && !place.everybodys()))) take_down(i);
  }
}

bool Shelf::stock(const std::function<int(int fd, int number)>& put) {
  settle();
  for (Wanted& one : wanted_) {
    const int number = one.item->gone ? -1 : free_place();
    if (number < 0) continue;
    if (!one.everybodys()) {
      one.item->uses = kUsesAfterRefusal;
      continue;
    }
    const auto i = static_cast<size_t>(number);
    take_down(i);
    if (put(one.fd.get(), kShelfBase + number) < 0) continue;
    shelf_put.add();
    one.item->place = number;
    one.item->serial = view_[i] = ++serials_;
    one.item->used_at = ++clock_;
    places_[i] = {one.item, std::move(one.everybodys), false};
  }
  wanted_.clear();
  bool clean = true;
  for (size_t i = 0; i < kShelfPlaces; ++i) {
    if (!places_[i].stale) continue;
    if (!nothing_) nothing_ = make_nothing();
    if (nothing_ && put(nothing_.get(), kShelfBase + static_cast<int>(i)) >= 0) places_[i].stale = false;
    clean = clean && !places_[i].stale;
  }
  return clean;
}

void Shelf::close() {
  closed_ = true;
  wanted_.clear();
  for (size_t i = 0; i < kShelfPlaces; ++i) take_down(i);
}

}  // namespace sbx::platform
