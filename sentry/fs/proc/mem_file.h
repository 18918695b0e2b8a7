// /proc/PID/mem: the memory of a process by address.
#pragma once
#include "sentry/fs/proc/target.h"

namespace sbx::fs::proc {

RefPtr<Node> mem_node(PseudoFs& fs, u64 ino, const Target& target);

}  // namespace sbx::fs::proc
