// The character devices of a container (OCI runtime-spec, "Default Devices") and what stands in its /dev.
#pragma once
#include <string_view>

#include "sentry/fs/devpts/devpts.h"
#include "sentry/vfs/walk.h"

namespace sbx::fs::dev {

// Serves S_IFCHR inodes of all filesystems: null, zero, full, random, urandom, tty, console, ptmx, pts. kNxio for the
// rest. Once, at start.
void register_devices();

// The terminal behind /dev/console; without one it cannot be opened (kNxio).
void set_console(RefPtr<devpts::Tty> tty);

// Fills the directory (an empty tmpfs, normally): device nodes, fd stdin stdout stderr links, ptmx -> pts/ptmx, and the
// directories pts, shm and mqueue. What exists already stays. ctx must be root's. `console`: /dev/console too.
Result<void> populate(const vfs::WalkContext& ctx, std::string_view dir, bool console);

}  // namespace sbx::fs::dev
