// Rewriting syscall sites into jumps, correct with other threads running in the same code:
// A. `mov $nr,%eax; syscall`: the 5-byte mov becomes `jmp rel32` in one store; the syscall instruction stays.
// B. the 2-byte syscall becomes `jmp rel8` to dead padding of the function, which holds the `jmp rel32`.
// Saved instruction pointers before and after the site stay valid in both.
#include "sentry/platform/stub/patch.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kTrampolineBytes = 32;
constexpr u64 kReach = 0x7ff00000;
constexpr u32 kLine = 64;

bool near(u64 a, u64 b) { return (a > b ? a - b : b - a) < kReach; }

u64& failed_slot(u64 site) { return process().failed[(site * 0x9e3779b97f4a7c15ull) >> 56]; }

bool is_shared(u64 site) {
  const ProcessData& p = process();
  for (u32 i = 0; i < p.shared_count; ++i) {
    if (site + 16 > p.shared[i].begin && site < p.shared[i].end + 16) return true;
  }
  return false;
}

// A page for trampolines that jumps at `site` can reach; null if there is none.
TrampolinePage* find_page(u64 site) {
  ProcessData& p = process();
  for (u32 i = p.trampolines; i-- > 0;) {
    if (near(p.trampoline[i].addr, site) && p.trampoline[i].used + kTrampolineBytes <= kPageSize) {
      return &p.trampoline[i];
    }
  }
  if (p.trampolines == kMaxTrampolinePages) return nullptr;
  for (i64 step = 2; step < 2048; ++step) {
    // Below first: the heap of a program grows above its text.
    for (int side = 0; side < 2; ++side) {
      u64 distance = static_cast<u64>(step) * 512 * 1024;
      if (side == 0 && site < distance + 0x10000) continue;
      u64 at = page_down(side == 0 ? site - distance : site + distance);
      if (at + kPageSize > kUserEnd || !near(at, site) || touches_reserved(at, kPageSize)) continue;
      // PRIVATE | ANONYMOUS | FIXED_NOREPLACE
      if (sys6(kNrMmap, at, kPageSize, 7, 0x100022, ~0ull, 0) != static_cast<i64>(at)) continue;
      p.trampoline[p.trampolines] = {at, 0, 0};
      return &p.trampoline[p.trampolines++];
    }
  }
  return nullptr;
}

void put4(u8* at, u32 value) { __builtin_memcpy(at, &value, 4); }

// Writes the trampoline of a site; 0 if there is no place. set_number: method A, the mov was overwritten.
u64 make_trampoline(u64 site, u32 nr, bool set_number) {
  TrampolinePage* page = find_page(site);
  if (page == nullptr) return 0;
  // Others may run in this page: it stays executable while it is written.
  if (sys6(kNrMprotect, page->addr, kPageSize, 7) != 0) return 0;
  u64 begin = page->addr + page->used;
  u8 code[kTrampolineBytes];
  u8* p = code;
  if (set_number) {
    *p++ = 0xb8;  // mov $nr,%eax
    put4(p, nr);
    p += 4;
  }
  *p++ = 0x48;  // movabs $ret,%rcx
  *p++ = 0xb9;
  u64 ret = site + 2;
  __builtin_memcpy(p, &ret, 8);
  p += 8;
  *p++ = 0x41;  // mov $stub_entry,%r11d
  *p++ = 0xbb;
  put4(p, static_cast<u32>(reinterpret_cast<u64>(&stub_entry)));
  p += 4;
  *p++ = 0x41;  // jmp *%r11
  *p++ = 0xff;
  *p++ = 0xe3;
  bool ok = copy_out(begin, code, static_cast<u64>(p - code));
  sys6(kNrMprotect, page->addr, kPageSize, 5);
  if (!ok) return 0;
  page->used += kTrampolineBytes;
  return begin;
}

bool is_trampoline(u64 target) {
  const ProcessData& p = process();
  for (u32 i = 0; i < p.trampolines; ++i) {
    if (page_down(target) == p.trampoline[i].addr) return true;
  }
  return false;
}

// Replaces `n` bytes at `at` by one 8-byte store that stays inside a cache line. The page is writable.
bool store_bytes(u64 at, const u8* bytes, u32 n) {
  u64 from = at;
  if ((from & (kLine - 1)) > kLine - 8) from = (from & ~static_cast<u64>(kLine - 1)) + kLine - 8;
  u64 value = 0;
  if (!copy_in(&value, from, 8)) return false;
  u8 image[8];
  __builtin_memcpy(image, &value, 8);
  for (u32 i = 0; i < n; ++i) image[at - from + i] = bytes[i];
  __builtin_memcpy(&value, image, 8);
  return stub_store8(from, value) == 0;
}

constexpr bool in_one_line(u64 at, u32 n) { return (at & (kLine - 1)) + n <= kLine; }

void make_jump(u8* out, u64 at, u64 target) {
  out[0] = 0xe9;
  put4(out + 1, static_cast<u32>(target - (at + 5)));
}

// Five dead bytes in the site's page that a short jump at `site` reaches; 0 if there are none.
u64 find_pad(u64 site) {
  u64 page = page_down(site);
  u64 begin = site + 2, end = begin + 127 + 5;
  if (end > page + kPageSize) end = page + kPageSize;
  u8 code[160];
  u64 n = end - begin;
  if (n > sizeof(code) || !copy_in(code, begin, n)) return 0;
  // Forward: walk to the function's end, then count its padding.
  const u8* stop = code + n;
  const u8* p = code;
  bool dead = false;
  const u8* run = nullptr;
  while (p < stop) {
    Instruction i = decode(p, stop);
    if (i.length == 0) break;
    if (dead && i.nop) {
      if (run == nullptr) run = p;
      if (p + i.length - run >= 5 && run - code <= 127) return begin + static_cast<u64>(run - code);
    } else {
      dead = i.ends;
      run = nullptr;
    }
    p += i.length;
  }
  // Both ways: a run of int3 is padding wherever it lies (Go, some linkers).
  u64 low = site + 2 < page + 128 ? page : site + 2 - 128;
  u64 high = begin + 127 + 5 < page + kPageSize ? begin + 127 + 5 : page + kPageSize;
  u8 around[300];
  n = high - low;
  if (n > sizeof(around) || !copy_in(around, low, n)) return 0;
  u32 length = 0;
  for (u64 i = 0; i < n; ++i) {
    length = around[i] == 0xcc ? length + 1 : 0;
    u64 at = low + i - 4;
    if (length >= 6 && at + 128 >= begin && at <= begin + 127) return at;
  }
  return 0;
}

// Other threads may run in the page: it stays executable.
bool open_page(u64 page) { return sys6(kNrMprotect, page, kPageSize, 7) == 0; }
void close_page(u64 page) { sys6(kNrMprotect, page, kPageSize, 5); }

bool patch_site(u64 site, u32 nr) {
  u8 code[7];
  if (page_down(site - 5) != page_down(site + 1) || !copy_in(code, site - 5, 7)) return false;
  if (code[5] != 0x0f || code[6] != 0x05) return false;
  u32 operand = 0;
  __builtin_memcpy(&operand, code + 1, 4);
  u8 before = 0;
  bool rex = copy_in(&before, site - 6, 1) && (before & 0xf1) == 0x41;  // mov $nr,%r8d
  if (code[0] == 0xb8 && operand == nr && !rex && in_one_line(site - 5, 5)) {
    u64 target = make_trampoline(site, nr, true);
    if (target == 0) return false;
    u8 jump[5];
    make_jump(jump, site - 5, target);
    if (!open_page(page_down(site))) return false;
    bool ok = store_bytes(site - 5, jump, 5);
    close_page(page_down(site));
    return ok;
  }
  if (!in_one_line(site, 2)) return false;
  u64 pad = find_pad(site);
  if (pad == 0) return false;
  u64 target = make_trampoline(site, nr, false);
  if (target == 0) return false;
  u8 jump[5];
  make_jump(jump, pad, target);
  if (!open_page(page_down(site))) return false;
  bool ok = copy_out(pad, jump, 5);
  u8 shorter[2] = {0xeb, static_cast<u8>(pad - (site + 2))};
  ok = ok && store_bytes(site, shorter, 2);
  close_page(page_down(site));
  return ok;
}

// A trap at a site whose mov is a jump already: a jump to the syscall itself, or a restarted call.
bool already_patched(u64 site) {
  u8 code[5];
  if (!copy_in(code, site - 5, 5) || code[0] != 0xe9) return false;
  i32 distance = 0;
  __builtin_memcpy(&distance, code + 1, 4);
  return is_trampoline(site + static_cast<u64>(static_cast<i64>(distance)));
}

// Only pages the guest cannot write are patched: their protection is known to be read and execute.
bool page_is_writable(u64 addr) {
  u8 byte = 0;
  u64 value = 0;
  u64 at = addr & ~7ull;
  if (!copy_in(&byte, addr, 1) || !copy_in(&value, at, 8)) return true;
  u32 seen = 0;
  u32 word = static_cast<u32>(value);
  // An unchanged compare-and-swap: faults exactly if the page cannot be written.
  return stub_cas4(reinterpret_cast<u32*>(at), word, word, &seen) != 2;
}

}  // namespace

void try_patch(Context& ctx) {
  u64 site = ctx.regs->rip - 2;
  u32 nr = static_cast<u32>(ctx.regs->rax);
  if (nr == kNrSigreturn || site < kPageSize || site >= kUserEnd) return;
  u64& failed = failed_slot(site);
  if (failed == site) return;
  mm_lock();
  if (!already_patched(site)) {
    if (!is_shared(site) && !page_is_writable(site) && patch_site(site, nr)) {
      ++ctx.slot->counters.patches;
    } else {
      ++ctx.slot->counters.unpatchable;
      failed = site;
    }
  }
  mm_unlock();
}

}  // namespace sbx::platform::stub
