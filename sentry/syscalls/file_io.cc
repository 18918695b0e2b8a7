// read(2), write(2) and their relatives, lseek, truncation, synchronisation and advice.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>

#include "sentry/platform/layout.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/path_args.h"
#include "sentry/syscalls/user_io.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {
namespace {

// Where a transfer begins: at the position of the file, or at an offset of the caller's.
struct At {
  bool given = false;
  u64 offset = 0;
};

Result<RefPtr<vfs::File>> open_for_reading(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  if (!file->readable()) return Errno::kBadf;
  return file;
}

Result<RefPtr<vfs::File>> open_for_writing(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  if (!file->writable()) return Errno::kBadf;
  return file;
}

// How a read ends whose bytes the stub copies.
void note_taken(Task& task, const UserSink& sink, Fd fd, const vfs::File& file, bool at_position) {
  if (sink.taken().n == 0) return;
  task.file_read = sink.taken();
  task.file_read.fd = fd.n;
  task.file_read.file = &file;
  task.file_read.at_position = at_position;
}

Result<i64> do_read(Task& task, Fd fd, vfs::File& file, const UserBuffers& buffers, At at) {
  UserSink sink(task, buffers);
  if (at.given || !file.seekable()) {
    u64 offset = at.offset;
    auto moved = read_file(file, sink, at.given ? &offset : nullptr);
    if (!moved) return moved.error();
    note_taken(task, sink, fd, file, false);
    return static_cast<i64>(*moved);
  }
  PositionLock lock(file);
  auto moved = read_file(file, sink, &file.position);
  note_taken(task, sink, fd, file, true);
  if (!moved) return moved.error();
  return static_cast<i64>(*moved);
}

Result<i64> do_write(Task& task, vfs::File& file, const UserBuffers& buffers, At at, bool append = false) {
  UserSource source(task, buffers);
  if (!file.seekable()) {
    Written written = write_file(*task.creds, file, source, nullptr);
    return finish_io(task, written.done, written.error);
  }
  PositionLock lock(file);
  u64 offset = at.given ? at.offset : file.position;
  if (append || (file.flags() & O_APPEND)) offset = TRY(file.attr()).size;
  if (source.left() > 0) source.cap(TRY(size_limit(task, file, offset, source.left())));
  Written written = write_file(*task.creds, file, source, &offset);
  if (!at.given) file.position = offset;
  return finish_io(task, written.done, written.error);
}

// pread and pwrite: kInval for negative offsets, kSpipe where a position means nothing.
Result<At> at_offset(const vfs::File& file, i64 offset) {
  if (offset < 0) return Errno::kInval;
  if (!file.seekable()) return Errno::kSpipe;
  return At{true, static_cast<u64>(offset)};
}

// preadv2 and pwritev2: -1 means the file's position.
Result<At> at_offset2(const vfs::File& file, u64 low) {
  if (low == ~0ull) return At{};
  return at_offset(file, static_cast<i64>(low));
}

Result<void> check_rwf(const vfs::File& file, u64 flags, u64 allowed) {
  if (flags & ~allowed) return Errno::kOpnotsupp;
  // Nothing here waits but for the guest, and only files without a position do that.
  if ((flags & abi::kRwfNoWait) && !file.seekable()) return Errno::kOpnotsupp;
  return {};
}

// Before anything else is done with a buffer (access_ok, fs/read_write.c): not whether it is there.
Result<void> check_buffer(u64 addr, u64 n) {
  if (n > platform::kUserEnd || addr > platform::kUserEnd - n) return Errno::kFault;
  return {};
}

}  // namespace

i64 finish_file_read(Task& task, u64 copied) {
  const task::FileRead read = std::exchange(task.file_read, {});
  if (read.n == 0) return -static_cast<i64>(Errno::kFault);  // nobody told the stub
  u64 total = std::min<u64>(copied, read.n);
  auto file = task.fds->get(read.fd);
  if (!file || file->get() != read.file) return total > 0 ? static_cast<i64>(total) : -static_cast<i64>(Errno::kBadf);
  PositionLock lock(**file);
  UserBuffers rest(read.addr + total, read.n - total);
  UserSink sink(task, rest);
  u64 offset = read.offset + total;
  auto moved = read_file(**file, sink, &offset);
  if (moved) total += *moved;
  if (read.at_position && (*file)->position == read.offset + read.n) (*file)->position = read.offset + total;
  if (total == 0 && !moved) return -static_cast<i64>(moved.error());
  return static_cast<i64>(total);
}

Result<i64> sys_read(Task& task, Fd fd, OutBuf to, Size n) {
  auto file = TRY(open_for_reading(task, fd));
  TRY(check_buffer(to.addr, n));
  auto done = do_read(task, fd, *file, UserBuffers(to.addr, n), At{});
  if (!done) return done;
  if (file->seekable())
    lend_position(task, fd.n, file);
  else
    lend_bytes(task, fd.n, *file, n, *done);
  return done;
}

Result<i64> sys_write(Task& task, Fd fd, InBuf from, Size n) {
  auto file = TRY(open_for_writing(task, fd));
  TRY(check_buffer(from.addr, n));
  auto done = do_write(task, *file, UserBuffers(from.addr, n), At{});
  if (done && (!file->seekable() || file->discards_writes())) {
    lend_room(task, fd.n, *file);
    lend_posts(task, fd.n, *file);
  }
  if (done) lend_close(task, fd.n, file);
  return done;
}

Result<i64> sys_pread64(Task& task, Fd fd, OutBuf to, Size n, Off offset) {
  if (offset < 0) return Errno::kInval;
  auto file = TRY(task.fds->get(fd.n));
  At at = TRY(at_offset(*file, offset));
  if (!file->readable()) return Errno::kBadf;
  TRY(check_buffer(to.addr, n));
  if (offset + n > INT64_MAX) return Errno::kInval;
  auto done = do_read(task, fd, *file, UserBuffers(to.addr, n), at);
  if (done) lend_position(task, fd.n, file);
  return done;
}

Result<i64> sys_pwrite64(Task& task, Fd fd, InBuf from, Size n, Off offset) {
  if (offset < 0) return Errno::kInval;
  auto file = TRY(task.fds->get(fd.n));
  At at = TRY(at_offset(*file, offset));
  if (!file->writable()) return Errno::kBadf;
  TRY(check_buffer(from.addr, n));
  if (offset + n > INT64_MAX) return Errno::kInval;  // rw_verify_area
  auto done = do_write(task, *file, UserBuffers(from.addr, n), at);
  if (done) lend_close(task, fd.n, file);
  return done;
}

Result<i64> sys_readv(Task& task, Fd fd, Array<iovec> vecs, ULong count) {
  auto file = TRY(open_for_reading(task, fd));
  auto buffers = TRY(UserBuffers::read(task, vecs.addr, count));
  return do_read(task, fd, *file, buffers, At{});
}

Result<i64> sys_writev(Task& task, Fd fd, Array<iovec> vecs, ULong count) {
  auto file = TRY(open_for_writing(task, fd));
  auto buffers = TRY(UserBuffers::read(task, vecs.addr, count));
  auto done = do_write(task, *file, buffers, At{});
  if (done) lend_close(task, fd.n, file);
  if (done) lend_posts(task, fd.n, *file);
  return done;
}

// On 64-bit machines the high half of the offset is in the low argument already; the other one is ignored.
Result<i64> sys_preadv(Task& task, Fd fd, Array<iovec> vecs, ULong count, ULong offset, ULong) {
  auto file = TRY(open_for_reading(task, fd));
  At at = TRY(at_offset(*file, static_cast<i64>(offset)));
  auto buffers = TRY(UserBuffers::read(task, vecs.addr, count));
  return do_read(task, fd, *file, buffers, at);
}

Result<i64> sys_pwritev(Task& task, Fd fd, Array<iovec> vecs, ULong count, ULong offset, ULong) {
  auto file = TRY(open_for_writing(task, fd));
  At at = TRY(at_offset(*file, static_cast<i64>(offset)));
  auto buffers = TRY(UserBuffers::read(task, vecs.addr, count));
  return do_write(task, *file, buffers, at);
}

Result<i64> sys_preadv2(Task& task, Fd fd, Array<iovec> vecs, ULong count, ULong offset, ULong, Hex flags) {
  auto file = TRY(open_for_reading(task, fd));
  At at = TRY(at_offset2(*file, offset));
  TRY(check_rwf(*file, flags.v, abi::kRwfHiPri | abi::kRwfNoWait));
  auto buffers = TRY(UserBuffers::read(task, vecs.addr, count));
  return do_read(task, fd, *file, buffers, at);
}

Result<i64> sys_pwritev2(Task& task, Fd fd, Array<iovec> vecs, ULong count, ULong offset, ULong, Hex flags) {
  auto file = TRY(open_for_writing(task, fd));
  At at = TRY(at_offset2(*file, offset));
  constexpr u64 kAllowed = abi::kRwfHiPri | abi::kRwfDsync | abi::kRwfSync | abi::kRwfNoWait | abi::kRwfAppend;
  TRY(check_rwf(*file, flags.v, kAllowed));
  auto buffers = TRY(UserBuffers::read(task, vecs.addr, count));
  auto done = TRY(do_write(task, *file, buffers, at, flags.v & abi::kRwfAppend));
  if (flags.v & (abi::kRwfDsync | abi::kRwfSync)) TRY(file->sync(!(flags.v & abi::kRwfSync)));
  return done;
}

Result<i64> sys_lseek(Task& task, Fd fd, Off offset, Int whence) {
  auto file = TRY(task.fds->get(fd.n));
  if (whence < SEEK_SET || whence > SEEK_HOLE) return Errno::kInval;
  Result<u64> at = Errno::kInval;
  {
    PositionLock lock(*file);
    at = file->seek(offset, whence);
  }
  if (!at) return at.error();
  lend_position(task, fd.n, file);
  return static_cast<i64>(*at);
}

// --- size ---

namespace {
Result<void> check_size(Task& task, vfs::Inode& inode, i64 size) {
  if (size < 0) return Errno::kInval;
  if (inode.type() == S_IFDIR) return Errno::kIsdir;
  if (inode.type() != S_IFREG) return Errno::kInval;
  if (static_cast<u64>(size) > task.group->limit(RLIMIT_FSIZE)) {
    task::send_to_task(task, task::user_siginfo(task, SIGXFSZ));
    return Errno::kFbig;
  }
  return {};
}
}  // namespace

Result<i64> sys_truncate(Task& task, UserPath path, Off size) {
  if (size < 0) return Errno::kInval;
  auto name = TRY(path.read(task));
  vfs::Path found = TRY(vfs::resolve(task.walk_context(), name));
  TRY(check_size(task, *found.inode(), size));
  vfs::SetAttr change;
  change.mask = vfs::SetAttr::kSize;
  change.size = static_cast<u64>(size);
  TRY(vfs::set_attr(*task.creds, found, change));
  return 0;
}

Result<i64> sys_ftruncate(Task& task, Fd fd, Off size) {
  auto file = TRY(task.fds->get(fd.n));
  if (file->inode() == nullptr || !file->writable()) return Errno::kInval;
  if (file->inode()->type() != S_IFREG) return Errno::kInval;
  TRY(check_size(task, *file->inode(), size));
  TRY(vfs::truncate(*task.creds, *file, static_cast<u64>(size)));
  return 0;
}

Result<i64> sys_fallocate(Task& task, Fd fd, Int mode, Off offset, Off length) {
  auto file = TRY(task.fds->get(fd.n));
  if (offset < 0 || length <= 0) return Errno::kInval;
  constexpr int kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE |
                         FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;
  if (mode & ~kKnown) return Errno::kOpnotsupp;
  if ((mode & FALLOC_FL_PUNCH_HOLE) && (!(mode & FALLOC_FL_KEEP_SIZE) || (mode & FALLOC_FL_ZERO_RANGE))) {
    return Errno::kOpnotsupp;
  }
  if (!file->writable()) return Errno::kBadf;
  u32 type = file->inode() ? file->inode()->type() : 0;
  if (type == S_IFIFO) return Errno::kSpipe;
  if (type == S_IFDIR) return Errno::kIsdir;
  if (type != S_IFREG) return Errno::kNodev;
  if (offset > INT64_MAX - length) return Errno::kFbig;
  if (!(mode & FALLOC_FL_KEEP_SIZE)) {
    u64 end = static_cast<u64>(offset) + static_cast<u64>(length);
    if (end > task.group->limit(RLIMIT_FSIZE)) TRY(check_size(task, *file->inode(), static_cast<i64>(end)));
  }
  TRY(file->allocate(mode, static_cast<u64>(offset), static_cast<u64>(length)));
  vfs::after_write(*task.creds, *file);
  return 0;
}

// --- durability ---

Result<i64> sys_fsync(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  TRY(file->sync(false));
  return 0;
}

Result<i64> sys_fdatasync(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  TRY(file->sync(true));
  return 0;
}

Result<i64> sys_sync(Task& task) {
  std::vector<RefPtr<vfs::FileSystem>> done;
  auto mounts = task.mounts->mounts();
  for (const auto& mount : mounts) {
    RefPtr<vfs::FileSystem> fs(&mount->fs());
    if (std::find(done.begin(), done.end(), fs) != done.end()) continue;
    // sync(2) cannot fail.
    (void)fs->sync();
    done.push_back(std::move(fs));
  }
  return 0;
}

Result<i64> sys_syncfs(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  if (file->path().dentry) TRY(file->path().dentry->fs().sync());
  return 0;
}

Result<i64> sys_sync_file_range(Task& task, Fd fd, Off offset, Off length, Hex flags) {
  auto file = TRY(task.fds->get(fd.n));
  constexpr u64 kKnown = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if ((flags.v & ~kKnown) || offset < 0 || length < 0 || offset > INT64_MAX - length) return Errno::kInval;
  u32 type = file->inode() ? file->inode()->type() : 0;
  if (type != S_IFREG && type != S_IFBLK && type != S_IFDIR && type != S_IFLNK) return Errno::kSpipe;
  // Writing out more than asked for is allowed; without a wait it is only a hint.
  if (flags.v & SYNC_FILE_RANGE_WAIT_AFTER) TRY(file->sync(true));
  return 0;
}

Result<i64> sys_readahead(Task& task, Fd fd, Off, Size) {
  auto file = TRY(open_for_reading(task, fd));
  if (file->inode() == nullptr || file->inode()->type() != S_IFREG) return Errno::kInval;
  return 0;  // a hint: the host reads ahead by itself
}

Result<i64> sys_fadvise64(Task& task, Fd fd, Off, Size length, Int advice) {
  auto file = TRY(task.fds->get(fd.n));
  if (file->inode() != nullptr && file->inode()->type() == S_IFIFO) return Errno::kSpipe;
  if (static_cast<i64>(length) < 0 || advice < POSIX_FADV_NORMAL || advice > POSIX_FADV_NOREUSE) return Errno::kInval;
  return 0;  // a hint
}

}  // namespace sbx::syscalls
