// Lengths of x86-64 instructions, as far as they are needed to walk from a syscall to the end of its function.
#include "sentry/platform/stub/patch.h"

namespace sbx::platform::stub {
namespace {

// Bytes of ModRM, SIB and displacement at p; 0 if they pass end.
u32 modrm_bytes(const u8* p, const u8* end) {
  if (p >= end) return 0;
  u32 mod = *p >> 6, rm = *p & 7, n = 1;
  if (mod != 3 && rm == 4) {
    if (p + 1 >= end) return 0;
    if (mod == 0 && (p[1] & 7) == 5) n += 4;
    ++n;
  } else if (mod == 0 && rm == 5) {
    n += 4;
  }
  if (mod == 1) n += 1;
  if (mod == 2) n += 4;
  return n;
}

struct Shape {
  bool known, modrm;
  u32 immediate;
};

Shape one_byte(u8 op, bool wide, bool word, u8 reg) {
  u32 full = word ? 2 : 4;
  if (op < 0x40) {
    if ((op & 7) < 4) return {true, true, 0};
    if ((op & 7) == 4) return {true, false, 1};
    if ((op & 7) == 5) return {true, false, full};
    return {false, false, 0};
  }
  if (op >= 0x50 && op <= 0x5f) return {true, false, 0};
  if (op >= 0x70 && op <= 0x7f) return {true, false, 1};
  if (op >= 0x84 && op <= 0x8f) return {true, true, 0};
  if (op >= 0x90 && op <= 0x99) return {true, false, 0};
  if (op >= 0x9b && op <= 0x9f) return {true, false, 0};
  if (op >= 0xa0 && op <= 0xa3) return {true, false, 8};
  if (op >= 0xb0 && op <= 0xb7) return {true, false, 1};
  if (op >= 0xb8 && op <= 0xbf) return {true, false, wide ? 8 : full};
  if (op >= 0xd8 && op <= 0xdf) return {true, true, 0};
  switch (op) {
    case 0x63: return {true, true, 0};
    case 0x68: return {true, false, full};
    case 0x69:
    case 0x81:
    case 0xc7: return {true, true, full};
    case 0x6a:
    case 0xa8:
    case 0xeb:
    case 0xcd:
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3: return {true, false, 1};
    case 0x6b:
    case 0x80:
    case 0x83:
    case 0xc0:
    case 0xc1:
    case 0xc6: return {true, true, 1};
    case 0xa4:
    case 0xa5:
    case 0xa6:
    case 0xa7:
    case 0xaa:
    case 0xab:
    case 0xac:
    case 0xad:
    case 0xae:
    case 0xaf:
    case 0xc3:
    case 0xc9:
    case 0xcc:
    case 0xf4:
    case 0xf5:
    case 0xf8:
    case 0xf9:
    case 0xfc:
    case 0xfd: return {true, false, 0};
    case 0xa9: return {true, false, full};
    case 0xc2: return {true, false, 2};
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xfe:
    case 0xff: return {true, true, 0};
    case 0xe8:
    case 0xe9: return {true, false, 4};
    case 0xf6: return {true, true, reg < 2 ? 1u : 0u};
    case 0xf7: return {true, true, reg < 2 ? full : 0u};
    default: return {false, false, 0};
  }
}

Shape two_byte(u8 op) {
  if (op >= 0x80 && op <= 0x8f) return {true, false, 4};
  if (op >= 0xc8 && op <= 0xcf) return {true, false, 0};
  if (op >= 0x30 && op <= 0x37) return {true, false, 0};
  if (op >= 0x70 && op <= 0x73) return {true, true, 1};
  switch (op) {
    case 0x05:
    case 0x06:
    case 0x08:
    case 0x09:
    case 0x0b:
    case 0x77:
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa8:
    case 0xa9:
    case 0xaa: return {true, false, 0};
    case 0xa4:
    case 0xac:
    case 0xba:
    case 0xc2:
    case 0xc4:
    case 0xc5:
    case 0xc6: return {true, true, 1};
    case 0x04:
    case 0x07:
    case 0x0a:
    case 0x0c:
    case 0x0e:
    case 0x0f:
    case 0x24:
    case 0x25:
    case 0x26:
    case 0x27:
    case 0x38:
    case 0x3a: return {false, false, 0};
    default: return {true, true, 0};
  }
}

}  // namespace

Instruction decode(const u8* p, const u8* end) {
  const u8* begin = p;
  bool word = false, wide = false;
  for (; p < end; ++p) {
    if (*p == 0x66)
      word = true;
    else if (*p != 0x2e && *p != 0x3e && *p != 0x26 && *p != 0x36 && *p != 0x64 && *p != 0x65 && *p != 0xf2 &&
             *p != 0xf3 && *p != 0xf0)
      break;
  }
  if (p < end && (*p & 0xf0) == 0x40) {
    wide = (*p & 8) != 0;
    ++p;
  }
  if (p >= end) return {};
  u8 op = *p++;
  Shape shape{};
  Instruction out{};
  u8 reg = p < end ? (*p >> 3) & 7 : 0;
  if (op == 0x0f) {
    if (p >= end) return {};
    u8 second = *p++;
    shape = two_byte(second);
    out.nop = second == 0x1f;
    out.ends = second == 0x0b;
  } else {
    shape = one_byte(op, wide, word, reg);
    out.nop = op == 0x90 || op == 0xcc;
    out.ends = op == 0xc3 || op == 0xc2 || op == 0xe9 || op == 0xeb || op == 0xf4 || (op == 0xff && (reg == 4));
  }
  if (!shape.known) return {};
  if (shape.modrm) {
    u32 n = modrm_bytes(p, end);
    if (n == 0) return {};
    p += n;
  }
  p += shape.immediate;
  if (p > end) return {};
  out.length = static_cast<u32>(p - begin);
  return out;
}

}  // namespace sbx::platform::stub
