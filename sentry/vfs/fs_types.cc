#include "sentry/vfs/fs_types.h"

namespace sbx::vfs {

namespace {
std::vector<FsType>& types() {
  static auto* list = new std::vector<FsType>;
  return *list;
}
}  // namespace

void register_fs_type(FsType type) { types().push_back(std::move(type)); }

const FsType* find_fs_type(std::string_view name) {
  for (const FsType& type : types()) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

const std::vector<FsType>& fs_types() { return types(); }

}  // namespace sbx::vfs
