// Small file helpers of the runtime. All descriptors are close-on-exec.
#pragma once
#include <string>
#include <string_view>

#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"

namespace sbx::host {

// Errors read "path: No such file or directory".
HostResult<std::string> read_file(const std::string& path);
HostResult<std::string> read_fd(int fd);
// One write to an existing file (proc, cgroup files).
HostResult<void> write_file(const std::string& path, std::string_view data);
// Creates or replaces a file through a temporary name and rename.
HostResult<void> replace_file(int dir_fd, const std::string& name, std::string_view data, unsigned mode);
HostResult<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0);
HostResult<void> make_directories(const std::string& path, unsigned mode);
bool exists(const std::string& path);
void write_all(int fd, std::string_view data);

// "/a//b/../c/." -> "/a/c"; relative paths are taken as below "/".
std::string clean_path(std::string_view path);
std::string trimmed(std::string_view text);

}  // namespace sbx::host
