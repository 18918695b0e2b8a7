// Positions of open files lent to a process. Its stub then answers lseek(2), reads of bytes that a file window shows or
// that were read ahead into its window, reads at the end of a file and close(2) by itself, by a word of shared memory:
// the position is there and not in the sentry until it is taken back. Whoever looks at the descriptor here takes it
// back first (FdTable::peek), so nobody else sees an old one, or one that is closed. The rest of the close is made up
// for at the process's next call (FdTable::reap), before that sees the table.
//
// Of a stream socket that epoll_wait(2) tells of, or that a read left some in, the bytes that are there are lent the
// same way: they are looked at
// (MSG_PEEK) and lie in shared memory, the word says how many were taken, and that many are taken from the host's
// socket when the lease comes back. Whoever asks the socket for anything takes it back first.
//
// What a process can do with that word is what lseek can do; bytes it gets are those of the file that it may read, out
// of a mapping that it has. A file's length is fixed while lent: whoever is about to change it, or what windows show,
// takes the positions of that file back.
#pragma once
#include "sentry/abi/stat.h"
#include "sentry/base/ref.h"
#include "sentry/base/types.h"
#include "sentry/platform/file_window.h"

namespace sbx::platform {

class SlotArea;

struct LeaseTerms {
  RefPtr<WindowFile> file;
  u64 size = 0;  // bytes of the file
  bool with_stat = false;
  abi::Stat stat;          // with_stat: what fstat says
  bool may_close = false;  // nobody would miss a close that comes late
  bool no_nowait = false;  // the host's filesystem refuses RWF_NOWAIT
  int fd = -1;             // the host's, to read ahead from; borrowed; -1: not to be
};

// One for each descriptor that was lent, as long as it refers to the same open file. Kernel lock.
class FileLease final : public RefCounted {
 public:
  FileLease();
  // Puts the position that was lent, or of a stream how many bytes were taken, where it belongs, once each time: then
  // true.
  bool collect(u64& position) {
    if (!due_) return false;
    due_ = false;
    take_back();
    if (only_closes_) return false;
    position = position_;
    return true;
  }
  bool streams() const { return place_ != 0; }
  // Of a stream that came back: all that there was.
  bool took_all() const { return position_ == bytes_; }
  // Of one that is lent: as far as its process says.
  bool takes_all() const;
  // The process has closed the descriptor.
  bool closed() const { return closed_; }

 private:
  friend class GuestThreadImpl;
  friend class WindowFile;
  friend void take_back_positions();
  ~FileLease() override;
  // The process has it no longer; position_ is where it left it.
  void take_back();
  RefPtr<SlotArea> area_;    // closed: too
  RefPtr<WindowFile> file_;  // null: a stream
  u64 position_ = 0;
  u32 place_ = 0;  // of a stream's bytes in the area, plus one
  u64 bytes_ = 0;  // how many are there
  u32 fd_ = 0;
  size_t index_ = 0;  // in the list of those that are out
  u32 times_ = 0;     // lent so far
  bool out_ = false;  // with the process right now
  bool due_ = false;  // lent, and not yet collected
  bool may_close_ = false, closed_ = false;
  bool ahead_ = false;  // with bytes that were read ahead
  bool only_closes_ = false;
};

// All of them, and what is written (stream_lease.h): somebody wants to see each read and write (inotify).
void take_back_positions();

}  // namespace sbx::platform
