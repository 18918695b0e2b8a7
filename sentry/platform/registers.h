// The registers of a guest thread, as ptrace(2) shows them (struct user_regs_struct of <sys/user.h>).
#pragma once
#include "sentry/base/types.h"

namespace sbx::platform {

struct Registers {
  u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss,
      fs_base, gs_base, ds, es, fs, gs;
};
static_assert(sizeof(Registers) == 27 * 8);

// XCR0: the parts of the floating point state that are in use.
u64 enabled_fp_parts();

}  // namespace sbx::platform
