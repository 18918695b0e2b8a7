// Signals as data: sets, siginfo, queues, actions (signal(7), sigaction(2)). Delivery is task/'s business.
#pragma once
#include <signal.h>

#include <array>
#include <cstring>
#include <deque>
#include <optional>

#include "sentry/base/ref.h"
#include "sentry/base/types.h"

namespace sbx::signal {

using SigSet = u64;  // bit n-1 is signal n
constexpr int kMaxSignal = 64;
constexpr SigSet bit(int signo) { return 1ull << (signo - 1); }
constexpr SigSet kUnblockable = (1ull << (SIGKILL - 1)) | (1ull << (SIGSTOP - 1));
constexpr bool valid(int signo) { return signo >= 1 && signo <= kMaxSignal; }

// siginfo_t by meaning; encode() lays it out as the guest sees it (include/uapi/asm-generic/siginfo.h).
struct SigInfo {
  i32 signo = 0;
  i32 code = SI_USER;
  i32 error = 0;
  i32 pid = 0;
  u32 uid = 0;
  u64 value = 0;   // si_value (rt signals, timers, sigqueue)
  i32 status = 0;  // SIGCHLD
  i64 utime = 0, stime = 0;
  u64 addr = 0;  // faults
  i32 timer_id = 0, overrun = 0;
  i64 band = 0;  // SIGIO
  i32 fd = 0;
  // The guest's own bytes (rt_sigqueueinfo): delivered as they are when set.
  std::optional<std::array<u8, 128>> raw;
  void encode(u8 out[128]) const;
};

// Pending signals of a task or a thread group. Standard signals (1..31) are kept once, real-time ones queue.
class PendingSignals {
 public:
  SigSet set() const { return set_; }
  // False: a standard signal that was pending already (merged), or the queue bound was reached.
  bool push(const SigInfo& info);
  // Takes the next signal of `wanted`: synchronous faults first, then lowest number (kernel/signal.c dequeue_signal).
  std::optional<SigInfo> take(SigSet wanted);
  void discard(SigSet which);
  // The queued signal of this POSIX timer, or null: its overrun count grows while it waits. Valid until the next
  // change.
  SigInfo* of_timer(i32 timer_id);

 private:
  static constexpr size_t kMaxQueued = 4096;
  SigSet set_ = 0;
  std::deque<SigInfo> queue_;
};

struct Action {
  u64 handler = 0;  // SIG_DFL 0, SIG_IGN 1
  u64 flags = 0;
  u64 restorer = 0;
  SigSet mask = 0;
  bool is_default() const { return handler == 0; }
  bool is_ignored() const { return handler == 1; }
  bool operator==(const Action&) const = default;
};

// The table shared by threads (CLONE_SIGHAND).
struct Actions : public RefCounted {
  std::array<Action, kMaxSignal + 1> of{};
  Actions() = default;
  Actions(const Actions& o) : RefCounted(), of(o.of) {}
  // exec: caught signals become default, ignored ones stay.
  void reset_for_exec();
  // Signals whose action is as at the start: all zero.
  SigSet unset() const;
};

enum class DefaultAction : u8 { kTerminate, kCore, kIgnore, kStop, kContinue };
DefaultAction default_action(int signo);
const char* signal_name(int signo);  // "SIGINT", "SIGRT_3"

}  // namespace sbx::signal
