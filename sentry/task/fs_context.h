// Root, working directory and umask of a process, shared by CLONE_FS.
#pragma once
#include "sentry/base/ref.h"
#include "sentry/vfs/dentry.h"

namespace sbx::task {

struct FsContext : public RefCounted {
  vfs::Path root, cwd;
  u32 umask = 022;
  FsContext() = default;
  FsContext(const FsContext& o) : RefCounted(), root(o.root), cwd(o.cwd), umask(o.umask) {}
};

}  // namespace sbx::task
