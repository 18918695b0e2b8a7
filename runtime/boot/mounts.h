// Host directories and files of a container as descriptors for the gofer, which never sees a path.
#pragma once
#include <string>
#include <vector>

#include "oci/spec.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/boot_config.h"

namespace sbx::boot {

struct OpenedMount {
  UniqueFd fd;
  bool read_only = false;
  bool recursive = false;
  bool exclusive = false;
  bool sockets = false;  // of the host: may be connected to
};

// Opens rootfs (index 0) and the source of every bind; sets gofer_index and is_directory of `config`'s mounts, whose
// order is that of spec.mounts. Errors name the path.
HostResult<std::vector<OpenedMount>> open_mounts(const oci::Spec& spec, const std::string& bundle,
                                                 control::BootConfig& config);

}  // namespace sbx::boot
