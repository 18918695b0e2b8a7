// FdTable: descriptors of a process, shared by CLONE_FILES.
#pragma once
#include <functional>
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/file.h"

namespace sbx::task {

class FdTable : public RefCounted {
 public:
  // kBadf if fd is not open. O_PATH descriptors answer only if path_ok.
  Result<RefPtr<vfs::File>> get(int fd, bool path_ok = false) const;
  // Without touching the count: valid until the next change of the table or park.
  vfs::File* peek(int fd) const {
    if (fd < 0 || static_cast<size_t>(fd) >= slots_.size()) return nullptr;
    const Slot& slot = slots_[static_cast<size_t>(fd)];
    return slot.lease && settle(slot) ? nullptr : slot.file.get();
  }
  // Lends the position of fd's file to the process of `thread` (platform/file_lease.h) if nobody has the file but this
  // descriptor and the caller. The process may close it, too, where nobody has to see that at once.
  void lend_position(int fd, const RefPtr<vfs::File>& file, platform::GuestThread& thread);
  // Lets the thread close a file or a directory by itself of which nothing else can be lent.
  void lend_close(int fd, const RefPtr<vfs::File>& file, platform::GuestThread& thread);
  // Lends the bytes that the host's socket `file`, if it is fd's, has to be read.
  void lend_stream(int fd, vfs::File& file, platform::GuestThread& thread);
  // The same with what is left in a pipe or socket of ours after a read, and with room in it after a write
  // (platform/stream_lease.h).
  // `all`: it got as many bytes as it asked for.
  void lend_bytes(int fd, vfs::File& file, bool all, platform::GuestThread& thread);
  // All that is in a pipe or socket of ours, for who was told that there is something.
  void lend_arrived(int fd, vfs::File& file, platform::GuestThread& thread);
  // The same of a host's socket only.
  void lend_rest(int fd, vfs::File& file, vfs::File::After after, platform::GuestThread& thread);
  void lend_room(int fd, vfs::File& file, platform::GuestThread& thread);
  // Lets the process of `thread` post what it writes to the host's socket `file` (platform/outbox.h), if nobody has
  // that but this descriptor and the caller.
  void lend_posts(int fd, vfs::File& file, platform::GuestThread& thread);
  // Takes the streams of the host back: their peers have to hear soon of what was taken, and the host tells them when
  // it is told. With each call those of which all was taken, as Linux acknowledges then at the latest; before the next
  // wait all.
  void take_used_streams() {
    if (!lent_streams_.empty()) take_streams(false);
  }
  void take_lent_streams() { take_streams(true); }
  // Closes for good what the process of `thread` has closed by itself.
  void reap(platform::GuestThread& thread);
  // The same, whoever asks.
  void reap();
  // Processes with memories of their own will share it: nobody closes anything by himself.
  void share();
  // Somebody who goes by what the table is, and who it is: hears of changes before they are made. One at most.
  class Watcher {
   public:
    virtual ~Watcher() = default;
    // A call of a thread that has the table begins.
    virtual void call_begins() = 0;
    // The descriptor closes or will be another file's.
    virtual void closes(int fd) = 0;
    // A descriptor for the file is made; the table is copied or shared.
    virtual void gets(const vfs::File& file) = 0;
    virtual void copied() = 0;
  };
  bool shared() const { return shared_; }
  void set_watcher(Watcher* watcher) { watcher_ = watcher; }
  Watcher* watcher() const { return watcher_; }
  // Lowest free number >= least, below `limit` (RLIMIT_NOFILE): kMfile otherwise.
  Result<int> add(RefPtr<vfs::File> file, bool cloexec, u64 limit, int least = 0);
  // dup2: whatever was there is closed.
  Result<int> set(int fd, RefPtr<vfs::File> file, bool cloexec, u64 limit);
  Result<void> close(int fd);
  void close_range(u32 first, u32 last);
  void close_on_exec();
  void close_all();
  Result<bool> cloexec(int fd) const;
  Result<void> set_cloexec(int fd, bool on);
  void set_cloexec_range(u32 first, u32 last);
  RefPtr<FdTable> clone() const;
  // fd and file, ascending.
  void for_each(const std::function<void(int, vfs::File&, bool cloexec)>& visit) const;
  size_t open_count() const;

  // Called for every descriptor that closes (epoll interest, POSIX locks of this table); set once at start by main.cc.
  static void on_close(std::function<void(FdTable&, int fd, vfs::File&)> observer);

 private:
  struct Slot {
    RefPtr<vfs::File> file;
    bool cloexec = false;
    RefPtr<platform::FileLease> lease;  // null: its position was never lent
    RefPtr<platform::WriteRing> ring;   // null: it was never written to by the process itself
  };
  // The file's position is here again. True: the descriptor is closed.
  static bool settle(const Slot& slot) {
    if (slot.lease->streams())
      slot.file->take_lent();
    else
      slot.lease->collect(slot.file->position);
    return slot.lease->closed();
  }
  ~FdTable() override;
  static RefPtr<vfs::File> take(Slot& slot);
  static void end_ring(Slot& slot);
  void take_streams(bool all);
  bool may_close(vfs::File& file) const;
  Result<void> drop(int fd);
  Result<void> closed(int fd, vfs::File& file);
  void release_record_locks(vfs::File& file);
  std::vector<Slot> slots_;
  size_t first_free_ = 0;  // no free slot below
  bool shared_ = false;
  std::vector<int> lent_streams_;  // since the last time they were taken back
  Watcher* watcher_ = nullptr;
  const u64 id_ = next_id();
  static u64 next_id();
};

}  // namespace sbx::task
