// Attributes: stat, statx, access, chmod, chown, utimes, statfs, readlink.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "sentry/abi/file.h"
#include "sentry/abi/stat.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/path_args.h"
#include "sentry/syscalls/user_io.h"

namespace sbx::syscalls {
namespace {

constexpr DirFd kCwd{AT_FDCWD};

// --- stat ---

abi::StatxTime to_statx_time(vfs::Time t) { return {t.sec, t.nsec, 0}; }

Result<i64> put_stat(Task& task, OutBuf to, const vfs::Attr& attr) {
  TRY(Out<abi::Stat>{to.addr}.write(task, vfs::stat_of(attr)));
  return 0;
}

// An object's attributes: through the descriptor where one was named, since the object may have no name any more.
Result<vfs::Attr> attr_at(Task& task, DirFd dirfd, UserPath path, u64 at_flags, vfs::Path* place = nullptr) {
  if ((at_flags & AT_EMPTY_PATH) && dirfd.n != AT_FDCWD) {
    bool empty = path.addr == 0 || TRY(In<char>{path.addr}.read(task)) == 0;
    if (empty) {
      auto file = TRY(task.fds->get(dirfd.n, true));
      if (place != nullptr) *place = file->path();
      return file->attr();
    }
  }
  vfs::Path found = TRY(resolve_at(task, dirfd, path, at_flags));
  if (place != nullptr) *place = found;
  return found.inode()->attr();
}

constexpr u64 kStatFlags = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT;
constexpr u64 kStatxSyncType = 0x6000;  // AT_STATX_SYNC_TYPE

// --- access ---

// access(2) asks for the real ids: root has all it may have, others nothing (fs/open.c, access_override_creds).
Result<security::CredPtr> real_credentials(const Task& task) {
  const security::Credentials& creds = *task.creds;
  security::CapSet caps = creds.uid == 0 ? creds.permitted : 0;
  if (creds.fsuid == creds.uid && creds.fsgid == creds.gid && creds.effective == caps) return task.creds;
  auto* real = new security::Credentials(creds);
  real->fsuid = creds.uid;
  real->fsgid = creds.gid;
  real->effective = caps;
  return security::CredPtr(real);
}

Result<i64> do_access(Task& task, DirFd dirfd, UserPath path, i32 mode, u64 flags) {
  if (mode & ~(R_OK | W_OK | X_OK)) return Errno::kInval;
  if (flags & ~u64{AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) return Errno::kInval;
  security::CredPtr creds = task.creds;
  if (!(flags & AT_EACCESS)) creds = TRY(real_credentials(task));
  vfs::Path found;
  NameAt name;
  if (!(flags & AT_EMPTY_PATH) || path.addr != 0) name = TRY(name_at(task, dirfd, path));
  if (name.text.empty() && (flags & AT_EMPTY_PATH)) {
    found = TRY(place_of(task, dirfd));
  } else {
    name.start.creds = creds.get();
    vfs::WalkFlags walk;
    walk.follow_last = !(flags & AT_SYMLINK_NOFOLLOW);
    found = TRY(vfs::resolve(name.start, name.text, walk));
  }
  if (mode == F_OK) return 0;
  TRY(vfs::check_path_access(*creds, found, static_cast<u32>(mode)));
  return 0;
}

// --- changes ---

Result<i64> change(Task& task, const vfs::Path& place, const vfs::SetAttr& set) {
  TRY(vfs::set_attr(*task.creds, place, set));
  return 0;
}

vfs::SetAttr to_mode(Mode mode) {
  vfs::SetAttr set;
  set.mask = vfs::SetAttr::kMode;
  set.mode = mode.bits & 07777;
  return set;
}

// -1 leaves an id alone.
vfs::SetAttr to_owner(u32 uid, u32 gid) {
  vfs::SetAttr set;
  if (uid != ~0u) set.mask |= vfs::SetAttr::kUid;
  if (gid != ~0u) set.mask |= vfs::SetAttr::kGid;
  set.uid = uid;
  set.gid = gid;
  return set;
}

Result<i64> do_chmod(Task& task, DirFd dirfd, UserPath path, Mode mode, u64 flags) {
  if (flags & ~u64{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) return Errno::kInval;
  vfs::Path place = TRY(resolve_at(task, dirfd, path, flags));
  if (place.dentry->is_link()) return Errno::kOpnotsupp;
  return change(task, place, to_mode(mode));
}

Result<i64> do_chown(Task& task, DirFd dirfd, UserPath path, u32 uid, u32 gid, u64 flags) {
  if (flags & ~u64{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) return Errno::kInval;
  vfs::Path place = TRY(resolve_at(task, dirfd, path, flags));
  return change(task, place, to_owner(uid, gid));
}

// The two times of utimensat(2); both "now" if there is no array.
Result<vfs::SetAttr> to_times(Task& task, u64 addr) {
  using S = vfs::SetAttr;
  S set;
  if (addr == 0) {
    set.mask = S::kAtime | S::kMtime | S::kAtimeNow | S::kMtimeNow;
    return set;
  }
  struct Pair {
    abi::TimeSpec a, m;
  };
  Pair times = TRY(In<Pair>{addr}.read(task));
  for (const abi::TimeSpec& t : {times.a, times.m}) {
    if (t.nsec != UTIME_NOW && t.nsec != UTIME_OMIT && static_cast<u64>(t.nsec) > 999'999'999) return Errno::kInval;
  }
  if (times.a.nsec == UTIME_NOW)
    set.mask |= S::kAtime | S::kAtimeNow;
  else if (times.a.nsec != UTIME_OMIT)
    set.mask |= S::kAtime;
  if (times.m.nsec == UTIME_NOW)
    set.mask |= S::kMtime | S::kMtimeNow;
  else if (times.m.nsec != UTIME_OMIT)
    set.mask |= S::kMtime;
  // UTIME_NOW and UTIME_OMIT are no times: they do not travel on.
  if (times.a.nsec <= 999'999'999) set.atime = {times.a.sec, static_cast<u32>(times.a.nsec)};
  if (times.m.nsec <= 999'999'999) set.mtime = {times.m.sec, static_cast<u32>(times.m.nsec)};
  return set;
}

// utimes(2) and futimesat(2) count in microseconds.
Result<vfs::SetAttr> to_times_usec(Task& task, u64 addr) {
  if (addr == 0) return to_times(task, 0);
  struct Pair {
    abi::TimeVal a, m;
  };
  Pair times = TRY(In<Pair>{addr}.read(task));
  if (static_cast<u64>(times.a.usec) >= 1'000'000 || static_cast<u64>(times.m.usec) >= 1'000'000) return Errno::kInval;
  vfs::SetAttr set;
  set.mask = vfs::SetAttr::kAtime | vfs::SetAttr::kMtime;
  set.atime = {times.a.sec, static_cast<u32>(times.a.usec * 1000)};
  set.mtime = {times.m.sec, static_cast<u32>(times.m.usec * 1000)};
  return set;
}

// --- statfs ---

Result<i64> put_statfs(Task& task, OutBuf to, const vfs::Path& place) {
  vfs::StatFs in = TRY(place.dentry->fs().statfs());
  abi::StatFs out;
  out.type = static_cast<i64>(in.type);
  out.bsize = static_cast<i64>(in.bsize);
  out.blocks = in.blocks;
  out.bfree = in.bfree;
  out.bavail = in.bavail;
  out.files = in.files;
  out.ffree = in.ffree;
  out.fsid[0] = static_cast<i32>(in.fsid);
  out.fsid[1] = static_cast<i32>(in.fsid >> 32);
  out.namelen = static_cast<i64>(in.namelen);
  out.frsize = static_cast<i64>(in.frsize);
  // ST_* of statfs(2) have the values of MS_* for these; ST_VALID says that they mean something.
  constexpr u64 kShown = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS;
  constexpr u64 kValid = 0x20, kNoAtime = 0x400, kNoDirAtime = 0x800, kRelAtime = 0x1000;
  u64 flags = kValid;
  if (place.mount) {
    const u64 mount = place.mount->flags;
    flags |= mount & kShown;
    if (place.mount->read_only()) flags |= MS_RDONLY;
    if (mount & MS_NOATIME) flags |= kNoAtime;
    if (mount & MS_NODIRATIME) flags |= kNoDirAtime;
    if (mount & MS_RELATIME) flags |= kRelAtime;
  }
  out.flags = static_cast<i64>(flags | in.flags);
  TRY(Out<abi::StatFs>{to.addr}.write(task, out));
  return 0;
}

Result<i64> do_readlink(Task& task, DirFd dirfd, UserPath path, OutBuf to, i32 size) {
  if (size <= 0) return Errno::kInval;
  auto text = TRY(path.read(task));
  task.looked_at = text;
  vfs::Path place;
  if (text.empty()) {
    // An O_PATH descriptor of a link is read through the empty path.
    place = TRY(place_of(task, dirfd));
    if (!place.dentry->is_link()) return Errno::kNoent;
  } else {
    auto start = TRY(task.walk_context_at(dirfd.n, text));
    vfs::WalkFlags flags;
    flags.follow_last = false;
    place = TRY(vfs::resolve(start, text, flags));
  }
  auto target = place.inode()->read_link();
  if (!target) {
    vfs::note_failure(place, task.fs->root);
    return target.error();
  }
  size_t n = std::min<size_t>(target->size(), static_cast<size_t>(size));
  TRY(task.memory().write(to.addr, target->data(), n));
  return static_cast<i64>(n);
}

}  // namespace

// --- stat ---

Result<i64> sys_stat(Task& task, UserPath path, OutBuf to) {
  return put_stat(task, to, TRY(attr_at(task, kCwd, path, 0)));
}
Result<i64> sys_lstat(Task& task, UserPath path, OutBuf to) {
  return put_stat(task, to, TRY(attr_at(task, kCwd, path, AT_SYMLINK_NOFOLLOW)));
}
Result<i64> sys_fstat(Task& task, Fd fd, OutBuf to) {
  auto file = TRY(task.fds->get(fd.n, true));
  return put_stat(task, to, TRY(file->attr()));
}
Result<i64> sys_newfstatat(Task& task, DirFd dirfd, UserPath path, OutBuf to, Hex flags) {
  if (flags.v & ~(kStatFlags | kStatxSyncType)) return Errno::kInval;
  return put_stat(task, to, TRY(attr_at(task, dirfd, path, flags.v)));
}

Result<i64> sys_statx(Task& task, DirFd dirfd, UserPath path, Hex flags, Hex mask, OutBuf to) {
  if ((mask.v & abi::kStatxReserved) || (flags.v & kStatxSyncType) == kStatxSyncType) return Errno::kInval;
  if (flags.v & ~(kStatFlags | kStatxSyncType)) return Errno::kInval;
  vfs::Path place;
  vfs::Attr attr = TRY(attr_at(task, dirfd, path, flags.v, &place));
  abi::Statx out;
  out.mask = abi::kStatxBasicStats;
  out.blksize = attr.blksize;
  out.nlink = attr.nlink;
  out.uid = attr.uid;
  out.gid = attr.gid;
  out.mode = static_cast<u16>(attr.mode);
  out.ino = attr.ino;
  out.size = attr.size;
  out.blocks = attr.blocks;
  out.atime = to_statx_time(attr.atime);
  out.ctime = to_statx_time(attr.ctime);
  out.mtime = to_statx_time(attr.mtime);
  if (attr.btime.sec != 0) {
    out.btime = to_statx_time(attr.btime);
    out.mask |= abi::kStatxBtime;
  }
  out.rdev_major = gnu_dev_major(attr.rdev);
  out.rdev_minor = gnu_dev_minor(attr.rdev);
  out.dev_major = gnu_dev_major(attr.dev);
  out.dev_minor = gnu_dev_minor(attr.dev);
  out.attributes_mask = abi::kStatxAttrMountRoot;
  if (place.mount) {
    out.mnt_id = place.mount->id();
    out.mask |= abi::kStatxMountId;
    if (place.mount->root() == place.dentry) out.attributes |= abi::kStatxAttrMountRoot;
  }
  TRY(Out<abi::Statx>{to.addr}.write(task, out));
  return 0;
}

// --- access ---

Result<i64> sys_access(Task& task, UserPath path, Int mode) { return do_access(task, kCwd, path, mode, 0); }
Result<i64> sys_faccessat(Task& task, DirFd dirfd, UserPath path, Int mode) {
  return do_access(task, dirfd, path, mode, 0);
}
Result<i64> sys_faccessat2(Task& task, DirFd dirfd, UserPath path, Int mode, Hex flags) {
  return do_access(task, dirfd, path, mode, flags.v);
}

// --- mode and owner ---

Result<i64> sys_chmod(Task& task, UserPath path, Mode mode) { return do_chmod(task, kCwd, path, mode, 0); }
Result<i64> sys_fchmodat(Task& task, DirFd dirfd, UserPath path, Mode mode) {
  return do_chmod(task, dirfd, path, mode, 0);
}
Result<i64> sys_fchmodat2(Task& task, DirFd dirfd, UserPath path, Mode mode, Hex flags) {
  return do_chmod(task, dirfd, path, mode, flags.v);
}
Result<i64> sys_fchmod(Task& task, Fd fd, Mode mode) {
  auto file = TRY(task.fds->get(fd.n));
  auto done = change(task, file->path(), to_mode(mode));
  lend_close(task, fd.n, file);
  return done;
}
Result<i64> sys_chown(Task& task, UserPath path, UInt uid, UInt gid) { return do_chown(task, kCwd, path, uid, gid, 0); }
Result<i64> sys_lchown(Task& task, UserPath path, UInt uid, UInt gid) {
  return do_chown(task, kCwd, path, uid, gid, AT_SYMLINK_NOFOLLOW);
}
Result<i64> sys_fchownat(Task& task, DirFd dirfd, UserPath path, UInt uid, UInt gid, Hex flags) {
  return do_chown(task, dirfd, path, uid, gid, flags.v);
}
Result<i64> sys_fchown(Task& task, Fd fd, UInt uid, UInt gid) {
  auto file = TRY(task.fds->get(fd.n));
  auto done = change(task, file->path(), to_owner(uid, gid));
  lend_close(task, fd.n, file);
  return done;
}

// --- times ---

Result<i64> sys_utimensat(Task& task, DirFd dirfd, UserPath path, InBuf times, Hex flags) {
  if (flags.v & ~u64{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) return Errno::kInval;
  vfs::SetAttr set = TRY(to_times(task, times.addr));
  // Nothing to do: not even the path is looked at.
  if (set.mask == 0) return 0;
  if (path.addr == 0 && dirfd.n != AT_FDCWD) {
    if (flags.v != 0) return Errno::kInval;
    auto file = TRY(task.fds->get(dirfd.n));
    auto done = change(task, file->path(), set);
    lend_close(task, dirfd.n, file);
    return done;
  }
  vfs::Path place = TRY(resolve_at(task, dirfd, path, flags.v));
  return change(task, place, set);
}

Result<i64> sys_futimesat(Task& task, DirFd dirfd, UserPath path, InBuf times) {
  vfs::SetAttr set = TRY(to_times_usec(task, times.addr));
  vfs::Path place = TRY(resolve_at(task, dirfd, path, path.addr == 0 ? AT_EMPTY_PATH : 0));
  return change(task, place, set);
}

Result<i64> sys_utimes(Task& task, UserPath path, InBuf times) { return sys_futimesat(task, kCwd, path, times); }

Result<i64> sys_utime(Task& task, UserPath path, InBuf times) {
  vfs::SetAttr set = TRY(to_times(task, 0));
  if (times.addr != 0) {
    auto given = TRY(In<abi::UTimBuf>{times.addr}.read(task));
    set.mask = vfs::SetAttr::kAtime | vfs::SetAttr::kMtime;
    set.atime = {given.actime, 0};
    set.mtime = {given.modtime, 0};
  }
  vfs::Path place = TRY(resolve_at(task, kCwd, path, 0));
  return change(task, place, set);
}

// --- filesystem ---

Result<i64> sys_statfs(Task& task, UserPath path, OutBuf to) {
  vfs::Path place = TRY(resolve_at(task, kCwd, path, 0));
  return put_statfs(task, to, place);
}

Result<i64> sys_fstatfs(Task& task, Fd fd, OutBuf to) {
  vfs::Path place = TRY(place_of(task, DirFd{fd.n < 0 ? -1 : fd.n}));
  return put_statfs(task, to, place);
}

// --- links ---

Result<i64> sys_readlink(Task& task, UserPath path, OutBuf to, Size size) {
  return do_readlink(task, kCwd, path, to, static_cast<i32>(size));
}
Result<i64> sys_readlinkat(Task& task, DirFd dirfd, UserPath path, OutBuf to, Size size) {
  return do_readlink(task, dirfd, path, to, static_cast<i32>(size));
}

}  // namespace sbx::syscalls
