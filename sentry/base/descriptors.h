// The descriptor table of this process.
#pragma once
#include <vector>

#include "sentry/base/types.h"

namespace sbx {

// Raises RLIMIT_NOFILE to its hard limit. Returns how many descriptors may be open.
u64 raise_descriptor_limit();

// Makes the table large enough for so many descriptors, or as many as may be open. Before the first thread, and after
// a table that was shared is ours alone: from then on the host waits for an RCU grace period, 10 to 20 ms, each time
// it has to grow (expand_fdtable() in Linux's fs/file.c), and it begins with 64.
void make_room_for_descriptors(u32 count);

// Closes every descriptor but these; negative numbers are nobody's.
void close_all_but(std::vector<int> kept);

}  // namespace sbx
