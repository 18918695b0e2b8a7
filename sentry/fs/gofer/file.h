// Inside fs/gofer: open files and directories.
#pragma once
#include "sentry/fs/gofer/inode.h"

namespace sbx::fs::gofer {

class GoferFile final : public vfs::File {
 public:
  // The inode has the descriptor already.
  GoferFile(GoferInode& inode, const vfs::Path& path, u32 flags) : File(path, flags), inode_(&inode) {
    inode_->add_user();
  }
  Result<size_t> read(vfs::Sink& to, u64* offset) override;
  Result<size_t> write(vfs::Source& from, u64* offset) override;
  bool seekable() const override { return true; }
  Result<u64> seek(i64 offset, int whence) override;
  Result<void> sync(bool data_only) override;
  Result<void> allocate(int mode, u64 offset, u64 length) override;
  Result<vfs::MapHandle> map_handle(bool shared_write) override;
  Result<vfs::Attr> attr() override { return inode_->attr(); }
  bool lendable(platform::LeaseTerms& terms) override;

  // For copies between files inside the host (copy_file_range, sendfile): the descriptor to read from or write to, good
  // while the file is open, and the note that it was written.
  Result<int> host_descriptor(bool write) { return inode_->descriptor(write); }
  void written() { inode_->written(); }

 private:
  ~GoferFile() override { inode_->remove_user(); }
  bool read_from_window(vfs::Sink& to, u64* offset, size_t* done);
  Result<size_t> read_some(int fd, void* to, size_t n, u64 offset);
  Result<size_t> write_some(int fd, const void* from, size_t n, u64 offset);
  RefPtr<GoferInode> inode_;
  u32 reads_ = 0;  // since it last got a window
};

class GoferDirFile final : public vfs::File {
 public:
  GoferDirFile(GoferInode& inode, const vfs::Path& path, u32 flags) : File(path, flags), inode_(&inode) {}
  Result<size_t> read(vfs::Sink&, u64*) override { return Errno::kIsdir; }
  bool seekable() const override { return true; }
  Result<void> read_dir(const std::function<bool(const vfs::DirEntry&)>& emit) override;
  Result<void> sync(bool data_only) override;

 private:
  RefPtr<GoferInode> inode_;
  std::shared_ptr<const Listing> listing_;  // taken when reading starts
};

}  // namespace sbx::fs::gofer
