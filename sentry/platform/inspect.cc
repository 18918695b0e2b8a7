// What a tracer sees and changes of a guest thread that waits in the sentry: registers, where its stub keeps them, and
// memory at any address.
#include <cpuid.h>

#include <algorithm>
#include <cerrno>
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

constexpr u64 kPatience = 1'000'000'000;  // ns

// The XSAVE image (Intel SDM 1, 13.4).
constexpr size_t kMxcsr = 24, kSoftwareBytes = 464, kHeader = 512;
constexpr u16 kInitialControl = 0x37f;

u64 xsave_bytes() {
  u64 end = 576;  // the legacy part and the header
  for (u32 i = 2; i < 63; ++i) {
    if ((enabled_fp_parts() >> i & 1) == 0) continue;
    u32 size = 0, offset = 0, c = 0, d = 0;
    __cpuid_count(0xd, i, size, offset, c, d);
    end = std::max<u64>(end, u64{offset} + size);
  }
  return end;
}

// The stub says where: nothing but its own stacks is believed.
bool on_a_stub_stack(u64 at) {
  return at >= kStacksBase && at <= kStacksBase + kStacksBytes - sizeof(StubRegs) && at % 8 == 0;
}

}  // namespace

u64 enabled_fp_parts() {
  u32 low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (u64{high} << 32 | low) & kFpParts;
}

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
  pieces_ = 0;
  for (u64& end : probed_end_) end = 0;
}

void GuestThreadImpl::watch_calls(const Watch& watch) {
  watch_ = watch;
  if (!host_) return;
  Slot& s = host_->slot();
  s.report_all = watch.emulated || platform_.options.report_all_syscalls;
  s.see_native = (watch.before ? kSeeBefore : 0) | (watch.after ? kSeeAfter : 0);
  s.no_names = watch.names;
  s.positions = 0;  // lent again where that is still right
  s.patch_off = watch.text || !platform_.options.patch;
}

bool may_be_native(u32 nr) {
  auto has = [nr](const auto& list) { return std::find(std::begin(list), std::end(list), nr) != std::end(list); };
  return has(kNativeSeen) || has(kNativeOthers);
}

// ---- commands to the stub ----

std::shared_ptr<GuestThreadImpl::Inspection> GuestThreadImpl::inspect(Command command) {
  auto mine = std::make_shared<Inspection>(Inspection{fiber::current()});
  inspection_ = mine;
  host_->reply(command);
  // From here on this object may be gone. A stub that does not answer is not waited for for ever.
  const u64 deadline = fiber::now_ns() + kPatience;
  while (!mine->done && fiber::now_ns() < deadline) {
    fiber::current()->set_wait_reason("stub");
    fiber::park_until(deadline);
  }
  mine->asks = nullptr;
  if (!mine->done) mine->result = -EIO;
  return mine;
}

void GuestThreadImpl::inspected(i64 result) {
  std::shared_ptr<Inspection> asked = std::move(inspection_);
  if (!asked) return;
  asked->done = true;
  asked->result = result;
  if (result == 0 && host_) {
    asked->window.assign(reinterpret_cast<const char*>(host_->window()), kMaxFpBytes);
  }
  if (asked->asks != nullptr) asked->asks->wake();
}

Result<void> GuestThreadImpl::poke_protected(u64 addr, std::string bytes, u32 prot) {
  if (!host_ || lost_ || host_->where != Where::kSentry || inspection_) return Errno::kSrch;
  if (bytes.size() > kPageSize) return Errno::kFault;
  PokeOp op{addr, static_cast<u32>(bytes.size()), prot};
  memcpy(host_->window(), &op, sizeof(op));
  memcpy(host_->window() + sizeof(op), bytes.data(), bytes.size());
  i64 result = inspect(Command::kPoke)->result;
  if (result == 0) return {};
  return result == -ESRCH ? Errno::kSrch : Errno::kFault;
}

Result<std::string> GuestThreadImpl::fp_state() {
  if (!host_ || lost_ || host_->where != Where::kSentry || inspection_) return Errno::kSrch;
  const u64 size = xsave_bytes();
  if (awaits_start_ || size > kMaxFpBytes) return Errno::kInval;
  auto asked = inspect(Command::kFpGet);
  if (asked->result != 0) return asked->result == -ESRCH ? Errno::kSrch : Errno::kIo;
  std::string state = std::move(asked->window);
  state.resize(size);
  std::fill(state.begin() + kSoftwareBytes, state.begin() + 512, 0);
  // Components in their initial state are left out.
  if ((state[kHeader] & 1) == 0) memcpy(state.data(), &kInitialControl, sizeof(kInitialControl));
  return state;
}

Result<void> GuestThreadImpl::set_fp_state(std::string state) {
  if (!host_ || lost_ || host_->where != Where::kSentry || inspection_) return Errno::kSrch;
  const u64 size = xsave_bytes();
  if (awaits_start_ || size > kMaxFpBytes || state.size() < size) return Errno::kInval;
  // XRSTOR faults on reserved bits.
  u64 parts = 0;
  u32 mxcsr = 0;
  memcpy(&parts, state.data() + kHeader, sizeof(parts));
  memcpy(&mxcsr, state.data() + kMxcsr, sizeof(mxcsr));
  parts &= enabled_fp_parts();
  mxcsr &= 0xffff;
  std::fill(state.begin() + kHeader, state.begin() + kHeader + 64, 0);
  memcpy(state.data() + kHeader, &parts, sizeof(parts));
  memcpy(state.data() + kMxcsr, &mxcsr, sizeof(mxcsr));
  memcpy(host_->window(), state.data(), size);
  i64 result = inspect(Command::kFpSet)->result;
  if (result == 0) return {};
  return result == -ESRCH ? Errno::kSrch : Errno::kIo;
}

}  // namespace sbx::platform
