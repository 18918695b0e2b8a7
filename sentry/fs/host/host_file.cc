#include "sentry/fs/host/host_file.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <termios.h>

#include <algorithm>
#include <memory>
#include <set>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/vfs/bounce.h"

namespace sbx::fs::host {
namespace {

constexpr size_t kChunk = 65536;
constexpr size_t kPipeAtomic = 4096;

std::set<HostDescriptor*>& descriptors() {
  static auto* all = new std::set<HostDescriptor*>;
  return *all;
}

class HostFs final : public vfs::FileSystem {
 public:
  const char* type_name() const override { return "hostfd"; }
  RefPtr<vfs::Inode> root() override { return nullptr; }
  Result<vfs::StatFs> statfs() override { return vfs::StatFs{}; }
};

HostFs& hostfs() {
  static auto* fs = make_ref<HostFs>().leak();
  return *fs;
}

vfs::Time to_time(const timespec& t) { return {t.tv_sec, static_cast<u32>(t.tv_nsec)}; }

class HostInode final : public vfs::Inode {
 public:
  HostInode(RefPtr<HostDescriptor> host, bool tty, u32 uid, u32 gid)
      : Inode(hostfs()), host_(std::move(host)), tty_(tty), uid_(uid), gid_(gid) {}
  Result<vfs::Attr> attr() override {
    struct stat s {};
    if (fstat(host_->fd(), &s) != 0) return last_errno();
    vfs::Attr a;
    a.dev = hostfs().dev();
    a.ino = s.st_ino;
    a.mode = (s.st_mode & S_IFMT) | (own_permissions_ ? permissions_ : s.st_mode & 07777);
    a.nlink = static_cast<u32>(s.st_nlink);
    a.uid = uid_;
    a.gid = gid_;
    a.rdev = s.st_rdev;
    a.size = static_cast<u64>(s.st_size);
    a.blocks = static_cast<u64>(s.st_blocks);
    a.blksize = static_cast<u32>(s.st_blksize);
    a.atime = to_time(s.st_atim);
    a.mtime = to_time(s.st_mtim);
    a.ctime = a.btime = to_time(s.st_ctim);
    return a;
  }
  u32 type() const override { return host_->type(); }
  // Mode and owner are the guest's view only; the host's object keeps its own.
  Result<void> set_attr(const vfs::SetAttr& change) override {
    using S = vfs::SetAttr;
    if (change.mask & S::kSize) {
      if (type() != S_IFREG) return Errno::kInval;
      if (ftruncate(host_->fd(), static_cast<off_t>(change.size)) != 0) return last_errno();
    }
    if (change.mask & S::kMode) {
      own_permissions_ = true;
      permissions_ = change.mode & 07777;
    }
    if (change.mask & S::kUid) uid_ = change.uid;
    if (change.mask & S::kGid) gid_ = change.gid;
    return {};
  }
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
  HostDescriptor& host() { return *host_; }
  bool tty() const { return tty_; }

 private:
  RefPtr<HostDescriptor> host_;
  bool tty_;
  u32 uid_, gid_;
  bool own_permissions_ = false;
  u32 permissions_ = 0;
};

class HostFile final : public vfs::File {
 public:
  HostFile(vfs::Path path, u32 flags, HostInode& inode)
      : File(std::move(path), flags), host_(&inode.host()), tty_(inode.tty()) {}

  Result<size_t> read(vfs::Sink& sink, u64* offset) override {
    size_t want = std::min(sink.left(), kChunk);
    if (want == 0) return size_t{0};
    if (u8* window = sink.window(want); window != nullptr) {
      size_t n = TRY(read_host(window, want, offset));
      sink.commit(n);
      return n;
    }
    vfs::Bounce chunk(want, sink.place());
    size_t n = TRY(read_host(chunk.data(), want, offset));
    if (n == 0) return n;
    return sink.put(chunk.data(), n);
  }

  Result<size_t> write(vfs::Source& source, u64* offset) override {
    if (host_->is_null()) return source.left();  // Linux never looks at the bytes either
    size_t want = std::min(source.left(), kChunk);
    if (want == 0) return size_t{0};
    if (!host_->flush_pending()) return Errno::kAgain;
    // A source cannot take bytes back: ask for room before bytes are fetched.
    if (!seekable() && !(host_->poll(POLLOUT) & (POLLOUT | POLLERR | POLLHUP))) return Errno::kAgain;
    vfs::Bounce chunk(want, source.place());
    size_t n = TRY(source.get(chunk.data(), want));
    if (seekable()) return write_regular(chunk.data(), n, offset);
    size_t done = 0;
    while (done < n) {
      auto part = host_->write(chunk.data() + done, n - done);
      if (!part) {
        if (part.error() != Errno::kAgain) {
          if (done == 0) return part.error();
          break;
        }
        host_->keep(chunk.data() + done, n - done);
        host_->queue();  // the watch writes the rest
        break;
      }
      done += *part;
    }
    return n;
  }

  bool discards_writes() const override { return host_->is_null(); }
  bool seekable() const override { return host_->type() == S_IFREG; }
  // The position is the host description's own: a host process that shares it sees our reads, as with a native program.
  Result<u64> seek(i64 offset, int whence) override {
    if (!seekable()) return Errno::kSpipe;
    off_t at = lseek(host_->fd(), offset, whence);
    if (at < 0) return last_errno();
    position = static_cast<u64>(at);
    return position;
  }

  u32 readiness() override {
    u32 wanted = (readable() ? POLLIN | POLLRDNORM : 0) | (writable() ? POLLOUT | POLLWRNORM : 0);
    u32 mask = host_->poll(wanted | POLLRDHUP | POLLPRI);
    if (host_->has_pending()) mask &= ~u32{POLLOUT | POLLWRNORM};
    return mask;
  }
  fiber::WaitQueue* wait_queue() override { return host_->queue(); }

  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override {
    if (cmd == FIONREAD) {
      int n = 0;
      if (::ioctl(host_->fd(), FIONREAD, &n) != 0) return last_errno();
      TRY(caller.write(arg, &n, sizeof(n)));
      return i64{0};
    }
    if (!tty_) return Errno::kNotty;
    if (cmd == TCGETS) {
      u8 settings[36] = {};  // struct termios of the kernel
      if (::ioctl(host_->fd(), TCGETS, settings) != 0) return last_errno();
      TRY(caller.write(arg, settings, sizeof(settings)));
      return i64{0};
    }
    if (cmd == TIOCGWINSZ) {
      winsize size{};
      if (::ioctl(host_->fd(), TIOCGWINSZ, &size) != 0) return last_errno();
      TRY(caller.write(arg, &size, sizeof(size)));
      return i64{0};
    }
    STUB("host tty ioctl", cmd);
    return Errno::kNotty;
  }

  Result<void> sync(bool data_only) override {
    if (!seekable()) return Errno::kInval;
    if ((data_only ? fdatasync(host_->fd()) : fsync(host_->fd())) != 0) return last_errno();
    return {};
  }
  Result<vfs::MapHandle> map_handle(bool) override {
    if (!seekable()) return Errno::kNodev;
    return vfs::MapHandle{host_->fd(), 0};
  }

 private:
  Result<size_t> read_host(void* to, size_t n, u64* offset) {
    if (!seekable()) return host_->read(to, n);
    if (offset != nullptr && offset != &position) {
      ssize_t got = pread(host_->fd(), to, n, static_cast<off_t>(*offset));
      if (got < 0) return last_errno();
      *offset += static_cast<u64>(got);
      return static_cast<size_t>(got);
    }
    ssize_t got = ::read(host_->fd(), to, n);
    if (got < 0) return last_errno();
    position = static_cast<u64>(lseek(host_->fd(), 0, SEEK_CUR));
    return static_cast<size_t>(got);
  }
  // A write at the file's position is one at the host description's, wherever other users of it have moved that (two
  // descriptors of one log file); others are positioned writes.
  Result<size_t> write_regular(const u8* from, size_t n, u64* offset) {
    if (offset != nullptr && offset != &position && *offset != position) {
      ssize_t done = pwrite(host_->fd(), from, n, static_cast<off_t>(*offset));
      if (done < 0) return last_errno();
      *offset += static_cast<u64>(done);
      return static_cast<size_t>(done);
    }
    ssize_t done = ::write(host_->fd(), from, n);
    if (done < 0) return last_errno();
    position = static_cast<u64>(lseek(host_->fd(), 0, SEEK_CUR));
    if (offset != nullptr) *offset = position;
    return static_cast<size_t>(done);
  }

  RefPtr<HostDescriptor> host_;
  bool tty_;
};

Result<RefPtr<vfs::File>> HostInode::open(const vfs::Path& path, u32 flags) {
  if (type() == S_IFSOCK) return Errno::kNxio;
  u32 want = flags & O_ACCMODE, have = host_->access_mode();
  if (have != O_RDWR && want != have) return Errno::kAcces;
  return RefPtr<vfs::File>(make_ref<HostFile>(path, flags, *this));
}

}  // namespace

HostDescriptor::HostDescriptor(UniqueFd fd) : fd_(std::move(fd)) {
  struct stat s {};
  if (fstat(fd_.get(), &s) == 0) mode_ = s.st_mode;
  null_ = S_ISCHR(mode_) && s.st_rdev == makedev(1, 3);
  int flags = fcntl(fd_.get(), F_GETFL);
  if (flags >= 0) {
    access_mode_ = static_cast<u32>(flags & O_ACCMODE);
    nonblocking_ = flags & O_NONBLOCK;
  }
  always_ready_ = type() == S_IFREG || type() == S_IFDIR;
  descriptors().insert(this);
}

HostDescriptor::~HostDescriptor() {
  if (!pending_.empty()) flush_pending();
  descriptors().erase(this);
  watch_.unwatch();
}

u32 HostDescriptor::poll(u32 events) const {
  pollfd p{fd_.get(), static_cast<short>(events), 0};
  if (::poll(&p, 1, 0) < 0) return POLLERR;
  return static_cast<u16>(p.revents);
}

Result<size_t> HostDescriptor::read(void* to, size_t n) {
  ssize_t got = -1;
  if (type() == S_IFSOCK) {
    got = recv(fd_.get(), to, n, MSG_DONTWAIT);
  } else if (nonblocking_) {
    got = ::read(fd_.get(), to, n);
  } else {
    if (!no_nowait_) {
      iovec v{to, n};
      got = preadv2(fd_.get(), &v, 1, -1, RWF_NOWAIT);
      if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == ESPIPE)) no_nowait_ = true;
    }
    if (no_nowait_) {
      if (!(poll(POLLIN) & (POLLIN | POLLHUP | POLLERR))) return Errno::kAgain;
      got = ::read(fd_.get(), to, n);
    }
  }
  if (got < 0) {
    if (errno == EINTR) return Errno::kAgain;
    // A terminal or pty whose other side is gone reads as its end, as a hung-up terminal does.
    if (errno == EIO && type() == S_IFCHR) return size_t{0};
    return last_errno();
  }
  return static_cast<size_t>(got);
}

Result<size_t> HostDescriptor::write(const void* from, size_t n) {
  ssize_t done = -1;
  if (type() == S_IFSOCK) {
    done = send(fd_.get(), from, n, MSG_DONTWAIT | MSG_NOSIGNAL);
  } else if (nonblocking_) {
    done = ::write(fd_.get(), from, n);
  } else {
    if (!no_nowait_) {
      iovec v{const_cast<void*>(from), n};
      done = pwritev2(fd_.get(), &v, 1, -1, RWF_NOWAIT);
      if (done < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == ESPIPE)) no_nowait_ = true;
    }
    if (no_nowait_) {
      if (!(poll(POLLOUT) & (POLLOUT | POLLHUP | POLLERR))) return Errno::kAgain;
      done = ::write(fd_.get(), from, std::min(n, kPipeAtomic));
    }
  }
  if (done < 0) return errno == EINTR ? Errno::kAgain : last_errno();
  return static_cast<size_t>(done);
}

fiber::WaitQueue* HostDescriptor::queue() {
  if (always_ready_) return nullptr;
  if (!watch_.watching()) {
    u32 events = EPOLLRDHUP;
    if (access_mode_ != O_WRONLY) events |= EPOLLIN;
    if (access_mode_ != O_RDONLY) events |= EPOLLOUT;
    auto watched = watch_.watch(fd_.get(), events, [this](u32) {
      RefPtr<HostDescriptor> self(this);
      flush_pending();
      queue_.wake_all();
    });
    if (!watched) {
      if (watched.error() != Errno::kPerm)
        LOG_WARNING("cannot watch a host descriptor: %s", errno_name(watched.error()));
      always_ready_ = true;
      return nullptr;
    }
  }
  return &queue_;
}

bool HostDescriptor::flush_pending() {
  while (pending_done_ < pending_.size()) {
    auto done = write(pending_.data() + pending_done_, pending_.size() - pending_done_);
    if (!done) {
      if (done.error() == Errno::kAgain) return false;
      break;  // nobody reads it any more: lost, as what stands in a broken pipe is
    }
    pending_done_ += *done;
  }
  pending_.clear();
  pending_done_ = 0;
  return true;
}

Result<RefPtr<vfs::File>> make_host_file(UniqueFd fd, bool tty, u32 uid, u32 gid) {
  struct stat s {};
  if (fstat(fd.get(), &s) != 0) return last_errno();
  auto host = make_ref<HostDescriptor>(std::move(fd));
  u32 access = host->access_mode();
  u32 kind = host->type();
  auto inode = make_ref<HostInode>(host, tty, uid, gid);
  const char* prefix = kind == S_IFIFO ? "pipe" : kind == S_IFSOCK ? "socket" : kind == S_IFREG ? "file" : "device";
  vfs::Path path;
  path.dentry = vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(&hostfs()), RefPtr<vfs::Inode>(inode),
                                       str_printf("%s:[%llu]", prefix, static_cast<unsigned long long>(s.st_ino)));
  auto file = make_ref<HostFile>(path, access, *inode);
  if (file->seekable()) file->position = static_cast<u64>(lseek(host->fd(), 0, SEEK_CUR));
  return RefPtr<vfs::File>(file);
}

void drain(u64 timeout_ms) {
  u64 give_up = fiber::now_ns() + timeout_ms * 1'000'000;
  for (HostDescriptor* d : descriptors()) {
    while (!d->flush_pending() && fiber::now_ns() < give_up) {
      pollfd p{d->fd(), POLLOUT, 0};
      ::poll(&p, 1, static_cast<int>((give_up - fiber::now_ns()) / 1'000'000) + 1);
    }
  }
}

}  // namespace sbx::fs::host
