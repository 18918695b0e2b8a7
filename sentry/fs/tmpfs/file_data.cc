#include "sentry/fs/tmpfs/file_data.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

#include "sentry/vfs/bounce.h"

namespace sbx::tmpfs {
namespace {

constexpr size_t kBounce = 64 * 1024;  // in one piece, at most
u64 page_of(u64 offset) { return offset / kPageSize; }
u64 pages_for(u64 bytes) { return bytes / kPageSize + (bytes % kPageSize != 0 ? 1 : 0); }

}  // namespace

FileData::~FileData() { usage_->pages -= charged_; }

// ---- accounting ----

Result<void> FileData::charge_to(u64 pages) {
  if (pages > charged_ && pages - charged_ > usage_->pages_left()) return Errno::kNospc;
  usage_->pages += pages - charged_;
  charged_ = pages;
  return {};
}

void FileData::drop_charge(u64 pages) {
  pages = std::min(pages, charged_);
  charged_ -= pages;
  usage_->pages -= pages;
}

// Pages that the guest's mappings made are charged when we next look, even above the limit.
void FileData::recount() {
  struct stat st {};
  if (!mapped_ || fstat(memfd_.get(), &st) != 0) return;
  u64 now = static_cast<u64>(st.st_blocks) / 8;
  usage_->pages += now - charged_;
  charged_ = now;
}

u64 FileData::pages() {
  recount();
  return charged_;
}

u64 FileData::missing(u64 first, u64 end) const {
  u64 count = end - first;
  auto it = extents_.upper_bound(first);
  if (it != extents_.begin()) --it;
  for (; it != extents_.end() && it->first < end; ++it) {
    u64 a = std::max(first, it->first), b = std::min(end, it->second);
    if (a < b) count -= b - a;
  }
  return count;
}

void FileData::add_extent(u64 first, u64 end) {
  auto it = extents_.upper_bound(first);
  if (it != extents_.begin() && std::prev(it)->second >= first) --it;
  while (it != extents_.end() && it->first <= end) {
    first = std::min(first, it->first);
    end = std::max(end, it->second);
    it = extents_.erase(it);
  }
  extents_.emplace(first, end);
}

void FileData::cut_extents(u64 first, u64 end) {
  auto it = extents_.upper_bound(first);
  if (it != extents_.begin()) --it;
  while (it != extents_.end() && it->first < end) {
    u64 a = it->first, b = it->second;
    if (b <= first) {
      ++it;
      continue;
    }
    it = extents_.erase(it);
    if (a < first) extents_.emplace(a, first);
    if (b > end) extents_.emplace(end, b);
    drop_charge(std::min(b, end) - std::max(a, first));
  }
}

// ---- heap to memfd ----

Result<void> FileData::to_memfd() {
  if (memfd_) return {};
  UniqueFd fd(memfd_create("tmpfs", MFD_CLOEXEC));
  if (!fd) return Errno::kNfile;
  for (size_t done = 0; done < heap_.size();) {
    ssize_t n = pwrite(fd.get(), heap_.data() + done, heap_.size() - done, static_cast<off_t>(done));
    if (n <= 0) return Errno::kNospc;
    done += static_cast<size_t>(n);
  }
  if (!heap_.empty()) add_extent(0, pages_for(heap_.size()));
  memfd_ = std::move(fd);
  heap_ = {};
  return {};
}

Result<int> FileData::map() {
  TRY(to_memfd());
  mapped_ = true;
  return memfd_.get();
}

// ---- reading and writing ----

Result<size_t> FileData::read(u64 offset, vfs::Sink& to) {
  if (offset >= size_) return size_t{0};
  size_t n = std::min<u64>(to.left(), size_ - offset);
  if (!memfd_) return to.put(heap_.data() + offset, n);
  size_t done = 0;
  vfs::Bounce bounce(to.window(n) != nullptr ? 1 : n, to.place());
  while (done < n) {
    size_t chunk = n - done;
    u8* window = to.window(chunk);
    u8* place = window != nullptr ? window : bounce.data();
    if (window == nullptr) chunk = std::min(chunk, kBounce);
    ssize_t got = pread(memfd_.get(), place, chunk, static_cast<off_t>(offset + done));
    if (got <= 0) break;
    if (window != nullptr) {
      to.commit(static_cast<size_t>(got));
      done += static_cast<size_t>(got);
      continue;
    }
    auto put = to.put(place, static_cast<size_t>(got));
    if (!put) {
      if (done == 0) return put.error();
      break;
    }
    done += *put;
    if (*put < static_cast<size_t>(got)) break;
  }
  return done;
}

Result<size_t> FileData::write_heap(u64 offset, vfs::Source& from) {
  size_t n = from.left();
  u64 end = offset + n;
  if (end > size_) {
    if (auto ok = charge_to(std::max(charged_, pages_for(end))); !ok) {
      // What still fits in the pages that are left.
      u64 room = (charged_ + usage_->pages_left()) * kPageSize;
      if (room <= offset) return Errno::kNospc;
      end = room;
      n = end - offset;
      TRY(charge_to(pages_for(end)));
    }
    heap_.resize(end);
  }
  auto got = from.get(heap_.data() + offset, n);
  u64 reached = offset + (got ? *got : 0);
  size_ = std::max(size_, got ? reached : size_);
  if (heap_.size() > size_) {
    heap_.resize(size_);
    drop_charge(charged_ - pages_for(size_));
  }
  return got;
}

Result<size_t> FileData::write_memfd(u64 offset, vfs::Source& from) {
  size_t done = 0;
  vfs::Bounce bounce(std::min(from.left(), kBounce), from.place());
  recount();
  while (from.left() > 0) {
    u64 at = offset + done;
    size_t chunk = std::min<u64>(from.left(), kBounce - at % kPageSize);
    u64 first = page_of(at), end = pages_for(at + chunk);
    if (missing(first, end) > usage_->pages_left()) {
      while (end > first && missing(first, end) > usage_->pages_left()) --end;
      if (end == first) {
        if (done > 0) break;
        return Errno::kNospc;
      }
      chunk = std::min<u64>(chunk, end * kPageSize - at);
    }
    auto got = from.get(bounce.data(), chunk);
    if (!got) {
      if (done > 0) break;
      return got.error();
    }
    ssize_t put = pwrite(memfd_.get(), bounce.data(), *got, static_cast<off_t>(at));
    if (put <= 0) {
      if (done > 0) break;
      return put < 0 && errno == ENOMEM ? Errno::kNomem : Errno::kNospc;
    }
    end = pages_for(at + static_cast<u64>(put));
    if (!mapped_) {
      u64 fresh = missing(first, end);
      usage_->pages += fresh;
      charged_ += fresh;
    }
    add_extent(first, end);
    done += static_cast<size_t>(put);
    size_ = std::max(size_, offset + done);
    if (static_cast<size_t>(put) < chunk) break;
  }
  recount();
  return done;
}

Result<size_t> FileData::write(u64 offset, vfs::Source& from) {
  if (from.left() == 0) return size_t{0};
  if (offset >= kMaxSize || from.left() > kMaxSize - offset) return Errno::kFbig;
  if (!memfd_ && offset + from.left() > kHeapMax) {
    auto moved = to_memfd();
    // Without descriptors the heap serves on, except for holes that nobody could store.
    if (!moved && offset > size_ + kHeapMax) return moved.error();
  }
  return memfd_ ? write_memfd(offset, from) : write_heap(offset, from);
}

Result<void> FileData::resize(u64 size) {
  if (size > kMaxSize) return Errno::kFbig;
  if (size == 0 && memfd_ && !mapped_) {
    memfd_.reset();
    extents_.clear();
    drop_charge(charged_);
    size_ = 0;
    return {};
  }
  if (!memfd_ && size > kHeapMax && size > size_) TRY(to_memfd());
  if (!memfd_) {
    TRY(charge_to(pages_for(size)));
    heap_.resize(size);
    if (size == 0) heap_.shrink_to_fit();
    size_ = size;
    return {};
  }
  if (ftruncate(memfd_.get(), static_cast<off_t>(size)) != 0) return last_errno();
  if (size < size_) cut_extents(pages_for(size), ~0ull);
  size_ = size;
  recount();
  return {};
}

Result<void> FileData::allocate(int mode, u64 offset, u64 length) {
  if (offset > kMaxSize || length > kMaxSize - offset) return Errno::kFbig;
  u64 end = offset + length;
  if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) {
    if (!memfd_) {
      if (offset < size_)
        std::fill(heap_.begin() + static_cast<i64>(offset), heap_.begin() + static_cast<i64>(std::min(end, size_)), 0);
      return {};
    }
    if (fallocate(memfd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) != 0) return last_errno();
    u64 first = pages_for(offset), last = page_of(end);
    if (first < last) cut_extents(first, last);
    recount();
    return {};
  }
  if (mode != 0 && mode != FALLOC_FL_KEEP_SIZE) return Errno::kOpnotsupp;
  if (!memfd_ && mode == 0 && end <= kHeapMax) return end > size_ ? resize(end) : Result<void>{};
  TRY(to_memfd());
  recount();
  u64 first = page_of(offset), last = pages_for(end), fresh = missing(first, last);
  if (fresh > usage_->pages_left()) return Errno::kNospc;
  if (fallocate(memfd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) != 0) return last_errno();
  if (!mapped_) {
    usage_->pages += fresh;
    charged_ += fresh;
  }
  add_extent(first, last);
  if (mode == 0) size_ = std::max(size_, end);
  recount();
  return {};
}

Result<u64> FileData::seek(u64 offset, int whence) {
  if (offset >= size_) return Errno::kNxio;
  if (!memfd_) return whence == SEEK_DATA ? offset : size_;
  off_t at = lseek(memfd_.get(), static_cast<off_t>(offset), whence);
  if (at < 0) return last_errno();
  return static_cast<u64>(at);
}

}  // namespace sbx::tmpfs
