// What the three kinds of System V objects share (svipc(7), sysvipc(7), ipc/util.c): keys, ids, owners, permissions.
// Kernel lock for everything.
#pragma once
#include <sys/ipc.h>

#include <map>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/security/credentials.h"

namespace sbx::ipc {

constexpr u32 kMaxIds = 32768;  // IPCMNI; an id is its place plus this times a sequence number
constexpr u16 kMayRead = 0444, kMayWrite = 0222, kMayExecute = 0111;

// Seconds of CLOCK_REALTIME, as the times of the objects are kept.
i64 now();

// Base of the objects. An object that was removed lives on while somebody uses it, under no id.
class Object : public RefCounted {
 public:
  i32 key = IPC_PRIVATE;
  i32 id = -1;
  u32 uid = 0, gid = 0, cuid = 0, cgid = 0;
  u16 mode = 0;
  bool removed = false;
  i64 ctime = 0;

  // kAcces unless `want` (kMayRead ...) is granted, or the caller has CAP_IPC_OWNER.
  Result<void> check_access(const security::Credentials& creds, u16 want) const;
  // kPerm unless the caller is the owner, the creator, or has CAP_SYS_ADMIN: who may change and remove it.
  Result<void> check_owner(const security::Credentials& creds) const;
  void encode(ipc_perm& out) const;
  // IPC_SET: owner and permission bits. kInval for ids that are none.
  Result<void> set_owner(u32 new_uid, u32 new_gid, u32 new_mode);
};

template <typename T>
class Table {
 public:
  // The `get` calls: the object of `key`, or a new one by make() (which may fail). `check` looks at an existing one
  // before its permissions are. kNoent, kExist, kAcces, kNospc.
  template <typename Check, typename Make>
  Result<i32> get(const security::Credentials& creds, i32 key, u32 flags, Check check, Make make) {
    if (key != IPC_PRIVATE) {
      for (const auto& [place, object] : objects_) {
        if (object->key != key) continue;
        if ((flags & (IPC_CREAT | IPC_EXCL)) == (IPC_CREAT | IPC_EXCL)) return Errno::kExist;
        TRY(check(*object));
        TRY(object->check_access(creds, static_cast<u16>(flags & 0777)));
        return object->id;
      }
      if ((flags & IPC_CREAT) == 0) return Errno::kNoent;
    }
    if (objects_.size() >= limit) return Errno::kNospc;
    RefPtr<T> object = TRY(make());
    object->key = key;
    object->mode = static_cast<u16>(flags & 0777);
    object->uid = object->cuid = creds.euid;
    object->gid = object->cgid = creds.egid;
    object->ctime = now();
    u32 place = 0;
    while (objects_.count(place) != 0) ++place;
    // As ids are given again late, a stale one is told from a new object's.
    object->id = static_cast<i32>(sequence_ * kMaxIds + place);
    sequence_ = (sequence_ + 1) % (INT32_MAX / kMaxIds);
    objects_[place] = object;
    return object->id;
  }
  // kInval: there is none.
  Result<RefPtr<T>> find(i32 id) const {
    if (id < 0) return Errno::kInval;
    auto it = objects_.find(static_cast<u32>(id) % kMaxIds);
    if (it == objects_.end() || it->second->id != id) return Errno::kInval;
    return it->second;
  }
  // By its place, for SHM_STAT and its like.
  Result<RefPtr<T>> at(i32 place) const {
    if (place < 0) return Errno::kInval;
    auto it = objects_.find(static_cast<u32>(place));
    if (it == objects_.end()) return Errno::kInval;
    return it->second;
  }
  void remove(T& object) {
    RefPtr<T> keep(&object);
    object.removed = true;
    objects_.erase(static_cast<u32>(object.id) % kMaxIds);
  }
  // The highest place in use, 0 if there is none: what the INFO commands answer.
  i32 highest() const { return objects_.empty() ? 0 : static_cast<i32>(objects_.rbegin()->first); }
  const std::map<u32, RefPtr<T>>& objects() const { return objects_; }

  u32 limit = kMaxIds;

 private:
  std::map<u32, RefPtr<T>> objects_;
  u32 sequence_ = 0;
};

}  // namespace sbx::ipc
