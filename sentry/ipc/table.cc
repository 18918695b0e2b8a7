#include "sentry/ipc/table.h"

#include <linux/capability.h>
#include <time.h>

namespace sbx::ipc {

i64 now() {
  timespec ts{};
  clock_gettime(CLOCK_REALTIME, &ts);
  return ts.tv_sec;
}

Result<void> Object::check_access(const security::Credentials& creds, u16 want) const {
  // ipc/util.c ipcperms: bits of any class count as a wish.
  u32 wanted = static_cast<u32>(want >> 6) | static_cast<u32>(want >> 3) | want;
  u32 granted = mode;
  if (creds.euid == cuid || creds.euid == uid)
    granted >>= 6;
  else if (creds.in_group(cgid) || creds.in_group(gid))
    granted >>= 3;
  if ((wanted & ~granted & 7) != 0 && !creds.capable(CAP_IPC_OWNER)) return Errno::kAcces;
  return {};
}

Result<void> Object::check_owner(const security::Credentials& creds) const {
  if (creds.euid == cuid || creds.euid == uid || creds.capable(CAP_SYS_ADMIN)) return {};
  return Errno::kPerm;
}

void Object::encode(ipc_perm& out) const {
  out = {};
  out.__key = key;
  out.uid = uid;
  out.gid = gid;
  out.cuid = cuid;
  out.cgid = cgid;
  out.mode = mode;
  out.__seq = static_cast<unsigned short>(static_cast<u32>(id) / kMaxIds);
}

Result<void> Object::set_owner(u32 new_uid, u32 new_gid, u32 new_mode) {
  if (new_uid == ~0u || new_gid == ~0u) return Errno::kInval;
  uid = new_uid;
  gid = new_gid;
  mode = static_cast<u16>((mode & ~0777u) | (new_mode & 0777u));
  ctime = now();
  return {};
}

}  // namespace sbx::ipc
