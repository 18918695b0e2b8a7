// Open files and directories of tmpfs.
#include <dirent.h>
#include <sys/mount.h>

#include "sentry/fs/tmpfs/node.h"
#include "sentry/vfs/file.h"

namespace sbx::tmpfs {
namespace {

class RegularFile final : public vfs::File {
 public:
  RegularFile(const vfs::Path& path, u32 flags, Regular& node) : File(path, flags), node_(&node) {}

  Result<size_t> read(vfs::Sink& to, u64* offset) override {
    size_t n = TRY(node_->data.read(*offset, to));
    *offset += n;
    const vfs::Mount* mount = path().mount.get();  // none for the kernel's own descriptions
    if ((flags() & O_NOATIME) == 0 && mount != nullptr && (mount->flags & MS_NOATIME) == 0) node_->touch_atime();
    return n;
  }

  Result<size_t> write(vfs::Source& from, u64* offset) override {
    if ((flags() & O_APPEND) != 0) *offset = node_->data.size();
    size_t n = TRY(node_->data.write(*offset, from));
    *offset += n;
    if (n > 0) node_->touch_mtime();
    return n;
  }

  bool seekable() const override { return true; }

  Result<u64> seek(i64 offset, int whence) override {
    if (whence != SEEK_DATA && whence != SEEK_HOLE) return File::seek(offset, whence);
    if (offset < 0) return Errno::kNxio;
    position = TRY(node_->data.seek(static_cast<u64>(offset), whence));
    return position;
  }

  Result<void> sync(bool) override { return {}; }

  Result<void> allocate(int mode, u64 offset, u64 length) override {
    TRY(node_->data.allocate(mode, offset, length));
    node_->touch_mtime();
    return {};
  }

  Result<vfs::MapHandle> map_handle(bool) override {
    int fd = TRY(node_->data.map());
    return vfs::MapHandle{fd, 0};
  }

 private:
  RefPtr<Regular> node_;
};

class DirectoryFile final : public vfs::File {
 public:
  DirectoryFile(const vfs::Path& path, u32 flags, Directory& node) : File(path, flags), node_(&node) {}

  Result<size_t> read(vfs::Sink&, u64*) override { return Errno::kIsdir; }
  bool seekable() const override { return true; }
  Result<void> sync(bool) override { return {}; }

  Result<void> read_dir(const std::function<bool(const vfs::DirEntry&)>& emit) override {
    node_->touch_atime();
    if (position == 0) {
      if (!emit({".", node_->ino(), DT_DIR, 1})) return {};
      position = 1;
    }
    if (position == 1) {
      if (!emit({"..", node_->parent_ino, DT_DIR, 2})) return {};
      position = 2;
    }
    auto& entries = node_->entries();
    for (auto it = entries.lower_bound(position); it != entries.end(); ++it) {
      u64 next = it->first + 1;
      if (!emit({it->second.name, it->second.node->ino(), static_cast<u8>(it->second.node->type() >> 12), next}))
        return {};
      position = next;
    }
    return {};
  }

 private:
  RefPtr<Directory> node_;
};

}  // namespace

Result<RefPtr<vfs::File>> Regular::open(const vfs::Path& path, u32 flags) {
  return RefPtr<vfs::File>(make_ref<RegularFile>(path, flags, *this));
}

Result<RefPtr<vfs::File>> Directory::open(const vfs::Path& path, u32 flags) {
  return RefPtr<vfs::File>(make_ref<DirectoryFile>(path, flags, *this));
}

}  // namespace sbx::tmpfs
