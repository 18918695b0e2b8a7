// Hand-over to the sentry: publish, then spin while the sentry polls, else ring the doorbell.
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {

void die() {
  for (;;) sys6(kNrExitGroup, 1);
}

namespace {

constexpr u32 kTightSpins = 200;

// The sentry ends the process, and some of its threads hold robust locks: one of them, this one, lets go of all.
void leave_if_told(const Slot& slot) {
  u32 told = __atomic_load_n(&slot.leave, __ATOMIC_ACQUIRE);
  if (told == 0) return;
  u64 all = ~0ull;
  sys6(kNrSigprocmask, 0, reinterpret_cast<u64>(&all), 0, 8);
  const auto* list = reinterpret_cast<const RobustList*>(window(const_cast<Slot&>(slot)));
  for (u32 i = 0; i + 1 < told && i < kMaxSlots; ++i) walk_robust_list(list[i].head, list[i].guest_tid);
  die();
}

}  // namespace

// Waits for kStateReply. Every wait ends in a look at the state: an interrupted doorbell is rung again and a reply that
// came before the doorbell is answered at once.
void submit(Slot& slot, RequestKind kind) {
  leave_if_told(slot);
  slot.kind = kind;
  slot.turn = 0;
  // If `polled` falls meanwhile and is seen late, the next look at it tells.
  __atomic_store_n(&slot.state, kStateRequest, __ATOMIC_RELEASE);
  if (__atomic_load_n(&slot.polled, __ATOMIC_ACQUIRE) != 0) {
    u32 budget = slot.spin_budget;
    const u32 patient = budget > kTightSpins ? budget - kTightSpins : 0;
    while (budget-- != 0) {
      if (__atomic_load_n(&slot.state, __ATOMIC_ACQUIRE) == kStateReply) {
        ++slot.counters.spun;
        return;
      }
      // It went on to something else, or the call blocks.
      if (__atomic_load_n(&slot.polled, __ATOMIC_RELAXED) == 0) break;
      // At first without: a short call is over within a few of these.
      if (budget < patient) asm volatile("pause");
    }
    ++slot.counters.spin_timeouts;
  }
  leave_if_told(slot);
  ++slot.counters.doorbells;
  for (;;) {
    i64 ret = stub_doorbell(static_cast<u64>(kind), slot.cookie);
    if (__atomic_load_n(&slot.state, __ATOMIC_ACQUIRE) == kStateReply) break;
    leave_if_told(slot);
    if (ret == -kEnosys) die();  // nobody listens any more
  }
}

void take_usage(Slot& slot, bool process) {
  struct {
    i64 utime_s, utime_us, stime_s, stime_us;
    i64 maxrss, ixrss, idrss, isrss, minflt, majflt, nswap, inblock, oublock, msgsnd, msgrcv, nsignals, nvcsw, nivcsw;
  } usage;
  if (sys6(kNrGetrusage, process ? 0 : 1, reinterpret_cast<u64>(&usage)) != 0) return;
  slot.usage.utime_us = static_cast<u64>(usage.utime_s * 1000000 + usage.utime_us);
  slot.usage.stime_us = static_cast<u64>(usage.stime_s * 1000000 + usage.stime_us);
  slot.usage.maxrss_kb = static_cast<u64>(usage.maxrss);
  slot.usage.minflt = static_cast<u64>(usage.minflt);
  slot.usage.majflt = static_cast<u64>(usage.majflt);
  slot.usage.nvcsw = static_cast<u64>(usage.nvcsw);
  slot.usage.nivcsw = static_cast<u64>(usage.nivcsw);
}

}  // namespace sbx::platform::stub
