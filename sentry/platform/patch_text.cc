#include "sentry/platform/patch_text.h"

#include <sys/syscall.h>

#include <algorithm>
#include <bitset>
#include <cstring>
#include <optional>
#include <vector>

#include "sentry/platform/decode.h"
#include "sentry/platform/layout.h"

namespace sbx::platform {

namespace {

constexpr u32 kMaxMoved = 11;

// What short programs call. Those that run long patch their sites themselves, and the room is small: the C library has
// five hundred sites.
// clang-format off
constexpr u16 kUsual[] = {
    SYS_read, SYS_write, SYS_open, SYS_close, SYS_stat, SYS_fstat, SYS_lstat, SYS_lseek, SYS_mmap, SYS_mprotect,
    SYS_munmap, SYS_brk, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_ioctl, SYS_pread64, SYS_writev, SYS_access,
    SYS_pipe, SYS_select, SYS_mremap, SYS_madvise, SYS_dup, SYS_dup2, SYS_getpid, SYS_socket, SYS_connect, SYS_clone,
    SYS_fork, SYS_vfork, SYS_execve, SYS_exit, SYS_wait4, SYS_uname, SYS_fcntl, SYS_ftruncate, SYS_getcwd, SYS_chdir,
    SYS_fchdir, SYS_rename, SYS_mkdir, SYS_rmdir, SYS_link, SYS_unlink, SYS_symlink, SYS_readlink, SYS_chmod,
    SYS_fchmod, SYS_chown, SYS_fchown, SYS_umask, SYS_getrusage, SYS_sysinfo, SYS_getuid, SYS_getgid, SYS_geteuid,
    SYS_getegid, SYS_setpgid, SYS_getppid, SYS_getpgrp, SYS_setsid, SYS_getpgid, SYS_statfs, SYS_fstatfs, SYS_prctl,
    SYS_arch_prctl, SYS_gettid, SYS_getdents64, SYS_set_tid_address, SYS_fadvise64, SYS_clock_gettime, SYS_nanosleep,
    SYS_exit_group, SYS_waitid, SYS_openat, SYS_mkdirat, SYS_newfstatat, SYS_unlinkat, SYS_renameat, SYS_readlinkat,
    SYS_fchmodat, SYS_faccessat, SYS_set_robust_list, SYS_utimensat, SYS_dup3, SYS_pipe2, SYS_prlimit64,
    SYS_getrandom, SYS_statx, SYS_rseq, SYS_clone3, SYS_close_range, SYS_faccessat2, SYS_getxattr, SYS_lgetxattr,
    SYS_poll,
};
// clang-format on

bool usual(u32 nr) {
  static const std::bitset<kNumbers> set = [] {
    std::bitset<kNumbers> out;
    for (u16 number : kUsual) out.set(number);
    return out;
  }();
  return nr < kNumbers && set.test(nr);
}

void put(u8*& at, u64 value, u32 bytes) {
  for (u32 i = 0; i < bytes; ++i) *at++ = static_cast<u8>(value >> (8 * i));
}

// A jmp at text[at] to text[to].
void put_jump(std::span<u8> text, u64 at, u64 to) {
  u8* out = text.data() + at;
  put(out, kJmp, 1);
  put(out, to - (at + kJmpBytes), 4);
}

using Unwinds = std::function<bool(u64 at)>;

// A `syscall` and how it becomes a jump.
struct Site {
  u64 at;     // its offset
  u32 moved;  // length of the instruction before it, which is replaced by the jump and done on the way; 0: by a pad
  u8 rank;    // lower ones are patched first
};

u32 word(std::span<const u8> text, u64 at) {
  u32 out = 0;
  std::memcpy(&out, text.data() + at, sizeof(out));
  return out;
}

// The lengths of the instructions around one site: the walks to it meet after a few steps.
class Lengths {
 public:
  Lengths(std::span<const u8> text, u64 site) : text_(text), begin_(site > kBefore ? site - kBefore : 0) {}
  // Of the instruction at `at`, no further from the site than kBefore; 0: it is none.
  u32 at(u64 at) {
    u8& known = known_[at - begin_];
    if (known == 0) known = static_cast<u8>(1 + decode(&text_[at], room(at)).length);
    return known - 1u;
  }

 private:
  static constexpr u64 kBefore = kDecodeLead + kMaxMoved;
  u32 room(u64 at) const { return static_cast<u32>(std::min<u64>(text_.size() - at, kMaxInsn)); }

  std::span<const u8> text_;
  u64 begin_;
  u8 known_[kBefore + 2] = {};  // plus one
};

// Whether instructions begin at `at` and at `end` by the code before them: by all walks of it that come to `end`.
bool begins_at(Lengths& lengths, u64 at, u64 end) {
  struct Walk {
    bool met, arrived;
  };
  u64 lead = at > kDecodeLead ? at - kDecodeLead : 0;
  Walk walks[kDecodeStarts + 1];
  u8 walked[kDecodeLead + kMaxMoved + 2] = {};  // by which walk, plus one: two that meet go on together
  u32 arrived = 0;
  for (u32 i = 0; i < kDecodeStarts && lead + i < at; ++i) {
    Walk walk{false, false};
    u64 here = lead + i;
    while (here < end) {
      u8& by = walked[here - lead];
      if (by != 0) {
        const Walk& other = walks[by];
        walk = {walk.met || (here <= at && other.met), other.arrived};
        break;
      }
      by = static_cast<u8>(i + 1);
      walk.met = walk.met || here == at;
      u32 length = lengths.at(here);
      if (length == 0) break;
      here += length;
    }
    walk.arrived = walk.arrived || here == end;
    walks[i + 1] = walk;
    if (!walk.arrived) continue;
    if (!walk.met) return false;
    ++arrived;
  }
  return arrived >= kDecodeStarts / 4;
}

// Whether the instruction means the same at another address: none that jumps, or addresses by rip. A choice of those
// that compilers put before a `syscall`.
bool movable(const u8* code) {
  while (*code == 0x64 || *code == 0x66 || *code == 0xf2 || *code == 0xf3) ++code;  // %fs, operand size, rep
  if ((*code & 0xf0) == 0x40) ++code;
  if ((*code & 0xf8) == 0xb8) return true;  // mov $value,%reg
  bool two_bytes = *code == 0x0f;
  u8 op = two_bytes ? code[1] : code[0];
  constexpr u8 kOne[] = {0x01, 0x03, 0x29, 0x2b, 0x31, 0x33, 0x63, 0x81, 0x83, 0x89, 0x8b, 0x8d, 0xc6, 0xc7};
  constexpr u8 kTwo[] = {0x10, 0x11, 0x28, 0x29, 0x6f, 0x7f, 0xb6, 0xb7, 0xbe, 0xbf};
  std::span<const u8> known = two_bytes ? std::span<const u8>(kTwo) : std::span<const u8>(kOne);
  if (std::find(known.begin(), known.end(), op) == known.end()) return false;
  u8 modrm = code[two_bytes ? 2 : 1];
  return (modrm & 0xc7) != 0x05;
}

// The length of a movable instruction that ends at `at` and is long enough for a jump; 0: there is none.
u32 movable_before(std::span<const u8> text, Lengths& lengths, u64 at) {
  for (u32 length = kJmpBytes; length <= kMaxMoved; ++length) {
    const u8* code = text.data() + at - length;
    if (decode(code, length).length == length && movable(code) && begins_at(lengths, at - length, at)) return length;
  }
  return 0;
}

// Code that makes code has such bytes in its operands: each must be what it looks like by the code around it. A file
// made to deceive harms who runs it.
std::optional<Site> site_at(std::span<const u8> text, u64 at, const Unwinds& unwinds) {
  Lengths lengths(text, at);
  u64 mov = at - kMovBytes;
  u32 value = word(text, mov + 1);
  bool prefixed = (text[mov - 1] & 0xf1) == 0x41;  // REX.B: another register
  bool loads = text[mov] == kMovEax && !prefixed;
  if (loads && value == SYS_rt_sigreturn) return {};
  if (loads && value < kNumbers && begins_at(lengths, mov, at + 2)) {
    return Site{at, kMovBytes, static_cast<u8>(usual(value) ? 0 : 2)};
  }
  constexpr u8 kSigreturn[] = {0x48, 0xc7, 0xc0, SYS_rt_sigreturn, 0, 0, 0};  // mov $15,%rax, as unwinders know it
  if (std::memcmp(&text[at - sizeof(kSigreturn)], kSigreturn, sizeof(kSigreturn)) == 0) {
    if (!unwinds(at)) return {};
    return Site{at, sizeof(kSigreturn), 0};
  }
  if (!begins_at(lengths, at, at + 2)) return {};
  return Site{at, movable_before(text, lengths, at), 1};
}

std::vector<Site> find_sites(std::span<const u8> text, u64 used, const Unwinds& unwinds) {
  std::vector<Site> out;
  for (u64 at = kMaxMoved + 1; (at = find_call(text, at, used)) < used; ++at) {
    if (auto site = site_at(text, at, unwinds)) out.push_back(*site);
  }
  return out;
}

// The code around a site that is looked at.
struct Around {
  u64 begin;
  u32 size;
};
Around around(std::span<const u8> text, u64 at) {
  constexpr u64 kEachSide = 512;
  u64 begin = at > kEachSide ? (at - kEachSide) & ~63ull : 0;
  return {begin, static_cast<u32>(std::min<u64>(text.size() - begin, 2 * kEachSide))};
}

// The two-byte jump at `site` and the pad it reaches, from where a long one goes to text[to].
bool patch_by_pad(std::span<u8> text, u64 site, u64 to) {
  auto [begin, size] = around(text, site);
  Pad pad = find_pad(text.data() + begin, size, static_cast<u32>(site - begin), begin);
  if (pad.length < kJmpBytes) return false;
  u64 at = begin + pad.at;
  std::memset(text.data() + at, 0xcc, pad.length);
  put_jump(text, at, to);
  text[site] = kHop;
  text[site + 1] = static_cast<u8>(at - (site + 2));
  return true;
}

// The jumps' targets, placed behind the code one after another, and behind at most 127 bytes of them what they have in
// common.
class Targets {
 public:
  Targets(std::span<u8> text, u64 from, u32 entry) : text_(text), free_(from), entry_(entry) {}
  // Where the target of `site` goes; 0: there is no room.
  u64 reserve(const Site& site) {
    u64 bytes = site.moved + kLeaBytes + kHopBytes;
    if (first_hop_ != 0 && free_ + bytes - first_hop_ > 127) end_group();
    return free_ + bytes + kCommonBytes <= text_.size() ? free_ : 0;
  }
  // `moved`: the instruction that was before the site.
  void place(const Site& site, std::span<const u8> moved) {
    u8* at = text_.data() + free_;
    std::memcpy(at, moved.data(), moved.size());
    at += moved.size();
    u64 behind = free_ + moved.size() + kLeaBytes;
    put(at, kLeaRcxRip, 3);
    put(at, site.at + 2 - behind, 4);
    put(at, kHop, 1);
    free_ = behind + kHopBytes;
    if (first_hop_ == 0) first_hop_ = free_;
    hops_.push_back(free_);
  }
  void end_group() {
    if (hops_.empty()) return;
    for (u64 hop : hops_) text_[hop - 1] = static_cast<u8>(free_ - hop);
    hops_.clear();
    first_hop_ = 0;
    u8* at = text_.data() + free_;
    put(at, kMovR11d, 2);
    put(at, entry_, 4);
    put(at, kJmpR11, 3);
    free_ += kCommonBytes;
  }

 private:
  std::span<u8> text_;
  u64 free_;
  u32 entry_;
  u64 first_hop_ = 0;      // behind it, as are hops_
  std::vector<u64> hops_;  // of the group
};

}  // namespace

// Written for the compiler to take many bytes at a time.
u64 find_call(std::span<const u8> text, u64 from, u64 to) {
  constexpr u64 kStep = 64;
  const u8* bytes = text.data();
  for (; from + kStep < to; from += kStep) {
    u8 any = 0;
    for (u64 i = 0; i < kStep; ++i) any |= (bytes[from + i] == 0x0f) & (bytes[from + i + 1] == 0x05);
    if (any != 0) break;
  }
  for (; from + 1 < to; ++from) {
    if (bytes[from] == 0x0f && bytes[from + 1] == 0x05) return from;
  }
  return to;
}

u32 patch_text(std::span<u8> text, u64 used, u32 entry, const Unwinds& unwinds) {
  if (used >= text.size() || text.size() % kPageSize != 0) return 0;
  if (std::any_of(text.begin() + static_cast<i64>(used), text.end(), [](u8 byte) { return byte != 0; })) return 0;
  std::vector<Site> sites = find_sites(text, used, unwinds);
  std::stable_sort(sites.begin(), sites.end(), [](const Site& a, const Site& b) { return a.rank < b.rank; });
  Targets targets(text, used, entry);
  u32 done = 0;
  for (const Site& site : sites) {
    u64 target = targets.reserve(site);
    if (target == 0) break;
    u8* before = text.data() + site.at - site.moved;
    u8 moved[kMaxMoved];
    std::memcpy(moved, before, site.moved);
    if (site.moved != 0) {
      std::memset(before, 0xcc, site.moved);
      put_jump(text, site.at - site.moved, target);
    } else if (!patch_by_pad(text, site.at, target)) {
      continue;
    }
    targets.place(site, {moved, site.moved});
    ++done;
  }
  targets.end_group();
  return done;
}

}  // namespace sbx::platform
