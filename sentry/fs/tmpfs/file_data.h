// The bytes of one tmpfs file. Small files live in the sentry's heap; a file that grows or is mapped gets a memfd,
// whose descriptor is what stubs map. Descriptors are scarce (RLIMIT_NOFILE), so a file that was never mapped gives its
// memfd back when truncated to nothing, and where no memfd can be had bytes stay in the heap.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"
#include "sentry/vfs/io.h"

namespace sbx::tmpfs {

// What an instance may use and uses; shared by its files since some outlive the mount.
struct Usage {
  u64 page_limit = 0;  // 0: unlimited
  u64 pages = 0;
  u64 inode_limit = 0;  // 0: unlimited
  u64 inodes = 0;

  u64 pages_left() const { return page_limit == 0 ? ~0ull : page_limit > pages ? page_limit - pages : 0; }
};

class FileData {
 public:
  static constexpr u64 kHeapMax = 32 * 1024;
  static constexpr u64 kMaxSize = 0x7fffffffffffffffull;

  explicit FileData(std::shared_ptr<Usage> usage) : usage_(std::move(usage)) {}
  ~FileData();
  FileData(const FileData&) = delete;
  FileData& operator=(const FileData&) = delete;

  u64 size() const { return size_; }
  // Pages that count against the limit.
  u64 pages();
  Result<size_t> read(u64 offset, vfs::Sink& to);
  // kNospc if not even one byte has room, kFbig beyond kMaxSize; short otherwise.
  Result<size_t> write(u64 offset, vfs::Source& from);
  Result<void> resize(u64 size);
  // fallocate(2): mode 0, FALLOC_FL_KEEP_SIZE or PUNCH_HOLE|KEEP_SIZE; others kOpnotsupp.
  Result<void> allocate(int mode, u64 offset, u64 length);
  // lseek(2) with SEEK_DATA or SEEK_HOLE.
  Result<u64> seek(u64 offset, int whence);
  // The descriptor to map; from then on the guest may change bytes and allocate pages unseen.
  Result<int> map();

 private:
  Result<void> to_memfd();
  void recount();
  Result<void> charge_to(u64 pages);
  u64 missing(u64 first, u64 end) const;
  void add_extent(u64 first, u64 end);
  void cut_extents(u64 first, u64 end);
  Result<size_t> write_memfd(u64 offset, vfs::Source& from);
  Result<size_t> write_heap(u64 offset, vfs::Source& from);
  void drop_charge(u64 pages);

  std::shared_ptr<Usage> usage_;
  u64 size_ = 0;
  u64 charged_ = 0;  // pages of usage_ that are ours
  bool mapped_ = false;
  UniqueFd memfd_;
  std::vector<u8> heap_;        // size_ bytes while there is no memfd
  std::map<u64, u64> extents_;  // of the memfd: allocated pages, first -> end, as far as we caused them
};

}  // namespace sbx::tmpfs
