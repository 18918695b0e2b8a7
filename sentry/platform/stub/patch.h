// Inside the stub: instruction lengths for the patcher.
#pragma once
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {

struct Instruction {
  u32 length = 0;  // 0: unknown
  bool nop = false;
  bool ends = false;  // control never goes on behind it
};
Instruction decode(const u8* p, const u8* end);

}  // namespace sbx::platform::stub
