// Text made from the syscall table, for `sbx syscalls` and docs/syscalls.md. Includes nothing of the kernel.
#pragma once
#include <string>

namespace sbx::syscalls {
// The support table: aligned text, or a JSON array of {number,name,support,cost,note}.
std::string syscalls_table(bool json);
std::string syscalls_markdown();
}  // namespace sbx::syscalls
