// File attributes inside the kernel; syscalls/ turns them into struct stat and statx.
#pragma once
#include <sys/stat.h>
#include <time.h>

#include "sentry/base/types.h"

namespace sbx::vfs {

struct Time {
  i64 sec = 0;
  u32 nsec = 0;
  friend bool operator==(const Time&, const Time&) = default;
};
// CLOCK_REALTIME now.
Time time_now();

struct Attr {
  u64 dev = 0, ino = 0;
  u32 mode = 0;  // type and permission bits
  u32 nlink = 1, uid = 0, gid = 0;
  u64 rdev = 0;              // Linux's new encoding (makedev)
  u64 size = 0, blocks = 0;  // blocks of 512 bytes
  u32 blksize = 4096;
  Time atime, mtime, ctime, btime;
  bool is_dir() const { return S_ISDIR(mode); }
  bool is_reg() const { return S_ISREG(mode); }
  bool is_link() const { return S_ISLNK(mode); }
};

// A change of attributes; only the fields named by mask.
struct SetAttr {
  enum : u32 { kMode = 1, kUid = 2, kGid = 4, kSize = 8, kAtime = 16, kMtime = 32, kAtimeNow = 64, kMtimeNow = 128 };
  u32 mask = 0;
  u32 mode = 0;  // permission bits only
  u32 uid = 0, gid = 0;
  u64 size = 0;
  Time atime, mtime;
};

struct StatFs {
  u64 type = 0, bsize = 4096, blocks = 0, bfree = 0, bavail = 0, files = 0, ffree = 0, fsid = 0, namelen = 255,
      frsize = 4096, flags = 0;
};

}  // namespace sbx::vfs
