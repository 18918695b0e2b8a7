// An OCI config as the plain data the sentry and the gofer start from. No host side effects, save that numbers of
// system calls come from libseccomp's tables.
#pragma once
#include <string>
#include <vector>

#include "oci/spec.h"
#include "sentry/base/result.h"
#include "sentry/control/boot_config.h"

namespace sbx::boot {

// Errors name the field (an option that is not known, a capability that does not exist...).
HostResult<control::ProcessSpec> convert_process(const oci::Process& process, const std::string& field);
HostResult<control::SeccompConfig> convert_seccomp(const oci::Seccomp& seccomp);
// `absent`: what limits that are not given become; for an update VisibleLimits::kUnchanged.
control::VisibleLimits convert_limits(const oci::Resources& resources, i64 absent = -1);
// Type, flags, propagation, data of a mount; gofer_index and is_directory are the caller's to set.
HostResult<control::BootMount> convert_mount(const oci::Mount& mount, const std::string& field);
std::vector<control::BootDevice> convert_devices(const oci::Spec& spec);
std::vector<control::DeviceRule> convert_device_rules(const oci::Resources& resources);
// Every option name that convert_mount knows (for `features`), sorted.
std::vector<std::string> mount_option_names();

// All of the above; descriptors, mounts' gofer indexes and globals of the command are filled in by launch().
HostResult<control::BootConfig> convert_spec(const oci::Spec& spec, const std::string& id, const std::string& bundle);

}  // namespace sbx::boot
