#include "sentry/task/fd_table.h"

#include <algorithm>
#include <bit>

#include "sentry/task/kernel.h"
#include "sentry/vfs/file_locks.h"
#include "sentry/vfs/notify.h"

namespace sbx::task {
namespace {
constexpr u64 kMaxOpen = 1 << 20;  // fs.nr_open: whatever the limit says, the table stays small

std::function<void(FdTable&, int, vfs::File&)>& close_observer() {
  static auto* observer = new std::function<void(FdTable&, int, vfs::File&)>;
  return *observer;
}
}  // namespace

void FdTable::on_close(std::function<void(FdTable&, int, vfs::File&)> observer) {
  close_observer() = std::move(observer);
}

FdTable::~FdTable() { close_all(); }

Result<RefPtr<vfs::File>> FdTable::get(int fd, bool path_ok) const {
  vfs::File* file = peek(fd);
  if (file == nullptr) return Errno::kBadf;
  if ((file->flags() & O_PATH) && !path_ok) return Errno::kBadf;
  return RefPtr<vfs::File>(file);
}

Result<int> FdTable::add(RefPtr<vfs::File> file, bool cloexec, u64 limit, int least) {
  size_t fd = std::max(static_cast<size_t>(least), first_free_);
  while (fd < slots_.size() && slots_[fd].file) ++fd;
  if (fd >= std::min(limit, kMaxOpen)) return Errno::kMfile;
  if (fd >= slots_.size()) slots_.resize(std::max(fd + 1, std::min(slots_.size() * 2, size_t{kMaxOpen})));
  if (watcher_ != nullptr) watcher_->gets(*file);
  file->end_posts();  // it may be another descriptor's, too
  slots_[fd].file = std::move(file);
  slots_[fd].cloexec = cloexec;
  if (static_cast<size_t>(least) <= first_free_) first_free_ = fd + 1;
  return static_cast<int>(fd);
}

Result<int> FdTable::set(int fd, RefPtr<vfs::File> file, bool cloexec, u64 limit) {
  if (fd < 0 || static_cast<u64>(fd) >= std::min(limit, kMaxOpen)) return Errno::kBadf;
  auto index = static_cast<size_t>(fd);
  if (index >= slots_.size()) slots_.resize(index + 1);
  if (watcher_ != nullptr) watcher_->closes(fd);
  if (watcher_ != nullptr) watcher_->gets(*file);
  file->end_posts();
  RefPtr<vfs::File> old = take(slots_[index]);
  slots_[index].file = std::move(file);
  slots_[index].cloexec = cloexec;
  if (index == first_free_) first_free_ = index + 1;
  if (old) (void)closed(fd, *old);
  return fd;
}

// close(2): a process loses its POSIX record locks on a file with the first descriptor of it that it closes.
void FdTable::release_record_locks(vfs::File& file) { file.inode()->locks().release_posix(this); }

// The slot is free already: closing may park, and other threads must not find the descriptor meanwhile.
Result<void> FdTable::closed(int fd, vfs::File& file) {
  Result<void> result = file.flush();
  if (file.inode() != nullptr && file.inode()->has_locks() && !(file.flags() & O_PATH)) release_record_locks(file);
  if (close_observer()) close_observer()(*this, fd, file);
  return result;
}

Result<void> FdTable::drop(int fd) {
  auto index = static_cast<size_t>(fd);
  if (watcher_ != nullptr) watcher_->closes(fd);
  RefPtr<vfs::File> file = take(slots_[index]);
  slots_[index].cloexec = false;
  first_free_ = std::min(first_free_, index);
  return closed(fd, *file);
}

Result<void> FdTable::close(int fd) {
  if (peek(fd) == nullptr) return Errno::kBadf;
  return drop(fd);
}

void FdTable::close_range(u32 first, u32 last) {
  for (size_t fd = first; fd < slots_.size() && fd <= last; ++fd) {
    if (slots_[fd].file) (void)drop(static_cast<int>(fd));
  }
}

void FdTable::close_on_exec() {
  if (watcher_ != nullptr) watcher_->copied();  // what comes is another program
  reap();                                       // of threads that closed and were ended since the call began
  for (size_t fd = 0; fd < slots_.size(); ++fd) {
    end_ring(slots_[fd]);  // its memory goes
    if (slots_[fd].file) slots_[fd].file->end_posts();
    if (slots_[fd].file && slots_[fd].cloexec) (void)drop(static_cast<int>(fd));
  }
}

void FdTable::close_all() { close_range(0, ~0u); }

Result<bool> FdTable::cloexec(int fd) const {
  if (peek(fd) == nullptr) return Errno::kBadf;
  return slots_[static_cast<size_t>(fd)].cloexec;
}

Result<void> FdTable::set_cloexec(int fd, bool on) {
  if (peek(fd) == nullptr) return Errno::kBadf;
  slots_[static_cast<size_t>(fd)].cloexec = on;
  return {};
}

void FdTable::set_cloexec_range(u32 first, u32 last) {
  for (size_t fd = first; fd < slots_.size() && fd <= last; ++fd) {
    if (slots_[fd].file) slots_[fd].cloexec = true;
  }
}

void FdTable::end_ring(Slot& slot) {
  if (slot.ring) slot.ring->close();
  slot.ring = nullptr;
}

RefPtr<vfs::File> FdTable::take(Slot& slot) {
  if (slot.lease) (void)settle(slot);
  slot.lease = nullptr;
  end_ring(slot);
  if (slot.file) slot.file->end_posts();
  return std::move(slot.file);
}

u64 FdTable::next_id() {
  static u64 last = 0;
  return ++last;
}

void FdTable::lend_position(int fd, const RefPtr<vfs::File>& file, platform::GuestThread& thread) {
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size()) return;
  Slot& slot = slots_[static_cast<size_t>(fd)];
  platform::LeaseTerms terms;
  terms.with_stat = thread.rang_for_call() || thread.opens_file();
  // Where somebody watches reads each one is to be seen.
  if (slot.file.get() != file.get() || file->ref_count() != 2 || vfs::notifies_reads() || !file->lendable(terms)) {
    lend_close(fd, file, thread);
    return;
  }
  terms.may_close = may_close(*file);
  thread.lend_position(slot.lease, fd, id_, file->position, terms);
  if (terms.may_close) reap_closes_soon();
}

// Locks and leases end with it, and watches hear of it. That nobody writes to the file any more only who runs it needs
// to know: he asks (vfs::WriteDenial).
bool FdTable::may_close(vfs::File& file) const {
  return !shared_ && !file.inode()->has_locks() && !vfs::notify_active();
}

void FdTable::lend_close(int fd, const RefPtr<vfs::File>& file, platform::GuestThread& thread) {
  if (!thread.rang_for_call() || fd < 0 || static_cast<size_t>(fd) >= slots_.size()) return;
  Slot& slot = slots_[static_cast<size_t>(fd)];
  if (slot.file.get() != file.get() || file->inode() == nullptr) return;
  const u32 type = file->inode()->type();
  if ((type == S_IFREG || type == S_IFDIR) && may_close(*file)) {
    thread.lend_close(slot.lease, fd, id_);
    reap_closes_soon();
  }
}

void FdTable::lend_stream(int fd, vfs::File& file, platform::GuestThread& thread) {
  // Without touching the count: who asks knows the file, and has no reference.
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size()) return;
  Slot& slot = slots_[static_cast<size_t>(fd)];
  if (slot.file.get() != &file || file.ref_count() != 1) return;
  const int host = file.stream_to_lend();
  if (host < 0) return;
  const bool lent = thread.lend_stream(slot.lease, fd, id_, host);
  file.stream_lent(lent ? slot.lease : nullptr);
  if (lent) lent_streams_.push_back(fd);
}

void FdTable::lend_bytes(int fd, vfs::File& file, bool all, platform::GuestThread& thread) {
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size() || vfs::notifies_reads()) return;
  Slot& slot = slots_[static_cast<size_t>(fd)];
  if (slot.file.get() != &file) return;
  if (file.told_by_host()) {
    // Nothing is left after less than was asked for.
    if (all) lend_rest(fd, file, vfs::File::After::kRead, thread);
    return;
  }
  platform::LentStream* stream = file.lent_reads();
  if (stream == nullptr || !stream->lends_bytes()) return;
  if (const size_t left = file.bytes_left(); left > 0) {
    auto fill = [&file](u8* to, size_t most) { return file.peek_bytes(to, most); };
    if (thread.lend_bytes(slot.lease, fd, id_, stream->has_rings() ? SIZE_MAX : left, fill))
      stream->bytes_lent(slot.lease);
  } else if (const platform::WriteRing* ring = stream->own_ring()) {
    if (thread.lend_own(slot.lease, fd, id_, *ring)) stream->own_lent(slot.lease);
  }
}

void FdTable::lend_arrived(int fd, vfs::File& file, platform::GuestThread& thread) {
  constexpr size_t kMost = 16384;  // they are copied twice
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size() || vfs::notifies_reads()) return;
  Slot& slot = slots_[static_cast<size_t>(fd)];
  if (slot.file.get() != &file) return;
  platform::LentStream* stream = file.lent_reads();
  if (stream == nullptr || !stream->lends_bytes()) return;
  const size_t there = file.bytes_left();
  if (there == 0 || there > kMost) return;
  // To look at them gives room to their writers, again.
  auto fill = [&](u8* to, size_t most) { return file.peek_bytes(to, most) == there && stream->hold() ? there : 0; };
  if (thread.lend_bytes(slot.lease, fd, id_, there, fill))
    stream->bytes_lent(slot.lease);
  else
    (void)file.bytes_left();
}

void FdTable::lend_rest(int fd, vfs::File& file, vfs::File::After after, platform::GuestThread& thread) {
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size() || vfs::notifies_reads()) return;
  Slot& slot = slots_[static_cast<size_t>(fd)];
  // The caller has the other reference.
  if (slot.file.get() != &file || file.ref_count() != 2 || !file.lends_rest(after)) return;
  const bool lent = thread.lend_bytes(slot.lease, fd, id_, SIZE_MAX,
                                      [&file](u8* to, size_t most) { return file.peek_bytes(to, most); });
  file.stream_lent(lent ? slot.lease : nullptr);
  if (lent) lent_streams_.push_back(fd);
}

void FdTable::lend_room(int fd, vfs::File& file, platform::GuestThread& thread) {
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size() || vfs::notify_active()) return;
  Slot& slot = slots_[static_cast<size_t>(fd)];
  if (slot.file.get() != &file) return;
  if (slot.ring && slot.ring->open()) return;  // it did not fit
  if (file.discards_writes()) {
    end_ring(slot);
    slot.ring = thread.lend_room(fd, id_);
    if (slot.ring) slot.ring->discard();
    return;
  }
  platform::LentStream* stream = file.lent_writes();
  if (stream == nullptr || !stream->lends_room()) return;
  end_ring(slot);
  slot.ring = thread.lend_room(fd, id_);
  if (slot.ring) file.room_lent(slot.ring);
}

void FdTable::lend_posts(int fd, vfs::File& file, platform::GuestThread& thread) {
  if (shared_ || fd < 0 || static_cast<size_t>(fd) >= slots_.size()) return;
  if (slots_[static_cast<size_t>(fd)].file.get() != &file || file.ref_count() != 2) return;
  platform::Poster* poster = file.poster();
  if (poster == nullptr) return;
  if (auto right = thread.give_post_right(fd, id_, *poster)) file.may_post(std::move(right));
}

void FdTable::take_streams(bool all) {
  std::erase_if(lent_streams_, [&](int fd) {
    const auto& lease = slots_[static_cast<size_t>(fd)].lease;
    if (!all && lease && lease->streams() && !lease->takes_all()) return false;
    (void)peek(fd);
    return true;
  });
}

void FdTable::reap(platform::GuestThread& thread) {
  platform::GuestThread::Closes closes;
  if (!thread.take_closes(id_, closes)) return;
  for (size_t word = 0; word < closes.size(); ++word) {
    for (u64 bits = closes[word]; bits != 0; bits &= bits - 1) {
      const size_t fd = word * 64 + static_cast<size_t>(std::countr_zero(bits));
      if (fd < slots_.size() && slots_[fd].lease && settle(slots_[fd])) (void)drop(static_cast<int>(fd));
    }
  }
}

void FdTable::reap() {
  for (size_t fd = 0; fd < slots_.size(); ++fd) {
    if (slots_[fd].lease && settle(slots_[fd])) (void)drop(static_cast<int>(fd));
  }
}

void FdTable::share() {
  shared_ = true;
  if (watcher_ != nullptr) watcher_->copied();
  reap();  // and takes all of them back
  for (const Slot& slot : slots_) {
    if (slot.file) slot.file->end_posts();
  }
}

RefPtr<FdTable> FdTable::clone() const {
  if (watcher_ != nullptr) watcher_->copied();
  auto copy = make_ref<FdTable>();
  size_t used = slots_.size();
  while (used > 0 && !slots_[used - 1].file) --used;
  // Files have two descriptors from now on: no position is lent.
  copy->slots_.reserve(used);
  copy->first_free_ = std::min(first_free_, used);
  for (size_t fd = 0; fd < used; ++fd) {
    vfs::File* file = peek(static_cast<int>(fd));
    if (file == nullptr) copy->first_free_ = std::min(copy->first_free_, fd);
    if (file != nullptr) file->end_posts();
    copy->slots_.push_back({RefPtr<vfs::File>(file), file != nullptr && slots_[fd].cloexec, nullptr, nullptr});
  }
  return copy;
}

void FdTable::for_each(const std::function<void(int, vfs::File&, bool)>& visit) const {
  for (size_t fd = 0; fd < slots_.size(); ++fd) {
    if (vfs::File* file = peek(static_cast<int>(fd))) visit(static_cast<int>(fd), *file, slots_[fd].cloexec);
  }
}

size_t FdTable::open_count() const {
  return static_cast<size_t>(
      std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return static_cast<bool>(slot.file); }));
}

}  // namespace sbx::task
