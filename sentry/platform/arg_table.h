// Which arguments of the common calls the stub copies through the window. Freestanding: compiled into sentry and stub.
// A call that has no row works too: the sentry then uses process_vm_readv.
#pragma once
#include "sentry/base/types.h"

namespace sbx::platform {

enum class ArgKind : u8 {
  kNone,
  kPath,    // NUL-terminated
  kIn,      // `bytes` bytes
  kInLen,   // as many bytes as argument number `bytes` says
  kOutLen,  // room for as many bytes as argument number `bytes` says: the stub tests that the first of them can be
            // written, for calls that must not take what they cannot hand over
};

struct ArgCopy {
  ArgKind kind = ArgKind::kNone;
  u8 index = 0;
  u16 bytes = 0;
};

struct ArgRow {
  u16 nr;
  ArgCopy args[3];
};

constexpr u64 kMaxPathCopy = 4096;
constexpr u64 kMaxBufferCopy = 16 * 1024;

constexpr ArgCopy path(u8 i) { return {ArgKind::kPath, i, 0}; }
constexpr ArgCopy in(u8 i, u16 bytes) { return {ArgKind::kIn, i, bytes}; }
constexpr u64 kMaxProbe = 4096;

constexpr ArgCopy out_len(u8 i, u8 length_arg) { return {ArgKind::kOutLen, i, length_arg}; }
constexpr ArgCopy in_len(u8 i, u8 length_arg) { return {ArgKind::kInLen, i, length_arg}; }

// By number, for the binary search.
constexpr ArgRow kArgRows[] = {
    {0, {out_len(1, 2)}},         // read
    {1, {in_len(1, 2)}},          // write
    {2, {path(0)}},               // open
    {4, {path(0)}},               // stat
    {6, {path(0)}},               // lstat
    {13, {in(1, 32)}},            // rt_sigaction
    {18, {in_len(1, 2)}},         // pwrite64
    {21, {path(0)}},              // access
    {42, {in_len(1, 2)}},         // connect
    {44, {in_len(1, 2)}},         // sendto
    {45, {out_len(1, 2)}},        // recvfrom
    {49, {in_len(1, 2)}},         // bind
    {59, {path(0)}},              // execve
    {76, {path(0)}},              // truncate
    {80, {path(0)}},              // chdir
    {82, {path(0), path(1)}},     // rename
    {83, {path(0)}},              // mkdir
    {84, {path(0)}},              // rmdir
    {85, {path(0)}},              // creat
    {86, {path(0), path(1)}},     // link
    {87, {path(0)}},              // unlink
    {88, {path(0), path(1)}},     // symlink
    {89, {path(0)}},              // readlink
    {90, {path(0)}},              // chmod
    {92, {path(0)}},              // chown
    {137, {path(0)}},             // statfs
    {191, {path(0), path(1)}},    // getxattr
    {192, {path(0), path(1)}},    // lgetxattr
    {217, {out_len(1, 2)}},       // getdents64
    {233, {in(3, 12)}},           // epoll_ctl
    {257, {path(1)}},             // openat
    {258, {path(1)}},             // mkdirat
    {262, {path(1)}},             // newfstatat
    {263, {path(1)}},             // unlinkat
    {264, {path(1), path(3)}},    // renameat
    {265, {path(1), path(3)}},    // linkat
    {266, {path(0), path(2)}},    // symlinkat
    {267, {path(1)}},             // readlinkat
    {268, {path(1)}},             // fchmodat
    {269, {path(1)}},             // faccessat
    {302, {in(2, 16)}},           // prlimit64
    {316, {path(1), path(3)}},    // renameat2
    {332, {path(1)}},             // statx
    {435, {in(0, 64)}},           // clone3
    {437, {path(1), in(2, 24)}},  // openat2
    {439, {path(1)}},             // faccessat2
};

constexpr const ArgRow* find_arg_row(u32 nr) {
  u32 low = 0;
  u32 high = sizeof(kArgRows) / sizeof(kArgRows[0]);
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (kArgRows[middle].nr == nr) return &kArgRows[middle];
    if (kArgRows[middle].nr < nr)
      low = middle + 1;
    else
      high = middle;
  }
  return nullptr;
}

// Calls that take bytes away with them (from a pipe, from a file's position): what the guest cannot be given stays, so
// their results are left to the stub only where it has tested the room.
constexpr bool takes_what_it_gives(u32 nr) {
  switch (nr) {
    case 0:    // read
    case 19:   // readv
    case 45:   // recvfrom
    case 47:   // recvmsg
    case 78:   // getdents
    case 217:  // getdents64
    case 295:  // preadv
    case 299:  // recvmmsg
    case 327:  // preadv2
      return true;
    default: return false;
  }
}

}  // namespace sbx::platform
