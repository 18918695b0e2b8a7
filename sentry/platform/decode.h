// Lengths of x86-64 instructions, and where padding that nobody executes lies. Freestanding; tested on its own.
#pragma once
#include "sentry/base/types.h"

namespace sbx::platform {

enum class Flow : u8 {
  kNext,   // execution may go on behind the instruction
  kNever,  // ret, jmp, ud2, hlt: what follows is reached by a jump or not at all
  kNop,    // does nothing
  kTrap,   // int3, as linkers pad with
};

struct Insn {
  u32 length = 0;  // 0: not an instruction, or cut off
  Flow flow = Flow::kNext;
};

namespace decode_detail {

// What follows an opcode.
enum Tail : u8 { kNone, kBad, kRm, kI8, kIz, kRmI8, kRmIz, kI16, kI24, kI32, kImm, kMoffs };

constexpr Tail one_byte(u8 op) {
  if (op < 0x40) {
    u8 low = op & 7;
    return low < 4 ? kRm : low == 4 ? kI8 : low == 5 ? kIz : kBad;
  }
  if (op < 0x60) return kNone;
  if (op >= 0x70 && op < 0x80) return kI8;
  if (op >= 0xb0 && op < 0xb8) return kI8;
  if (op >= 0xb8 && op < 0xc0) return kImm;
  if (op >= 0xd8 && op < 0xe0) return kRm;
  switch (op) {
    case 0x63: return kRm;
    case 0x68:
    case 0xa9: return kIz;
    case 0x69:
    case 0x81:
    case 0xc7: return kRmIz;
    case 0x6a:
    case 0xa8:
    case 0xcd:
    case 0xeb: return kI8;
    case 0x6b:
    case 0x80:
    case 0x83:
    case 0xc0:
    case 0xc1:
    case 0xc6: return kRmI8;
    case 0x60:
    case 0x61:
    case 0x82:
    case 0x9a:
    case 0xce:
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xea: return kBad;
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3: return kMoffs;
    case 0xc2:
    case 0xca: return kI16;
    case 0xc8: return kI24;
    case 0xe8:
    case 0xe9: return kI32;
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xf6:
    case 0xf7:
    case 0xfe:
    case 0xff: return kRm;
    default: break;
  }
  if (op >= 0x84 && op < 0x90) return kRm;
  if (op >= 0xe0 && op < 0xe8) return kI8;
  return kNone;
}

constexpr Tail two_byte(u8 op) {
  if (op >= 0x80 && op < 0x90) return kI32;
  if ((op >= 0x30 && op < 0x38) || (op >= 0xc8 && op < 0xd0)) return kNone;
  switch (op) {
    case 0x04:
    case 0x0a:
    case 0x0c:
    case 0x24:
    case 0x25:
    case 0x26:
    case 0x27:
    case 0x39:
    case 0x3b:
    case 0x3c:
    case 0x3d:
    case 0x3e:
    case 0x3f: return kBad;
    case 0x05:
    case 0x06:
    case 0x07:
    case 0x08:
    case 0x09:
    case 0x0b:
    case 0x0e:
    case 0x77:
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa8:
    case 0xa9:
    case 0xaa: return kNone;
    case 0x0f:
    case 0x70:
    case 0x71:
    case 0x72:
    case 0x73:
    case 0xa4:
    case 0xac:
    case 0xba:
    case 0xc2:
    case 0xc4:
    case 0xc5:
    case 0xc6: return kRmI8;
    default: return kRm;
  }
}

constexpr bool is_prefix(u8 b) {
  switch (b) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3: return true;
    default: return false;
  }
}

}  // namespace decode_detail

constexpr u32 kMaxInsn = 15;

// The instruction at code[0], of which `room` bytes are there.
constexpr Insn decode(const u8* code, u32 room) {
  using namespace decode_detail;
  if (room > kMaxInsn) room = kMaxInsn;
  u32 at = 0;
  bool small = false, short_address = false, wide = false;
  while (at < room && is_prefix(code[at])) {
    small = small || code[at] == 0x66;
    short_address = short_address || code[at] == 0x67;
    ++at;
  }
  if (at < room && (code[at] & 0xf0) == 0x40) wide = (code[at++] & 8) != 0;
  if (at >= room) return {};
  u8 op = code[at++];
  u32 map = 0;
  Tail tail = kNone;
  if (op == 0xc4 || op == 0xc5 || op == 0x62) {  // VEX and EVEX
    u32 payload = op == 0xc5 ? 1 : op == 0xc4 ? 2 : 3;
    if (at + payload >= room) return {};
    map = op == 0xc5 ? 1 : op == 0xc4 ? code[at] & 31u : code[at] & 7u;
    bool known = map >= 1 && (map <= 3 || (op == 0x62 && (map == 5 || map == 6)));
    if (!known) return {};
    at += payload;
    u8 inner = code[at++];
    tail = map == 3 ? kRmI8 : map == 1 ? two_byte(inner) : kRm;
    if (tail != kRmI8 && !(map == 1 && inner == 0x77)) tail = kRm;
    op = 0;
  } else if (op == 0x0f) {
    if (at >= room) return {};
    op = code[at++];
    map = 1;
    if (op == 0x38 || op == 0x3a) {
      if (at >= room) return {};
      tail = op == 0x38 ? kRm : kRmI8;
      map = 2;
      op = code[at++];
    } else {
      tail = two_byte(op);
    }
  } else {
    tail = one_byte(op);
  }
  if (tail == kBad) return {};
  u32 z = small ? 2 : 4;
  Flow flow = Flow::kNext;
  if (tail == kRm || tail == kRmI8 || tail == kRmIz) {
    if (at >= room) return {};
    u8 modrm = code[at++];
    u32 mod = modrm >> 6, reg = (modrm >> 3) & 7u, rm = modrm & 7u;
    if (mod != 3) {
      if (rm == 4) {
        if (at >= room) return {};
        u8 sib = code[at++];
        if (mod == 0 && (sib & 7) == 5) at += 4;
      } else if (mod == 0 && rm == 5) {
        at += 4;
      }
      at += mod == 1 ? 1 : mod == 2 ? 4 : 0;
    }
    if (map == 0 && op == 0xf6 && reg < 2) at += 1;
    if (map == 0 && op == 0xf7 && reg < 2) at += z;
    if (map == 0 && op == 0xff && (reg == 4 || reg == 5)) flow = Flow::kNever;
    if (map == 1 && op == 0x1f && reg == 0) flow = Flow::kNop;
  }
  switch (tail) {
    case kI8:
    case kRmI8: at += 1; break;
    case kIz:
    case kRmIz: at += z; break;
    case kI16: at += 2; break;
    case kI24: at += 3; break;
    case kI32: at += 4; break;
    case kImm: at += wide ? 8 : z; break;
    case kMoffs: at += short_address ? 4 : 8; break;
    default: break;
  }
  if (at > room) return {};
  if (map == 0) {
    switch (op) {
      case 0xc2:
      case 0xc3:
      case 0xca:
      case 0xcb:
      case 0xcf:
      case 0xe9:
      case 0xeb:
      case 0xf4: flow = Flow::kNever; break;
      case 0xcc: flow = Flow::kTrap; break;
      case 0x90: flow = code[0] == 0x90 || code[0] == 0x66 ? Flow::kNop : Flow::kNext; break;
      default: break;
    }
  }
  if (map == 1 && op == 0x0b) flow = Flow::kNever;
  return {at, flow};
}

struct Pad {
  u32 at = 0;
  u32 length = 0;  // 0: none
};

constexpr u32 kJumpBytes = 5;      // jmp rel32
constexpr u32 kDecodeStarts = 16;  // how many places a walk towards a site begins at
constexpr u32 kDecodeLead = 96;    // bytes in which such a walk gets into step

namespace decode_detail {

// The first unused padding at or behind `from` with room for a jump, walking instructions from `from` up to `end`.
// `stop` must be met by the walk if it lies within; pads must begin within [first, last].
struct Walk {
  Pad pad;
  bool in_step = true;
};
constexpr Walk walk(const u8* code, u32 size, u32 from, u32 stop, u64 address, u32 first, u32 last, bool want_last) {
  Walk out;
  u32 at = from;
  bool dead = false;
  u32 begin = 0;
  Flow kind = Flow::kNext;
  auto close = [&](u32 end) {
    // Alignment pads of instructions nobody reaches; a run that ends elsewhere may be there for another reason.
    bool aligned = kind == Flow::kTrap || ((address + end) & 7) == 0;
    if (dead && end - begin >= kJumpBytes && aligned && begin >= first && begin <= last) {
      if (want_last || out.pad.length == 0) out.pad = {begin, end - begin};
    }
  };
  while (at < stop) {
    Insn insn = decode(code + at, size - at);
    if (insn.length == 0) {
      out.in_step = false;
      return out;
    }
    bool padding = insn.flow == Flow::kNop || insn.flow == Flow::kTrap;
    if (dead && begin != 0 && (!padding || (kind != Flow::kNext && insn.flow != kind))) {
      close(at);
      dead = false;
      begin = 0;
    }
    if (insn.flow == Flow::kNever) {
      dead = true;
      begin = 0;
      kind = Flow::kNext;
    } else if (padding && dead) {
      if (begin == 0) begin = at;
      kind = insn.flow;
    } else {
      dead = false;
    }
    at += insn.length;
  }
  if (dead && begin != 0 && at == stop) close(at);
  out.in_step = at == stop;
  return out;
}

}  // namespace decode_detail

// Whether an instruction begins at code[at], by all walks that come to the `syscall` behind it at code[site].
constexpr bool instruction_begins(const u8* code, u32 size, u32 at, u32 site, u64 address) {
  using namespace decode_detail;
  u32 lead = at > kDecodeLead ? at - kDecodeLead : 0;
  u32 arrived = 0;
  for (u32 i = 0; i < kDecodeStarts && lead + i < at; ++i) {
    if (!walk(code, size, lead + i, site, address, 0, 0, true).in_step) continue;
    if (!walk(code, size, lead + i, at, address, 0, 0, true).in_step) return false;
    ++arrived;
  }
  return arrived >= kDecodeStarts / 4;
}

// Padding with room for a jump that a two-byte jump at code[site] (a `syscall`) can reach. `address` is code[0]'s.
constexpr Pad find_pad(const u8* code, u32 size, u32 site, u64 address) {
  using namespace decode_detail;
  u32 behind = site + 2;
  // Behind the site the walk is in step from the start. It ends at whichever instruction crosses the last one's reach.
  u32 last = behind + 127;
  for (u32 end = behind + 127 + 32 < size ? behind + 127 + 32 : size; end > behind + kJumpBytes; --end) {
    Walk forward = walk(code, size, behind, end, address, behind, last, false);
    if (forward.pad.length != 0) return forward.pad;
    if (forward.in_step) break;
  }
  // Before it nothing says where instructions begin: every walk that arrives at the site must have seen the same pad.
  u32 first = behind > 128 ? behind - 128 : 0;
  u32 lead = first > kDecodeLead ? first - kDecodeLead : 0;
  Pad found{};
  u32 arrived = 0;
  for (u32 i = 0; i < kDecodeStarts && lead + i < site; ++i) {
    Walk backward = walk(code, size, lead + i, site, address, first, site, true);
    if (!backward.in_step) continue;
    if (arrived != 0 && (backward.pad.at != found.at || backward.pad.length != found.length)) return {};
    found = backward.pad;
    ++arrived;
  }
  return arrived >= kDecodeStarts / 4 ? found : Pad{};
}

}  // namespace sbx::platform
