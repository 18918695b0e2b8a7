// Shared libraries as the dynamic loader of the C library maps them.
#pragma once
#include <vector>

#include "sentry/base/types.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/file.h"

namespace sbx::loader {

struct LibrarySegment {
  u64 at, length;  // in the library's image
  u64 offset;      // in the file
  u32 prot;
};

// Behind a first mapping of `length` bytes from the start of the file open as `fd` (its byte 0 at `base`): what glibc
// maps over it next, in that order (elf/dl-map-segments.h, _dl_map_segments). None if the first mapping is not just
// what it makes of that file.
std::vector<LibrarySegment> segments_behind(int fd, u64 base, u64 length, u32 prot);

// Where a private mapping of `file` comes from, `offset` bytes from its start, as its `handle` says. Notes whether
// stubs may inherit its descriptor (platform/shelf.h).
platform::MapSource map_source(vfs::File& file, const vfs::MapHandle& handle, u64 offset);

}  // namespace sbx::loader
