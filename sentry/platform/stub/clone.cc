// New processes and threads: the native clone and the child's first steps.
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kVm = 0x100, kFs = 0x200, kFiles = 0x400, kSighand = 0x800, kParent = 0x8000, kThread = 0x10000,
              kSysvsem = 0x40000, kParentSettid = 0x100000, kChildCleartid = 0x200000;
constexpr u64 kSigchld = 17;

void write_gs(u64 base) { asm volatile("wrgsbase %0" ::"r"(base) : "memory"); }
void write_fs(u64 base) { asm volatile("wrfsbase %0" ::"r"(base) : "memory"); }

u64 block_signals() {
  u64 all = ~0ull, old = 0;
  sys6(kNrSigprocmask, 0, reinterpret_cast<u64>(&all), reinterpret_cast<u64>(&old), 8);
  return old;
}
// The host's mask of guest threads; the guest's is the slot's.
void unblock_signals() {
  u64 mask = kOutsideSignals;
  sys6(kNrSigprocmask, 2, reinterpret_cast<u64>(&mask), 0, 8);
}

void store_tid(u64 at, i32 value) {
  if (at != 0) copy_out(at, &value, 4);
}

// Binds and waits for the sentry's word to start.
void bind(Context& ctx) { ask_sentry(ctx, RequestKind::kBind); }

// In a forked child: its own slots over the parent's, nothing of what was lent to the parent, descriptors and file
// windows.
void adopt_slots(i32 fd) {
  if (failed(sys6(kNrMmap, kSlotsBase, kSlotsBytes, 3, 0x11 | 0x4000, static_cast<u64>(fd), 0))) die();
  close_strays();
  if (process().file_windows == 0) return;
  process().file_windows = 0;
  sys6(kNrMunmap, kFileWindowsBase, kFileWindowsBytes);
}

}  // namespace

void start_thread_area(u32 index) {
  Private& priv = *reinterpret_cast<Private*>(private_address(index));
  priv.self = private_address(index);
  priv.slot = &slot_at(index);
  priv.regs_base = regs_address(index);
  priv.index = index;
  priv.deliver = 0;
  priv.posted_at = 0;
}

// The child of a thread or vfork clone, on its own stub stack; its registers lie in its save area.
extern "C" [[noreturn]] void stub_child(const SlotClone* clone) {
  Private& priv = self();
  Slot& slot = *priv.slot;
  write_gs(priv.self);
  set_altstack(priv.index);
  if (priv.have_fp != 0) {
    asm volatile("ldmxcsr %0" ::"m"(priv.mxcsr));
    asm volatile("fldcw %0" ::"m"(priv.fpu_cw));
  }
  if (clone->set_tls != 0) write_fs(clone->tls);
  store_tid(clone->child_tid_ptr, clone->child_tid_value);
  Context ctx{reinterpret_cast<GuestRegs*>(priv.regs_base), nullptr, &priv, &slot};
  unblock_signals();
  bind(ctx);
  stub_exit_patched();
}

void perform_clone(Context& ctx) {
  Slot& slot = *ctx.slot;
  SlotClone clone = slot.clone;
  const bool report = slot.report_clone != 0;
  u64 flags = kParent | kParentSettid | kSigchld | (clone.clear_tid_ptr != 0 ? kChildCleartid : 0);
  slot.native_child_tid = 0;
  u64 native_tid = reinterpret_cast<u64>(&slot.native_child_tid);
  u64 old_mask = block_signals();
  (void)old_mask;
  i64 ret = 0;
  if (clone.kind == CloneKind::kFork) {
    // Another thread may hold the lock; in the child nobody would ever release it.
    mm_lock();
    ret = sys6(kNrClone, flags, 0, native_tid, clone.clear_tid_ptr, 0);
    mm_unlock();
    if (ret == 0) {
      process().threaded = 0;
      process().traps = 0;
      adopt_slots(clone.fd);
      ctx.regs->rax = 0;
      if (clone.child_sp != 0) ctx.regs->rsp = clone.child_sp;
      if (clone.set_tls != 0) write_fs(clone.tls);
      store_tid(clone.child_tid_ptr, clone.child_tid_value);
      unblock_signals();
      bind(ctx);
      return;
    }
    sys6(kNrClose, static_cast<u64>(clone.fd));
  } else {
    if (clone.index >= kThreadSlots) die();
    process().threaded = 1;
    start_thread_area(clone.index);
    Private& child = *reinterpret_cast<Private*>(private_address(clone.index));
    GuestRegs& regs = *reinterpret_cast<GuestRegs*>(child.regs_base);
    regs = *ctx.regs;
    regs.rax = 0;
    regs.r11 = regs.eflags;
    if (clone.child_sp != 0) regs.rsp = clone.child_sp;
    child.have_fp = ctx.uc != nullptr && ctx.uc->mc.fpstate != 0;
    if (child.have_fp != 0) {
      child.fpu_cw = *reinterpret_cast<u16*>(ctx.uc->mc.fpstate);
      child.mxcsr = *reinterpret_cast<u32*>(ctx.uc->mc.fpstate + 24);
    }
    // The child reads the request from its own stack: this thread does not wait for it.
    u64 stack = child.regs_base - 512;
    auto* request = reinterpret_cast<SlotClone*>(stack);
    *request = clone;
    if (clone.kind == CloneKind::kThread) {
      flags = kVm | kFs | kFiles | kSighand | kThread | kSysvsem | kParentSettid |
              (clone.clear_tid_ptr != 0 ? kChildCleartid : 0);
    } else {
      flags |= kVm;
    }
    // Visible before the child runs, as with the kernel's CLONE_PARENT_SETTID.
    store_tid(clone.parent_tid_ptr, clone.guest_tid);
    ret = stub_clone_thread(flags, stack, native_tid, clone.clear_tid_ptr, stack);
  }
  unblock_signals();
  if (ret < 0) {
    slot.args[0] = static_cast<u64>(ret);
    ask_sentry(ctx, RequestKind::kCloneFailed);
    return;
  }
  // A thread may be gone by now and the kernel have cleared the word (CHILD_CLEARTID on the same address): not again.
  if (clone.kind == CloneKind::kFork) store_tid(clone.parent_tid_ptr, clone.guest_tid);
  ctx.regs->rax = static_cast<u64>(clone.guest_tid);
  if (clone.kind == CloneKind::kVfork || report) ask_sentry(ctx, RequestKind::kCloned);
}

}  // namespace sbx::platform::stub
