// Rows whose function has not been written yet answer ENOSYS and are counted: each function that appears replaces its
// weak stand-in here at link time. The support table must not call such a row FULL: see report.cc.
#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"

namespace sbx::syscalls {
#define SBX_UNNAMED(...) (Task & __VA_OPT__(, ) __VA_ARGS__)
#define SYSCALL(nr, name, args, cost, support)                      \
  __attribute__((weak)) Result<i64> sys_##name SBX_UNNAMED args {   \
    STUB(#name, 0);                                                 \
    return Errno::kNosys;                                           \
  }
#define REFUSE(nr, name, error, why)
#include "sentry/syscalls/table.def"
#undef SYSCALL
#undef REFUSE
}  // namespace sbx::syscalls
