// tmpfs(5): a filesystem in memory. Instance (Tmpfs), objects (Node and its kinds), open files. The directory entries
// are the truth; dentries are a cache as everywhere.
#pragma once
#include <string_view>

#include "sentry/fs/tmpfs/file_data.h"
#include "sentry/vfs/inode.h"

namespace sbx::tmpfs {

class Directory;

struct Options {
  u64 size = 0;       // bytes; 0: unlimited
  u64 nr_inodes = 0;  // 0: unlimited
  u32 mode = 01777, uid = 0, gid = 0;
  bool size_given = false, inodes_given = false;
};
// mount(2) data: size= (k, m, g, %), nr_blocks=, nr_inodes=, mode=, uid=, gid=; huge=, mpol=, noswap, inode32, inode64
// change nothing here. Empty text: half of the machine's memory, as Linux. kInval: anything else.
Result<Options> parse_options(std::string_view text);

class Tmpfs final : public vfs::FileSystem {
 public:
  static RefPtr<Tmpfs> create(const Options& options);
  // "devtmpfs", "shm": how /proc/mounts calls it.
  static RefPtr<Tmpfs> create(const Options& options, const char* type_name, const char* source);

  const char* type_name() const override { return type_name_; }
  RefPtr<vfs::Inode> root() override;
  bool steady_names() const override { return true; }
  Result<vfs::StatFs> statfs() override;
  std::string source() const override { return source_; }
  std::string options() const override;
  // MS_REMOUNT: new limits. kInval if more is in use already.
  Result<void> remount(std::string_view options) override;

  const std::shared_ptr<Usage>& usage() const { return usage_; }
  u64 next_ino() { return next_ino_++; }

 private:
  Tmpfs(const Options& options, const char* type_name, const char* source);
  ~Tmpfs() override;
  const char* type_name_;
  const char* source_;
  Options options_;
  std::shared_ptr<Usage> usage_;
  u64 next_ino_ = 1;
  RefPtr<Directory> root_;
};

}  // namespace sbx::tmpfs
