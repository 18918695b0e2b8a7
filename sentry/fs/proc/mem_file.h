// /proc/PID/mem: the memory of a process by address.
#pragma once
#include "sentry/fs/proc/target.h"

namespace sbx::fs::proc {

RefPtr<Node> mem_node(PseudoFs& fs, u64 ino, const Target& target);

// Into private memory of a stopped tracee of the calling task that cannot be written: its pages are made writable for
// the moment. Parks: afterwards `target` may be gone. kFault, kSrch.
Result<void> poke_protected(task::Task& target, u64 addr, std::string_view bytes);

}  // namespace sbx::fs::proc
