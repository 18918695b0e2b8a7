// Which filesystems exist, and where binds come from: the one place that names all of sentry/fs.
#pragma once
#include <memory>

#include "gofer/protocol/channel.h"
#include "sentry/control/boot_config.h"
#include "sentry/control/mounts.h"

namespace sbx {
// Registers every filesystem type and special file opener, and the observers that connect rooms.
void register_filesystems(const control::BootConfig& config, std::shared_ptr<gofer::Client> gofer);
control::BindMaker gofer_bind_maker(std::shared_ptr<gofer::Client> gofer);
}  // namespace sbx
