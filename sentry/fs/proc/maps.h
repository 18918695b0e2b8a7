// Turns the host's view of a stub's address space into the guest's. Pure.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "sentry/base/result.h"
#include "sentry/base/types.h"

namespace sbx::fs::proc {

struct MapsView {
  u64 heap_start = 0, heap_end = 0;  // equal: no heap
  u64 stack = 0;                     // an address in the main thread's stack
  // Host path -> the guest's, or empty for an anonymous look.
  std::function<std::string(std::string_view)> path;
};

// True for addresses of the sandbox's own areas (docs/platform.md).
bool is_hidden(u64 start, u64 end);
// /proc/PID/maps or /proc/PID/smaps of the host.
std::string translate_maps(std::string_view host, const MapsView& view);
// PROT_* of the private area around `addr` that cannot be written. kFault: it is none of the guest's, or another kind.
Result<u32> private_protection(std::string_view host_maps, u64 addr);
// Bytes of address space that translate_maps hides.
u64 hidden_bytes(std::string_view host);

}  // namespace sbx::fs::proc
