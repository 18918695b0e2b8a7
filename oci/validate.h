// What a well-formed document must also satisfy. Every rejection names the field. Fills in what is computed from text
// (rlimit numbers); opens nothing but looks at no path of the host either: missing files are found by those who open
// them.
#pragma once
#include "oci/spec.h"
#include "sentry/base/result.h"

namespace sbx::oci {

HostResult<void> validate(Spec& spec);
// `field` prefixes the names in errors: "process" or "".
HostResult<void> validate(Process& process, const std::string& field);
HostResult<void> validate(const Resources& resources, const std::string& field);

// "CAP_CHOWN" to its number; -1: unknown.
int capability_number(std::string_view name);
const char* capability_name(int number);  // nullptr past the last
// "RLIMIT_CORE" to its number; -1: unknown.
int rlimit_number(std::string_view name);
// "0-3,5" to a list, ascending; false: not a list.
bool parse_cpu_list(std::string_view text, std::vector<u32>& out);

}  // namespace sbx::oci
