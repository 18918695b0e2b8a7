// Rewriting the system calls of a text in memory into jumps to the stub's entry, by its bytes alone: who maps it gets
// it from PatchedText. The stub does the same to text that is mapped already (stub/patch.cc).
#pragma once
#include <functional>
#include <span>

#include "sentry/base/types.h"

namespace sbx::platform {

constexpr u32 kNumbers = 512;  // of system calls, at most

// Where in text[from, to) the next two bytes of a `syscall` are; `to`: nowhere.
u64 find_call(std::span<const u8> text, u64 from, u64 to);

// Patches the system calls of `text`: whole pages of which the first `used` bytes are code and the rest is zero, where
// the jumps' targets go. `entry` is the stub's address for them. Calls whose numbers most programs use come first, as
// long as there is room. `unwinds(at)`: whether unwinders know the frame below the code at `at` for a signal's without
// a look at the instructions; only then rt_sigreturn there may be changed. Returns how many sites were patched.
u32 patch_text(std::span<u8> text, u64 used, u32 entry, const std::function<bool(u64 at)>& unwinds);

}  // namespace sbx::platform
