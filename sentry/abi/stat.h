// struct stat, statx, statfs and directory entries as x86-64 programs see them (include/uapi/linux/stat.h,
// arch/x86/include/uapi/asm/stat.h, asm-generic/statfs.h, linux/dirent.h).
#pragma once
#include "sentry/base/types.h"

namespace sbx::abi {

struct TimeSpec {
  i64 sec = 0, nsec = 0;
};
static_assert(sizeof(TimeSpec) == 16);

struct TimeVal {
  i64 sec = 0, usec = 0;
};
static_assert(sizeof(TimeVal) == 16);

struct Stat {
  u64 dev = 0, ino = 0, nlink = 0;
  u32 mode = 0, uid = 0, gid = 0, pad0 = 0;
  u64 rdev = 0;
  i64 size = 0, blksize = 0, blocks = 0;
  TimeSpec atime, mtime, ctime;
  i64 unused[3] = {};
};
static_assert(sizeof(Stat) == 144);

struct StatxTime {
  i64 sec = 0;
  u32 nsec = 0;
  i32 reserved = 0;
};
static_assert(sizeof(StatxTime) == 16);

struct Statx {
  u32 mask = 0, blksize = 0;
  u64 attributes = 0;
  u32 nlink = 0, uid = 0, gid = 0;
  u16 mode = 0, spare0 = 0;
  u64 ino = 0, size = 0, blocks = 0, attributes_mask = 0;
  StatxTime atime, btime, ctime, mtime;
  u32 rdev_major = 0, rdev_minor = 0, dev_major = 0, dev_minor = 0;
  u64 mnt_id = 0;
  u32 dio_mem_align = 0, dio_offset_align = 0;
  u64 spare3[12] = {};
};
static_assert(sizeof(Statx) == 256);

// The mask bits and attributes of statx(2) that we know.
constexpr u32 kStatxBasicStats = 0x7ff, kStatxBtime = 0x800, kStatxMountId = 0x1000, kStatxReserved = 0x80000000;
constexpr u64 kStatxAttrMountRoot = 0x2000;

struct StatFs {
  i64 type = 0, bsize = 0;
  u64 blocks = 0, bfree = 0, bavail = 0, files = 0, ffree = 0;
  i32 fsid[2] = {};
  i64 namelen = 0, frsize = 0, flags = 0, spare[4] = {};
};
static_assert(sizeof(StatFs) == 120);

// Followed by the name, NUL, and padding to 8 bytes.
struct DirEntry64 {
  u64 ino;
  i64 off;
  u16 reclen;
  u8 type;
} __attribute__((packed));
static_assert(sizeof(DirEntry64) == 19);

// The old form: the name follows, and the type is the record's last byte.
struct DirEntryOld {
  u64 ino, off;
  u16 reclen;
} __attribute__((packed));
static_assert(sizeof(DirEntryOld) == 18);

}  // namespace sbx::abi
