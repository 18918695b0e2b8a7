// Advisory locks of one inode: flock(2), POSIX record locks (fcntl F_SETLK, owner: the process's descriptor table) and
// open-file-description locks (F_OFD_SETLK, owner: the File). Owners are compared by address only. Kernel lock held;
// the *_wait forms park.
#pragma once
#include <vector>

#include "sentry/base/result.h"
#include "sentry/fiber/fiber.h"

namespace sbx::vfs {

using LockOwner = const void*;

enum class LockType : u8 { kRead, kWrite, kUnlock };  // shared, exclusive
enum class LockWait : bool { kNo, kYes };

struct RecordLock {
  LockType type = LockType::kRead;
  u64 start = 0, end = ~0ull;  // first and last byte; ~0: to the end of file however it grows
  LockOwner owner = nullptr;
  i32 pid = 0;  // F_GETLK's l_pid; -1: an open file description's
  bool ofd = false;
};

class FileLocks {
 public:
  FileLocks() = default;
  ~FileLocks();
  FileLocks(const FileLocks&) = delete;
  FileLocks& operator=(const FileLocks&) = delete;

  // flock(2). kAgain if it would wait and may not; kRestartSys if interrupted. Converting drops the old lock first.
  Result<void> flock(LockOwner owner, LockType type, LockWait wait);
  // fcntl(2) F_SETLK(W), F_OFD_SETLK(W): sets, changes, splits or removes. kAgain, kRestartSys; kDeadlk if waiting
  // would close a circle of POSIX lock owners.
  Result<void> set(const RecordLock& lock, LockWait wait);
  // F_GETLK: the first lock that would prevent `lock`; type kUnlock if none.
  RecordLock test(const RecordLock& lock) const;

  // close(2) of any descriptor of the file by a process: its POSIX locks on this inode go.
  void release_posix(LockOwner owner);
  // The open file description ends: its flock and OFD locks go.
  void release_file(LockOwner file);
  bool empty() const { return flocks_.empty() && records_.empty(); }

  // For /proc/locks.
  struct Flock {
    LockType type;
    LockOwner owner;
  };
  const std::vector<Flock>& flocks() const { return flocks_; }
  const std::vector<RecordLock>& records() const { return records_; }

 private:
  const RecordLock* conflict(const RecordLock& lock) const;
  bool flock_conflict(LockOwner owner, LockType type) const;
  void apply(const RecordLock& lock);
  bool would_deadlock(const RecordLock& wanted) const;
  std::vector<Flock> flocks_;
  std::vector<RecordLock> records_;
  fiber::WaitQueue queue_;
};

}  // namespace sbx::vfs
