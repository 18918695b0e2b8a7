#include "sentry/fs/gofer/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "sentry/fiber/kernel_lock.h"
#include "sentry/platform/file_lease.h"
#include "sentry/platform/file_window.h"
#include "sentry/vfs/bounce.h"

namespace sbx::fs::gofer {
namespace {

constexpr size_t kChunk = vfs::Bounce::kMost;
// Copying this much into the page cache is no longer short: others may run meanwhile.
constexpr size_t kLongWrite = 512 * 1024;

bool inside_fiber() { return fiber::current() != nullptr; }

}  // namespace

// What is in the host's page cache is read at once; what is not, without the kernel lock.
Result<size_t> GoferFile::read_some(int fd, void* to, size_t n, u64 offset) {
  iovec iov{to, n};
  auto at = static_cast<off64_t>(offset);
  const u64 dev = inode_->known().dev;
  const bool no_nowait = inode_->gofer_fs().lacks_nowait(dev);
  if (!no_nowait) {
    ssize_t got = preadv2(fd, &iov, 1, at, RWF_NOWAIT);
    if (got > 0) return static_cast<size_t>(got);
    if (got < 0 && errno == EOPNOTSUPP)
      inode_->gofer_fs().note_no_nowait(dev);
    else if (got == 0)
      return 0;
    else if (errno != EAGAIN)
      return last_errno();
  }
  ssize_t got = 0;
  int error = 0;
  if (inside_fiber() && (!no_nowait || n > 64 * 1024)) {
    fiber::HostBlock block;
    got = pread64(fd, to, n, at);
    error = errno;
  } else {
    got = pread64(fd, to, n, at);
    error = errno;
  }
  if (got < 0) return static_cast<Errno>(error);
  return static_cast<size_t>(got);
}

// Bytes that are there for sure the guest's own thread copies, out of a mapping. To make one costs as much as several
// reads do; a file that is read through once is done by then.
bool GoferFile::read_from_window(vfs::Sink& to, u64* offset, size_t* done) {
  constexpr u32 kReadsBefore = 4;
  constexpr size_t kMany = 64 * 1024;  // such a read alone is worth it
  platform::FileBytes bytes;
  bool many = to.left() >= kMany;
  if (reads_ < kReadsBefore && !many && !inode_->has_windows()) {
    ++reads_;
    return false;
  }
  auto end = inode_->end_of_data();
  if (!end || *offset >= *end) return false;
  bytes.n = std::min<u64>(to.left(), *end - *offset);
  bytes.may_map = reads_ >= kReadsBefore || bytes.n >= kMany;
  auto fd = inode_->read_only_descriptor();
  if (!fd) return false;
  bytes.fd = *fd;
  bytes.file = inode_->windows();
  bytes.offset = *offset;
  if (!to.take(bytes)) {
    if (bytes.may_map) reads_ = 0;  // not for this reader, or not just now
    ++reads_;
    return false;
  }
  *offset += bytes.n;
  *done = bytes.n;
  return true;
}

bool GoferFile::lendable(platform::LeaseTerms& terms) {
  if ((flags() & O_DIRECT) != 0 || !readable()) return false;
  auto size = inode_->steady_size();
  if (!size) size = inode_->learn_size();
  if (!size) return false;
  terms.file = inode_->windows();
  terms.size = *size;
  terms.fd = inode_->known_descriptor();
  terms.no_nowait = inode_->gofer_fs().lacks_nowait(inode_->known().dev);
  if (terms.with_stat) {
    auto now = attr();
    if (!now) return false;
    terms.stat = vfs::stat_of(*now);
  }
  return true;
}

Result<size_t> GoferFile::read(vfs::Sink& to, u64* offset) {
  if (offset == nullptr) offset = &position;
  if (size_t done = 0; read_from_window(to, offset, &done)) return done;
  int fd = TRY(inode_->descriptor(false));
  size_t wanted = std::min(to.left(), kChunk);
  if (wanted == 0) return 0;
  vfs::Bounce bounce(to.window(wanted) != nullptr ? 1 : wanted, to.place());
  size_t done = 0;
  Errno error = Errno::kNone;
  while (to.left() > 0) {
    size_t n = std::min(to.left(), kChunk);
    u8* direct = to.window(n);
    if (direct == nullptr) n = std::min(n, bounce.size());
    auto got = read_some(fd, direct != nullptr ? static_cast<void*>(direct) : bounce.data(), n, *offset + done);
    if (!got) {
      error = got.error();
      break;
    }
    if (*got == 0) break;
    size_t stored = *got;
    if (direct != nullptr) {
      to.commit(*got);
    } else {
      auto put = to.put(bounce.data(), *got);
      if (!put) {
        error = put.error();
        break;
      }
      stored = *put;
    }
    done += stored;
    if (stored < *got) break;
    // A short read is the end of the file, or of what the page cache has: the known size tells without another call.
    if (*got < n && inode_->ends_by(*offset + done)) break;
  }
  if (done == 0 && error != Errno::kNone) return error;
  *offset += done;
  return done;
}

Result<size_t> GoferFile::write_some(int fd, const void* from, size_t n, u64 offset) {
  int how = 0;
  if ((flags() & O_APPEND) != 0) how |= RWF_APPEND;
  if ((flags() & O_SYNC) == O_SYNC)
    how |= RWF_SYNC;
  else if ((flags() & O_DSYNC) != 0)
    how |= RWF_DSYNC;
  iovec iov{const_cast<void*>(from), n};
  auto at = static_cast<off64_t>(offset);
  ssize_t put = 0;
  int error = 0;
  bool slow = (how & (RWF_SYNC | RWF_DSYNC)) != 0 || n >= kLongWrite;
  if (slow && inside_fiber()) {
    fiber::HostBlock block;
    put = pwritev2(fd, &iov, 1, at, how);
    error = errno;
  } else {
    put = how != 0 ? pwritev2(fd, &iov, 1, at, how) : pwrite64(fd, from, n, at);
    error = errno;
  }
  if (put < 0) return static_cast<Errno>(error);
  return static_cast<size_t>(put);
}

Result<size_t> GoferFile::write(vfs::Source& from, u64* offset) {
  if (offset == nullptr) offset = &position;
  int fd = TRY(inode_->descriptor(true));
  size_t wanted = std::min(from.left(), kChunk);
  if (wanted == 0) return 0;
  vfs::Bounce bounce(wanted, from.place());
  size_t done = 0;
  Errno error = Errno::kNone;
  while (from.left() > 0) {
    size_t n = std::min(from.left(), bounce.size());
    const u8* there = from.view(n);
    if (there == nullptr) {
      auto got = from.get(bounce.data(), n);
      if (!got) {
        error = got.error();
        break;
      }
      n = *got;
    }
    auto put = write_some(fd, there != nullptr ? there : bounce.data(), n, *offset + done);
    if (!put) {
      error = put.error();
      break;
    }
    if (there != nullptr) from.pass(*put);
    done += *put;
    if (*put < n) break;
  }
  if (done == 0 && error != Errno::kNone) return error;
  inode_->written();
  *offset += done;
  if ((flags() & O_APPEND) != 0) {
    if (auto now = inode_->attr()) *offset = now->size;
  }
  return done;
}

Result<u64> GoferFile::seek(i64 offset, int whence) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return File::seek(offset, whence);
  int fd = TRY(inode_->descriptor(false));
  off64_t to = lseek64(fd, offset, whence);
  if (to < 0) return last_errno();
  position = static_cast<u64>(to);
  return position;
}

Result<void> GoferFile::sync(bool data_only) {
  int fd = TRY(inode_->descriptor(writable()));
  int done = 0, error = 0;
  auto run = [&] {
    done = data_only ? fdatasync(fd) : fsync(fd);
    error = errno;
  };
  if (inside_fiber()) {
    fiber::HostBlock block;
    run();
  } else {
    run();
  }
  if (done != 0) return static_cast<Errno>(error);
  return {};
}

Result<void> GoferFile::allocate(int mode, u64 offset, u64 length) {
  if (!writable()) return Errno::kBadf;
  int fd = TRY(inode_->descriptor(true));
  if (fallocate64(fd, mode, static_cast<off64_t>(offset), static_cast<off64_t>(length)) != 0) return last_errno();
  inode_->written();
  return {};
}

Result<vfs::MapHandle> GoferFile::map_handle(bool shared_write) {
  vfs::MapHandle handle;
  if (shared_write) {
    if (!writable()) return Errno::kAcces;
    handle.host_fd = TRY(inode_->descriptor(true));
    inode_->mapped_shared();
  } else {
    // Never one that could write: a stub decides by itself how it maps what it holds.
    handle.host_fd = TRY(inode_->read_only_descriptor());
    handle.steady = !inode_->was_mapped_shared();
    handle.known_as = inode_->windows().get();
  }
  return handle;
}

Result<void> GoferDirFile::read_dir(const std::function<bool(const vfs::DirEntry&)>& emit) {
  if (position == 0 || !listing_) listing_ = TRY(inode_->listing());
  u64 own = inode_->known().ino;
  for (;;) {
    vfs::DirEntry e;
    e.next = position + 1;
    if (position < 2) {
      e.name = position == 0 ? "." : "..";
      e.ino = own;
      e.type = DT_DIR;
      vfs::Dentry* parent = path().dentry->parent();
      if (position == 1 && parent != nullptr && parent->inode() != nullptr) {
        if (auto attr = parent->inode()->attr()) e.ino = attr->ino;
      }
    } else {
      u64 index = position - 2;
      if (index >= listing_->entries.size()) return {};
      const Listing::Entry& entry = listing_->entries[index];
      e.name = entry.name;
      e.ino = entry.ino;
      e.type = entry.type;
    }
    if (!emit(e)) return {};
    ++position;
  }
}

Result<void> GoferDirFile::sync(bool) {
  wire::SyncRequest m;
  m.dir = inode_->node();
  TRY(inode_->gofer_fs().call(m));
  return {};
}

}  // namespace sbx::fs::gofer
