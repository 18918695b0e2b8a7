// Descriptors: dup, close, fcntl, ioctl, locks, pipe.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <sys/file.h>
#include <sys/ioctl.h>

#include "sentry/base/counters.h"
#include "sentry/fs/anon/memfd.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/async_owner.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/ioctl_caller.h"
#include "sentry/syscalls/user_io.h"
#include "sentry/vfs/file_locks.h"

namespace sbx::syscalls {

// --- dup and close ---

Result<i64> sys_dup(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n, true));
  return TRY(task.fds->add(std::move(file), false, task.nofile_limit()));
}

Result<i64> sys_dup2(Task& task, Fd fd, Int to) {
  auto file = TRY(task.fds->get(fd.n, true));
  if (fd.n == to) return to;
  return TRY(task.fds->set(to, std::move(file), false, task.nofile_limit()));
}

Result<i64> sys_dup3(Task& task, Fd fd, Int to, Hex flags) {
  if ((flags.v & ~u64{O_CLOEXEC}) || fd.n == to) return Errno::kInval;
  auto file = TRY(task.fds->get(fd.n, true));
  return TRY(task.fds->set(to, std::move(file), flags.v & O_CLOEXEC, task.nofile_limit()));
}

Result<i64> sys_close(Task& task, Fd fd) {
  auto closed = task.fds->close(fd.n);
  if (closed) return 0;
  // The descriptor is gone whatever happened: the call must not be repeated.
  return is_restart(closed.error()) ? Errno::kIntr : closed.error();
}

Result<i64> sys_close_range(Task& task, UInt first, UInt last, Hex flags) {
  if ((flags.v & ~u64{CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC}) || first > last) return Errno::kInval;
  if (flags.v & CLOSE_RANGE_UNSHARE) task.own_descriptors();
  RefPtr<task::FdTable> fds = task.fds;
  if (flags.v & CLOSE_RANGE_CLOEXEC) {
    fds->set_cloexec_range(first, last);
  } else {
    fds->close_range(first, last);
  }
  return 0;
}

// --- pipe ---

Result<i64> sys_pipe2(Task& task, OutBuf ends, Hex flags) {
  if (flags.v & ~u64{O_CLOEXEC | O_NONBLOCK | O_DIRECT}) return Errno::kInval;
  auto pair =
      TRY(fs::pipe::make_pipe(static_cast<u32>(flags.v & ~u64{O_CLOEXEC}), task.creds->fsuid, task.creds->fsgid));
  const bool cloexec = flags.v & O_CLOEXEC;
  i32 fds[2];
  fds[0] = TRY(task.fds->add(std::move(pair.reader), cloexec, task.nofile_limit()));
  auto second = task.fds->add(std::move(pair.writer), cloexec, task.nofile_limit());
  if (!second) {
    (void)task.fds->close(fds[0]);
    return second.error();
  }
  fds[1] = *second;
  auto written = task.memory().write(ends.addr, fds, sizeof(fds));
  if (written) return 0;
  (void)task.fds->close(fds[0]);
  (void)task.fds->close(fds[1]);
  return written.error();
}

Result<i64> sys_pipe(Task& task, OutBuf ends) { return sys_pipe2(task, ends, Hex{0}); }

// --- locks ---

namespace {

constexpr i64 kEndless = INT64_MAX;

// struct flock to a range (fs/locks.c, flock64_to_posix_lock).
Result<vfs::RecordLock> to_record(vfs::File& file, const abi::Flock& flock) {
  i64 base = 0;
  switch (flock.whence) {
    case SEEK_SET: break;
    case SEEK_CUR: base = static_cast<i64>(file.position); break;
    case SEEK_END: base = static_cast<i64>(TRY(file.attr()).size); break;
    default: return Errno::kInval;
  }
  i64 start = 0, end = kEndless;
  if (__builtin_add_overflow(base, flock.start, &start)) return Errno::kOverflow;
  if (start < 0) return Errno::kInval;
  if (flock.length > 0) {
    if (__builtin_add_overflow(start, flock.length - 1, &end)) return Errno::kOverflow;
  } else if (flock.length < 0) {
    if (start + flock.length < 0) return Errno::kInval;
    end = start - 1;
    start += flock.length;
  }
  vfs::RecordLock lock;
  switch (flock.type) {
    case F_RDLCK: lock.type = vfs::LockType::kRead; break;
    case F_WRLCK: lock.type = vfs::LockType::kWrite; break;
    case F_UNLCK: lock.type = vfs::LockType::kUnlock; break;
    default: return Errno::kInval;
  }
  lock.start = static_cast<u64>(start);
  lock.end = end == kEndless ? ~0ull : static_cast<u64>(end);
  return lock;
}

// Fills in who owns the lock: the descriptor table, or the open file description.
Result<void> set_lock_owner(Task& task, vfs::File& file, bool ofd, const abi::Flock& flock, vfs::RecordLock* lock) {
  if (ofd && flock.pid != 0) return Errno::kInval;
  lock->ofd = ofd;
  lock->owner = ofd ? static_cast<vfs::LockOwner>(&file) : static_cast<vfs::LockOwner>(task.fds.get());
  lock->pid = ofd ? -1 : task.pid();
  return {};
}

// A close that gives up locks has to be seen at once: no process closes descriptors of such a file by itself.
vfs::FileLocks& locks_to_set(vfs::Inode& inode) {
  if (!inode.has_locks()) platform::take_back_positions();
  return inode.locks();
}

Result<i64> get_lock(Task& task, vfs::File& file, u64 addr, bool ofd) {
  InOut<abi::Flock> arg{addr};
  abi::Flock flock = TRY(arg.read(task));
  vfs::RecordLock lock = TRY(to_record(file, flock));
  if (lock.type == vfs::LockType::kUnlock && !ofd) return Errno::kInval;
  if (file.inode() == nullptr) return Errno::kInval;
  TRY(set_lock_owner(task, file, ofd, flock, &lock));
  vfs::RecordLock found = file.inode()->locks().test(lock);
  if (found.type == vfs::LockType::kUnlock) {
    flock.type = F_UNLCK;
  } else {
    flock.type = found.type == vfs::LockType::kRead ? F_RDLCK : F_WRLCK;
    flock.whence = SEEK_SET;
    flock.start = static_cast<i64>(found.start);
    flock.length = found.end == ~0ull ? 0 : static_cast<i64>(found.end - found.start + 1);
    flock.pid = found.ofd ? -1 : found.pid;
  }
  TRY(arg.write(task, flock));
  return 0;
}

Result<i64> set_lock(Task& task, Fd fd, vfs::File& file, u64 addr, bool ofd, vfs::LockWait wait) {
  abi::Flock flock = TRY(In<abi::Flock>{addr}.read(task));
  vfs::RecordLock lock = TRY(to_record(file, flock));
  if (lock.type == vfs::LockType::kRead && !file.readable()) return Errno::kBadf;
  if (lock.type == vfs::LockType::kWrite && !file.writable()) return Errno::kBadf;
  if (file.inode() == nullptr) return Errno::kInval;
  TRY(set_lock_owner(task, file, ofd, flock, &lock));
  TRY(locks_to_set(*file.inode()).set(lock, wait));
  // Another thread closed the descriptor while we waited: nobody would ever release the lock.
  if (!ofd && wait == vfs::LockWait::kYes && task.fds->peek(fd.n) != &file) {
    file.inode()->locks().release_posix(task.fds.get());
    return Errno::kBadf;
  }
  return 0;
}

}  // namespace

Result<i64> sys_flock(Task& task, Fd fd, Int operation) {
  auto file = TRY(task.fds->get(fd.n));
  vfs::LockType type{};
  switch (operation & ~LOCK_NB) {
    case LOCK_SH: type = vfs::LockType::kRead; break;
    case LOCK_EX: type = vfs::LockType::kWrite; break;
    case LOCK_UN: type = vfs::LockType::kUnlock; break;
    default: return Errno::kInval;
  }
  if (file->inode() == nullptr) return Errno::kInval;
  TRY(locks_to_set(*file->inode())
          .flock(file.get(), type, operation & LOCK_NB ? vfs::LockWait::kNo : vfs::LockWait::kYes));
  return 0;
}

// --- fcntl ---

namespace {

// Who walks a tree (fts) keeps copies of its directories for no longer than their names are of use: it closes both
// soon.
Result<i64> duplicate(Task& task, Fd fd, const RefPtr<vfs::File>& file, u64 least, bool cloexec) {
  if (least >= task.nofile_limit()) return Errno::kInval;
  const int copy = TRY(task.fds->add(file, cloexec, task.nofile_limit(), static_cast<int>(least)));
  lend_close(task, copy, file);
  lend_close(task, fd.n, file);
  return copy;
}

Result<i64> set_status_flags(Task& task, Fd fd, vfs::File& file, u64 flags) {
  constexpr u32 kSettable = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;
  u32 wanted = static_cast<u32>(flags) & kSettable;
  if ((wanted & O_NOATIME) && !(file.flags() & O_NOATIME)) {
    auto attr = TRY(file.attr());
    if (attr.uid != task.creds->fsuid && !task.creds->capable(CAP_FOWNER)) return Errno::kPerm;
  }
  if (!file.tells_async()) wanted &= ~u32{O_ASYNC};
  file.set_flags((file.flags() & ~kSettable) | wanted);
  watch_async(file, fd.n);
  return 0;
}

Result<i64> fcntl_open_only(Task& task, Fd fd, vfs::File& file, i32 command, u64 arg) {
  switch (command) {
    case F_SETFL: return set_status_flags(task, fd, file, arg);
    case F_GETLK: return get_lock(task, file, arg, false);
    case F_SETLK: return set_lock(task, fd, file, arg, false, vfs::LockWait::kNo);
    case F_SETLKW: return set_lock(task, fd, file, arg, false, vfs::LockWait::kYes);
    case abi::kOfdGetLk: return get_lock(task, file, arg, true);
    case abi::kOfdSetLk: return set_lock(task, fd, file, arg, true, vfs::LockWait::kNo);
    case abi::kOfdSetLkW: return set_lock(task, fd, file, arg, true, vfs::LockWait::kYes);
    case F_SETOWN: TRY(set_owner(task, file, static_cast<i32>(arg))); return 0;
    case F_GETOWN: return get_owner(file);
    case F_SETOWN_EX: {
      auto owner = TRY(In<abi::OwnerEx>{arg}.read(task));
      TRY(set_owner_ex(task, file, owner));
      return 0;
    }
    case F_GETOWN_EX: TRY(Out<abi::OwnerEx>{arg}.write(task, get_owner_ex(file))); return 0;
    case F_SETSIG: TRY(set_owner_signal(file, arg)); return 0;
    case F_GETSIG: return file.async_signal;
    case F_SETPIPE_SZ:
    case F_GETPIPE_SZ: {
      fs::pipe::Pipe* pipe = fs::pipe::PipeFile::pipe_of(file);
      if (pipe == nullptr) return Errno::kBadf;
      if (command == F_GETPIPE_SZ) return static_cast<i64>(pipe->content().capacity());
      return static_cast<i64>(TRY(pipe->resize(static_cast<u32>(arg), task.creds->capable(CAP_SYS_RESOURCE))));
    }
    case F_ADD_SEALS: {
      if (!file.writable()) return Errno::kPerm;
      TRY(fs::anon::add_seals(file, static_cast<u32>(arg)));
      return 0;
    }
    case F_GET_SEALS: return TRY(fs::anon::get_seals(file));
    case F_GETLEASE: return F_UNLCK;
    default: break;
  }
  STUB("fcntl", command);
  return Errno::kInval;
}

}  // namespace

Result<i64> sys_fcntl(Task& task, Fd fd, Int command, ULong arg) {
  auto file = TRY(task.fds->get(fd.n, true));
  switch (command) {
    case F_DUPFD: return duplicate(task, fd, file, arg, false);
    case F_DUPFD_CLOEXEC: return duplicate(task, fd, file, arg, true);
    case F_GETFD: return TRY(task.fds->cloexec(fd.n)) ? FD_CLOEXEC : 0;
    case F_SETFD: TRY(task.fds->set_cloexec(fd.n, arg & FD_CLOEXEC)); return 0;
    case F_GETFL: return file->flags();
    default: break;
  }
  if (file->flags() & O_PATH) return Errno::kBadf;
  return fcntl_open_only(task, fd, *file, command, arg);
}

// --- ioctl ---

Result<i64> sys_ioctl(Task& task, Fd fd, Hex command, ULong arg) {
  auto file = TRY(task.fds->get(fd.n));
  const u32 cmd = static_cast<u32>(command.v);
  switch (cmd) {
    case FIOCLEX: TRY(task.fds->set_cloexec(fd.n, true)); return 0;
    case FIONCLEX: TRY(task.fds->set_cloexec(fd.n, false)); return 0;
    case FIONBIO:
    case FIOASYNC: {
      i32 on = TRY(In<i32>{arg}.read(task));
      u32 flag = cmd == FIONBIO ? O_NONBLOCK : O_ASYNC;
      if (cmd == FIOASYNC && on && !file->tells_async()) return Errno::kNotty;
      file->set_flags(on ? file->flags() | flag : file->flags() & ~flag);
      watch_async(*file, fd.n);
      return 0;
    }
    case FIOSETOWN:
    case SIOCSPGRP:
      if (ref_cast<net::Socket>(file) == nullptr) break;
      TRY(set_owner(task, *file, TRY(In<i32>{arg}.read(task))));
      return 0;
    case FIOGETOWN:
    case SIOCGPGRP:
      if (ref_cast<net::Socket>(file) == nullptr) break;
      TRY(Out<i32>{arg}.write(task, get_owner(*file)));
      return 0;
    default: break;
  }
  IoctlDoor caller(task);
  auto result = file->ioctl(caller, cmd, arg);
  if (cmd == FIONREAD && result) lend_counted(task, fd.n, *file);
  if (result || result.error() != Errno::kNotty || file->inode() == nullptr) return result;
  const u32 type = file->inode()->type();
  if (cmd == FIONREAD && type == S_IFREG) {
    u64 size = TRY(file->attr()).size;
    TRY(Out<i32>{arg}.write(task, static_cast<i32>(size - file->position)));
    return 0;
  }
  constexpr u32 kGetBlockSize = 2;  // FIGETBSZ
  if (cmd == kGetBlockSize && (type == S_IFREG || type == S_IFDIR)) {
    TRY(Out<i32>{arg}.write(task, static_cast<i32>(TRY(file->attr()).blksize)));
    return 0;
  }
  return result;
}

}  // namespace sbx::syscalls
