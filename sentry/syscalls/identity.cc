// User and group ids, capabilities, personality (kernel/sys.c, security/commoncap.c).
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/personality.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"

namespace sbx::syscalls {

using security::CapSet;
using security::Credentials;

namespace {

constexpr u32 kUnchanged = ~0u;
constexpr CapSet cap(u32 number) { return 1ull << number; }
// Capabilities that follow fsuid (CAP_FS_SET of the kernel).
constexpr CapSet kFsCaps = cap(CAP_CHOWN) | cap(CAP_MKNOD) | cap(CAP_DAC_OVERRIDE) | cap(CAP_DAC_READ_SEARCH) |
                           cap(CAP_FOWNER) | cap(CAP_FSETID) | cap(CAP_LINUX_IMMUTABLE) | cap(CAP_MAC_OVERRIDE);

RefPtr<Credentials> copy_creds(Task& task) { return make_ref<Credentials>(*task.creds); }

// What capabilities become when uids change (capabilities(7), "Effect of user ID changes on capabilities").
void fix_caps(const Credentials& old, Credentials& now) {
  if (now.securebits & SECBIT_NO_SETUID_FIXUP) return;
  bool had_root = old.uid == 0 || old.euid == 0 || old.suid == 0;
  bool has_root = now.uid == 0 || now.euid == 0 || now.suid == 0;
  if (had_root && !has_root) {
    if (!(now.securebits & SECBIT_KEEP_CAPS)) now.permitted = now.effective = 0;
    now.ambient = 0;
  }
  if (old.euid == 0 && now.euid != 0) now.effective = 0;
  if (old.euid != 0 && now.euid == 0) now.effective = now.permitted;
}

// A process whose ids changed holds secrets of its former self: not dumpable, no parent death signal (prctl(2)).
void forget_trust(Task& task, const Credentials& old, const Credentials& now) {
  bool changed = old.euid != now.euid || old.egid != now.egid || old.fsuid != now.fsuid || old.fsgid != now.fsgid ||
                 (now.permitted & ~old.permitted) != 0;
  if (!changed) return;
  task.group->parent_death_signal = 0;
  const auto& image = task.group->image;
  if (!image || !image->dumpable) return;
  auto copy = make_ref<task::ImageInfo>();
  copy->exe = image->exe;
  copy->exe_file = image->exe_file;
  copy->arg_start = image->arg_start;
  copy->arg_end = image->arg_end;
  copy->env_start = image->env_start;
  copy->env_end = image->env_end;
  copy->stack_start = image->stack_start;
  copy->brk_start = image->brk_start;
  copy->auxv = image->auxv;
  copy->dumpable = false;
  task.group->image = copy;
}

void commit(Task& task, RefPtr<Credentials> now) {
  forget_trust(task, *task.creds, *now);
  task.set_creds(std::move(now));
}

Result<i64> write3(Task& task, OutBuf a, OutBuf b, OutBuf c, u32 x, u32 y, u32 z) {
  TRY(Out<u32>{a.addr}.write(task, x));
  TRY(Out<u32>{b.addr}.write(task, y));
  TRY(Out<u32>{c.addr}.write(task, z));
  return 0;
}

}  // namespace

Result<i64> sys_getuid(Task& task) { return task.creds->uid; }
Result<i64> sys_geteuid(Task& task) { return task.creds->euid; }
Result<i64> sys_getgid(Task& task) { return task.creds->gid; }
Result<i64> sys_getegid(Task& task) { return task.creds->egid; }

Result<i64> sys_setuid(Task& task, UInt uid) {
  if (uid == kUnchanged) return Errno::kInval;
  const Credentials& old = *task.creds;
  auto now = copy_creds(task);
  if (old.capable(CAP_SETUID)) {
    now->uid = now->suid = uid;
  } else if (uid != old.uid && uid != old.suid) {
    return Errno::kPerm;
  }
  now->euid = now->fsuid = uid;
  fix_caps(old, *now);
  commit(task, std::move(now));
  return 0;
}

Result<i64> sys_setgid(Task& task, UInt gid) {
  if (gid == kUnchanged) return Errno::kInval;
  const Credentials& old = *task.creds;
  auto now = copy_creds(task);
  if (old.capable(CAP_SETGID)) {
    now->gid = now->sgid = gid;
  } else if (gid != old.gid && gid != old.sgid) {
    return Errno::kPerm;
  }
  now->egid = now->fsgid = gid;
  commit(task, std::move(now));
  return 0;
}

Result<i64> sys_setreuid(Task& task, UInt ruid, UInt euid) {
  const Credentials& old = *task.creds;
  const bool may = old.capable(CAP_SETUID);
  auto now = copy_creds(task);
  if (ruid != kUnchanged) {
    if (!may && ruid != old.uid && ruid != old.euid) return Errno::kPerm;
    now->uid = ruid;
  }
  if (euid != kUnchanged) {
    if (!may && euid != old.uid && euid != old.euid && euid != old.suid) return Errno::kPerm;
    now->euid = euid;
  }
  if (ruid != kUnchanged || (euid != kUnchanged && euid != old.uid)) now->suid = now->euid;
  now->fsuid = now->euid;
  fix_caps(old, *now);
  commit(task, std::move(now));
  return 0;
}

Result<i64> sys_setregid(Task& task, UInt rgid, UInt egid) {
  const Credentials& old = *task.creds;
  const bool may = old.capable(CAP_SETGID);
  auto now = copy_creds(task);
  if (rgid != kUnchanged) {
    if (!may && rgid != old.gid && rgid != old.egid) return Errno::kPerm;
    now->gid = rgid;
  }
  if (egid != kUnchanged) {
    if (!may && egid != old.gid && egid != old.egid && egid != old.sgid) return Errno::kPerm;
    now->egid = egid;
  }
  if (rgid != kUnchanged || (egid != kUnchanged && egid != old.gid)) now->sgid = now->egid;
  now->fsgid = now->egid;
  commit(task, std::move(now));
  return 0;
}

Result<i64> sys_setresuid(Task& task, UInt ruid, UInt euid, UInt suid) {
  const Credentials& old = *task.creds;
  auto allowed = [&](u32 id) {
    return id == kUnchanged || old.capable(CAP_SETUID) || id == old.uid || id == old.euid || id == old.suid;
  };
  if (!allowed(ruid) || !allowed(euid) || !allowed(suid)) return Errno::kPerm;
  auto now = copy_creds(task);
  if (ruid != kUnchanged) now->uid = ruid;
  if (euid != kUnchanged) now->euid = euid;
  if (suid != kUnchanged) now->suid = suid;
  now->fsuid = now->euid;
  fix_caps(old, *now);
  commit(task, std::move(now));
  return 0;
}

Result<i64> sys_setresgid(Task& task, UInt rgid, UInt egid, UInt sgid) {
  const Credentials& old = *task.creds;
  auto allowed = [&](u32 id) {
    return id == kUnchanged || old.capable(CAP_SETGID) || id == old.gid || id == old.egid || id == old.sgid;
  };
  if (!allowed(rgid) || !allowed(egid) || !allowed(sgid)) return Errno::kPerm;
  auto now = copy_creds(task);
  if (rgid != kUnchanged) now->gid = rgid;
  if (egid != kUnchanged) now->egid = egid;
  if (sgid != kUnchanged) now->sgid = sgid;
  now->fsgid = now->egid;
  commit(task, std::move(now));
  return 0;
}

Result<i64> sys_getresuid(Task& task, OutBuf ruid, OutBuf euid, OutBuf suid) {
  const Credentials& c = *task.creds;
  return write3(task, ruid, euid, suid, c.uid, c.euid, c.suid);
}

Result<i64> sys_getresgid(Task& task, OutBuf rgid, OutBuf egid, OutBuf sgid) {
  const Credentials& c = *task.creds;
  return write3(task, rgid, egid, sgid, c.gid, c.egid, c.sgid);
}

// Both answer the old id, whether it changed or not.
Result<i64> sys_setfsuid(Task& task, UInt uid) {
  const Credentials& old = *task.creds;
  const u32 before = old.fsuid;
  bool allowed = uid == old.uid || uid == old.euid || uid == old.suid || uid == old.fsuid || old.capable(CAP_SETUID);
  if (uid == kUnchanged || !allowed || uid == before) return before;
  auto now = copy_creds(task);
  now->fsuid = uid;
  if (!(now->securebits & SECBIT_NO_SETUID_FIXUP)) {
    if (before == 0) now->effective &= ~kFsCaps;
    if (uid == 0) now->effective |= now->permitted & kFsCaps;
  }
  commit(task, std::move(now));
  return before;
}

Result<i64> sys_setfsgid(Task& task, UInt gid) {
  const Credentials& old = *task.creds;
  const u32 before = old.fsgid;
  bool allowed = gid == old.gid || gid == old.egid || gid == old.sgid || gid == old.fsgid || old.capable(CAP_SETGID);
  if (gid == kUnchanged || !allowed || gid == before) return before;
  auto now = copy_creds(task);
  now->fsgid = gid;
  commit(task, std::move(now));
  return before;
}

Result<i64> sys_getgroups(Task& task, Int size, OutBuf list) {
  const auto& groups = task.creds->groups;
  if (size < 0) return Errno::kInval;
  if (size == 0) return static_cast<i64>(groups.size());
  if (groups.size() > static_cast<size_t>(size)) return Errno::kInval;
  TRY(task.memory().write(list.addr, groups.data(), groups.size() * sizeof(u32)));
  return static_cast<i64>(groups.size());
}

Result<i64> sys_setgroups(Task& task, Int size, InBuf list) {
  constexpr u32 kMaxGroups = 65536;
  if (!task.creds->capable(CAP_SETGID)) return Errno::kPerm;
  if (static_cast<u32>(size) > kMaxGroups) return Errno::kInval;
  std::vector<u32> groups(static_cast<size_t>(size));
  if (!groups.empty()) TRY(task.memory().read(list.addr, groups.data(), groups.size() * sizeof(u32)));
  if (std::find(groups.begin(), groups.end(), kUnchanged) != groups.end()) return Errno::kInval;
  std::sort(groups.begin(), groups.end());
  auto now = copy_creds(task);
  now->groups = std::move(groups);
  commit(task, std::move(now));
  return 0;
}

namespace {

struct CapHeader {
  u32 version;
  i32 pid;
};
struct CapData {
  u32 effective, permitted, inheritable;
};

// Number of 32-bit words per set, 0 for an unknown version (the preferred one is then written back).
Result<u32> cap_words(Task& task, u64 header_addr, CapHeader* header) {
  *header = TRY(In<CapHeader>{header_addr}.read(task));
  switch (header->version) {
    case _LINUX_CAPABILITY_VERSION_1: return 1u;
    case _LINUX_CAPABILITY_VERSION_2:
    case _LINUX_CAPABILITY_VERSION_3: return 2u;
    default: TRY(Out<u32>{header_addr}.write(task, static_cast<u32>(_LINUX_CAPABILITY_VERSION_3))); return 0u;
  }
}

}  // namespace

Result<i64> sys_capget(Task& task, InOut<u64> header_ptr, OutBuf data) {
  CapHeader header;
  u32 words = TRY(cap_words(task, header_ptr.addr, &header));
  if (words == 0) {
    if (data.addr == 0) return 0;
    return Errno::kInval;
  }
  if (header.pid < 0) return Errno::kInval;
  Task* target = header.pid == 0 ? &task : task::kernel().find_task(header.pid);
  if (target == nullptr) return Errno::kSrch;
  if (data.addr == 0) return 0;
  const Credentials& c = *target->creds;
  CapData out[2];
  for (u32 i = 0; i < 2; ++i) {
    out[i].effective = static_cast<u32>(c.effective >> (32 * i));
    out[i].permitted = static_cast<u32>(c.permitted >> (32 * i));
    out[i].inheritable = static_cast<u32>(c.inheritable >> (32 * i));
  }
  TRY(task.memory().write(data.addr, out, words * sizeof(CapData)));
  return 0;
}

Result<i64> sys_capset(Task& task, InBuf header_ptr, InBuf data) {
  CapHeader header;
  u32 words = TRY(cap_words(task, header_ptr.addr, &header));
  if (words == 0) return Errno::kInval;
  if (header.pid != 0 && header.pid != task.tid) return Errno::kPerm;
  CapData in[2]{};
  TRY(task.memory().read(data.addr, in, words * sizeof(CapData)));
  auto join = [](u32 low, u32 high) { return (low | (static_cast<u64>(high) << 32)) & security::kAllCaps; };
  const CapSet effective = join(in[0].effective, in[1].effective);
  const CapSet permitted = join(in[0].permitted, in[1].permitted);
  const CapSet inheritable = join(in[0].inheritable, in[1].inheritable);
  const Credentials& old = *task.creds;
  if (!old.capable(CAP_SETPCAP) && (inheritable & ~(old.inheritable | old.permitted)) != 0) return Errno::kPerm;
  if ((inheritable & ~(old.inheritable | old.bounding)) != 0) return Errno::kPerm;
  if ((permitted & ~old.permitted) != 0) return Errno::kPerm;
  if ((effective & ~permitted) != 0) return Errno::kPerm;
  auto now = copy_creds(task);
  now->effective = effective;
  now->permitted = permitted;
  now->inheritable = inheritable;
  now->ambient &= permitted & inheritable;
  commit(task, std::move(now));
  return 0;
}

Result<i64> sys_personality(Task& task, ULong persona) {
  constexpr u32 kQuery = 0xffffffff;
  // The low byte says whose programs they are and only changes uname (PER_LINUX32); ADDR_NO_RANDOMIZE is what debuggers
  // set; SHORT_INODE and WHOLE_SECONDS do nothing in Linux either. Others would change how programs run.
  constexpr u32 kKnown = 0x0040000 | 0x1000000 | 0x2000000 | 0xff;
  const u32 wanted = static_cast<u32>(persona), old = task.personality;
  if (wanted == kQuery) return old;
  if ((wanted & ~kKnown) != 0) {
    STUB("personality", persona);
    return Errno::kInval;
  }
  task.personality = wanted;
  return old;
}

}  // namespace sbx::syscalls
