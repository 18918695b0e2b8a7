// Who gets SIGIO for a file: fcntl F_SETOWN, F_SETOWN_EX, F_SETSIG and FIOASYNC (fcntl(2), "Managing signals").
#pragma once
#include "sentry/abi/file.h"
#include "sentry/syscalls/args.h"

namespace sbx::syscalls {

// F_SETOWN: a process, or the process group -id. 0 or an id nobody has: kSrch except 0, which clears.
Result<void> set_owner(Task& task, vfs::File& file, i32 id);
i32 get_owner(const vfs::File& file);
Result<void> set_owner_ex(Task& task, vfs::File& file, const abi::OwnerEx& owner);
abi::OwnerEx get_owner_ex(const vfs::File& file);
// 0: plain SIGIO. kInval for others that are no signal.
// Begins or ends the signals of O_ASYNC (F_SETFL, FIOASYNC); fd is the number they tell.
void watch_async(vfs::File& file, int fd);
Result<void> set_owner_signal(vfs::File& file, u64 signo);

}  // namespace sbx::syscalls
