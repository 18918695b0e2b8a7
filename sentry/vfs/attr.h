// File attributes inside the kernel, and as struct stat; syscalls/ turns them into statx.
#pragma once
#include <sys/stat.h>
#include <time.h>

#include "sentry/abi/stat.h"
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

// As fstat(2) writes it.
inline abi::Stat stat_of(const Attr& attr) {
  auto time = [](Time t) { return abi::TimeSpec{t.sec, t.nsec}; };
  abi::Stat stat;
  stat.dev = attr.dev;
  stat.ino = attr.ino;
  stat.nlink = attr.nlink;
  stat.mode = attr.mode;
  stat.uid = attr.uid;
  stat.gid = attr.gid;
  stat.rdev = attr.rdev;
  stat.size = static_cast<i64>(attr.size);
  stat.blksize = attr.blksize;
  stat.blocks = static_cast<i64>(attr.blocks);
  stat.atime = time(attr.atime);
  stat.mtime = time(attr.mtime);
  stat.ctime = time(attr.ctime);
  return stat;
}

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
