#include "sentry/security/credentials.h"

#include <algorithm>

namespace sbx::security {

// A copy starts with no references of its own.
Credentials::Credentials(const Credentials& o)
    : RefCounted(),
      uid(o.uid),
      euid(o.euid),
      suid(o.suid),
      fsuid(o.fsuid),
      gid(o.gid),
      egid(o.egid),
      sgid(o.sgid),
      fsgid(o.fsgid),
      groups(o.groups),
      effective(o.effective),
      permitted(o.permitted),
      inheritable(o.inheritable),
      bounding(o.bounding),
      ambient(o.ambient),
      securebits(o.securebits),
      no_new_privs(o.no_new_privs) {}

bool Credentials::in_group(u32 g) const { return g == fsgid || std::binary_search(groups.begin(), groups.end(), g); }

const CredPtr& kernel_credentials() {
  static const auto* instance = [] {
    auto* creds = new Credentials;
    creds->effective = creds->permitted = kAllCaps;
    return new CredPtr(creds);
  }();
  return *instance;
}

}  // namespace sbx::security
