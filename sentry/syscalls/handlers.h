// Prototypes of all handlers, made from the table: sys_read(Task&, Fd, OutBuf, Size)...
#pragma once
#include <poll.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

#include "sentry/syscalls/args.h"

namespace sbx::syscalls {

#define SBX_WITH_TASK(...) (Task & task __VA_OPT__(, ) __VA_ARGS__)
#define SYSCALL(nr, name, args, cost, support) Result<i64> sys_##name SBX_WITH_TASK args;
#define REFUSE(nr, name, error, why)
#include "sentry/syscalls/table.def"
#undef SYSCALL
#undef REFUSE

}  // namespace sbx::syscalls
