// Structures of open, fcntl, readv, poll and epoll as x86-64 programs see them (include/uapi/linux/fcntl.h, openat2.h,
// asm-generic/fcntl.h, eventpoll.h, uio.h).
#pragma once
#include "sentry/base/types.h"

namespace sbx::abi {

struct IoVec {
  u64 base, length;
};
static_assert(sizeof(IoVec) == 16);

struct OpenHow {
  u64 flags = 0, mode = 0, resolve = 0;
};
static_assert(sizeof(OpenHow) == 24);

struct Flock {
  i16 type = 0, whence = 0;
  i32 pad0 = 0;
  i64 start = 0, length = 0;
  i32 pid = 0, pad1 = 0;
};
static_assert(sizeof(Flock) == 32);

struct OwnerEx {
  i32 type = 0, pid = 0;
};
static_assert(sizeof(OwnerEx) == 8);

struct EpollEvent {
  u32 events;
  u64 data;
} __attribute__((packed));
static_assert(sizeof(EpollEvent) == 12);

struct PollFd {
  i32 fd;
  i16 events, revents;
};
static_assert(sizeof(PollFd) == 8);

// What pselect6(2) passes as its sixth argument.
struct SigSetArg {
  u64 set, size;
};
static_assert(sizeof(SigSetArg) == 16);

struct UTimBuf {
  i64 actime, modtime;
};
static_assert(sizeof(UTimBuf) == 16);

// fcntl(2) commands and values that headers of the C library leave out or spell differently.
constexpr i32 kGetOwnerUids = 17, kOfdGetLk = 36, kOfdSetLk = 37, kOfdSetLkW = 38;
constexpr u32 kLargeFile = 0100000;  // O_LARGEFILE: 0 in 64-bit C libraries, set by the kernel on each open

// preadv2(2) and pwritev2(2).
constexpr u64 kRwfHiPri = 1, kRwfDsync = 2, kRwfSync = 4, kRwfNoWait = 8, kRwfAppend = 16;

}  // namespace sbx::abi
