// An overlay (Documentation/filesystems/overlayfs.rst): a writable upper filesystem over a lower one that is only read.
// What is changed is first copied up; removed names of the lower tree are hidden by whiteouts (character device 0:0),
// replaced directories by an opaque mark. As overlayfs without redirect_dir and index: renaming a directory that has a
// lower part answers kXdev, and copying up breaks hard links of the lower tree.
#pragma once
#include "sentry/vfs/inode.h"

namespace sbx::overlay {

class Node;
struct Registry;

class OverlayFs final : public vfs::FileSystem {
 public:
  // upper must support O_TMPFILE, trusted.* xattrs and device nodes, and nobody else may change it; a fresh Tmpfs.
  static Result<RefPtr<OverlayFs>> create(RefPtr<vfs::FileSystem> upper, RefPtr<vfs::FileSystem> lower);

  const char* type_name() const override { return "overlay"; }
  RefPtr<vfs::Inode> root() override;
  bool steady_names() const override { return upper_->steady_names() && lower_->steady_names(); }
  Result<vfs::StatFs> statfs() override;
  Result<void> sync() override { return upper_->sync(); }

  const std::shared_ptr<Registry>& registry() const { return registry_; }

 private:
  OverlayFs(RefPtr<vfs::FileSystem> upper, RefPtr<vfs::FileSystem> lower);
  ~OverlayFs() override;
  RefPtr<vfs::FileSystem> upper_, lower_;
  std::shared_ptr<Registry> registry_;
  RefPtr<Node> root_;
};

}  // namespace sbx::overlay
