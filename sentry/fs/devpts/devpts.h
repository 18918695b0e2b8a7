// devpts: /dev/pts with its ptmx, the pairs behind it, and the terminal files.
#pragma once
#include <map>

#include "sentry/fs/devpts/tty.h"
#include "sentry/vfs/inode.h"

namespace sbx::fs::devpts {

constexpr u32 kPtsMajor = 136;

// Mount options (mount(2) data): uid=, gid=, mode=, ptmxmode=, max=, newinstance.
struct Options {
  u32 uid = 0, gid = 0;
  bool has_uid = false, has_gid = false;
  u32 mode = 0600, ptmx_mode = 0;
  u32 max = 4096;
};
Result<Options> parse_options(std::string_view data);

class DevptsFs final : public vfs::FileSystem {
 public:
  explicit DevptsFs(const Options& options);
  const char* type_name() const override { return "devpts"; }
  RefPtr<vfs::Inode> root() override;
  Result<vfs::StatFs> statfs() override;
  std::string options() const override;

  // A new pair: opens /dev/ptmx. `path` is what was opened; uid and gid own the slave. kNospc beyond max.
  Result<RefPtr<vfs::File>> open_ptmx(const vfs::Path& path, u32 flags, u32 uid, u32 gid);
  // The pair with this index, or null.
  RefPtr<Tty> find(u32 index) const;

  // The instance that stands for /dev/ptmx nodes outside any devpts: the first one made; null if none.
  static DevptsFs* default_instance();

 private:
  friend class RootInode;
  friend class PtsInode;
  friend class MasterFile;
  ~DevptsFs() override;
  struct Pair {
    RefPtr<Tty> tty;
    RefPtr<vfs::Inode> inode;
  };
  Options options_;
  std::map<u32, Pair> pairs_;
};

// The open slave side (also of /dev/tty and /dev/console). Makes the terminal the caller's controlling one unless
// O_NOCTTY. kIo: locked or hung up, kBusy: exclusive.
Result<RefPtr<vfs::File>> open_slave(Tty& tty, const vfs::Path& path, u32 flags);
// The terminal behind a file (either side), or null.
Tty* tty_of(vfs::File& file);
// The calling task's controlling terminal; kNxio if none (/dev/tty).
Result<RefPtr<Tty>> controlling_tty();

}  // namespace sbx::fs::devpts
