// What a tracer sees and changes of a guest thread that waits in the sentry: registers, where its stub keeps them, and
// memory at any address.
#include <cstring>

#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

// GuestRegs of stub/stub.h.
struct StubRegs {
  u64 r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
};

constexpr u64 kUserCode = 0x33, kUserStack = 0x2b;
// CF PF AF ZF SF TF DF OF AC ID, and what is always set.
constexpr u64 kChangeableFlags = 0x240dd5, kFixedFlags = 0x202;

// The stub says where: nothing but its own stacks is believed.
bool on_a_stub_stack(u64 at) {
  return at >= kStacksBase && at <= kStacksBase + kStacksBytes - sizeof(StubRegs) && at % 8 == 0;
}

}  // namespace

Result<Registers> GuestThreadImpl::registers() {
  if (!host_ || lost_ || host_->where != Where::kSentry) return Errno::kSrch;
  const Slot& s = host_->slot();
  Registers r{};
  r.cs = kUserCode;
  r.ss = kUserStack;
  if (awaits_start_) {
    r.rip = s.image.entry;
    r.rsp = s.image.sp;
    r.eflags = kFixedFlags;
    return r;
  }
  u64 at = s.regs;
  StubRegs in;
  if (!on_a_stub_stack(at) || move_memory(at, &in, sizeof(in), false) != sizeof(in)) return Errno::kIo;
  r.r15 = in.r15, r.r14 = in.r14, r.r13 = in.r13, r.r12 = in.r12, r.rbp = in.rbp, r.rbx = in.rbx;
  r.r11 = in.r11, r.r10 = in.r10, r.r9 = in.r9, r.r8 = in.r8, r.rax = in.rax, r.rcx = in.rcx;
  r.rdx = in.rdx, r.rsi = in.rsi, r.rdi = in.rdi, r.rip = in.rip, r.eflags = in.eflags, r.rsp = in.rsp;
  r.fs_base = s.fs_base;
  return r;
}

Result<void> GuestThreadImpl::set_registers(const Registers& r) {
  if (!host_ || lost_ || host_->where != Where::kSentry) return Errno::kSrch;
  if (r.rip >= kUserEnd) return Errno::kIo;
  Slot& s = host_->slot();
  if (awaits_start_) {
    s.image.entry = r.rip;
    s.image.sp = r.rsp;
    return {};
  }
  u64 at = s.regs;
  StubRegs out;
  if (!on_a_stub_stack(at) || move_memory(at, &out, sizeof(out), false) != sizeof(out)) return Errno::kIo;
  out = {r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi,
         r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx, r.rsp, r.rip, (r.eflags & kChangeableFlags) | kFixedFlags};
  if (move_memory(at, &out, sizeof(out), true) != sizeof(out)) return Errno::kIo;
  return {};
}

Result<size_t> GuestThreadImpl::peek(u64 addr, void* to, size_t n) {
  if (!host_ || lost_) return Errno::kSrch;
  size_t done = n == 0 ? 0 : move_memory(addr, to, n, false);
  if (done == 0 && n != 0) return Errno::kFault;
  return done;
}

Result<size_t> GuestThreadImpl::poke(u64 addr, const void* from, size_t n) {
  if (!host_ || lost_) return Errno::kSrch;
  size_t done = n == 0 ? 0 : move_memory(addr, const_cast<void*>(from), n, true);
  if (done == 0 && n != 0) return Errno::kFault;
  return done;
}

void GuestThreadImpl::settle_memory() {
  if (host_ && !lost_ && host_->where == Where::kSentry && out_count_ != 0) flush_writes();
  for (u32& length : in_length_) length = 0;
  probed_begin_ = probed_end_ = 0;
}

void GuestThreadImpl::report_all_calls(bool all) {
  report_all_ = all;
  if (host_) host_->slot().report_all = all || platform_.options.report_all_syscalls;
}

}  // namespace sbx::platform
