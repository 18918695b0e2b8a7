// A container's scope (systemd.scope(5)): asked for at its creation, told of changed limits, stopped at its end. Limits
// are written to the control group by ourselves, too; systemd must know them, as it writes its own view again whenever
// it reloads.
#pragma once
#include <string>

#include "oci/spec.h"
#include "runtime/systemd/message.h"
#include "sentry/base/result.h"

namespace sbx::systemd {

struct UnitName {
  std::string slice;  // system.slice
  std::string unit;   // sbx-ID.scope
};
// linux.cgroupsPath, which must have the form slice:prefix:name. "" is system.slice (user.slice without root).
HostResult<UnitName> unit_name(const std::string& cgroups_path, const std::string& id, bool root);

// What of the limits systemd has properties for. `unified`: the names for cgroup v2, else those for v1.
std::vector<Property> limit_properties(const oci::Resources& resources, bool unified);
// Annotations "org.systemd.property.NAME", whose values are GVariant texts: booleans, strings, uint64.
HostResult<std::vector<Property>> annotated_properties(const oci::StringMap& annotations);

// A scope that was started, held alive by a process of ours until this goes: whatever shall live in it moves there
// before.
class Scope {
 public:
  // Waits until systemd has made it. Takes the place of a failed unit of the name; one that is there is an error.
  static HostResult<Scope> start(const UnitName& name, const std::string& id, std::vector<Property> properties);
  Scope(Scope&& o) noexcept : holder_(o.holder_), path_(std::move(o.path_)) { o.holder_ = -1; }
  Scope& operator=(Scope&&) = delete;
  ~Scope();

  // Its control group, below each hierarchy's mount.
  const std::string& cgroup_path() const { return path_; }

 private:
  explicit Scope(i32 holder) : holder_(holder) {}
  i32 holder_ = -1;
  std::string path_;
};

HostResult<void> set_properties(const std::string& unit, const std::vector<Property>& properties);
// Stops it and waits; what still lives in it gets SIGTERM, and SIGKILL after systemd's time. No such unit is no error.
HostResult<void> stop(const std::string& unit);

}  // namespace sbx::systemd
