// Filesystem types by name: what mount(2), /proc/filesystems and the container's own mounts make. main.cc registers
// them.
#pragma once
#include <functional>
#include <string_view>
#include <vector>

#include "sentry/vfs/inode.h"

namespace sbx::vfs {

struct FsType {
  const char* name;
  // source and data as mount(2) got them. kInval: bad options. May answer an existing instance (proc, sysfs).
  std::function<Result<RefPtr<FileSystem>>(std::string_view source, std::string_view data)> make;
};

void register_fs_type(FsType type);
const FsType* find_fs_type(std::string_view name);
const std::vector<FsType>& fs_types();

}  // namespace sbx::vfs
