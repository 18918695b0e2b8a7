// What prctl(2) needs of seccomp.cc.
#pragma once
#include "sentry/syscalls/args.h"

namespace sbx::syscalls {

// PR_SET_SECCOMP. kInval, kAcces, kFault.
Result<i64> set_seccomp_mode(Task& task, u64 mode, u64 program);

}  // namespace sbx::syscalls
