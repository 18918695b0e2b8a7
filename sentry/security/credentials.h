// Credentials of a task (credentials(7), capabilities(7)): immutable and shared; a change makes a copy.
#pragma once
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/base/types.h"

namespace sbx::security {

using CapSet = u64;
constexpr u32 kLastCap = 40;  // CAP_CHECKPOINT_RESTORE
constexpr CapSet kAllCaps = (1ull << (kLastCap + 1)) - 1;

struct Credentials : public RefCounted {
  u32 uid = 0, euid = 0, suid = 0, fsuid = 0;
  u32 gid = 0, egid = 0, sgid = 0, fsgid = 0;
  std::vector<u32> groups;  // supplementary, sorted
  CapSet effective = 0, permitted = 0, inheritable = 0, bounding = kAllCaps, ambient = 0;
  u32 securebits = 0;
  bool no_new_privs = false;

  Credentials() = default;
  Credentials(const Credentials& o);
  // `cap` is a CAP_* number of linux/capability.h.
  bool capable(u32 cap) const { return (effective >> cap) & 1; }
  bool in_group(u32 gid) const;  // fsgid or supplementary
};
using CredPtr = RefPtr<const Credentials>;

// Root with every capability: the kernel's own accesses.
const CredPtr& kernel_credentials();

}  // namespace sbx::security
