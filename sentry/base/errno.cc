#include "sentry/base/errno.h"

#include <cerrno>

namespace sbx {

const char* errno_name(Errno e) {
  switch (e) {
    case Errno::kNone: return "0";
#define SBX_ERRNO_NAME(id, number, name, text) \
  case Errno::id: return name;
      SBX_ERRNOS(SBX_ERRNO_NAME)
#undef SBX_ERRNO_NAME
    case Errno::kRestartSys: return "ERESTARTSYS";
    case Errno::kRestartNoIntr: return "ERESTARTNOINTR";
    case Errno::kRestartNoHand: return "ERESTARTNOHAND";
    case Errno::kRestartRestartBlock: return "ERESTART_RESTARTBLOCK";
  }
  return "E?";
}

const char* errno_text(Errno e) {
  switch (e) {
    case Errno::kNone: return "Success";
#define SBX_ERRNO_TEXT(id, number, name, text) \
  case Errno::id: return text;
      SBX_ERRNOS(SBX_ERRNO_TEXT)
#undef SBX_ERRNO_TEXT
    default: return "Unknown error";
  }
}

Errno last_errno() { return errno != 0 ? static_cast<Errno>(errno) : Errno::kIo; }

}  // namespace sbx
