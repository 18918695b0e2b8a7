// Host signal handlers of the stub, and guest signal frames.
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
u64 fp_bytes(u64 fpstate) {
  const auto& sw = *reinterpret_cast<const FpSoftware*>(fpstate + 464);
  constexpr u32 kMagic = 0x46505853;
  return sw.magic1 == kMagic && sw.extended_size > 512 && sw.extended_size < 16384 ? sw.extended_size : 512;
}

namespace {

constexpr i32 kSigill = 4, kSigtrap = 5, kSigbus = 7, kSigfpe = 8, kSigsegv = 11, kSigsys = 31;
constexpr u64 kUcFpXstate = 1, kUcSigcontextSs = 2, kUcStrictRestoreSs = 4;
constexpr u32 kFpMagic1 = 0x46505853, kFpMagic2 = 0x46505845;
constexpr u64 kUserFlags = 0x40dd5 | 0x200000;  // CF PF AF ZF SF TF DF OF RF(no) AC ID; IF stays set
constexpr u64 kSaOnstack = 0x08000000;

const FpSoftware& fp_software(u64 fpstate) { return *reinterpret_cast<const FpSoftware*>(fpstate + 464); }

// What the host will load is the initial state: a handler begins with that (fpu__clear_user_states). PKRU stays, which
// is not among what starts anew.
void clear_fp(u64& fpstate) {
  constexpr u64 kPkru = 1 << 9;
  constexpr u32 kDefaultMxcsr = 0x1f80;
  if (fp_bytes(fpstate) <= 576) {
    fpstate = 0;  // the kernel then starts from the initial state
    return;
  }
  *reinterpret_cast<u64*>(fpstate + 512) &= kPkru;
  *reinterpret_cast<u32*>(fpstate + 24) = kDefaultMxcsr;
}

struct Frame {
  u64 restorer;
  UContext uc;
  u8 siginfo[128];
};

struct KernelSigaction {
  void (*handler)();
  u64 flags;
  void (*restorer)();
  u64 mask;
};

struct FixUp {
  const char *begin, *end, *target;
};

bool fix_up(u64& rip) {
  const FixUp table[] = {{stub_copy_begin, stub_copy_end, stub_copy_fixup},
                         {stub_words_begin, stub_words_end, stub_words_fixup},
                         {stub_string_begin, stub_string_end, stub_string_fixup},
                         {stub_store_begin, stub_store_end, stub_store_fixup},
                         {stub_cas_begin, stub_cas_end, stub_cas_fixup}};
  for (const FixUp& entry : table) {
    if (rip >= reinterpret_cast<u64>(entry.begin) && rip < reinterpret_cast<u64>(entry.end)) {
      rip = reinterpret_cast<u64>(entry.target);
      return true;
    }
  }
  return false;
}

bool within(u64 rip, const char* begin, const char* end_inclusive) {
  return rip >= reinterpret_cast<u64>(begin) && rip <= reinterpret_cast<u64>(end_inclusive);
}

// In the quick answers of entry.S, where the flag is not looked at any more. Tells whether it was guest code already.
bool leave_quick_answer(GuestRegs& regs, const Private& priv) {
  static const struct {
    const char *tail, *last, *end;
  } kAnswers[] = {{stub_getpid_tail, stub_getpid_last, stub_getpid_end},
                  {stub_getppid_tail, stub_getppid_last, stub_getppid_end},
                  {stub_gettid_tail, stub_gettid_last, stub_gettid_end}};
  for (const auto& answer : kAnswers) {
    if (regs.rip == reinterpret_cast<u64>(answer.tail)) regs.rip = reinterpret_cast<u64>(stub_entry_slow);
    if (regs.rip < reinterpret_cast<u64>(answer.last) || regs.rip >= reinterpret_cast<u64>(answer.end)) continue;
    regs.rip = priv.ret;
    return true;
  }
  return false;
}

void on_kick(UContext* uc, Private& priv) {
  ++priv.slot->counters.kicks;
  GuestRegs& regs = uc->mc.regs;
  if (!in_stub(regs.rip)) {  // the restorer sees the flag and asks
    leave_trampoline(regs);
    return;
  }
  if (leave_quick_answer(regs, priv)) return;
  if (within(regs.rip, stub_blocking_begin, stub_blocking_syscall)) {
    regs.rip = reinterpret_cast<u64>(stub_blocking_abort);
  } else if (regs.rip == reinterpret_cast<u64>(stub_exit_last)) {
    regs.rip = regs.rcx;  // only the jump is left: this is guest code already
  } else if (regs.rip >= reinterpret_cast<u64>(stub_exit_restart) && regs.rip < reinterpret_cast<u64>(stub_exit_last)) {
    regs.rip = reinterpret_cast<u64>(stub_exit_restart);
    regs.rsp = priv.regs_base;
  } else if (within(regs.rip, stub_restorer_begin, stub_restorer_syscall)) {
    regs.rip = reinterpret_cast<u64>(stub_restorer_begin);
  }
}

// The guest frame lies on the guest's stack and holds the interrupted registers and FP state (arch/x86/kernel/
// signal_64.c, x64_setup_rt_frame). False: the stack cannot take it.
bool build_frame(Context& ctx) {
  Slot& slot = *ctx.slot;
  const SlotDelivery& d = slot.delivery;
  GuestRegs& regs = *ctx.regs;
  u64 fpstate = ctx.uc->mc.fpstate;
  u64 sp = regs.rsp - 128;
  bool autodisarm = (slot.altstack_flags & 0x80000000u) != 0;
  bool on_alt = slot.altstack_size != 0 && regs.rsp > slot.altstack_sp &&
                regs.rsp - slot.altstack_sp <= slot.altstack_size && !autodisarm;
  bool entering = false;
  if ((d.sa_flags & kSaOnstack) != 0 && slot.altstack_size != 0 && !on_alt) {
    sp = slot.altstack_sp + slot.altstack_size;
    entering = true;
  }
  u64 fp_at = 0;
  if (fpstate != 0) {
    u64 bytes = fp_bytes(fpstate);
    fp_at = (sp - bytes) & ~63ull;
    sp = fp_at;
    if (!copy_out(fp_at, reinterpret_cast<const void*>(fpstate), bytes)) return false;
  }
  sp = ((sp - sizeof(Frame)) & ~15ull) - 8;
  if ((entering || on_alt) && sp < slot.altstack_sp) return false;
  Frame frame{};
  frame.restorer = d.restorer;
  frame.uc.flags = ctx.uc->flags & (kUcFpXstate | kUcSigcontextSs | kUcStrictRestoreSs);
  frame.uc.stack.sp = slot.altstack_sp;
  frame.uc.stack.size = slot.altstack_size;
  frame.uc.stack.flags = slot.altstack_size == 0 ? 2 : static_cast<i32>(slot.altstack_flags | (on_alt ? 1u : 0u));
  frame.uc.mc = ctx.uc->mc;
  frame.uc.mc.regs = regs;
  frame.uc.mc.fpstate = fp_at;
  frame.uc.mc.oldmask = d.frame_mask;
  frame.uc.sigmask = d.frame_mask;
  for (int i = 0; i < 128; ++i) frame.siginfo[i] = d.siginfo[i];
  if (d.signo == kSigsegv || d.signo == kSigbus || d.signo == kSigfpe || d.signo == kSigill || d.signo == kSigtrap) {
    // err, trapno and cr2 are the fault's, as the host recorded them.
  } else {
    frame.uc.mc.err = frame.uc.mc.trapno = frame.uc.mc.cr2 = 0;
  }
  if (!copy_out(sp, &frame, sizeof(frame))) return false;
  if (autodisarm && slot.altstack_size != 0) {
    slot.altstack_sp = slot.altstack_size = 0;
    slot.altstack_flags = 2;
  }
  if (fpstate != 0) clear_fp(ctx.uc->mc.fpstate);
  regs.rsp = sp;
  regs.rip = d.handler;
  regs.rdi = static_cast<u64>(d.signo);
  regs.rsi = sp + __builtin_offsetof(Frame, siginfo);
  regs.rdx = sp + __builtin_offsetof(Frame, uc);
  regs.rax = 0;
  regs.eflags &= ~(0x400ull | 0x100ull | 0x10000ull);  // DF, TF, RF
  __atomic_store_n(&slot.sigmask, d.new_mask & ~((1ull << 8) | (1ull << 18)), __ATOMIC_SEQ_CST);
  return true;
}

// The sentry kills or delivers SIGSEGV as for any bad stack: report a fault at the stack pointer.
void frame_fault(Context& ctx, bool fatal) {
  ctx.slot->fault_fatal = fatal;
  ctx.slot->fault_signo = kSigsegv;
  ctx.slot->fault_code = 128;  // SI_KERNEL
  ctx.slot->fault_addr = 0;
  ask_sentry(ctx, RequestKind::kFault);
}

}  // namespace

// With a host frame at hand the guest frame is built at once; the patched path gets one by int3.
void deliver(Context& ctx) {
  if (ctx.uc == nullptr) {
    ctx.priv->resume_rip = ctx.regs->rip;
    ctx.priv->deliver = kDeliverFrame;
    return;
  }
  if (!build_frame(ctx)) frame_fault(ctx, ctx.slot->delivery.signo == kSigsegv);
}

// rt_sigreturn: everything in the guest's frame is checked before it becomes the host frame.
void guest_sigreturn(Context& ctx) {
  GuestRegs& regs = *ctx.regs;
  Slot& slot = *ctx.slot;
  UContext uc;
  if (!copy_in(&uc, regs.rsp, sizeof(uc))) {
    frame_fault(ctx, false);
    return;
  }
  u64 host_fp = ctx.uc->mc.fpstate;
  u64 guest_fp = uc.mc.fpstate;
  if (host_fp != 0 && guest_fp != 0) {
    u8* to = reinterpret_cast<u8*>(host_fp);
    FpSoftware host_sw = fp_software(host_fp);
    u64 host_bytes = fp_bytes(host_fp);
    FpSoftware sw{};
    if (!copy_in(&sw, guest_fp + 464, sizeof(sw))) {
      frame_fault(ctx, false);
      return;
    }
    bool extended = sw.magic1 == kFpMagic1 && sw.extended_size == host_sw.extended_size && host_bytes > 576;
    u64 bytes = extended ? host_bytes - 4 : 464;
    if (!copy_in(to, guest_fp, bytes)) {
      frame_fault(ctx, false);
      return;
    }
    auto* kept = reinterpret_cast<FpSoftware*>(to + 464);
    *kept = host_sw;
    if (host_bytes > 576) {
      auto* header = reinterpret_cast<u64*>(to + 512);
      header[0] = extended ? header[0] & host_sw.xfeatures : 3;
      for (int i = 1; i < 8; ++i) header[i] = 0;
      *reinterpret_cast<u32*>(to + host_bytes - 4) = kFpMagic2;
    }
    *reinterpret_cast<u32*>(to + 24) &= 0xffff;  // MXCSR's reserved bits
  } else {
    ctx.uc->mc.fpstate = 0;  // the kernel then starts from the initial state
  }
  u64 flags = (uc.mc.regs.eflags & kUserFlags) | 0x202;
  regs = uc.mc.regs;
  regs.eflags = flags;
  if (regs.rip >= kUserEnd) regs.rip = kUserEnd - 1;
  if (regs.rsp < uc.stack.sp || regs.rsp - uc.stack.sp > uc.stack.size || slot.altstack_size == 0) {
    u32 mode = static_cast<u32>(uc.stack.flags) & ~0x80000000u;
    if (mode == 2) {
      slot.altstack_sp = slot.altstack_size = 0;
      slot.altstack_flags = 2;
    } else if (mode <= 1 && uc.stack.size >= 2048) {
      slot.altstack_sp = uc.stack.sp;
      slot.altstack_size = uc.stack.size;
      slot.altstack_flags = static_cast<u32>(uc.stack.flags) & 0x80000000u;
    }
  }
  u64 mask = uc.sigmask & ~((1ull << 8) | (1ull << 18));
  __atomic_store_n(&slot.sigmask, mask, __ATOMIC_SEQ_CST);
  if ((__atomic_load_n(&slot.pending, __ATOMIC_SEQ_CST) & ~mask) != 0) signal_check(ctx, false);
}

// Without a host frame at hand one is made. The guest's is looked at first: what to do about a bad one needs the FP
// state of now, which only a real frame has.
void patched_sigreturn(Context& ctx) {
  constexpr u64 kMaxFp = 4096;  // AVX-512 has 2.7 KB; with more (AMX) the host makes the frame
  alignas(64) u8 fp[kMaxFp];
  const FrameModel& model = process().frame;
  UContext guest;
  bool good = model.fp_bytes != 0 && model.fp_bytes <= kMaxFp && copy_in(&guest, ctx.regs->rsp, sizeof(guest)) &&
              (guest.mc.fpstate == 0 || copy_in(fp, guest.mc.fpstate, 512));
  if (!good) {
    ctx.priv->resume_rip = ctx.regs->rip;
    ctx.priv->deliver = kSigreturnFrame;
    return;
  }
  UContext uc{};
  uc.flags = model.flags;
  uc.stack.sp = kStacksBase + ctx.priv->index * kStackBytes;
  uc.stack.size = ctx.priv->regs_base - uc.stack.sp;
  uc.mc.cs = model.cs;
  uc.mc.gs = model.gs;
  uc.mc.fs = model.fs;
  uc.mc.ss = model.ss;
  uc.mc.fpstate = reinterpret_cast<u64>(fp);
  uc.mc.regs = *ctx.regs;
  *reinterpret_cast<FpSoftware*>(fp + 464) = model.fp;
  Context own{&uc.mc.regs, &uc, ctx.priv, ctx.slot};
  guest_sigreturn(own);
  stub_sigreturn(&uc);
}

namespace {

void note_frame(const UContext& uc) {
  FrameModel& model = process().frame;
  if (model.fp_bytes != 0 || uc.mc.fpstate == 0) return;
  model.flags = uc.flags;
  model.fp = fp_software(uc.mc.fpstate);
  model.cs = uc.mc.cs;
  model.gs = uc.mc.gs;
  model.fs = uc.mc.fs;
  model.ss = uc.mc.ss;
  __atomic_store_n(&model.fp_bytes, fp_bytes(uc.mc.fpstate), __ATOMIC_RELEASE);
}

}  // namespace

extern "C" void stub_frame_kick(UContext* uc) {
  Private& priv = self();
  Context ctx{&uc->mc.regs, uc, &priv, priv.slot};
  signal_check(ctx, false);
}

extern "C" void stub_signal(i32 signo, SigInfo* info, UContext* uc) {
  Private& priv = self();
  GuestRegs& regs = uc->mc.regs;
  Context ctx{&regs, uc, &priv, priv.slot};
  note_frame(*uc);
  if (signo == kKickSignal) {
    on_kick(uc, priv);
    return;
  }
  if (signo == kSigsys) {
    if (info->code != 1 || in_stub(regs.rip)) die();
    ++priv.slot->counters.traps;
    if (priv.slot->patch_off == 0) try_patch(ctx);
    handle_syscall(ctx);
    if (priv.stepping != 0) report_step(ctx);
    return;
  }
  if (signo == kSigtrap && priv.stepping != 0 && (regs.eflags & kTrapFlag) != 0) {
    // On the way into a patched call: it is one instruction. What stands in text patched ahead is passed over.
    if (in_stub(regs.rip)) {
      regs.eflags &= ~kTrapFlag;
      return;  // report_step() ends it
    }
    GuestRegs before = regs;
    leave_trampoline(before);
    if (before.rip != regs.rip) return;
    priv.stepping = 0;
    regs.eflags &= ~kTrapFlag;
  }
  if (in_stub(regs.rip)) {
    if (signo == kSigtrap && regs.rip == reinterpret_cast<u64>(stub_exit_break) + 1 && priv.deliver != kNoFrame) {
      regs.rip = priv.resume_rip;
      u64 awaited = priv.deliver;
      priv.deliver = kNoFrame;
      if (awaited == kSigreturnFrame)
        guest_sigreturn(ctx);
      else if (awaited == kDeliverFrame)
        deliver(ctx);
      if (priv.stepping != 0) regs.eflags |= kTrapFlag;
      return;
    }
    if (fix_up(regs.rip)) return;
    die();
  }
  // Kernels before the fix let uretprobe by seccomp: it answers SIGILL outside a probe.
  if (signo == kSigill && static_cast<u32>(regs.rax) == kNrUretprobe) {
    u16 code = 0;
    if (copy_in(&code, regs.rip, 2) && code == 0x050f) {
      regs.rip += 2;
      regs.rax = static_cast<u64>(-kEnosys);
      return;
    }
  }
  priv.slot->fault_fatal = 0;
  priv.slot->fault_signo = signo;
  priv.slot->fault_code = info->code;
  priv.slot->fault_addr = info->addr;
  ask_sentry(ctx, RequestKind::kFault);
}

void install_handlers() {
  // Filter not loaded yet: the template only.
  static constexpr i32 kHandled[] = {kSigill, kSigtrap, kSigbus, kSigfpe, kSigsegv, kSigsys, kKickSignal};
  for (i32 signo : kHandled) {
    KernelSigaction act{};
    act.handler = reinterpret_cast<void (*)()>(&stub_signal);
    act.flags = 0x4 | 0x08000000 | 0x04000000 | 0x40000000;  // SIGINFO, ONSTACK, RESTORER, NODEFER
    act.restorer = &stub_restorer;
    sys6(kNrSigaction, static_cast<u64>(signo), reinterpret_cast<u64>(&act), 0, 8);
  }
}

void set_altstack(u32 index) {
  StackT stack{};
  stack.sp = kStacksBase + index * kStackBytes;
  stack.size = regs_address(index) - stack.sp;
  sys6(kNrSigaltstack, reinterpret_cast<u64>(&stack), 0);
}

}  // namespace sbx::platform::stub
