// Tier 0: calls that touch only the caller's memory, threads and clock, and constants the sentry left in the slot.
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kMapShared = 1, kMapPrivate = 2, kMapFixed = 0x10, kMapAnon = 0x20, kMapNoreserve = 0x4000,
              kMapFixedNoreplace = 0x100000;
// Hints that change nothing here: DENYWRITE, EXECUTABLE, STACK.
constexpr u64 kMapIgnored = 0x800 | 0x1000 | 0x20000;
constexpr u64 kMapNative = kMapShared | kMapPrivate | kMapFixed | kMapAnon | kMapNoreserve | kMapFixedNoreplace;

u64 now(u32 clock) {
  TimeSpec t{};
  sys6(kNrClockGettime, clock, reinterpret_cast<u64>(&t));
  return static_cast<u64>(t.sec) * 1000000000ull + static_cast<u64>(t.nsec);
}

bool bad_time(const TimeSpec& t) { return t.sec < 0 || t.nsec < 0 || t.nsec >= 1000000000; }

// A mapping that was made along with the one before (map_next in dispatch.cc).
bool known_map(const Context& ctx, i64& ret) {
  constexpr u64 kFlags = kMapPrivate | kMapFixed | 0x800;  // DENYWRITE, as loaders have it
  ProcessData& p = process();
  if (p.maps_left == 0) return false;
  // A tracer may have written there since.
  if (ctx.slot->see_native != 0 || ctx.slot->report_all != 0) return false;
  const u64* a = ctx.args;
  const auto& ready = p.ready_map[p.next_map++];
  const bool known = a[0] == ready.at && a[1] == ready.length && a[2] == ready.prot && a[3] == kFlags &&
                     static_cast<u32>(a[4]) == static_cast<u32>(ready.fd) && a[5] == ready.offset;
  p.maps_left = known ? p.maps_left - 1 : 0;
  ret = static_cast<i64>(a[0]);
  return known;
}

bool do_mmap(Context& ctx, i64& ret) {
  const u64* a = ctx.args;
  u64 flags = a[3] & ~kMapIgnored;
  if ((flags & kMapAnon) == 0) return known_map(ctx, ret);
  process().maps_left = 0;
  if ((flags & ~kMapNative) != 0 || (a[2] & ~7ull) != 0) return false;
  if ((flags & (kMapFixed | kMapFixedNoreplace)) != 0) {
    if (touches_reserved(a[0], a[1])) {
      ret = -((flags & kMapFixedNoreplace) != 0 ? 17 : kEnomem);
      return true;
    }
  }
  ret = sys6(kNrMmap, a[0], a[1], a[2], flags, ~0ull, 0);
  if ((flags & kMapShared) != 0 && !failed(ret)) note_shared(static_cast<u64>(ret), a[1]);
  return true;
}

i64 do_brk(Context& ctx) {
  ProcessData& p = process();
  u64 want = ctx.args[0];
  mm_lock();
  u64 end = p.brk_end;
  if (want >= p.brk_start && want != end) {
    u64 old_page = page_up(end), new_page = page_up(want);
    bool ok = want < kUserEnd;
    if (ok && new_page > old_page) {
      ok = !touches_reserved(old_page, new_page - old_page);
      if (ok) {
        i64 at = sys6(kNrMmap, old_page, new_page - old_page, 3, kMapPrivate | kMapAnon | kMapFixedNoreplace, ~0ull, 0);
        ok = at == static_cast<i64>(old_page);
      }
    } else if (ok && new_page < old_page) {
      ok = sys6(kNrMunmap, new_page, old_page - new_page) == 0;
    }
    if (ok) p.brk_end = end = want;
  }
  ctx.slot->brk_start = p.brk_start;
  ctx.slot->brk_end = end;
  mm_unlock();
  return static_cast<i64>(end);
}

// With mm_lock held.
bool overlaps_shared(u64 addr, u64 length) {
  const ProcessData& p = process();
  u64 end = addr + page_up(length != 0 ? length : 1);
  for (u32 i = 0; i < p.shared_count; ++i) {
    if (addr < p.shared[i].end && end > p.shared[i].begin) return true;
  }
  return false;
}

bool do_mremap(Context& ctx, i64& ret) {
  const u64* a = ctx.args;
  if ((a[3] & ~3ull) != 0) return false;
  if (touches_reserved(a[0], a[1] != 0 ? a[1] : 1) || ((a[3] & 2) != 0 && touches_reserved(a[4], a[2]))) {
    ret = -kEfault;
    return true;
  }
  mm_lock();
  ret = sys6(kNrMremap, a[0], a[1], a[2], a[3], a[4]);
  bool shared = !failed(ret) && overlaps_shared(a[0], a[1]);
  mm_unlock();
  if (shared) note_shared(static_cast<u64>(ret), a[2]);
  return true;
}

bool do_madvise(Context& ctx, i64& ret) {
  const u64* a = ctx.args;
  switch (a[2]) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
    case 8:
    case 10:
    case 11:
    case 14:
    case 15:
    case 16:
    case 17:
    case 18:
    case 19:
    case 22:
    case 23: break;
    default: return false;
  }
  if (touches_reserved(a[0], a[1]))
    ret = -kEnomem;
  else
    ret = sys6(kNrMadvise, a[0], a[1], a[2]);
  return true;
}

// A native call that may sleep. Kicks make it -EINTR; the sentry then says what comes next. `again` prepares a native
// restart and tells whether the call may also be restarted after a handler (SA_RESTART).
template <typename Call>
i64 blocking(Context& ctx, bool restart_after_handler, Call call) {
  Slot& slot = *ctx.slot;
  for (;;) {
    // What was posted is sent before: as if a signal came at once that proves to be none.
    if (!has_posted(ctx)) {
      __atomic_store_n(&slot.native_blocked, 1, __ATOMIC_RELAXED);
      i64 ret = call();
      __atomic_store_n(&slot.native_blocked, 0, __ATOMIC_RELAXED);
      if (ret != -kEintr) return ret;
      // A host signal that was no kick of ours: as if it had not come.
      if (__atomic_load_n(&slot.kick, __ATOMIC_ACQUIRE) == 0) continue;
    }
    if (ctx.seen) {
      ctx.interrupted = true;
      ctx.restartable = restart_after_handler;
      return -kEintr;
    }
    // The frame must show the call interrupted: EINTR, or the syscall instruction again.
    u64 nr = ctx.regs->rax;
    u64 after = ctx.regs->rip;
    ctx.slot->interrupted_native = 1;
    slot.ip = after;
    slot.sp = ctx.regs->rsp;
    note_registers(ctx);
    ctx.priv->posted_at = 0;
    submit(slot, RequestKind::kSignalCheck);
    if (slot.command >= Command::kPoke) serve_inspection(slot, ctx.uc);
    if (slot.command == Command::kDeliver) {
      if (slot.delivery.restart != 0 && restart_after_handler)
        ctx.regs->rip = after - 2;
      else
        ctx.regs->rax = static_cast<u64>(-kEintr);
      deliver(ctx);
      return static_cast<i64>(ctx.regs->rax);
    }
    if (slot.command == Command::kExit || slot.command != Command::kContinue) {
      if (slot.command == Command::kReturn) return slot.ret;
      u64 all = ~0ull;
      sys6(kNrSigprocmask, 0, reinterpret_cast<u64>(&all), 0, 8);
      release_robust_list(slot);
      if (slot.command == Command::kExit) stub_leave(&slot.state);
      die();
    }
    if (ctx.regs->rip != after) return static_cast<i64>(ctx.regs->rax);  // a tracer leads it elsewhere
    ctx.regs->rax = nr;
  }
}

constexpr u32 kFutexTid = 0x3fffffff, kFutexDied = 0x40000000, kFutexWaiters = 0x80000000;

// FUTEX_LOCK_PI, LOCK_PI2 and TRYLOCK_PI (futex(2)): the host does not know the guest's thread ids, so the word is kept
// here, as the kernel would (futex_lock_pi_atomic), and waited for natively. Priorities are not inherited: the guest
// has none that matter. Who had to wait leaves the bit for waiters set: others may still be waiting.
i64 lock_pi(Context& ctx, u32 op, u32 flags) {
  Slot& slot = *ctx.slot;
  const u64 at = ctx.args[0];
  const u32 tid = static_cast<u32>(slot.identity.tid);
  if ((at & 3) != 0) return -kEinval;
  TimeSpec deadline{};
  if (ctx.args[3] != 0 && op != 8) {
    if (!copy_in(&deadline, ctx.args[3], sizeof(deadline))) return -kEfault;
    if (bad_time(deadline)) return -kEinval;
  }
  const bool timed = ctx.args[3] != 0 && op != 8;
  // LOCK_PI's clock is the realtime one, LOCK_PI2's is told.
  const u64 wait_op = 9 | (flags & 128u) | (op == 6 ? 256u : flags & 256u);
  u32 waited = 0, value = 0;
  if (!copy_in(&value, at, 4)) return -kEfault;
  for (;;) {
    u32 desired = value | kFutexWaiters;
    if ((value & kFutexTid) == tid) return -kEdeadlk;
    const bool takes = (value & kFutexTid) == 0;
    if (takes) desired = tid | (value & (kFutexDied | kFutexWaiters)) | waited;
    if (!takes && op == 8) return -kEagain;
    if (desired != value) {
      u32 seen = 0;
      u64 done = stub_cas4(reinterpret_cast<u32*>(at), value, desired, &seen);
      if (done == 2) return -kEfault;
      if (done == 1) {
        value = seen;
        continue;
      }
    }
    if (takes) return 0;
    i64 slept = blocking(ctx, true, [&] {
      return stub_blocking(kNrFutex, at, wait_op, desired, timed ? reinterpret_cast<u64>(&deadline) : 0, 0, ~0u,
                           &slot.kick);
    });
    if (slept != 0 && slept != -kEagain) return slept;
    waited = kFutexWaiters;
    if (!copy_in(&value, at, 4)) return -kEfault;
  }
}

// All who wait are woken: the first of them might be killed before it takes the lock.
i64 unlock_pi(Context& ctx, u32 flags) {
  const u64 at = ctx.args[0];
  if ((at & 3) != 0) return -kEinval;
  u32 value = 0;
  if (!copy_in(&value, at, 4)) return -kEfault;
  for (;;) {
    if ((value & kFutexTid) != static_cast<u32>(ctx.slot->identity.tid)) return -kEperm;
    u32 seen = 0;
    u64 done = stub_cas4(reinterpret_cast<u32*>(at), value, 0, &seen);
    if (done == 2) return -kEfault;
    if (done == 0) break;
    value = seen;
  }
  sys6(kNrFutex, at, 1 | (flags & 128u), 0x7fffffff);
  return 0;
}

// Looks at the word of a FUTEX_WAIT for a while: to sleep and be woken on another CPU costs 50 us on a virtual machine.
// As for a thread that comes later, a value that has changed is EAGAIN. It is worth while where somebody who runs holds
// a lock for a short time or answers at once. Where it does not pay, one wait in many tries; long enough for an answer
// of somebody who has to be woken first, or two that wake each other would never find out.
bool futex_changes(Slot& slot, u64 at, u32 expected) {
  constexpr u32 kMostLuck = 16, kSeldom = 64, kLooks = 16;
  constexpr u64 kWindow = 1 << 18;  // cycles: about 100 us
  if ((at & 3) != 0 || __atomic_load_n(&board().roomy, __ATOMIC_RELAXED) == 0) return false;
  if (slot.futex_luck == 0 && ++slot.futex_passed % kSeldom != 0) return false;
  const u64 begin = cycles();
  do {
    for (u32 i = 0; i < kLooks; ++i) {
      u32 value = 0;
      if (!copy_in(&value, at, sizeof(value))) return false;
      if (value != expected) {
        if (slot.futex_luck < kMostLuck) ++slot.futex_luck;
        return true;
      }
      asm volatile("pause");
    }
  } while (cycles() - begin < kWindow && __atomic_load_n(&slot.kick, __ATOMIC_RELAXED) == 0);
  slot.futex_luck /= 2;
  return false;
}

bool do_futex(Context& ctx, i64& ret) {
  Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  u32 op = static_cast<u32>(a[1]) & 0x7f;
  u32 flags = static_cast<u32>(a[1]) & ~0x7fu;
  if ((flags & ~(128u | 256u)) != 0) return false;
  switch (op) {
    case 1:
    case 3:
    case 4:
    case 5:
    case 10:
      if ((flags & 256) != 0) return false;
      ret = sys6(kNrFutex, a[0], a[1], a[2], a[3], a[4], a[5]);
      return true;
    case 6:
    case 8:
    case 13: ret = lock_pi(ctx, op, flags); return true;
    case 7: ret = unlock_pi(ctx, flags); return true;
    case 0:
    case 9: break;
    default: return false;
  }
  TimeSpec deadline{};
  u64 timeout = 0;
  u32 bitset = op == 9 ? static_cast<u32>(a[5]) : ~0u;
  if (a[3] != 0) {
    if (!copy_in(&deadline, a[3], sizeof(deadline))) {
      ret = -kEfault;
      return true;
    }
    if (bad_time(deadline)) {
      ret = -kEinval;
      return true;
    }
    if (op == 0) {  // relative: an absolute deadline survives a restart
      u64 at = now((flags & 256) != 0 ? 0 : 1);
      u64 seconds = static_cast<u64>(deadline.sec) > 4000000000ull ? 4000000000ull : static_cast<u64>(deadline.sec);
      at += seconds * 1000000000ull + static_cast<u64>(deadline.nsec);
      deadline.sec = static_cast<i64>(at / 1000000000ull);
      deadline.nsec = static_cast<i64>(at % 1000000000ull);
    }
    timeout = reinterpret_cast<u64>(&deadline);
  }
  // One that is to end at some time may have to end before.
  if (bitset != 0 && timeout == 0 && !has_posted(ctx) && futex_changes(slot, a[0], static_cast<u32>(a[2]))) {
    ret = -kEagain;
    return true;
  }
  u64 native_op = 9 | flags;
  ret = blocking(ctx, timeout == 0,
                 [&] { return stub_blocking(kNrFutex, a[0], native_op, a[2], timeout, 0, bitset, &slot.kick); });
  return true;
}

bool do_sleep(Context& ctx, u32 clock, u64 flags, u64 request, u64 remain, i64& ret) {
  switch (clock) {
    case 0:
    case 1:
    case 2:
    case 7:
    case 11: break;
    default: return false;
  }
  if ((flags & ~1ull) != 0) {
    ret = -kEinval;
    return true;
  }
  TimeSpec want{}, left{};
  if (!copy_in(&want, request, sizeof(want))) {
    ret = -kEfault;
    return true;
  }
  if (bad_time(want)) {
    ret = -kEinval;
    return true;
  }
  // A relative sleep ends at a deadline of the monotonic clock, whatever interrupts it. CPU clocks count by themselves.
  bool relative = (flags & 1) == 0;
  u32 native_clock = clock == 0 && relative ? 1 : clock;
  if (relative) {
    u64 seconds = static_cast<u64>(want.sec) > 4000000000ull ? 4000000000ull : static_cast<u64>(want.sec);
    u64 at = now(native_clock) + seconds * 1000000000ull + static_cast<u64>(want.nsec);
    left = want;
    want.sec = static_cast<i64>(at / 1000000000ull);
    want.nsec = static_cast<i64>(at % 1000000000ull);
  }
  Slot& slot = *ctx.slot;
  ret = blocking(ctx, false, [&] {
    i64 r = stub_blocking(kNrClockNanosleep, native_clock, 1, reinterpret_cast<u64>(&want), 0, 0, 0, &slot.kick);
    if (r == -kEintr && relative && remain != 0) {
      u64 at = static_cast<u64>(want.sec) * 1000000000ull + static_cast<u64>(want.nsec);
      u64 t = now(native_clock);
      u64 rest = at > t ? at - t : 0;
      left.sec = static_cast<i64>(rest / 1000000000ull);
      left.nsec = static_cast<i64>(rest % 1000000000ull);
      copy_out(remain, &left, sizeof(left));
    }
    return r;
  });
  return true;
}

bool do_sigprocmask(Context& ctx, i64& ret) {
  Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  if (a[3] != 8) {
    ret = -kEinval;
    return true;
  }
  u64 set = 0, old = slot.sigmask;
  if (a[1] != 0) {
    if (!copy_in(&set, a[1], 8)) {
      ret = -kEfault;
      return true;
    }
    set &= ~((1ull << 8) | (1ull << 18));  // SIGKILL, SIGSTOP
    switch (static_cast<u32>(a[0])) {
      case 0: set |= old; break;
      case 1: set = old & ~set; break;
      case 2: break;
      default: ret = -kEinval; return true;
    }
    __atomic_store_n(&slot.sigmask, set, __ATOMIC_SEQ_CST);
  }
  ret = 0;
  if (a[2] != 0 && !copy_out(a[2], &old, 8)) ret = -kEfault;
  if (a[1] != 0 && (__atomic_load_n(&slot.pending, __ATOMIC_SEQ_CST) & ~set) != 0) {
    ctx.regs->rax = static_cast<u64>(ret);
    signal_check(ctx, false);
    ret = static_cast<i64>(ctx.regs->rax);
  }
  return true;
}

bool on_altstack(const Slot& slot, u64 sp) {
  return slot.altstack_size != 0 && sp > slot.altstack_sp && sp - slot.altstack_sp <= slot.altstack_size;
}

i64 do_sigaltstack(Context& ctx) {
  Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  StackT fresh{}, old{};
  bool inside = on_altstack(slot, ctx.regs->rsp) && (slot.altstack_flags & 0x80000000u) == 0;
  old.sp = slot.altstack_sp;
  old.size = slot.altstack_size;
  old.flags = slot.altstack_size == 0 ? 2 : static_cast<i32>((slot.altstack_flags & 0x80000000u) | (inside ? 1u : 0u));
  if (a[0] != 0) {
    if (!copy_in(&fresh, a[0], sizeof(fresh))) return -kEfault;
    if (inside) return -kEperm;
    u32 mode = static_cast<u32>(fresh.flags) & ~0x80000000u;
    if (mode > 2) return -kEinval;
    if (mode == 2) {
      slot.altstack_sp = slot.altstack_size = 0;
      slot.altstack_flags = 2;
    } else {
      if (fresh.size < 2048 || fresh.size < process().minsigstksz) return -kEnomem;
      slot.altstack_sp = fresh.sp;
      slot.altstack_size = fresh.size;
      slot.altstack_flags = static_cast<u32>(fresh.flags) & 0x80000000u;
    }
  }
  if (a[1] != 0 && !copy_out(a[1], &old, sizeof(old))) return -kEfault;
  return 0;
}

bool do_arch_prctl(Context& ctx, i64& ret) {
  const u64* a = ctx.args;
  if (a[0] == 0x1002) {  // ARCH_SET_FS
    ret = a[1] < kUserEnd ? 0 : -kEperm;
    if (ret == 0) asm volatile("wrfsbase %0" ::"r"(a[1]) : "memory");
    return true;
  }
  if (a[0] == 0x1003) {  // ARCH_GET_FS
    u64 base;
    asm volatile("rdfsbase %0" : "=r"(base));
    ret = copy_out(a[1], &base, 8) ? 0 : -kEfault;
    return true;
  }
  return false;
}

bool do_getrusage(Context& ctx, i64& ret) {
  const u64* a = ctx.args;
  if (static_cast<i32>(a[0]) != 1 || ctx.slot->report_all != 0) return false;
  u64 usage[18];
  ret = sys6(kNrGetrusage, 1, reinterpret_cast<u64>(usage));
  if (ret == 0 && !copy_out(a[1], usage, sizeof(usage))) ret = -kEfault;
  return true;
}

bool clock_known(u32 clock) { return clock <= 11 && clock != 10; }

bool do_clock(u32 nr, u64 clock, u64 to, i64& ret) {
  if (!clock_known(static_cast<u32>(clock))) return false;
  TimeSpec t{};
  ret = sys6(nr, clock, reinterpret_cast<u64>(&t));
  if (ret == 0 && (to != 0 || nr == kNrClockGettime) && !copy_out(to, &t, sizeof(t))) ret = -kEfault;
  return true;
}

// A signal that has its default action is given that: all that can be seen of it later are its flags and its restorer,
// which the sentry is told with the next call.
bool sets_default(Slot& slot, u64 bit, u64 act) {
  constexpr u64 kRestorer = 0x04000000, kUnblockable = 1ull << 8 | 1ull << 18;
  struct {
    u64 handler, flags, restorer, mask;
  } wanted;
  if (slot.may_default == 0 || slot.see_native != 0 || (kUnblockable >> bit & 1) != 0) return false;
  // One that is pending and ignored by default is discarded.
  if ((__atomic_load_n(&slot.pending, __ATOMIC_SEQ_CST) >> bit & 1) != 0) return false;
  if (!copy_in(&wanted, act, sizeof(wanted))) return false;
  if (wanted.handler != 0 || wanted.flags != kRestorer || wanted.mask != 0) return false;
  if (slot.defaulted != 0 && slot.default_restorer != wanted.restorer) return false;
  slot.default_restorer = wanted.restorer;
  slot.defaulted |= 1ull << bit;
  return true;
}

// About signals that were never touched: posix_spawn makes 120 such calls, which ask and set.
bool do_sigaction(const Context& ctx, i64& ret) {
  const u64* a = ctx.args;
  Slot& slot = *ctx.slot;
  u64 bit = a[0] - 1;
  if (a[3] != 8 || bit >= 64 || slot.report_all != 0) return false;
  if (((__atomic_load_n(&slot.unset_actions, __ATOMIC_RELAXED) & ~slot.defaulted) >> bit & 1) == 0) return false;
  if (a[1] != 0 && !sets_default(slot, bit, a[1])) return false;
  const u64 none[4] = {};
  ret = a[2] == 0 || copy_out(a[2], none, sizeof(none)) ? 0 : -kEfault;
  return true;
}

// prlimit64(0, RLIMIT_STACK, NULL, to)
bool do_stack_limit(const Context& ctx, i64& ret) {
  constexpr u64 kStack = 3;
  const Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  if (static_cast<u32>(a[0]) != 0 || static_cast<u32>(a[1]) != kStack || a[2] != 0 || a[3] == 0) return false;
  if (slot.has_stack_limit == 0 || slot.report_all != 0 || slot.see_native != 0) return false;
  const u64 limit[2] = {slot.stack_limit[0], slot.stack_limit[1]};
  ret = copy_out(a[3], limit, sizeof(limit)) ? 0 : -kEfault;
  return true;
}

// A shell asks again for each child that ended, until there is none.
bool do_wait4(const Context& ctx, i64& ret) {
  constexpr u64 kOptions = 0xe000000b;  // WNOHANG WUNTRACED WCONTINUED __WNOTHREAD __WALL __WCLONE
  const Slot& slot = *ctx.slot;
  const auto pid = static_cast<i32>(ctx.args[0]);
  if (__atomic_load_n(&slot.childless, __ATOMIC_RELAXED) == 0 || slot.report_all != 0 || slot.see_native != 0) {
    return false;
  }
  if ((ctx.args[2] & ~kOptions & 0xffffffff) != 0 || (pid != -1 && pid <= 0)) return false;
  ret = -kEchild;
  return true;
}

}  // namespace

bool is_seen(u32 nr, u32 see) {
  for (u32 one : kNativeSeen) {
    if (one == nr) return true;
  }
  for (u32 one : kNativeOthers) {
    if (one == nr) return (see & kSeeAfter) == 0;
  }
  return false;
}

bool touches_reserved(u64 addr, u64 length) {
  u64 end = addr + page_up(length);
  if (end < addr) return true;
  return addr < kReservedEnd && end > kReservedBegin;
}

void mm_lock() {
  u32* lock = &process().mm_lock;
  // Bounded: a vfork child that was killed inside must not hold its parent for ever.
  for (u32 tries = 0; __atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) != 0 && tries < 1000000; ++tries) {
    sys6(kNrSchedYield);
  }
}
void mm_unlock() { __atomic_store_n(&process().mm_lock, 0, __ATOMIC_RELEASE); }

void note_shared(u64 addr, u64 length) {
  ProcessData& p = process();
  mm_lock();
  u64 end = addr + page_up(length);
  if (p.shared_count < kMaxSharedRanges) {
    p.shared[p.shared_count++] = {addr, end};
  } else {  // forget precision, never safety
    SharedRange& last = p.shared[kMaxSharedRanges - 1];
    if (addr < last.begin) last.begin = addr;
    if (end > last.end) last.end = end;
  }
  mm_unlock();
}

// Linux's exit_robust_list for the guest's own tid (kernel/futex/core.c); the host's cannot know it.
void release_robust_list(Slot& slot) {
  u64 head = slot.robust_head;
  slot.robust_head = 0;
  if (head != 0) walk_robust_list(head, static_cast<u32>(slot.identity.tid));
}

void walk_robust_list(u64 head, u32 guest_tid) {
  struct {
    u64 next;
    i64 offset;
    u64 pending;
  } list{};
  if (!copy_in(&list, head, sizeof(list))) return;
  auto release = [&](u64 entry, bool pending) {
    u64 at = (entry & ~1ull) + static_cast<u64>(list.offset);
    if ((at & 3) != 0) return;
    auto* word = reinterpret_cast<u32*>(at);
    u32 value = 0;
    if (!copy_in(&value, at, 4)) return;
    for (int tries = 0; tries < 1000; ++tries) {
      if ((value & 0x3fffffff) != guest_tid) {
        if (pending && value == 0) sys6(kNrFutex, at, 1, 1);
        return;
      }
      u32 desired = (value & 0x80000000u) | 0x40000000u, seen = 0;
      u64 done = stub_cas4(word, value, desired, &seen);
      if (done == 2) return;
      if (done == 0) {
        if ((value & 0x80000000u) != 0) sys6(kNrFutex, at, 1, 1);
        return;
      }
      value = seen;
    }
  };
  u64 entry = list.next;
  for (int i = 0; i < 2048 && (entry & ~1ull) != head; ++i) {
    u64 next = 0;
    bool readable = copy_in(&next, entry & ~1ull, 8);
    if ((entry & ~1ull) != (list.pending & ~1ull)) release(entry, false);
    if (!readable) break;
    entry = next;
  }
  if (list.pending != 0) release(list.pending, true);
}

bool tier0(Context& ctx, u32 nr, i64& ret) {
  Slot& slot = *ctx.slot;
  const u64* a = ctx.args;
  switch (nr) {
    case kNrGetpid: ret = slot.identity.pid; return slot.report_all == 0;
    case kNrGettid: ret = slot.identity.tid; return slot.report_all == 0;
    case kNrGetppid: ret = slot.identity.ppid; return slot.report_all == 0;
    case kNrGetuid: ret = slot.identity.uid; return slot.report_all == 0;
    case kNrGeteuid: ret = slot.identity.euid; return slot.report_all == 0;
    case kNrGetgid: ret = slot.identity.gid; return slot.report_all == 0;
    case kNrGetegid: ret = slot.identity.egid; return slot.report_all == 0;
    case kNrRead:
    case kNrClose:
    case kNrPread64:
    case kNrRecvfrom:
    case kNrLseek:
    case kNrFstat:
    case kNrNewfstatat:
    case kNrIoctl: return do_file(ctx, nr, ret);
    case kNrWrite:
    case kNrSendto: return do_write(ctx, nr, ret);
    case kNrWritev:
    case kNrSendmsg: return do_writev(ctx, nr, ret);
    case kNrMmap: return do_mmap(ctx, ret);
    case kNrMunmap:
      if (touches_reserved(a[0], a[1])) {
        // Runtimes unmap what they got from mmap; only an attack or a sweep comes here.
        ret = -kEinval;
        return true;
      }
      ret = sys6(kNrMunmap, a[0], a[1]);
      return true;
    case kNrMprotect:
      if ((a[2] & ~7ull) != 0) return false;
      if (touches_reserved(a[0], a[1])) {
        ret = -kEnomem;
        return true;
      }
      mm_lock();
      ret = sys6(kNrMprotect, a[0], a[1], a[2]);
      mm_unlock();
      return true;
    case kNrBrk: ret = do_brk(ctx); return true;
    case kNrMremap: return do_mremap(ctx, ret);
    case kNrMadvise: return do_madvise(ctx, ret);
    case kNrMincore:
      if (touches_reserved(a[0], a[1]) || touches_reserved(a[2], page_up(a[1]) / kPageSize + 1))
        ret = -kEnomem;
      else
        ret = sys6(kNrMincore, a[0], a[1], a[2]);
      return true;
    case kNrFutex: return do_futex(ctx, ret);
    case kNrSchedYield: ret = sys6(kNrSchedYield); return true;
    case kNrNanosleep: return do_sleep(ctx, 1, 0, a[0], a[1], ret);
    case kNrClockNanosleep: return do_sleep(ctx, static_cast<u32>(a[0]), a[1], a[2], a[3], ret);
    case kNrClockGettime:
    case kNrClockGetres: return do_clock(nr, a[0], a[1], ret);
    case kNrSigaction: return do_sigaction(ctx, ret);
    case kNrSigprocmask: return do_sigprocmask(ctx, ret);
    case kNrSigaltstack: ret = do_sigaltstack(ctx); return true;
    case kNrArchPrctl: return do_arch_prctl(ctx, ret);
    case kNrSetTidAddress:
      sys6(kNrSetTidAddress, a[0]);
      ret = slot.identity.tid;
      return true;
    case kNrSetRobustList:
      if (a[1] != 24) {
        ret = -kEinval;
        return true;
      }
      slot.robust_head = a[0];
      ret = 0;
      return true;
    case kNrPrlimit64: return do_stack_limit(ctx, ret);
    case kNrWait4: return do_wait4(ctx, ret);
    case kNrRseq: ret = -kEnosys; return true;
    case kNrGetrusage: return do_getrusage(ctx, ret);
    default: return false;
  }
}

}  // namespace sbx::platform::stub
