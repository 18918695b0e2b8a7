// File windows: mappings of host files in a stub, out of which its threads copy what the guest reads by themselves. The
// bytes then never go through the sentry, nor from one CPU's cache to another's. The sentry decides each copy: which
// file, where, how much. A stub gets no more by this than by mmap(2) of a file it may read.
#pragma once
#include <array>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/base/types.h"
#include "sentry/platform/layout.h"
#include "sentry/platform/shelf.h"

namespace sbx::platform {

struct HostThread;
class SlotArea;

// So many bytes at a shared library's start are what its loader reads of it, as a rule.
constexpr u64 kLibraryHead = 1024;

// What windows know a host file by. Kernel lock.
class WindowFile final : public RefCounted {
 public:
  // No window is to show the file any more: the last user closed it, or another descriptor stands for it now.
  void retire();
  bool retired() const { return retired_; }
  // A copy fell short, as always where the host cannot map the file. After a few nobody tries again.
  void fell_short() { ++shorts_; }
  bool usable() const { return shorts_ < kMostShorts; }
  // A loader has mapped it as a shared library: the next one reads its head first.
  void set_library() { library_ = true; }
  bool library() const { return library_; }
  // What is known of the file, or shown of it, is about to change: no process may go by what it was told
  // (file_lease.h).
  void take_back_positions();
  // How often a file that had windows was retired so far: who has windows looks them through when this changed.
  static u64 retirements();
  // Its place among what stubs inherit; until the file changes.
  const RefPtr<ShelfItem>& shelf_item();
  void leave_shelf();

 private:
  static constexpr u32 kMostShorts = 8;
  friend class FileLease;
  friend class GuestThreadImpl;
  bool retired_ = false;
  bool library_ = false;
  u32 shorts_ = 0;
  u32 lent_ = 0;  // positions that are out
  RefPtr<ShelfItem> item_;
};

// n > 0 bytes of a file's page cache.
struct FileBytes {
  RefPtr<WindowFile> file;
  int fd;  // open for reading only; borrowed
  u64 offset;
  size_t n;
  bool may_map;  // worth a window if there is none
};

// The windows of one guest memory. Kernel lock.
class FileWindows {
 public:
  // A window that shows these bytes; -1.
  int find(const FileBytes& bytes);
  // Takes one to be mapped by `thread`; -1 if all are in use.
  int reserve(const FileBytes& bytes, const SlotArea& area, const HostThread& thread);
  u64 address(int index, u64 offset) const;
  u64 begin(int index) const { return windows_[static_cast<size_t>(index)].begin; }
  // Windows of retired files, which `thread` is about to unmap; 0: none.
  // in_use: bit i: window i is being copied from.
  u32 take_retired(u32 in_use, const HostThread& thread);
  bool any() const { return any_; }
  // The thread came back: what it was told to map or unmap is done. Or it will never.
  void settle(const HostThread& thread, bool done);
  // Does not show what it should, or not to this buffer.
  void fell_short(int index);

 private:
  enum class State : u8 { kFree, kMapping, kReady, kUnmapping };
  struct Window {
    State state = State::kFree;
    RefPtr<WindowFile> file;
    u64 begin = 0;  // the file's offset at its start
    u64 used_at = 0;
    const HostThread* by = nullptr;  // kMapping, kUnmapping
  };
  std::array<Window, kFileWindows> windows_;
  u64 clock_ = 0;
  u64 retirements_ = 0;
  bool any_ = false;
};

}  // namespace sbx::platform
