// Opening ahead. Who goes through a directory mostly opens one file of it after the other (grep -r, tar, a build's
// archive), and each open is a round trip to the gofer of some 10 µs, most of it the two wake-ups. So when files were
// opened in the listing's order, the next ones are opened along: 2 µs each.
//
// Only in the container's own mounts, where nobody but us changes names. What we change there ends the batch of that
// directory: a file that is opened for writing may be another one afterwards (overlayfs copies it up), a name may be.
// From outside a name may have changed within kAheadNs, as it may within the directory's cache (kOutsideNs).
#include <dirent.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/fs/gofer/inode.h"

namespace sbx::fs::gofer {

namespace {

COUNTER(opened_ahead, "gofer.opened_ahead", "files opened before anybody asked");
COUNTER(ahead_used, "gofer.ahead_used", "of these, opened by the guest afterwards");

constexpr u64 kAheadNs = 100'000'000;
// Files between the one opened last and the next, if they are opened in order.
constexpr size_t kGap = 8;
constexpr u32 kSomeInOrder = 2, kManyInOrder = 6;
constexpr size_t kSome = 4, kMany = wire::kMostOpened - 1;

}  // namespace

GoferFs::Ahead* GoferFs::ahead_of(const GoferInode& dir) {
  for (Ahead& batch : ahead_) {
    if (batch.dir == &dir) return &batch;
  }
  return nullptr;
}

void GoferFs::end_batch(Ahead& batch) {
  // Whether the next directory is worth it from its first file on.
  const bool most_used = batch.used * 2 >= batch.files.size();
  if (!batch.files.empty()) walks_in_order_ = most_used;
  batch.dir = nullptr;
  batch.files.clear();
  batch.used = 0;
}

void GoferFs::drop_ahead(const GoferInode& dir) {
  if (Ahead* batch = ahead_of(dir)) end_batch(*batch);
}

void GoferFs::drop_old_ahead() {
  const u64 now = fiber::now_ns();
  u64 oldest = ~0ull;
  for (Ahead& batch : ahead_) {
    if (batch.dir == nullptr) continue;
    if (now - batch.made_at >= kAheadNs)
      end_batch(batch);
    else
      oldest = std::min(oldest, batch.made_at);
  }
  if (oldest != ~0ull) ahead_timer_.arm(oldest + kAheadNs);
}

UniqueFd GoferInode::take_ahead(const std::string& name, const wire::Attr& attr) {
  GoferFs::Ahead* batch = gofer_fs().ahead_of(*this);
  if (batch == nullptr) return UniqueFd();
  for (GoferFs::AheadFile& file : batch->files) {
    if (!file.fd || file.name != name) continue;
    if (file.dev != attr.dev || file.ino != attr.ino || fiber::now_ns() - batch->made_at >= kAheadNs) break;
    ++batch->used;
    ahead_used.add();
    entries_->opened_at = file.place;
    ++entries_->in_order;
    return std::move(file.fd);
  }
  return UniqueFd();
}

// Where the file is, if it is the next or one of the next after the one that was opened last, or one of the first: who
// walks the same tree again begins anew.
std::optional<size_t> GoferInode::place_in_order(const std::string& name) const {
  const auto& all = entries_->listing->entries;
  auto from = [&](size_t first) -> std::optional<size_t> {
    size_t seen = 0;
    for (size_t i = first; i < all.size() && seen < kGap; ++i) {
      if (all[i].type != DT_REG) continue;
      if (all[i].name == name) return i;
      ++seen;
    }
    return std::nullopt;
  };
  if (entries_->opened_at == Entries::kNone) return from(0);
  const auto next = from(entries_->opened_at + 1);
  return next ? next : from(0);
}

UniqueFd GoferInode::open_in_order(const std::string& name, const wire::Attr& attr) {
  GoferFs& fs = gofer_fs();
  if (!fs.exclusive() || !entries_ || !entries_->listing || node_ == wire::kNoNode) return UniqueFd();
  if (UniqueFd fd = take_ahead(name, attr)) return fd;
  const auto place = place_in_order(name);
  if (!place) {
    entries_->in_order = 0;
    return UniqueFd();
  }
  // That others walk in order says nothing of one who opens the first files of a directory again and again.
  const bool again = entries_->opened_at != Entries::kNone && *place <= entries_->opened_at;
  entries_->opened_at = *place;
  const u32 in_order = ++entries_->in_order;
  const bool many = in_order > kManyInOrder || (fs.walks_in_order() && !again);
  const size_t count = many ? kMany : in_order > kSomeInOrder ? kSome : 0;
  if (count == 0) return UniqueFd();

  wire::OpenSeveralRequest m;
  m.dir = node_;
  m.names.emplace_back(name);
  std::vector<size_t> places = {*place};
  const auto& all = entries_->listing->entries;
  for (size_t i = *place + 1; i < all.size() && places.size() <= count; ++i) {
    if (all[i].type != DT_REG) continue;
    auto known = entries_->by_name().find(all[i].name);
    if (known == entries_->by_name().end()) continue;
    if (known->second.inode != nullptr && known->second.inode->has_descriptor()) continue;
    m.names.emplace_back(all[i].name);
    places.push_back(i);
  }
  if (places.size() == 1) return UniqueFd();
  std::vector<UniqueFd> fds;
  auto reply = fs.client().call(m, fds);
  // Whatever went wrong, opening just the one will tell.
  if (!reply || reply->files.empty() || fds.empty() || reply->files[0].place != 0) return UniqueFd();
  GoferFs::Ahead& batch = fs.new_batch(*this);
  for (size_t i = 1; i < std::min(reply->files.size(), fds.size()); ++i) {
    const wire::OpenedFile& file = reply->files[i];
    if (file.place >= places.size()) break;
    batch.files.push_back({m.names[file.place], file.dev, file.ino, places[file.place], std::move(fds[i])});
  }
  opened_ahead.add(batch.files.size());
  const wire::OpenedFile& first = reply->files[0];
  return first.dev == attr.dev && first.ino == attr.ino ? std::move(fds[0]) : UniqueFd();
}

GoferFs::Ahead& GoferFs::new_batch(GoferInode& dir) {
  Ahead* place = ahead_of(dir);
  // Else one that is free, else the oldest.
  for (Ahead& batch : ahead_) {
    if (place == nullptr ||
        (place->dir != &dir && place->dir != nullptr && (batch.dir == nullptr || batch.made_at < place->made_at)))
      place = &batch;
  }
  end_batch(*place);
  place->dir = &dir;
  place->made_at = fiber::now_ns();
  if (!ahead_timer_.armed()) ahead_timer_.arm(place->made_at + kAheadNs);
  return *place;
}

// What this file is may change: those who have it open by its name.
void GoferInode::drop_ahead_of_parents() {
  for (const Link& link : links_) gofer_fs().drop_ahead(*link.parent);
}

}  // namespace sbx::fs::gofer
