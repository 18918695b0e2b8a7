#include "runtime/host/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <vector>

namespace sbx::host {

HostResult<std::string> read_fd(int fd) {
  std::string out;
  char buffer[16384];
  for (;;) {
    ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failure::from_errno("read");
    if (n == 0) return out;
    out.append(buffer, static_cast<size_t>(n));
  }
}

HostResult<std::string> read_file(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Failure::from_errno(path);
  return read_fd(fd.get()).context(path);
}

HostResult<void> write_file(const std::string& path, std::string_view data) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return Failure::from_errno(path);
  ssize_t n;
  do {
    n = ::write(fd.get(), data.data(), data.size());
  } while (n < 0 && errno == EINTR);
  if (n < 0) return Failure::from_errno("writing \"" + trimmed(data) + "\" to " + path);
  return {};
}

HostResult<void> replace_file(int dir_fd, const std::string& name, std::string_view data, unsigned mode) {
  size_t slash = name.rfind('/');
  std::string temporary = slash == std::string::npos
                              ? "." + name + ".tmp"
                              : name.substr(0, slash + 1) + "." + name.substr(slash + 1) + ".tmp";
  temporary += std::to_string(::getpid());
  UniqueFd fd(::openat(dir_fd, temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  if (!fd) return Failure::from_errno(name);
  size_t done = 0;
  while (done < data.size()) {
    ssize_t n = ::write(fd.get(), data.data() + done, data.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Failure f = Failure::from_errno(name);
      ::unlinkat(dir_fd, temporary.c_str(), 0);
      return f;
    }
    done += static_cast<size_t>(n);
  }
  if (::renameat(dir_fd, temporary.c_str(), dir_fd, name.c_str()) < 0) {
    Failure f = Failure::from_errno(name);
    ::unlinkat(dir_fd, temporary.c_str(), 0);
    return f;
  }
  return {};
}

HostResult<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) return Failure::from_errno(path);
  return fd;
}

HostResult<void> make_directories(const std::string& path, unsigned mode) {
  if (::mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return {};
  if (errno != ENOENT) return Failure::from_errno("mkdir " + path);
  size_t slash = path.find_last_of('/');
  if (slash == std::string::npos || slash == 0) return Failure::from_errno("mkdir " + path);
  TRY(make_directories(path.substr(0, slash), mode));
  if (::mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return {};
  return Failure::from_errno("mkdir " + path);
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

void write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    data.remove_prefix(static_cast<size_t>(n));
  }
}

std::string clean_path(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    size_t slash = path.find('/');
    std::string_view part = path.substr(0, slash);
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
      continue;
    }
    parts.push_back(part);
  }
  std::string out;
  for (std::string_view part : parts) out.append("/").append(part);
  return out.empty() ? "/" : out;
}

std::string trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  while (!text.empty() && (text.front() == '\n' || text.front() == ' ')) text.remove_prefix(1);
  return std::string(text);
}

}  // namespace sbx::host
