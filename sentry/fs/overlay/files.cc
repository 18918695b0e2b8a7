// Open files and directories of an overlay.
#include <dirent.h>

#include "sentry/fs/overlay/node.h"
#include "sentry/vfs/special.h"

namespace sbx::overlay {
namespace {

class RegularFile final : public vfs::File {
 public:
  RegularFile(const vfs::Path& path, u32 flags, Node& node, RefPtr<vfs::File> real)
      : File(path, flags), node_(&node), real_(std::move(real)), above_(node.upper() != nullptr) {}

  void set_flags(u32 flags) override {
    File::set_flags(flags);
    real_->set_flags(flags);
  }
  Result<size_t> read(vfs::Sink& to, u64* offset) override {
    TRY(follow_copy_up());
    return real_->read(to, offset);
  }
  Result<size_t> write(vfs::Source& from, u64* offset) override { return real_->write(from, offset); }
  bool seekable() const override { return true; }
  Result<u64> seek(i64 offset, int whence) override {
    if (whence != SEEK_DATA && whence != SEEK_HOLE) return File::seek(offset, whence);
    TRY(follow_copy_up());
    position = TRY(real_->seek(offset, whence));
    return position;
  }
  Result<void> sync(bool data_only) override { return real_->sync(data_only); }
  Result<void> allocate(int mode, u64 offset, u64 length) override { return real_->allocate(mode, offset, length); }
  Result<vfs::MapHandle> map_handle(bool shared_write) override {
    TRY(follow_copy_up());
    return real_->map_handle(shared_write);
  }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override { return real_->ioctl(caller, cmd, arg); }

 private:
  // A description opened for reading before somebody else's write sees the write, as on overlayfs; what is mapped
  // already keeps the old bytes.
  Result<void> follow_copy_up() {
    if (above_ || node_->upper() == nullptr) return {};
    real_ = TRY(node_->open_real(*node_->upper(), path(), flags()));
    above_ = true;
    return {};
  }
  RefPtr<Node> node_;
  RefPtr<vfs::File> real_;
  bool above_;
};

class DirectoryFile final : public vfs::File {
 public:
  DirectoryFile(const vfs::Path& path, u32 flags, Node& node) : File(path, flags), node_(&node) {}

  Result<size_t> read(vfs::Sink&, u64*) override { return Errno::kIsdir; }
  bool seekable() const override { return true; }
  Result<void> sync(bool) override { return {}; }

  // From the start the directory is read whole; positions then index that picture until the next rewind.
  Result<void> read_dir(const std::function<bool(const vfs::DirEntry&)>& emit) override {
    if (position == 0 || entries_.empty()) {
      std::vector<vfs::DirEntry> inner = TRY(node_->merged_entries());
      entries_.clear();
      entries_.push_back({".", node_->ino(), DT_DIR, 0});
      entries_.push_back({"..", node_->parent_ino(), DT_DIR, 0});
      for (vfs::DirEntry& e : inner) entries_.push_back(std::move(e));
      for (size_t i = 0; i < entries_.size(); ++i) entries_[i].next = i + 1;
    }
    while (position < entries_.size()) {
      if (!emit(entries_[position])) return {};
      ++position;
    }
    return {};
  }

 private:
  RefPtr<Node> node_;
  std::vector<vfs::DirEntry> entries_;
};

}  // namespace

Result<RefPtr<vfs::File>> Node::open(const vfs::Path& path, u32 flags) {
  switch (type_) {
    case S_IFDIR: return RefPtr<vfs::File>(make_ref<DirectoryFile>(path, flags, *this));
    case S_IFLNK: return Errno::kLoop;
    case S_IFREG: break;
    default: {
      // The state of FIFOs and sockets lies with the real inode, the description is the overlay's.
      Attr a = TRY(real().attr());
      return vfs::open_special(real(), type_, a.rdev, path, flags);
    }
  }
  if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0) TRY(copy_up((flags & O_TRUNC) != 0 ? 0 : ~0ull));
  RefPtr<vfs::File> file = TRY(open_real(real(), path, flags & ~u32{O_TRUNC | O_CREAT | O_EXCL}));
  return RefPtr<vfs::File>(make_ref<RegularFile>(path, flags, *this, std::move(file)));
}

}  // namespace sbx::overlay
