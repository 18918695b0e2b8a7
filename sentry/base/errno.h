// Errno: the one error type of the sentry. Values are Linux's; values above 511 are internal restart codes
// which never reach the guest (include/linux/errno.h).
#pragma once
#include "sentry/base/errno.def.h"
#include "sentry/base/types.h"

namespace sbx {

enum class Errno : i32 {
  kNone = 0,
#define SBX_ERRNO_ENUM(id, number, name, text) id = number,
  SBX_ERRNOS(SBX_ERRNO_ENUM)
#undef SBX_ERRNO_ENUM
  // Interrupted by a signal; what happens next depends on the handler (signal(7), "Interruption of system calls").
  kRestartSys = 512,           // restart if SA_RESTART or no handler ran
  kRestartNoIntr = 513,        // always restart
  kRestartNoHand = 514,        // restart only if no handler ran, else EINTR
  kRestartRestartBlock = 516,  // like NoHand; the call adjusts its timeout by itself
};

constexpr bool is_restart(Errno e) { return static_cast<i32>(e) >= 512; }
// "ENOENT"; "E?" for a number Linux does not have.
const char* errno_name(Errno e);
// "No such file or directory".
const char* errno_text(Errno e);
// The calling thread's C errno as Errno; kIo if it is not set.
Errno last_errno();

}  // namespace sbx
