#include "sentry/signal/signal.h"

#include <algorithm>

namespace sbx::signal {

void SigInfo::encode(u8 out[128]) const {
  if (raw) {
    std::memcpy(out, raw->data(), 128);
    return;
  }
  std::memset(out, 0, 128);
  auto store = [out](size_t at, auto v) { std::memcpy(out + at, &v, sizeof(v)); };
  store(0, signo);
  store(4, error);
  store(8, code);
  if (code == SI_TIMER) {
    store(16, timer_id);
    store(20, overrun);
    store(24, value);
    return;
  }
  // Kernel-made signals with a positive code: the layout depends on the signal.
  if (code > 0 && code != SI_KERNEL) {
    switch (signo) {
      case SIGCHLD:
        store(16, pid);
        store(20, uid);
        store(24, status);
        store(32, utime);
        store(40, stime);
        return;
      case SIGILL:
      case SIGFPE:
      case SIGSEGV:
      case SIGBUS:
      case SIGTRAP: store(16, addr); return;
      case SIGSYS:
        store(16, addr);
        store(24, static_cast<i32>(value));
        store(28, static_cast<u32>(0xc000003e));  // AUDIT_ARCH_X86_64
        return;
      default:
        if (code > POLL_HUP) break;  // siginfo_layout(): also with the signals of F_SETSIG
        store(16, band);
        store(24, fd);
        return;
    }
  }
  if (code == SI_KERNEL && (signo == SIGSEGV || signo == SIGBUS || signo == SIGILL)) {
    store(16, addr);
    return;
  }
  store(16, pid);
  store(20, uid);
  store(24, value);
}

bool PendingSignals::push(const SigInfo& info) {
  if (info.signo < 32 && (set_ & bit(info.signo))) return false;
  if (queue_.size() >= kMaxQueued) return false;
  queue_.push_back(info);
  set_ |= bit(info.signo);
  return true;
}

std::optional<SigInfo> PendingSignals::take(SigSet wanted) {
  SigSet hit = set_ & wanted;
  if (hit == 0) return std::nullopt;
  constexpr SigSet kSynchronous = bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE) | bit(SIGSYS);
  SigSet first = (hit & kSynchronous) != 0 ? hit & kSynchronous : hit;
  int signo = __builtin_ctzll(first) + 1;
  auto it = std::find_if(queue_.begin(), queue_.end(), [signo](const SigInfo& i) { return i.signo == signo; });
  SigInfo info = *it;
  queue_.erase(it);
  bool more = std::any_of(queue_.begin(), queue_.end(), [signo](const SigInfo& i) { return i.signo == signo; });
  if (!more) set_ &= ~bit(signo);
  return info;
}

void PendingSignals::discard(SigSet which) {
  if ((set_ & which) == 0) return;
  std::erase_if(queue_, [which](const SigInfo& i) { return (bit(i.signo) & which) != 0; });
  set_ &= ~which;
}

SigInfo* PendingSignals::of_timer(i32 timer_id) {
  auto it = std::find_if(queue_.begin(), queue_.end(), [timer_id](const SigInfo& i) {
    return i.code == SI_TIMER && !i.raw && i.timer_id == timer_id;
  });
  return it != queue_.end() ? &*it : nullptr;
}

SigSet Actions::unset() const {
  SigSet set = 0;
  for (int signo = 1; signo <= kMaxSignal; ++signo) {
    if (of[static_cast<size_t>(signo)] == Action{}) set |= bit(signo);
  }
  return set;
}

void Actions::reset_for_exec() {
  for (Action& action : of) {
    if (!action.is_ignored())
      action = Action{};
    else
      action = Action{.handler = 1};
  }
}

DefaultAction default_action(int signo) {
  switch (signo) {
    case SIGQUIT:
    case SIGILL:
    case SIGTRAP:
    case SIGABRT:
    case SIGBUS:
    case SIGFPE:
    case SIGSEGV:
    case SIGXCPU:
    case SIGXFSZ:
    case SIGSYS: return DefaultAction::kCore;
    case SIGCHLD:
    case SIGURG:
    case SIGWINCH: return DefaultAction::kIgnore;
    case SIGCONT: return DefaultAction::kContinue;
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU: return DefaultAction::kStop;
    default: return DefaultAction::kTerminate;
  }
}

const char* signal_name(int signo) {
  static const char* const names[32] = {
      "0",         "SIGHUP",  "SIGINT",    "SIGQUIT", "SIGILL",   "SIGTRAP", "SIGABRT", "SIGBUS",
      "SIGFPE",    "SIGKILL", "SIGUSR1",   "SIGSEGV", "SIGUSR2",  "SIGPIPE", "SIGALRM", "SIGTERM",
      "SIGSTKFLT", "SIGCHLD", "SIGCONT",   "SIGSTOP", "SIGTSTP",  "SIGTTIN", "SIGTTOU", "SIGURG",
      "SIGXCPU",   "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO",   "SIGPWR",  "SIGSYS"};
  static const char* const rt[33] = {"SIGRTMIN", "SIGRT_1",  "SIGRT_2",  "SIGRT_3",  "SIGRT_4",  "SIGRT_5",  "SIGRT_6",
                                     "SIGRT_7",  "SIGRT_8",  "SIGRT_9",  "SIGRT_10", "SIGRT_11", "SIGRT_12", "SIGRT_13",
                                     "SIGRT_14", "SIGRT_15", "SIGRT_16", "SIGRT_17", "SIGRT_18", "SIGRT_19", "SIGRT_20",
                                     "SIGRT_21", "SIGRT_22", "SIGRT_23", "SIGRT_24", "SIGRT_25", "SIGRT_26", "SIGRT_27",
                                     "SIGRT_28", "SIGRT_29", "SIGRT_30", "SIGRT_31", "SIGRT_32"};
  if (signo >= 0 && signo < 32) return names[signo];
  if (signo >= 32 && signo <= 64) return rt[signo - 32];
  return "SIG?";
}

}  // namespace sbx::signal
