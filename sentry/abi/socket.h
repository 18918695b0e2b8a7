// Message headers of the socket calls as x86-64 programs see them (include/linux/socket.h).
#pragma once
#include "sentry/base/types.h"

namespace sbx::abi {

struct MsgHdr {
  u64 name = 0;
  i32 name_length = 0, pad0 = 0;
  u64 iov = 0, iov_count = 0, control = 0, control_length = 0;
  u32 flags = 0, pad1 = 0;
};
static_assert(sizeof(MsgHdr) == 56);

struct MMsgHdr {
  MsgHdr header;
  u32 length = 0, pad0 = 0;
};
static_assert(sizeof(MMsgHdr) == 64);

struct CmsgHdr {
  u64 length = 0;
  i32 level = 0, type = 0;
};
static_assert(sizeof(CmsgHdr) == 16);
constexpr u64 cmsg_align(u64 n) { return (n + 7) & ~u64{7}; }

struct UCred {
  i32 pid = 0;
  u32 uid = 0, gid = 0;
};
static_assert(sizeof(UCred) == 12);

}  // namespace sbx::abi
