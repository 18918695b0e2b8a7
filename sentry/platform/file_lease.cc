#include "sentry/platform/file_lease.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <x86intrin.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "sentry/base/counters.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

COUNTER(positions_lent, "platform.positions_lent", "file positions lent to a process");
COUNTER(files_read_ahead, "platform.files_read_ahead", "files whose bytes were given along with the open");
COUNTER(streams_lent, "platform.streams_lent", "sockets whose bytes were given along with an event");
COUNTER(closes_lent, "platform.closes_lent",
        "files and directories that their process may close by itself, and no more");
COUNTER(closes_seen, "platform.late_closes", "calls that found descriptors their process had closed by itself");

constexpr u32 kMostLuck = 16;
constexpr u32 kSeldom = 16;            // without luck, so many opens go by between two tries
constexpr u64 kMostAhead = 16 * 1024;  // a file longer than that is not read ahead

std::vector<FileLease*>& leases_out() {
  static auto* all = new std::vector<FileLease*>;
  return *all;
}

}  // namespace

FileLease::FileLease() = default;
FileLease::~FileLease() {
  take_back();
  if (closed_) --area_->closable;
}

void FileLease::take_back() {
  if (!out_) return;
  out_ = false;
  SlotLease& shared = area_->lease(fd_);
  // A full barrier: a copy that saw the word before says so in Slot::file_window, one that did not starts none.
  const u64 word = __atomic_exchange_n(&shared.word, 0, __ATOMIC_SEQ_CST);
  if ((word & (SlotLease::kLent | SlotLease::kClosed)) != 0) position_ = word & SlotLease::kPosition;
  if (place_ != 0) {
    position_ = std::min(position_, bytes_);
    area_->free_stream(place_ - 1);
  }
  closed_ = may_close_ && (word & SlotLease::kClosed) != 0;
  if (may_close_ && !closed_) --area_->closable;
  if (ahead_) {
    const bool used = __atomic_load_n(&shared.used, __ATOMIC_RELAXED) != 0;
    if (used && area_->luck < kMostLuck) ++area_->luck;
    if (!used && area_->luck > 0) --area_->luck;
  }
  auto& all = leases_out();
  all[index_] = all.back();
  all[index_]->index_ = index_;
  all.pop_back();
  if (file_) --file_->lent_;
  file_ = nullptr;
  if (!closed_) area_ = nullptr;
}

bool FileLease::takes_all() const {
  return out_ && (__atomic_load_n(&area_->lease(fd_).word, __ATOMIC_RELAXED) & SlotLease::kPosition) >= bytes_;
}

void WindowFile::take_back_positions() {
  RefPtr<WindowFile> self(this);
  auto& all = leases_out();
  for (size_t i = all.size(); lent_ != 0 && i-- > 0;) {
    if (all[i]->file_.get() == this) all[i]->take_back();
  }
}

void take_back_positions() {
  WriteRing::close_all();
  while (!leases_out().empty()) leases_out().back()->take_back();
}

// A small file that was just opened is about to be read: its bytes go along with the descriptor, into the window. How
// many are there; 0: none, or not worth while, or not without waiting for a disk. Of a library its head.
u32 GuestThreadImpl::read_ahead(const LeaseTerms& terms) {
  SlotArea& area = *host_->process->area;
  if (!opens_file() || terms.fd < 0 || terms.size == 0 || out_count_ != 0) return 0;
  const bool whole = terms.size <= kMostAhead;
  if (!whole && !terms.file->library()) return 0;
  if (whole && area.luck == 0 && ++area.passed_by % kSeldom != 0) return 0;
  const u64 wanted = whole ? terms.size : kLibraryHead;
  iovec to{host_->window() + kCopyInBytes, wanted};
  ssize_t got = terms.no_nowait ? -1 : preadv2(terms.fd, &to, 1, 0, RWF_NOWAIT);
  // Overlays on the host do not know that. The read that would follow would wait as long.
  if (terms.no_nowait || (got < 0 && errno == EOPNOTSUPP)) got = preadv2(terms.fd, &to, 1, 0, 0);
  if (got != static_cast<ssize_t>(wanted)) return 0;
  files_read_ahead.add();
  return static_cast<u32>(got);
}

bool GuestThreadImpl::take_closes(u64 table, Closes& closes) {
  if (!host_) return false;
  const SlotArea& area = *host_->process->area;
  if (area.closable == 0 || area.lease_table != table) return false;
  bool any = false;
  for (size_t i = 0; i < closes.size(); ++i) {
    u64& word = area.closes()[i];
    closes[i] = __atomic_load_n(&word, __ATOMIC_ACQUIRE) != 0 ? __atomic_exchange_n(&word, 0, __ATOMIC_SEQ_CST) : 0;
    any |= closes[i] != 0;
  }
  if (any) closes_seen.add();
  return any;
}

// The table is the first that asks: the area has room for one, and a memory has another only for a moment (vfork) or
// after unshare(CLONE_FILES).
RefPtr<SlotArea> GuestThreadImpl::area_to_lend(int fd, u64 table) {
  if (!host_ || lost_ || entry_.kind != EntryKind::kSyscall || host_->where != Where::kSentry) return nullptr;
  if (static_cast<u32>(fd) >= kMaxLeases) return nullptr;
  if (!answers_calls()) return nullptr;
  RefPtr<SlotArea> area = host_->process->area;
  if (area->lease_table == 0) area->lease_table = table;
  return area->lease_table == table ? area : nullptr;
}

// `lease` has its terms, and the shared one all but the word.
void GuestThreadImpl::lend(FileLease& lease, RefPtr<SlotArea> area, int fd, u64 position) {
  lease.position_ = position;
  lease.fd_ = static_cast<u32>(fd);
  lease.index_ = leases_out().size();
  lease.out_ = lease.due_ = true;
  ++lease.times_;
  leases_out().push_back(&lease);
  area->lease_generation = (area->lease_generation + SlotLease::kGeneration) & SlotLease::kGenerations;
  __atomic_store_n(&area->lease(lease.fd_).word, SlotLease::kLent | area->lease_generation | position,
                   __ATOMIC_RELEASE);
  host_->slot().positions = 1;
  lease.area_ = std::move(area);
}

void GuestThreadImpl::lend_position(RefPtr<FileLease>& lease, int fd, u64 table, u64 position,
                                    const LeaseTerms& terms) {
  if (position > SlotLease::kMostLent || terms.size > SlotLease::kMostLent) return;
  RefPtr<SlotArea> area = area_to_lend(fd, table);
  if (!area) return;
  FileBytes bytes{terms.file, -1, position, 1, false};
  const int window = position < terms.size ? area->windows.find(bytes) : -1;
  const u32 ahead = window < 0 && position == 0 ? read_ahead(terms) : 0;
  // To lend and to take back costs three ways of a cache line if the stub runs on another CPU: as much as one call that
  // we see by polling, and little against a doorbell. Without a window the next read comes here anyway.
  const bool rang = host_->notif != 0, seeks = entry_.nr == SYS_lseek;
  if (window < 0 && ahead == 0) {
    const bool read_on = position < terms.size && !seeks && (!rang || (lease && lease->times_ >= 2));
    if (read_on || (!rang && !seeks)) return;
    if (!rang && !lease) {
      lease = make_ref<FileLease>();  // with the next seek
      return;
    }
  }
  if (!lease) lease = make_ref<FileLease>();
  lease->take_back();
  if (lease->closed_) return;
  SlotLease& shared = area->lease(static_cast<u32>(fd));
  shared.size = terms.size;
  shared.lent_at = __rdtsc();
  shared.window = window < 0 ? 0 : static_cast<u32>(window) + 1;
  shared.has_stat = terms.with_stat;
  if (terms.with_stat) memcpy(shared.stat, &terms.stat, sizeof(shared.stat));
  shared.begin = window < 0 ? 0 : area->windows.begin(window);
  shared.may_close = terms.may_close;
  shared.used = 0;
  shared.bytes_at_hand = ahead;
  shared.turn = 0;
  if (ahead != 0) {
    // Any number will do that no other lease has whose bytes may still be in somebody's window.
    static u32 last_turn = 0;
    if (++last_turn == 0) ++last_turn;
    shared.turn = host_->slot().turn = last_turn;
    shared.at_hand = kCopyInBytes;
  }
  shared.stream = 0;
  lease->file_ = terms.file;
  lease->place_ = 0;
  lease->may_close_ = terms.may_close;
  lease->only_closes_ = false;
  lease->ahead_ = ahead != 0;
  if (terms.may_close) ++area->closable;
  ++terms.file->lent_;
  lend(*lease, std::move(area), fd, position);
  positions_lent.add();
}

void GuestThreadImpl::lend_close(RefPtr<FileLease>& lease, int fd, u64 table) {
  if (host_ == nullptr || host_->notif == 0) return;
  RefPtr<SlotArea> area = area_to_lend(fd, table);
  if (!area) return;
  if (!lease) lease = make_ref<FileLease>();
  lease->take_back();
  if (lease->closed_) return;
  SlotLease& shared = area->lease(static_cast<u32>(fd));
  shared.has_stat = shared.window = shared.turn = 0;
  shared.used = 0;
  shared.may_close = 1;
  shared.stream = SlotLease::kOnlyCloses;
  lease->place_ = 0;
  lease->may_close_ = lease->only_closes_ = true;
  lease->ahead_ = false;
  ++area->closable;
  lend(*lease, std::move(area), fd, 0);
  closes_lent.add();
}

// `n` bytes lie at that place; or own records, from that position on.
void GuestThreadImpl::lend_stream_bytes(RefPtr<FileLease>& lease, RefPtr<SlotArea> area, int fd, u32 place, size_t n,
                                        bool all, u64 position) {
  if (!lease) lease = make_ref<FileLease>();
  lease->take_back();
  SlotLease& shared = area->lease(static_cast<u32>(fd));
  shared.has_stat = shared.window = shared.turn = 0;
  shared.may_close = shared.used = 0;
  shared.bytes_at_hand = static_cast<u32>(n) | (all ? SlotLease::kAllThereIs : 0);
  shared.stream = static_cast<u16>(place + 1);
  area->take_stream(place);
  lease->place_ = place + 1;
  lease->bytes_ = place < kOwnPlaces ? n : SlotLease::kPosition;
  lease->may_close_ = lease->ahead_ = lease->only_closes_ = false;
  lend(*lease, std::move(area), fd, position);
}

bool GuestThreadImpl::lend_stream(RefPtr<FileLease>& lease, int fd, u64 table, int host_fd) {
  RefPtr<SlotArea> area = area_to_lend(fd, table);
  if (!area || area->free_streams == 0) return false;
  const auto place = static_cast<u32>(std::countr_zero(area->free_streams));
  const ssize_t got = recv(host_fd, area->stream(place), kStreamBytes, MSG_PEEK | MSG_DONTWAIT);
  // What fills the place may go on, and its sender wait for room.
  if (got <= 0 || static_cast<u64>(got) == kStreamBytes) return false;
  lend_stream_bytes(lease, std::move(area), fd, place, static_cast<size_t>(got), true);
  streams_lent.add();
  return true;
}

}  // namespace sbx::platform
