#include "sentry/platform/file_window.h"

#include <algorithm>
#include <utility>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

COUNTER(file_copies, "platform.file_copies", "reads that a stub copied from a mapped file");
COUNTER(file_windows, "platform.file_windows", "windows of files mapped for that");
COUNTER(file_shorts, "platform.file_shorts", "such copies that the sentry had to finish");

u64 all_retirements = 0;

// Where a window on these bytes begins. Aligned to its size, so that one serves all around; unless they cross that.
u64 window_begin(const FileBytes& bytes) {
  constexpr u64 kFine = 64 * 1024;
  u64 begin = bytes.offset & ~(kFileWindowBytes - 1);
  if (bytes.offset + bytes.n - begin <= kFileWindowBytes) return begin;
  return bytes.offset & ~(kFine - 1);
}

// What the other threads of this memory copy from right now, as they say.
u32 windows_in_use(const SlotArea& area) {
  u32 mask = 0;
  for (u32 i = 0; i < area.used_slots(); ++i) {
    u32 window = __atomic_load_n(&area.slot(i).file_window, __ATOMIC_ACQUIRE);
    if (window != 0 && window <= kFileWindows) mask |= 1u << (window - 1);
  }
  return mask;
}

}  // namespace

const RefPtr<ShelfItem>& WindowFile::shelf_item() {
  if (!item_) item_ = make_ref<ShelfItem>();
  return item_;
}

void WindowFile::leave_shelf() {
  if (item_) item_->gone = true;
  item_ = nullptr;
}

void WindowFile::retire() {
  if (retired_) return;
  retired_ = true;
  leave_shelf();
  take_back_positions();
  if (ref_count() > 1) ++all_retirements;
}

u64 WindowFile::retirements() { return all_retirements; }

int FileWindows::find(const FileBytes& bytes) {
  for (size_t i = 0; any_ && i < kFileWindows; ++i) {
    Window& w = windows_[i];
    if (w.state != State::kReady || w.file.get() != bytes.file.get() || bytes.offset < w.begin) continue;
    if (bytes.n > kFileWindowBytes || bytes.offset - w.begin > kFileWindowBytes - bytes.n) continue;
    w.used_at = ++clock_;
    return static_cast<int>(i);
  }
  return -1;
}

int FileWindows::reserve(const FileBytes& bytes, const SlotArea& area, const HostThread& thread) {
  u64 begin = window_begin(bytes);
  if (bytes.n > kFileWindowBytes || bytes.offset - begin > kFileWindowBytes - bytes.n) return -1;
  const u32 in_use = windows_in_use(area);
  int oldest = -1;
  for (size_t i = 0; i < kFileWindows; ++i) {
    const Window& w = windows_[i];
    if ((in_use >> i & 1) != 0 || w.state == State::kMapping || w.state == State::kUnmapping) continue;
    bool better = oldest < 0 || w.used_at < windows_[static_cast<size_t>(oldest)].used_at;
    if (w.state == State::kFree || better) oldest = static_cast<int>(i);
    if (w.state == State::kFree) break;
  }
  if (oldest < 0) return -1;
  // Threads that copy by themselves must not begin to any more, and none may have begun.
  if (WindowFile* before = windows_[static_cast<size_t>(oldest)].file.get()) {
    before->take_back_positions();
    if ((windows_in_use(area) >> oldest & 1) != 0) return -1;
  }
  windows_[static_cast<size_t>(oldest)] = {State::kMapping, bytes.file, begin, ++clock_, &thread};
  any_ = true;
  return oldest;
}

u64 FileWindows::address(int index, u64 offset) const {
  return kFileWindowsBase + static_cast<u64>(index) * kFileWindowBytes + (offset - begin(index));
}

u32 FileWindows::take_retired(u32 in_use, const HostThread& thread) {
  if (!any_ || retirements_ == all_retirements) return 0;
  u32 mask = 0;
  bool later = false;
  for (size_t i = 0; i < kFileWindows; ++i) {
    Window& w = windows_[i];
    if (w.file.get() == nullptr || !w.file->retired()) continue;
    if ((in_use >> i & 1) != 0 || w.state != State::kReady) {
      later = true;
      continue;
    }
    w.state = State::kUnmapping;
    w.file = nullptr;
    w.by = &thread;
    mask |= 1u << i;
  }
  if (!later) retirements_ = all_retirements;
  return mask;
}

void FileWindows::settle(const HostThread& thread, bool done) {
  if (!any_) return;
  any_ = false;
  for (Window& w : windows_) {
    if (w.by == &thread) {
      bool shows = w.state == State::kMapping && done;
      w.state = shows ? State::kReady : State::kFree;
      w.by = nullptr;
      if (!shows) w.file = nullptr;
    }
    any_ |= w.state != State::kFree;
  }
}

void FileWindows::fell_short(int index) {
  Window& w = windows_[static_cast<size_t>(index)];
  if (w.state != State::kReady) return;
  w.file->fell_short();
  w.file->take_back_positions();
  w.state = State::kFree;
  w.file = nullptr;
}

// ---- the guest thread's side ----

bool GuestThreadImpl::copy_from_file(u64 addr, const FileBytes& bytes) {
  if (!host_ || lost_ || entry_.kind != EntryKind::kSyscall || host_->where != Where::kSentry) return false;
  if (out_count_ != 0 || file_copy_.length != 0 || platform_.options.report_all_syscalls || watch_.after || watch_.text)
    return false;
  if (addr + bytes.n < addr || addr + bytes.n > kUserEnd || !bytes.file->usable()) return false;
  FileWindows& windows = host_->process->area->windows;
  int index = windows.find(bytes);
  i32 fd = -1;
  if (index < 0) {
    if (!bytes.may_map) return false;
    RefPtr<SlotArea> area = host_->process->area;
    index = windows.reserve(bytes, *area, *host_);
    if (index < 0) return false;
    fd = lend_when_rung(bytes.fd);
    if (fd < 0) {
      if (!lost_) windows.settle(*host_, false);
      return false;
    }
    file_windows.add();
    window_moves_ = true;
  }
  file_copies.add();
  file_copy_ = {addr, windows.address(index, bytes.offset), bytes.n, windows.begin(index), fd, static_cast<u32>(index)};
  return true;
}

// What goes along with the reply: the copy that was promised, and windows to drop. Returns the flags of
// Slot::out_count.
u32 GuestThreadImpl::file_orders() {
  Slot& s = host_->slot();
  u32 flags = std::exchange(steady_name_, false) ? kSteadyName : 0;
  if (file_copy_.length != 0) {
    s.file_copy = file_copy_;
    __atomic_store_n(&s.file_window, file_copy_.window + 1, __ATOMIC_RELEASE);
    file_copy_.length = 0;
    flags |= kCopyFile;
  }
  SlotArea& area = *host_->process->area;
  if (!area.windows.any()) return flags;
  if (u32 mask = area.windows.take_retired(windows_in_use(area), *host_); mask != 0) {
    s.drop_windows = mask;
    window_moves_ = true;
    flags |= kDropWindows;
  }
  return flags;
}

void GuestThreadImpl::note_windows(RequestKind kind) {
  if (window_moves_) {
    window_moves_ = false;
    host_->process->area->windows.settle(*host_, true);
  }
  if (kind != RequestKind::kFileShort) return;
  file_shorts.add();
  host_->process->area->windows.fell_short(static_cast<int>(file_copy_.window));
}

}  // namespace sbx::platform
