// JSON documents to plain data. The only code that sees the JSON library and its exceptions is parse.cc and
// json_write.cc. Errors name the document's field: "linux.resources.memory.limit: expected an integer".
#pragma once
#include <string>
#include <string_view>

#include "oci/spec.h"
#include "oci/state.h"
#include "sentry/base/result.h"

namespace sbx::oci {

HostResult<Spec> parse_spec(std::string_view json);
// The process.json of `exec --process`.
HostResult<Process> parse_process(std::string_view json);
// The LinuxResources document of `update --resources`.
HostResult<Resources> parse_resources(std::string_view json);
HostResult<State> parse_state(std::string_view json);

}  // namespace sbx::oci
