// ioctl_tty(2) on a Tty.
#include <sys/ioctl.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/fs/devpts/tty.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::fs::devpts {
namespace {

// The kernel's termios2 commands; glibc's headers hide them behind a conflicting struct.
constexpr u32 kTcgets2 = 0x802C542A, kTcsets2 = 0x402C542B, kTcsetsw2 = 0x402C542C, kTcsetsf2 = 0x402C542D;
constexpr size_t kTermiosBytes = 36;  // struct termios of the kernel: termios2 without the speeds
constexpr u32 kCapSysAdmin = 21;
constexpr u32 kOtherBaud = 0x1000;  // BOTHER

// Speeds of the Bnnn codes, for termios2 readers.
u32 speed_of(u32 cflag) {
  constexpr u32 kLow[] = {0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400};
  constexpr u32 kHigh[] = {57600,   115200,  230400,  460800,  500000,  576000,  921600, 1000000,
                           1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000};
  u32 code = cflag & CBAUD;
  if (code < std::size(kLow)) return kLow[code];
  if (code > CBAUDEX && code - CBAUDEX - 1 < std::size(kHigh)) return kHigh[code - CBAUDEX - 1];
  return 0;
}

bool is_termios(u32 cmd) {
  return (cmd >= TCGETS && cmd <= TCSETSF) || cmd == kTcgets2 || (cmd >= kTcsets2 && cmd <= kTcsetsf2);
}

template <typename T>
Result<i64> answer(vfs::IoctlCaller& caller, u64 arg, const T& value) {
  TRY(caller.write(arg, &value, sizeof(value)));
  return i64{0};
}

// The terminal is the calling process's own.
bool controls_caller(const Tty* tty) {
  task::Task* task = task::current_task();
  return task != nullptr && task->group->group && task->group->session().tty.get() == tty;
}

}  // namespace

Result<i64> Tty::termios_ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg, bool from_master) {
  bool two = cmd == kTcgets2 || (cmd >= kTcsets2 && cmd <= kTcsetsf2);
  size_t bytes = two ? sizeof(KernelTermios) : kTermiosBytes;
  if (cmd == TCGETS || cmd == kTcgets2) {
    TRY(caller.write(arg, &termios_, bytes));
    return i64{0};
  }
  if (!from_master) TRY(check_job_control(SIGTTOU));
  KernelTermios settings = termios_;
  TRY(caller.read(arg, &settings, bytes));
  if (!two || (settings.cflag & CBAUD) != kOtherBaud) settings.ispeed = settings.ospeed = speed_of(settings.cflag);
  // The line discipline is changed by TIOCSETD only.
  settings.line = 0;
  // Output of a pty counts as sent once the master can read it: nothing to wait for (TCSETSW).
  if (cmd == TCSETSF || cmd == kTcsetsf2) flush_input();
  set_settings(settings);
  return i64{0};
}

Result<i64> Tty::set_controlling(u64 arg) {
  task::Task* task = task::current_task();
  if (task == nullptr || !task->group->group) return Errno::kPerm;
  task::Session& session = task->group->session();
  bool leads = session.leader == task->group.get();
  if (leads && session_.get() == &session) return i64{0};
  if (!leads || session.tty) return Errno::kPerm;
  if (session_) {
    if (arg != 1 || !task->creds->capable(kCapSysAdmin)) return Errno::kPerm;
    RefPtr<Tty> keep(this);
    session_->tty = nullptr;
    session_lost();
  }
  session.tty = RefPtr<task::ControllingTty>(this);
  session_gained(session, *task->group->group);
  return i64{0};
}

Result<i64> Tty::session_ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg, bool from_master) {
  switch (cmd) {
    case TIOCSCTTY: return set_controlling(arg);
    case TIOCNOTTY: {
      if (!controls_caller(this)) return Errno::kNotty;
      task::Task* task = task::current_task();
      task::Session& session = task->group->session();
      if (session.leader != task->group.get()) {
        // Linux lets one process leave while the session keeps the terminal; here a terminal belongs to the session.
        STUB("ioctl TIOCNOTTY by a process that is not the session leader", 0);
        return Errno::kPerm;
      }
      RefPtr<Tty> keep(this);
      signal_foreground(SIGHUP);
      signal_foreground(SIGCONT);
      session.tty = nullptr;
      session_lost();
      return i64{0};
    }
    case TIOCGPGRP:
      if (!from_master && !controls_caller(this)) return Errno::kNotty;
      return answer(caller, arg, foreground_ ? i32{foreground_->pgid} : i32{0});
    case TIOCSPGRP: {
      auto allowed = check_job_control(SIGTTOU);
      if (!allowed) return allowed.error() == Errno::kIo ? Errno::kNotty : allowed.error();
      if (!controls_caller(this) || !session_) return Errno::kNotty;
      i32 pgid = 0;
      TRY(caller.read(arg, &pgid, sizeof(pgid)));
      if (pgid < 0) return Errno::kInval;
      task::ProcessGroup* group = task::kernel().find_process_group(pgid);
      if (group == nullptr) return Errno::kSrch;
      if (group->session != session_) return Errno::kPerm;
      foreground_ = RefPtr<task::ProcessGroup>(group);
      return i64{0};
    }
    default:  // TIOCGSID
      if ((!from_master && !controls_caller(this)) || !session_) return Errno::kNotty;
      return answer(caller, arg, i32{session_->sid});
  }
}

Result<i64> Tty::ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg, bool from_master) {
  if (hung_up_ && !from_master) return cmd == TIOCSPGRP ? Errno::kNotty : Errno::kIo;
  if (is_termios(cmd)) return termios_ioctl(caller, cmd, arg, from_master);
  switch (cmd) {
    case TIOCSCTTY:
    case TIOCNOTTY:
    case TIOCGPGRP:
    case TIOCSPGRP:
    case TIOCGSID: return session_ioctl(caller, cmd, arg, from_master);
    case TIOCGWINSZ: return answer(caller, arg, window_);
    case TIOCSWINSZ: {
      WindowSize size;
      TRY(caller.read(arg, &size, sizeof(size)));
      set_window(size);
      return i64{0};
    }
    case TCFLSH:
      if (!from_master) TRY(check_job_control(SIGTTOU));
      if (arg != TCIFLUSH && arg != TCOFLUSH && arg != TCIOFLUSH) return Errno::kInval;
      if (arg != TCOFLUSH) flush_input();
      if (arg != TCIFLUSH) {
        flush_output();
        set_packet_status(TIOCPKT_FLUSHWRITE);
        slave_queue.wake_all();
      }
      return i64{0};
    case TCXONC:
      if (!from_master) TRY(check_job_control(SIGTTOU));
      if (arg > TCION) return Errno::kInval;
      if (arg == TCOOFF) {
        stop_output();
      } else if (arg == TCOON) {
        start_output();
      } else if (u8 c = termios_.cc[arg == TCIOFF ? VSTOP : VSTART]; c != 0) {
        put_raw(c);
        master_queue.wake_all();
      }
      return i64{0};
    case TCSBRK:
    case TCSBRKP:
    case TIOCSBRK:
    case TIOCCBRK:
      // A break has no meaning on a pty, and its output is never pending in a driver.
      if (!from_master) TRY(check_job_control(SIGTTOU));
      return i64{0};
    case TIOCOUTQ: return answer(caller, arg, from_master ? i32{0} : static_cast<i32>(queued_output()));
    case FIONREAD: return answer(caller, arg, static_cast<i32>(from_master ? queued_output() : readable_));
    case TIOCGETD: return answer(caller, arg, i32{0});
    case TIOCSETD: {
      i32 discipline = 0;
      TRY(caller.read(arg, &discipline, sizeof(discipline)));
      if (discipline != 0) return Errno::kInval;
      return i64{0};
    }
    case TIOCEXCL: exclusive = true; return i64{0};
    case TIOCNXCL: exclusive = false; return i64{0};
    case TIOCGEXCL: return answer(caller, arg, i32{exclusive ? 1 : 0});
    case TIOCGDEV: return answer(caller, arg, static_cast<u32>(rdev_));
    case TIOCPKT: {
      if (!from_master) return Errno::kNotty;
      i32 on = 0;
      TRY(caller.read(arg, &on, sizeof(on)));
      if (on != 0 && !packet_mode_) packet_status_ = 0;
      packet_mode_ = on != 0;
      return i64{0};
    }
    case TIOCGPKT:
      if (!from_master) return Errno::kNotty;
      return answer(caller, arg, i32{packet_mode_ ? 1 : 0});
    case TIOCSIG:
      if (!from_master) return Errno::kNotty;
      if (arg != SIGINT && arg != SIGQUIT && arg != SIGTSTP) return Errno::kInval;
      signal_foreground(static_cast<int>(arg));
      return i64{0};
    case TIOCSTI:
      // Faking input is how processes break out of su(1) and the like; Linux can have it off as well and answers so.
      return Errno::kIo;
    case TIOCVHANGUP: {
      task::Task* task = task::current_task();
      if (task == nullptr || !task->creds->capable(kCapSysAdmin)) return Errno::kPerm;
      hang_up();
      return i64{0};
    }
    case TCGETA:
    case TCSETA:
    case TCSETAW:
    case TCSETAF: STUB("tty ioctl", cmd); return Errno::kInval;
    default: return Errno::kNotty;
  }
}

}  // namespace sbx::fs::devpts
