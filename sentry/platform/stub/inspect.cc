// What a tracer does to a thread that waits in the sentry: writes into its text, its floating point state, single
// steps.
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kWrite = 2;
constexpr i32 kSigtrap = 5, kTrapTrace = 2;
constexpr u64 kSoftwareBytes = 464;  // of the FXSAVE image: not the processor's

i64 poke(Slot& slot) {
  const PokeOp op = *reinterpret_cast<const PokeOp*>(window(slot));
  const u8* bytes = window(slot) + sizeof(PokeOp);
  u64 page = op.addr & ~(kPageSize - 1);
  if (op.length > kPageSize || op.addr + op.length > page + kPageSize || touches_reserved(page, kPageSize)) {
    return -kEfault;
  }
  mm_lock();
  i64 ret = sys6(kNrMprotect, page, kPageSize, op.prot | kWrite);
  if (!failed(ret)) {
    if (!copy_out(op.addr, bytes, op.length)) ret = -kEfault;
    sys6(kNrMprotect, page, kPageSize, op.prot);
  }
  mm_unlock();
  return ret;
}

// Nothing here uses these registers: without a host frame they are the guest's still.
i64 get_fp(Slot& slot, const UContext* uc) {
  u8* to = window(slot);
  for (u64 i = 0; i < kMaxFpBytes; i += 8) *reinterpret_cast<u64*>(to + i) = 0;
  if (uc == nullptr) {
    asm volatile("xsave64 %0" : "=m"(*to) : "a"(kFpParts), "d"(kFpParts >> 32) : "memory");
    return 0;
  }
  u64 bytes = uc->mc.fpstate != 0 ? fp_bytes(uc->mc.fpstate) : 0;
  if (bytes == 0 || bytes > kMaxFpBytes) return -kEinval;
  return copy_in(to, uc->mc.fpstate, bytes) ? 0 : -kEfault;
}

// The sentry has seen to it that the image is one that can be loaded.
i64 set_fp(Slot& slot, UContext* uc) {
  const u8* from = window(slot);
  if (uc == nullptr) {
    asm volatile("xrstor64 %0" ::"m"(*from), "a"(kFpParts), "d"(kFpParts >> 32) : "memory");
    return 0;
  }
  u64 bytes = uc->mc.fpstate != 0 ? fp_bytes(uc->mc.fpstate) : 0;
  if (bytes <= 576 || bytes > kMaxFpBytes) return -kEinval;
  // All but the software's words, and the mark behind the end.
  if (!copy_out(uc->mc.fpstate, from, kSoftwareBytes)) return -kEfault;
  return copy_out(uc->mc.fpstate + 512, from + 512, bytes - 512 - 4) ? 0 : -kEfault;
}

}  // namespace

void serve_inspection(Slot& slot, UContext* uc) {
  for (;;) {
    i64 ret = 0;
    switch (slot.command) {
      case Command::kPoke: ret = poke(slot); break;
      case Command::kFpGet: ret = get_fp(slot, uc); break;
      case Command::kFpSet: ret = set_fp(slot, uc); break;
      default: return;
    }
    slot.args[0] = static_cast<u64>(ret);
    submit(slot, RequestKind::kInspected);
  }
}

// With a host frame its flags do it; without one is made.
void arm_step(Context& ctx) {
  ctx.slot->step = 0;
  ctx.priv->stepping = 1;
  if (ctx.uc != nullptr) {
    ctx.regs->eflags |= kTrapFlag;
    return;
  }
  if (ctx.priv->deliver != kNoFrame) return;
  ctx.priv->resume_rip = ctx.regs->rip;
  ctx.priv->deliver = kStepFrame;
}

void report_step(Context& ctx) {
  if (ctx.priv->deliver != kNoFrame) return;  // it goes on in a handler: the host's frame for that steps
  ctx.priv->stepping = 0;
  ctx.regs->eflags &= ~kTrapFlag;
  ctx.slot->fault_fatal = 0;
  ctx.slot->fault_signo = kSigtrap;
  ctx.slot->fault_code = kTrapTrace;
  ctx.slot->fault_addr = ctx.regs->rip;
  ask_sentry(ctx, RequestKind::kFault);
}

}  // namespace sbx::platform::stub
