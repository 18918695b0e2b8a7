// Docker's daemon.json: one runtime more, or less. Everything else in the document stays, in its order.
#pragma once
#include <string>
#include <vector>

#include "sentry/base/result.h"

namespace sbx::oci {

// The document with runtimes.NAME = {"path": path, "runtimeArgs": args}; `text` itself if that is there already. `file`
// is for messages. Errors: no JSON, no object, "runtimes" is no object.
HostResult<std::string> add_docker_runtime(const std::string& text, const std::string& file, const std::string& name,
                                           const std::string& path, const std::vector<std::string>& args);
// The document without it, and without a "default-runtime" that names it: the daemon would not start. `text` itself if
// there is none.
HostResult<std::string> remove_docker_runtime(const std::string& text, const std::string& file,
                                              const std::string& name);

}  // namespace sbx::oci
