// Rewriting syscall sites into jumps, so that the next call costs no signal. Two ways, both safe with other threads at
// the site, because no instruction but the one replaced begins or ends elsewhere afterwards:
//  A: `mov $n,%reg; syscall` (most often the number): the mov (5 bytes) becomes a jmp, the syscall stays;
//  B: any `syscall`: becomes a two-byte jmp into padding nearby that holds the long jmp.
// Each is one store within one cache line; a mov that lies in two is replaced while no other thread can be there. Only
// private, read-only text is rewritten.
#include "sentry/platform/decode.h"
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kLine = 64;
constexpr u64 kTrampolineBytes = 32;
constexpr u64 kSearchStep = 512 * 1024;
constexpr u32 kSearchSteps = 3000;  // in each direction: 1.5 GiB
constexpr u64 kLowestMapping = 0x10000;
constexpr u64 kReadOnlyText = 1 | 4;
constexpr u64 kWritableText = 1 | 2 | 4;

u32 hash(u64 site) { return static_cast<u32>((site * 0x9e3779b97f4a7c15ull) >> 56); }
static_assert(kFailedSites == 256 && kSeenSites == 256);

// Two places for each: of sites that share an entry and trap by turns each would forget the other.
bool has_failed(u64 site) {
  const u64* failed = process().failed;
  u32 at = hash(site);
  return __atomic_load_n(&failed[at], __ATOMIC_RELAXED) == site ||
         __atomic_load_n(&failed[at ^ 1], __ATOMIC_RELAXED) == site;
}
void note_failed(u64 site) {
  u64* failed = process().failed;
  u32 at = hash(site);
  if (__atomic_load_n(&failed[at], __ATOMIC_RELAXED) != 0) at ^= 1;
  __atomic_store_n(&failed[at], site, __ATOMIC_RELAXED);
}

// A patch costs two to three traps (a copied page, four changes of protection), and most sites of a short program are
// called once: the second trap patches. In a process that has trapped often already the first does: sites that share
// an entry here and are called by turns would never be known again.
bool traps_again(u64 site) {
  constexpr u32 kOften = 200;
  u32& traps = process().traps;
  if (traps >= kOften) return true;
  ++traps;
  u32& seen = process().seen[hash(site)];
  u32 low = static_cast<u32>(site);
  if (__atomic_load_n(&seen, __ATOMIC_RELAXED) == low) return true;
  __atomic_store_n(&seen, low, __ATOMIC_RELAXED);
  return false;
}

bool reaches(u64 from, u64 to) {
  i64 distance = static_cast<i64>(to - from);
  return distance > -0x7fff0000 && distance < 0x7fff0000;
}

bool may_be_shared(u64 site) {
  const ProcessData& p = process();
  for (u32 i = 0; i < p.shared_count; ++i) {
    if (site + 2 > p.shared[i].begin && site < p.shared[i].end) return true;
  }
  return false;
}

TrampolinePage* new_page(u64 site) {
  ProcessData& p = process();
  if (p.trampolines == kMaxTrampolinePages) return nullptr;
  u64 home = site & ~(kPageSize - 1);
  // Downwards first: above a program's image lies its heap, which must be able to grow.
  for (u32 i = 0; i < 2 * kSearchSteps; ++i) {
    u64 distance = (i % kSearchSteps + 1) * kSearchStep;
    bool down = i < kSearchSteps;
    if (down ? home < distance + kLowestMapping : home + distance >= kUserEnd - kPageSize) continue;
    u64 at = down ? home - distance : home + distance;
    if (touches_reserved(at, kPageSize)) continue;
    if (sys6(kNrMmap, at, kPageSize, kReadOnlyText, 0x100022, ~0ull, 0) != static_cast<i64>(at)) continue;
    p.trampoline[p.trampolines] = {at, 0, 0};
    return &p.trampoline[p.trampolines++];
  }
  return nullptr;
}

void put(u8*& at, u64 value, u32 bytes) {
  for (u32 i = 0; i < bytes; ++i) *at++ = static_cast<u8>(value >> (8 * i));
}

// Code that enters the stub and goes on at `ret`. 0: no room.
// mov: the opcode of the mov that it does first, of `number`; 0: none.
u64 make_trampoline(u64 from, u64 ret, u8 mov, u32 number) {
  ProcessData& p = process();
  TrampolinePage* page = nullptr;
  for (u32 i = 0; i < p.trampolines && page == nullptr; ++i) {
    TrampolinePage& candidate = p.trampoline[i];
    if (candidate.used < kPageSize / kTrampolineBytes && reaches(from, candidate.addr)) page = &candidate;
  }
  if (page == nullptr) page = new_page(from);
  if (page == nullptr || sys6(kNrMprotect, page->addr, kPageSize, kWritableText) != 0) return 0;
  u64 start = page->addr + page->used * kTrampolineBytes;
  u8 code[kTrampolineBytes];
  for (u8& byte : code) byte = 0xcc;
  u8* at = code;
  if (mov != 0) {
    put(at, mov, 1);
    put(at, number, 4);
  }
  put(at, 0xb948, 2);  // mov $ret,%rcx
  put(at, ret, 8);
  put(at, 0xbb41, 2);  // mov $stub_entry,%r11d
  put(at, reinterpret_cast<u64>(&stub_entry), 4);
  put(at, 0xe3ff41, 3);  // jmp *%r11
  bool written = copy_out(start, code, sizeof(code));
  if (sys6(kNrMprotect, page->addr, kPageSize, kReadOnlyText) != 0) die();
  if (!written) return 0;
  ++page->used;
  return start;
}

void encode_jump(u8* to, u64 at, u64 target) {
  *to++ = 0xe9;
  put(to, target - (at + kJumpBytes), 4);
}

// Replaces `n` bytes in one store, unless the guest changed any of the eight around them meanwhile.
bool store_in_line(u64 at, const u8* bytes, u32 n) {
  u64 offset = at & (kLine - 1);
  if (offset + n > kLine) return false;
  u64 start = offset + 8 > kLine ? at - (offset + 8 - kLine) : at;
  u64 old = *reinterpret_cast<u64*>(start), fresh = old;
  for (u32 i = 0; i < n; ++i) reinterpret_cast<u8*>(&fresh)[at - start + i] = bytes[i];
  return __atomic_compare_exchange_n(reinterpret_cast<u64*>(start), &old, fresh, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST);
}

void store_alone(u64 at, const u8* bytes, u32 n) {
  for (u32 i = 0; i < n; ++i) reinterpret_cast<volatile u8*>(at)[i] = bytes[i];
}

// Whether the register that `mov $number,%reg` with that opcode sets holds the number, as it must behind it.
bool was_set(const GuestRegs& regs, u8 mov, u32 number) {
  switch (mov) {
    case 0xb8: return regs.rax == number;
    case 0xba: return regs.rdx == number;
    case 0xbb: return regs.rbx == number;
    case 0xbe: return regs.rsi == number;
    case 0xbf: return regs.rdi == number;
    default: return false;
  }
}

bool patch_mov(const u8* code, u64 page, u32 site, const GuestRegs& regs) {
  if (site < kJumpBytes + 1) return false;
  u32 at = site - kJumpBytes;
  u8 mov = code[at];
  // With a REX.B in front the register would be another one.
  if ((code[at - 1] & 0xf1) == 0x41) return false;
  u32 number = 0;
  for (u32 i = 0; i < 4; ++i) number |= static_cast<u32>(code[at + 1 + i]) << (8 * i);
  bool two_lines = ((page + at) & (kLine - 1)) + kJumpBytes > kLine;
  if (!was_set(regs, mov, number)) return false;
  // A number of the kind 0 or -100 may well be in the register and at the end of some longer instruction.
  if (mov != 0xb8 && !instruction_begins(code, kPageSize, at, site, page)) return false;
  if (two_lines && process().threaded != 0) return false;
  u64 trampoline = make_trampoline(page + at, page + site + 2, mov, number);
  if (trampoline == 0) return false;
  u8 jump[kJumpBytes];
  encode_jump(jump, page + at, trampoline);
  if (sys6(kNrMprotect, page, kPageSize, kWritableText) != 0) return false;
  bool done = true;
  if (two_lines)
    store_alone(page + at, jump, kJumpBytes);
  else
    done = store_in_line(page + at, jump, kJumpBytes);
  if (sys6(kNrMprotect, page, kPageSize, kReadOnlyText) != 0) die();
  return done;
}

bool patch_pad(const u8* code, u64 page, u32 site) {
  if (((page + site) & (kLine - 1)) == kLine - 1) return false;
  Pad pad = find_pad(code, kPageSize, site, page);
  if (pad.length == 0) return false;
  u64 trampoline = make_trampoline(page + pad.at, page + site + 2, 0, 0);
  if (trampoline == 0) return false;
  u8 jump[kJumpBytes];
  encode_jump(jump, page + pad.at, trampoline);
  if (sys6(kNrMprotect, page, kPageSize, kWritableText) != 0) return false;
  // Nobody executes the padding; the rest becomes int3, which the next site may use.
  auto* to = reinterpret_cast<volatile u8*>(page + pad.at);
  for (u32 i = 0; i < pad.length; ++i) to[i] = i < kJumpBytes ? jump[i] : 0xcc;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  u8 hop[2] = {0xeb, static_cast<u8>(pad.at - (site + 2))};
  bool done = store_in_line(page + site, hop, 2);
  if (sys6(kNrMprotect, page, kPageSize, kReadOnlyText) != 0) die();
  return done;
}

}  // namespace

void try_patch(Context& ctx) {
  u64 ret = ctx.regs->rip;
  u64 site = ret - 2;
  u32 nr = static_cast<u32>(ctx.regs->rax);
  if (nr == kNrSigreturn || ret < kLowestMapping || ret >= kUserEnd) return;
  if (has_failed(site) || !traps_again(site)) return;
  ProcessData& p = process();
  u64 page = site & ~(kPageSize - 1);
  mm_lock();
  bool usable = !may_be_shared(page) && !may_be_shared(page + kPageSize - 2) && !touches_reserved(page, kPageSize) &&
                (site < p.vdso_begin || site >= p.vdso_end);
  bool done = false, raced = false;
  if (usable) {
    // The page's text can be read in place: the only writers of text are we and a guest that harms itself.
    u32 word = 0, seen = 0;
    auto* first = reinterpret_cast<u32*>(page);
    usable = copy_in(&word, page, 4) && stub_cas4(first, word, word, &seen) == 2;  // not writable
    if (usable) {
      const u8* code = reinterpret_cast<const u8*>(page);
      u32 at = static_cast<u32>(site - page);
      u8 now[2]{};
      raced = !copy_in(now, site, 2) || now[0] != 0x0f || now[1] != 0x05;
      bool whole = at + 2 <= kPageSize;  // else its second byte is the next page's, which may be anything
      if (!raced) done = patch_mov(code, page, at, *ctx.regs) || (whole && patch_pad(code, page, at));
    }
  }
  if (done) {
    ++ctx.slot->counters.patches;
  } else if (!raced) {
    ++ctx.slot->counters.unpatchable;
    note_failed(site);
  }
  mm_unlock();
}

namespace {

bool begins(const u8* code, u64 value, u32 bytes) {
  for (u32 i = 0; i < bytes; ++i) {
    if (code[i] != static_cast<u8>(value >> (8 * i))) return false;
  }
  return true;
}

u64 target32(u64 behind, const u8* distance) {
  u32 value = 0;
  for (u32 i = 0; i < 4; ++i) value |= static_cast<u32>(distance[i]) << (8 * i);
  return behind + static_cast<u64>(static_cast<i64>(static_cast<i32>(value)));
}

bool is_common(u64 at) {
  u8 code[kCommonBytes];
  return copy_in(code, at, sizeof(code)) && begins(code, kMovR11d, 2) &&
         begins(code + 2, reinterpret_cast<u64>(&stub_entry), 4) && begins(code + 6, kJmpR11, 3);
}

// The address behind the site whose `lea` of it is at `at`; 0: there is none.
u64 return_of(u64 at) {
  u8 code[kLeaBytes + kHopBytes];
  if (!copy_in(code, at, sizeof(code)) || !begins(code, kLeaRcxRip, 3) || code[kLeaBytes] != kHop) return 0;
  if (!is_common(at + sizeof(code) + code[kLeaBytes + 1])) return 0;
  return target32(at + kLeaBytes, code + 3);
}

// In text patched ahead: back to the `syscall`, which is still there or a jump here, or to the instruction before it.
void leave_patched_text(GuestRegs& regs) {
  u8 code[kMaxInsn];
  if (is_common(regs.rip) || is_common(regs.rip - 6)) {
    regs.rip = regs.rcx - 2;
  } else if (u64 ret = return_of(regs.rip); ret != 0) {
    regs.rip = ret - 2;
  } else if (copy_in(code, regs.rip, 1) && code[0] == kHop && return_of(regs.rip - kLeaBytes) != 0) {
    regs.rip = regs.rcx - 2;
  } else if (copy_in(code, regs.rip, sizeof(code))) {
    u32 length = decode(code, sizeof(code)).length;
    u64 behind = length != 0 ? return_of(regs.rip + length) : 0;
    if (behind != 0) regs.rip = behind - 2 - length;
  }
}

}  // namespace

void leave_trampoline(GuestRegs& regs) {
  const ProcessData& p = process();
  for (u32 i = 0; i < p.trampolines; ++i) {
    u64 offset = regs.rip - p.trampoline[i].addr;
    if (offset >= kPageSize) continue;
    const u8* code = reinterpret_cast<const u8*>(regs.rip - offset % kTrampolineBytes);
    bool loads_number = (code[0] & 0xf8) == 0xb8;
    u64 ret = 0;
    if (!copy_in(&ret, reinterpret_cast<u64>(code) + (loads_number ? 7 : 2), 8)) return;
    regs.rip = ret - (loads_number ? 2 + kJumpBytes : 2);
    return;
  }
  leave_patched_text(regs);
}

}  // namespace sbx::platform::stub
