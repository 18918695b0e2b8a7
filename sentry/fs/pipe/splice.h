// Moving bytes between pipes and files inside the kernel: splice(2), tee(2), sendfile(2), vmsplice(2). All are
// attempts: kAgain means that the pipe (or the file) is empty or full; the caller waits for the file named by `stuck`
// if the call may block. Counts may be short.
#pragma once
#include "sentry/fs/pipe/pipe.h"

namespace sbx::fs::pipe {

// Who made an attempt answer kAgain.
struct Stuck {
  vfs::File* file = nullptr;
  u32 events = 0;  // POLLIN or POLLOUT
};

// splice(2). Exactly one or both of the files are pipes (kInval otherwise); offsets as in File::read, null for the
// pipe.
Result<size_t> splice(vfs::File& in, u64* in_offset, vfs::File& out, u64* out_offset, size_t length, Stuck* stuck);
// tee(2): copies without consuming. Both must be pipes, and not the same one.
Result<size_t> tee(vfs::File& in, vfs::File& out, size_t length, Stuck* stuck);
// sendfile(2) and copy_file_range(2) between files that are not pipes: through a kernel buffer, at most 64 KiB a call.
// Bytes that were read from a stream but not taken by `out` would be lost: `in` must be seekable (kInval).
Result<size_t> copy(vfs::File& in, u64* in_offset, vfs::File& out, u64* out_offset, size_t length, Stuck* stuck);

}  // namespace sbx::fs::pipe
