// File: an open file description (open(2), NOTES). A file type writes the non-blocking attempt, the readiness and the
// wait queue; the one loop that blocks is here. sentry/fs/anon/eventfd.cc is the smallest complete example.
#pragma once
#include <fcntl.h>
#include <poll.h>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/fiber/fiber.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/io.h"

namespace sbx::platform {
class WindowFile;
}

namespace sbx::vfs {

// Somebody who gets SIGIO (F_SETOWN); implemented by task/.
class AsyncOwner : public RefCounted {
 public:
  virtual void send_sigio(int fd, u32 events) = 0;
};

}  // namespace sbx::vfs
namespace sbx::platform {
class FileLease;
class LentStream;
class WriteRing;
class PostRight;
class Poster;
struct LeaseTerms;
}  // namespace sbx::platform
namespace sbx::vfs {

// A host descriptor that backs mappings of a file, lent by the file for the time of the call that maps.
struct MapHandle {
  int host_fd = -1;
  u64 offset = 0;                            // of the file's byte 0 within host_fd
  bool steady = false;                       // a change of the bytes shows in the host file's times
  platform::WindowFile* known_as = nullptr;  // what windows know it by, if it has such; borrowed
};

// How an ioctl reaches its caller's memory and identity; implemented by syscalls/.
class IoctlCaller {
 public:
  virtual ~IoctlCaller() = default;
  virtual Result<void> read(u64 addr, void* to, size_t n) = 0;
  virtual Result<void> write(u64 addr, const void* from, size_t n) = 0;
};

class File : public RefCounted {
 public:
  // Flags that matter only while opening (O_CREAT, O_TRUNC...) are not kept.
  File(Path path, u32 flags)
      : path_(std::move(path)), flags_(flags & ~u32{O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC}) {}

  const Path& path() const { return path_; }
  Inode* inode() const { return path_.dentry ? path_.dentry->inode() : nullptr; }
  // Access mode and status flags (O_*). Only O_APPEND O_NONBLOCK O_ASYNC O_DIRECT O_NOATIME change after open.
  u32 flags() const { return flags_; }
  virtual void set_flags(u32 flags) { flags_ = flags; }
  // Mode 3 is neither: a descriptor for ioctl(2) alone (open(2), NOTES).
  bool readable() const {
    const u32 mode = flags_ & O_ACCMODE;
    return (mode == O_RDONLY || mode == O_RDWR) && !(flags_ & O_PATH);
  }
  bool writable() const {
    const u32 mode = flags_ & O_ACCMODE;
    return (mode == O_WRONLY || mode == O_RDWR) && !(flags_ & O_PATH);
  }
  bool nonblocking() const { return flags_ & O_NONBLOCK; }

  // --- data: attempts that never wait for a guest-controlled event; kAgain if they would ---
  // offset: the file position to use and advance, or null for streams (pipes, sockets, ttys ignore it).
  virtual Result<size_t> read(Sink&, u64* /*offset*/) { return Errno::kInval; }
  virtual Result<size_t> write(Source&, u64* /*offset*/) { return Errno::kInval; }
  // pread and friends are allowed, and the position means something.
  virtual bool seekable() const { return false; }
  // New position for lseek(2) incl. SEEK_DATA/SEEK_HOLE; the default handles SET, CUR and END (inode's size).
  virtual Result<u64> seek(i64 offset, int whence);
  u64 position = 0;

  // --- readiness ---
  // POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP | POLLPRI... as poll(2) would report now.
  virtual u32 readiness() { return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM; }
  // Its wait queue hears of the host's news through the reactor, a little later than the host knows them.
  virtual bool told_by_host() const { return false; }
  // What readiness() would say, of these only and as of the last news; may cost less.
  virtual u32 readiness_for(u32 wanted) { return readiness() & wanted; }
  // Woken whenever readiness may have changed; null: always ready (regular files; epoll refuses them with kPerm).
  virtual fiber::WaitQueue* wait_queue() { return nullptr; }

  // --- the rest ---
  virtual Result<i64> ioctl(IoctlCaller&, u32 /*cmd*/, u64 /*arg*/) { return Errno::kNotty; }
  // Directory reading: calls `emit` for entries from position on; emit answers false when its buffer is full. Updates
  // position. "." and ".." included.
  virtual Result<void> read_dir(const std::function<bool(const DirEntry&)>&) { return Errno::kNotdir; }
  virtual Result<void> sync(bool /*data_only*/) { return Errno::kInval; }
  virtual Result<void> allocate(int /*mode*/, u64 /*offset*/, u64 /*length*/) { return Errno::kOpnotsupp; }
  // For mmap: shared_write if MAP_SHARED with PROT_WRITE will be wanted. kNodev: cannot be mapped.
  virtual Result<MapHandle> map_handle(bool /*shared_write*/) { return Errno::kNodev; }
  // The position may be lent to the process that has the file open: its bytes come from a host file whose length is
  // known and changes only by us.
  virtual bool lendable(platform::LeaseTerms& /*terms*/) { return false; }
  // Of a stream socket of the host: sends at most n bytes of the host's file `host_fd`, from `offset` on, as send(2) of
  // them without waiting for room.
  virtual bool sends_files() const { return false; }
  virtual Result<size_t> send_file(int /*host_fd*/, u64 /*offset*/, size_t /*n*/) { return Errno::kInval; }
  // The host's stream socket whose bytes a process may take by itself; -1: there is none, or it would not pay.
  virtual int stream_to_lend() { return -1; }
  // As much of what a read of it has left as it may take by itself is worth lending: peek_bytes() says what there is.
  // The process has taken all it asked for, or asked how much there is.
  enum class After : u8 { kRead, kCount };
  virtual bool lends_rest(After) { return false; }
  // They are lent; null: that could not be done.
  virtual void stream_lent(const RefPtr<platform::FileLease>& /*lease*/) {}
  // Of a pipe or a socket of ours: what is with processes of the bytes that are read from it, or that are written to
  // it, once all that they did is seen. Null: nothing may be lent now.
  virtual platform::LentStream* lent_reads() { return nullptr; }
  virtual platform::LentStream* lent_writes() { return nullptr; }
  // How many there are to be read; puts the next of them at `to`, at most `most`, and leaves them where they are: those
  // that a process may take in pieces of any size.
  virtual size_t bytes_left() { return 0; }
  virtual size_t peek_bytes(u8* /*to*/, size_t /*most*/) { return 0; }
  // Who writes to it could as well not have: /dev/null. Then rings are not told of (room_lent).
  virtual bool discards_writes() const { return false; }
  // A ring is to be for it from now on: allows it some room.
  virtual void room_lent(RefPtr<platform::WriteRing> /*ring*/) {}
  // Of a stream socket of the host: where a process may post what it writes (platform/outbox.h). Null: not now.
  virtual platform::Poster* poster() { return nullptr; }
  virtual void may_post(RefPtr<platform::PostRight> /*right*/) {}
  // Nobody posts any more, and what was posted is sent: others get the file, or the memory goes.
  virtual void end_posts() {}
  // Takes them back, and what was taken of them from the socket.
  virtual void take_lent() {}
  // Attributes of the object itself (works when unlinked); default: the inode's.
  virtual Result<Attr> attr();
  // Each close(2) of a descriptor that refers to it (not the last): POSIX locks go by owner elsewhere.
  virtual Result<void> flush() { return {}; }
  // Extra lines of /proc/PID/fdinfo/N.
  virtual std::string fdinfo() { return {}; }

  // O_ASYNC means something: pipes, sockets, terminals, inotify (Linux: those with a fasync operation). Not what a
  // signal itself makes ready.
  virtual bool tells_async() const { return false; }
  RefPtr<AsyncOwner> async_owner;
  int async_signal = 0;
  std::unique_ptr<fiber::Waiter> async_watch;  // while O_ASYNC is set

  // The blocking loop: repeats `attempt` (returning Result<T>) while it answers kAgain and the file is blocking.
  // Interrupted: kRestartSys. `events`: what must become ready (POLLIN...), for observers only.
  template <typename Attempt>
  auto block_until(Attempt attempt, const char* reason, fiber::Deadline deadline = fiber::kNever)
      -> decltype(attempt()) {
    auto first = attempt();
    if (first || first.error() != Errno::kAgain || nonblocking() || wait_queue() == nullptr) return first;
    fiber::Waiter waiter(fiber::current());
    waiter.join(*wait_queue());
    for (;;) {
      auto result = attempt();
      if (result || result.error() != Errno::kAgain) return result;
      if (fiber::current()->interrupted()) return Errno::kRestartSys;
      fiber::current()->set_wait_reason(reason);
      if (!fiber::park_until(deadline)) return Errno::kAgain;
    }
  }

  // Epoll instances watch it without owning it: they are told of its end (fs/anon/epoll.cc sets both).
  bool epoll_watched = false;
  static void (*on_watched_end)(File&);

  // Set by vfs::open once the description exists: its end is then an inotify event and, if it may write, uncounted.
  void mark_opened();

 protected:
  ~File() override;  // releases flock and OFD locks

 private:
  Path path_;
  u32 flags_;
  bool opened_ = false, counted_writer_ = false;
};

// What O_PATH gives: a place without access; reads and writes answer kBadf.
class PathFile final : public File {
 public:
  using File::File;
  Result<size_t> read(Sink&, u64*) override { return Errno::kBadf; }
  Result<size_t> write(Source&, u64*) override { return Errno::kBadf; }
  Result<u64> seek(i64, int) override { return Errno::kBadf; }
  Result<i64> ioctl(IoctlCaller&, u32, u64) override { return Errno::kBadf; }
  Result<void> read_dir(const std::function<bool(const DirEntry&)>&) override { return Errno::kBadf; }
  Result<void> sync(bool) override { return Errno::kBadf; }
  Result<void> allocate(int, u64, u64) override { return Errno::kBadf; }
  Result<MapHandle> map_handle(bool) override { return Errno::kBadf; }
};

// While it lives, the inode cannot be opened for writing (a program that runs from it).
class WriteDenial {
 public:
  // kTxtbsy if somebody has it open for writing.
  static Result<std::unique_ptr<WriteDenial>> take(RefPtr<Inode> inode);
  // Makes up for closes that came late, of everybody; set once at start (rootfs.cc).
  static void on_busy(std::function<void()> make_up);
  ~WriteDenial() { ++inode_->write_count(); }
  WriteDenial(const WriteDenial&) = delete;
  WriteDenial& operator=(const WriteDenial&) = delete;

 private:
  explicit WriteDenial(RefPtr<Inode> inode) : fs_(&inode->fs()), inode_(std::move(inode)) { --inode_->write_count(); }
  RefPtr<FileSystem> fs_;  // outlives the inode
  RefPtr<Inode> inode_;
};

}  // namespace sbx::vfs
