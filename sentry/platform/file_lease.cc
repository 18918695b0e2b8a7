#include "sentry/platform/file_lease.h"

#include <sys/syscall.h>
#include <x86intrin.h>

#include <cstring>
#include <vector>

#include "sentry/base/counters.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

COUNTER(positions_lent, "platform.positions_lent", "file positions lent to a process");

std::vector<FileLease*>& leases_out() {
  static auto* all = new std::vector<FileLease*>;
  return *all;
}

}  // namespace

FileLease::FileLease() = default;
FileLease::~FileLease() { take_back(); }

void FileLease::take_back() {
  if (!out_) return;
  out_ = false;
  // A full barrier: a copy that saw the word before says so in Slot::file_window, one that did not starts none.
  const u64 word = __atomic_exchange_n(&area_->lease(fd_).word, 0, __ATOMIC_SEQ_CST);
  if ((word & SlotLease::kLent) != 0) position_ = word & SlotLease::kPosition;
  auto& all = leases_out();
  all[index_] = all.back();
  all[index_]->index_ = index_;
  all.pop_back();
  --file_->lent_;
  file_ = nullptr;
  area_ = nullptr;
}

void WindowFile::take_back_positions() {
  RefPtr<WindowFile> self(this);
  auto& all = leases_out();
  for (size_t i = all.size(); lent_ != 0 && i-- > 0;) {
    if (all[i]->file_.get() == this) all[i]->take_back();
  }
}

void take_back_positions() {
  while (!leases_out().empty()) leases_out().back()->take_back();
}

// The table is the first that asks: the area has room for one, and a memory has another only for a moment (vfork) or
// after unshare(CLONE_FILES).
void GuestThreadImpl::lend_position(RefPtr<FileLease>& lease, int fd, u64 table, u64 position,
                                    const LeaseTerms& terms) {
  if (!host_ || lost_ || entry_.kind != EntryKind::kSyscall || host_->where != Where::kSentry) return;
  if (static_cast<u32>(fd) >= kMaxLeases || position > SlotLease::kMostLent || terms.size > SlotLease::kMostLent)
    return;
  if (platform_.options.report_all_syscalls || watch_.before || watch_.after || watch_.text) return;
  RefPtr<SlotArea> area = host_->process->area;
  if (area->lease_table == 0) area->lease_table = table;
  if (area->lease_table != table) return;
  FileBytes bytes{terms.file, -1, position, 1, false};
  const int window = position < terms.size ? area->windows.find(bytes) : -1;
  // To lend and to take back costs three ways of a cache line if the stub runs on another CPU: as much as one call that
  // we see by polling, and little against a doorbell. Without a window the next read comes here anyway.
  const bool rang = host_->notif != 0, seeks = entry_.nr == SYS_lseek;
  if (window < 0) {
    const bool read_on = position < terms.size && !seeks && (!rang || (lease && lease->times_ >= 2));
    if (read_on || (!rang && !seeks)) return;
    if (!rang && !lease) {
      lease = make_ref<FileLease>();  // with the next seek
      return;
    }
  }
  if (!lease) lease = make_ref<FileLease>();
  lease->take_back();
  SlotLease& shared = area->lease(static_cast<u32>(fd));
  shared.size = terms.size;
  shared.lent_at = __rdtsc();
  shared.window = window < 0 ? 0 : static_cast<u32>(window) + 1;
  shared.has_stat = terms.with_stat;
  if (terms.with_stat) memcpy(shared.stat, &terms.stat, sizeof(shared.stat));
  shared.begin = window < 0 ? 0 : area->windows.begin(window);
  lease->area_ = area;
  lease->file_ = terms.file;
  lease->position_ = position;
  lease->fd_ = static_cast<u32>(fd);
  lease->index_ = leases_out().size();
  lease->out_ = lease->due_ = true;
  ++lease->times_;
  leases_out().push_back(lease.get());
  ++terms.file->lent_;
  area->lease_generation = (area->lease_generation + SlotLease::kGeneration) & SlotLease::kGenerations;
  __atomic_store_n(&shared.word, SlotLease::kLent | area->lease_generation | position, __ATOMIC_RELEASE);
  host_->slot().positions = 1;
  positions_lent.add();
}

}  // namespace sbx::platform
