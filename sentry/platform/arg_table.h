// Which arguments of the common calls the stub copies through the window. Freestanding: compiled into sentry and stub.
// A call that has no row works too: the sentry then uses process_vm_readv.
#pragma once
#include "sentry/base/types.h"

namespace sbx::platform {

enum class ArgKind : u8 {
  kNone,
  kPath,     // NUL-terminated
  kIn,       // `bytes` bytes
  kInLen,    // as many bytes as argument number `bytes` says
  kOutLen,   // room for as many bytes as argument number `bytes` says: the stub tests that the first of them can be
             // written, for calls that must not take what they cannot hand over
  kInTimes,  // as many elements as an argument says: `bytes` is their size, shifted, and that argument's number
  kInFds,    // an fd_set of as many bits as argument 0 says
  kInVec,    // kInTimes of iovecs, and the bytes of the first of them behind it
  kInMsg,    // a msghdr, its iovecs, and the bytes of the first of them
  kOutVec,   // kInTimes of iovecs; the stub tests the first of them as with kOutLen
  kOutMsg,   // a msghdr, which it tests too, and its iovecs as with kOutVec
};

struct ArgCopy {
  ArgKind kind = ArgKind::kNone;
  u8 index = 0;
  u16 bytes = 0;
};

struct ArgRow {
  u16 nr;
  ArgCopy args[5];
};

constexpr u64 kMaxPathCopy = 4096;
constexpr u64 kMaxBufferCopy = 16 * 1024;

constexpr ArgCopy path(u8 i) { return {ArgKind::kPath, i, 0}; }
constexpr ArgCopy in(u8 i, u16 bytes) { return {ArgKind::kIn, i, bytes}; }
constexpr u64 kMaxProbe = 4096;

constexpr ArgCopy out_len(u8 i, u8 length_arg) { return {ArgKind::kOutLen, i, length_arg}; }
constexpr ArgCopy in_len(u8 i, u8 length_arg) { return {ArgKind::kInLen, i, length_arg}; }
constexpr ArgCopy in_times(u8 i, u8 count_arg, u16 size) {
  return {ArgKind::kInTimes, i, static_cast<u16>(size << 3 | count_arg)};
}
constexpr ArgCopy in_fds(u8 i) { return {ArgKind::kInFds, i, 0}; }
constexpr ArgCopy in_vec(u8 i, u8 count_arg) { return {ArgKind::kInVec, i, static_cast<u16>(16 << 3 | count_arg)}; }
constexpr u16 kMsgBytes = 56;
constexpr ArgCopy in_msg(u8 i) { return {ArgKind::kInMsg, i, kMsgBytes}; }
constexpr ArgCopy out_vec(u8 i, u8 count_arg) { return {ArgKind::kOutVec, i, static_cast<u16>(16 << 3 | count_arg)}; }
constexpr ArgCopy out_msg(u8 i) { return {ArgKind::kOutMsg, i, kMsgBytes}; }

// By number, for the binary search.
constexpr ArgRow kArgRows[] = {
    {0, {out_len(1, 2)}},                                            // read
    {1, {in_len(1, 2)}},                                             // write
    {2, {path(0)}},                                                  // open
    {4, {path(0)}},                                                  // stat
    {6, {path(0)}},                                                  // lstat
    {7, {in_times(0, 1, 8)}},                                        // poll
    {13, {in(1, 32)}},                                               // rt_sigaction
    {18, {in_len(1, 2)}},                                            // pwrite64
    {19, {out_vec(1, 2)}},                                           // readv
    {20, {in_vec(1, 2)}},                                            // writev
    {21, {path(0)}},                                                 // access
    {23, {in_fds(1), in_fds(2), in_fds(3), in(4, 16)}},              // select
    {38, {in(1, 32)}},                                               // setitimer
    {40, {in(2, 8)}},                                                // sendfile
    {42, {in_len(1, 2)}},                                            // connect
    {43, {in(2, 4)}},                                                // accept
    {44, {in_len(1, 2), in_len(4, 5)}},                              // sendto
    {45, {out_len(1, 2), in(5, 4)}},                                 // recvfrom
    {46, {in_msg(1)}},                                               // sendmsg
    {47, {out_msg(1)}},                                              // recvmsg
    {49, {in_len(1, 2)}},                                            // bind
    {51, {in(2, 4)}},                                                // getsockname
    {52, {in(2, 4)}},                                                // getpeername
    {54, {in_len(3, 4)}},                                            // setsockopt
    {55, {in(4, 4)}},                                                // getsockopt
    {59, {path(0)}},                                                 // execve
    {76, {path(0)}},                                                 // truncate
    {80, {path(0)}},                                                 // chdir
    {82, {path(0), path(1)}},                                        // rename
    {83, {path(0)}},                                                 // mkdir
    {84, {path(0)}},                                                 // rmdir
    {85, {path(0)}},                                                 // creat
    {86, {path(0), path(1)}},                                        // link
    {87, {path(0)}},                                                 // unlink
    {88, {path(0), path(1)}},                                        // symlink
    {89, {path(0)}},                                                 // readlink
    {90, {path(0)}},                                                 // chmod
    {92, {path(0)}},                                                 // chown
    {94, {path(0)}},                                                 // lchown
    {128, {in(0, 8), in(2, 16)}},                                    // rt_sigtimedwait
    {130, {in(0, 8)}},                                               // rt_sigsuspend
    {132, {path(0), in(1, 16)}},                                     // utime
    {133, {path(0)}},                                                // mknod
    {137, {path(0)}},                                                // statfs
    {160, {in(1, 16)}},                                              // setrlimit
    {188, {path(0), path(1), in_len(2, 3)}},                         // setxattr
    {189, {path(0), path(1), in_len(2, 3)}},                         // lsetxattr
    {191, {path(0), path(1)}},                                       // getxattr
    {192, {path(0), path(1)}},                                       // lgetxattr
    {194, {path(0)}},                                                // listxattr
    {195, {path(0)}},                                                // llistxattr
    {197, {path(0), path(1)}},                                       // removexattr
    {198, {path(0), path(1)}},                                       // lremovexattr
    {203, {in_len(2, 1)}},                                           // sched_setaffinity
    {217, {out_len(1, 2)}},                                          // getdents64
    {223, {in(2, 32)}},                                              // timer_settime
    {233, {in(3, 12)}},                                              // epoll_ctl
    {235, {path(0), in(1, 32)}},                                     // utimes
    {254, {path(1)}},                                                // inotify_add_watch
    {257, {path(1)}},                                                // openat
    {258, {path(1)}},                                                // mkdirat
    {259, {path(1)}},                                                // mknodat
    {260, {path(1)}},                                                // fchownat
    {262, {path(1)}},                                                // newfstatat
    {263, {path(1)}},                                                // unlinkat
    {264, {path(1), path(3)}},                                       // renameat
    {265, {path(1), path(3)}},                                       // linkat
    {266, {path(0), path(2)}},                                       // symlinkat
    {267, {path(1)}},                                                // readlinkat
    {268, {path(1)}},                                                // fchmodat
    {269, {path(1)}},                                                // faccessat
    {270, {in_fds(1), in_fds(2), in_fds(3), in(4, 16), in(5, 16)}},  // pselect6
    {271, {in_times(0, 1, 8), in(2, 16), in(3, 8)}},                 // ppoll
    {280, {path(1), in(2, 32)}},                                     // utimensat
    {281, {in(4, 8)}},                                               // epoll_pwait
    {286, {in(2, 32)}},                                              // timerfd_settime
    {288, {in(2, 4)}},                                               // accept4
    {295, {out_vec(1, 2)}},                                          // preadv
    {296, {in_vec(1, 2)}},                                           // pwritev
    {302, {in(2, 16)}},                                              // prlimit64
    {316, {path(1), path(3)}},                                       // renameat2
    {332, {path(1)}},                                                // statx
    {435, {in(0, 64)}},                                              // clone3
    {437, {path(1), in(2, 24)}},                                     // openat2
    {439, {path(1)}},                                                // faccessat2
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
