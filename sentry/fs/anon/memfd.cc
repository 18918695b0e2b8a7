#include "sentry/fs/anon/memfd.h"

#include <sys/mman.h>
#include <sys/statfs.h>

#include <algorithm>
#include <memory>

#include "sentry/base/unique_fd.h"
#include "sentry/fs/anon/node.h"
#include "sentry/vfs/bounce.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif

namespace sbx::fs::anon {
namespace {

constexpr size_t kChunk = 65536;
constexpr size_t kMaxName = 249;

NamelessFs& memfs() {
  constexpr u64 kTmpfsMagic = 0x01021994;
  static auto* fs = make_ref<NamelessFs>("tmpfs", kTmpfsMagic).leak();
  return *fs;
}

class MemfdInode final : public vfs::Inode {
 public:
  MemfdInode(UniqueFd fd, u32 mode, u32 uid, u32 gid, bool seal_exec)
      : Inode(memfs()),
        fd_(std::move(fd)),
        ino_(memfs().next_ino()),
        mode_(mode),
        uid_(uid),
        gid_(gid),
        seal_exec_(seal_exec) {}
  int fd() const { return fd_.get(); }
  Result<vfs::Attr> attr() override {
    struct stat s {};
    if (fstat(fd_.get(), &s) != 0) return last_errno();
    vfs::Attr a;
    a.dev = memfs().dev();
    a.ino = ino_;
    a.mode = S_IFREG | mode_;
    a.nlink = 0;
    a.uid = uid_;
    a.gid = gid_;
    a.size = static_cast<u64>(s.st_size);
    a.blocks = static_cast<u64>(s.st_blocks);
    a.atime = {s.st_atim.tv_sec, static_cast<u32>(s.st_atim.tv_nsec)};
    a.mtime = {s.st_mtim.tv_sec, static_cast<u32>(s.st_mtim.tv_nsec)};
    a.ctime = a.btime = {s.st_ctim.tv_sec, static_cast<u32>(s.st_ctim.tv_nsec)};
    return a;
  }
  u32 type() const override { return S_IFREG; }
  Result<void> set_attr(const vfs::SetAttr& change) override {
    using S = vfs::SetAttr;
    if (change.mask & S::kSize) {
      if (change.size > (1ull << 62)) return Errno::kFbig;
      if (ftruncate(fd_.get(), static_cast<off_t>(change.size)) != 0) return last_errno();
    }
    if (change.mask & S::kMode) {
      if (seal_exec_ && ((change.mode ^ mode_) & 0111)) return Errno::kPerm;
      mode_ = change.mode & 07777;
    }
    if (change.mask & S::kUid) uid_ = change.uid;
    if (change.mask & S::kGid) gid_ = change.gid;
    if (change.mask & (S::kAtime | S::kAtimeNow | S::kMtime | S::kMtimeNow)) {
      timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
      if (change.mask & S::kAtimeNow)
        times[0].tv_nsec = UTIME_NOW;
      else if (change.mask & S::kAtime)
        times[0] = {change.atime.sec, static_cast<long>(change.atime.nsec)};
      if (change.mask & S::kMtimeNow)
        times[1].tv_nsec = UTIME_NOW;
      else if (change.mask & S::kMtime)
        times[1] = {change.mtime.sec, static_cast<long>(change.mtime.nsec)};
      if (futimens(fd_.get(), times) != 0) return last_errno();
    }
    return {};
  }
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
  void seal_exec() { seal_exec_ = true; }
  bool exec_sealed() const { return seal_exec_; }

 private:
  UniqueFd fd_;
  u64 ino_;
  u32 mode_, uid_, gid_;
  bool seal_exec_;
};

class MemfdFile final : public vfs::File {
 public:
  MemfdFile(vfs::Path path, u32 flags, MemfdInode& inode) : File(std::move(path), flags), inode_(&inode) {}
  MemfdInode& memfd() { return *inode_; }

  Result<size_t> read(vfs::Sink& sink, u64* offset) override {
    size_t want = std::min(sink.left(), kChunk);
    if (want == 0) return size_t{0};
    if (*offset > (1ull << 62)) return Errno::kInval;
    if (u8* window = sink.window(want); window != nullptr) {
      ssize_t n = pread(inode_->fd(), window, want, static_cast<off_t>(*offset));
      if (n < 0) return last_errno();
      sink.commit(static_cast<size_t>(n));
      *offset += static_cast<u64>(n);
      return static_cast<size_t>(n);
    }
    vfs::Bounce chunk(want, sink.place());
    size_t total = 0;
    while (sink.left() > 0) {
      ssize_t n = pread(inode_->fd(), chunk.data(), std::min(sink.left(), kChunk), static_cast<off_t>(*offset));
      if (n < 0 && total == 0) return last_errno();
      if (n <= 0) break;
      auto put = sink.put(chunk.data(), static_cast<size_t>(n));
      if (!put) return total > 0 ? Result<size_t>(total) : put;
      *offset += *put;
      total += *put;
      if (*put < static_cast<size_t>(n)) break;
    }
    return total;
  }
  Result<size_t> write(vfs::Source& source, u64* offset) override {
    if (source.left() == 0) return size_t{0};
    vfs::Bounce chunk(std::min(source.left(), kChunk), source.place());
    if (flags() & O_APPEND) *offset = TRY(attr()).size;
    if (*offset > (1ull << 62)) return Errno::kFbig;
    size_t total = 0;
    while (source.left() > 0) {
      auto got = source.get(chunk.data(), std::min(source.left(), kChunk));
      if (!got) return total > 0 ? Result<size_t>(total) : got;
      ssize_t n = pwrite(inode_->fd(), chunk.data(), *got, static_cast<off_t>(*offset));
      if (n < 0) return total > 0 ? Result<size_t>(total) : last_errno();
      *offset += static_cast<u64>(n);
      total += static_cast<size_t>(n);
      if (static_cast<size_t>(n) < *got) break;
    }
    return total;
  }
  bool seekable() const override { return true; }
  Result<u64> seek(i64 offset, int whence) override {
    if (whence != SEEK_DATA && whence != SEEK_HOLE) return File::seek(offset, whence);
    off_t at = lseek(inode_->fd(), offset, whence);
    if (at < 0) return last_errno();
    position = static_cast<u64>(at);
    return position;
  }
  Result<void> sync(bool) override { return {}; }
  Result<void> allocate(int mode, u64 offset, u64 length) override {
    if (fallocate(inode_->fd(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) != 0) return last_errno();
    return {};
  }
  Result<vfs::MapHandle> map_handle(bool shared_write) override {
    if (shared_write) {
      int seals = fcntl(inode_->fd(), F_GET_SEALS);
      if (seals >= 0 && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))) return Errno::kPerm;
    }
    return vfs::MapHandle{inode_->fd(), 0};
  }

 private:
  RefPtr<MemfdInode> inode_;
};

Result<RefPtr<vfs::File>> MemfdInode::open(const vfs::Path& path, u32 flags) {
  return RefPtr<vfs::File>(make_ref<MemfdFile>(path, flags, *this));
}

}  // namespace

Result<RefPtr<vfs::File>> make_memfd(std::string_view name, u32 flags, u32 uid, u32 gid) {
  constexpr u32 kKnown = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
  if (flags & MFD_HUGETLB) return Errno::kNodev;
  if ((flags & ~kKnown) || (flags & (MFD_NOEXEC_SEAL | MFD_EXEC)) == (MFD_NOEXEC_SEAL | MFD_EXEC)) return Errno::kInval;
  if (name.size() > kMaxName) return Errno::kInval;
  bool noexec = flags & MFD_NOEXEC_SEAL;
  bool sealing = noexec || (flags & MFD_ALLOW_SEALING);
  UniqueFd fd(memfd_create("guest", MFD_CLOEXEC | (sealing ? MFD_ALLOW_SEALING : 0)));
  if (!fd) return last_errno();
  auto inode = make_ref<MemfdInode>(std::move(fd), noexec ? 0666 : 0777, uid, gid, noexec);
  vfs::Path path;
  path.dentry = vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(&memfs()), RefPtr<vfs::Inode>(inode),
                                       "/memfd:" + std::string(name) + " (deleted)");
  return RefPtr<vfs::File>(make_ref<MemfdFile>(std::move(path), O_RDWR, *inode));
}

Result<void> add_seals(vfs::File& file, u32 seals) {
  auto* memfd = dynamic_cast<MemfdFile*>(&file);
  if (memfd == nullptr) return Errno::kInval;
  if (!file.writable()) return Errno::kPerm;
  int host = static_cast<int>(seals & ~u32{F_SEAL_EXEC});
  if (seals & F_SEAL_EXEC) {
    int now = fcntl(memfd->memfd().fd(), F_GET_SEALS);
    if (now >= 0 && (now & F_SEAL_SEAL)) return Errno::kPerm;
  }
  if (fcntl(memfd->memfd().fd(), F_ADD_SEALS, host) != 0) return last_errno();
  if (seals & F_SEAL_EXEC) memfd->memfd().seal_exec();
  return {};
}

Result<u32> get_seals(vfs::File& file) {
  auto* memfd = dynamic_cast<MemfdFile*>(&file);
  if (memfd == nullptr) return Errno::kInval;
  int seals = fcntl(memfd->memfd().fd(), F_GET_SEALS);
  if (seals < 0) return last_errno();
  // Whether the host object can be executed is its own affair; the guest sees the seal it asked for.
  u32 out = static_cast<u32>(seals) & ~u32{F_SEAL_EXEC};
  return memfd->memfd().exec_sealed() ? out | F_SEAL_EXEC : out;
}

}  // namespace sbx::fs::anon
