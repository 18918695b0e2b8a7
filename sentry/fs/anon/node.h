// Nameless objects: the inode and filesystem behind pipe:[7], anon_inode:[eventfd] and the like. Nothing is mounted;
// each object has a dentry of its own whose name is what /proc/PID/fd shows.
#pragma once
#include <string>

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/inode.h"

namespace sbx::fs::anon {

// One filesystem without a tree (pipefs, anon_inodefs).
class NamelessFs final : public vfs::FileSystem {
 public:
  NamelessFs(const char* type_name, u64 magic) : type_name_(type_name), magic_(magic) {}
  const char* type_name() const override { return type_name_; }
  RefPtr<vfs::Inode> root() override { return nullptr; }
  Result<vfs::StatFs> statfs() override;
  u64 next_ino() { return ++last_ino_; }

 private:
  const char* type_name_;
  u64 magic_;
  u64 last_ino_ = 0;
};

class NamelessInode final : public vfs::Inode {
 public:
  // mode: type and permission bits; type 0 is what Linux shows for anon_inode objects.
  NamelessInode(NamelessFs& fs, u32 mode, u32 uid, u32 gid);
  Result<vfs::Attr> attr() override { return attr_; }
  u32 type() const override { return attr_.mode & S_IFMT; }
  Result<void> set_attr(const vfs::SetAttr& change) override;
  // /proc/PID/fd/N of a pipe can be opened anew; other nameless objects cannot (ENXIO).
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
  u64 ino() const { return attr_.ino; }
  std::function<Result<RefPtr<vfs::File>>(const vfs::Path&, u32)> reopen;

 private:
  vfs::Attr attr_;
};

// The place of a new "anon_inode:[kind]" object.
vfs::Path anon_path(const char* kind);
// A place in another nameless filesystem, named "prefix:[ino]".
vfs::Path nameless_path(NamelessFs& fs, const char* prefix, RefPtr<NamelessInode> inode);

}  // namespace sbx::fs::anon
