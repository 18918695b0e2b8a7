// memfd_create(2): a host memfd of the sentry's own behind each guest memfd. Seals are the host's, so they hold for
// mappings too.
#pragma once
#include <string_view>

#include "sentry/vfs/file.h"

namespace sbx::fs::anon {

// flags: MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL, MFD_EXEC; huge pages are refused (kNodev), others kInval.
// The name is at most 249 bytes (kInval).
Result<RefPtr<vfs::File>> make_memfd(std::string_view name, u32 flags, u32 uid, u32 gid);

// fcntl(2) F_ADD_SEALS and F_GET_SEALS; kInval if the file is not a memfd.
Result<void> add_seals(vfs::File& file, u32 seals);
Result<u32> get_seals(vfs::File& file);

}  // namespace sbx::fs::anon
