#include "runtime/host/idmap.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>

#include "runtime/host/files.h"

extern char** environ;

namespace sbx::host {
namespace {

std::string map_text(const std::vector<oci::IdMapping>& map) {
  std::string out;
  for (const auto& m : map) {
    out += std::to_string(m.container_id) + " " + std::to_string(m.host_id) + " " + std::to_string(m.size) + "\n";
  }
  return out;
}

const char* find_tool(const char* name) {
  static std::string path;
  for (const char* dir : {"/usr/bin/", "/bin/", "/usr/local/bin/"}) {
    path = std::string(dir) + name;
    if (::access(path.c_str(), X_OK) == 0) return path.c_str();
  }
  return nullptr;
}

HostResult<void> run_tool(const char* name, i32 pid, const std::vector<oci::IdMapping>& map) {
  const char* found = find_tool(name);
  if (found == nullptr)
    return Failure(Errno::kNoent, std::string(name) + " is not installed, and it is needed for these mappings");
  std::string path = found;
  std::vector<std::string> words = {name, std::to_string(pid)};
  for (const auto& m : map) {
    words.push_back(std::to_string(m.container_id));
    words.push_back(std::to_string(m.host_id));
    words.push_back(std::to_string(m.size));
  }
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  int rc = ::posix_spawn(&child, path.c_str(), nullptr, nullptr, argv.data(), environ);
  if (rc != 0) {
    errno = rc;
    return Failure::from_errno(path);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return Failure(Errno::kPerm, std::string(name) + " failed");
  return {};
}

HostResult<void> write_map(i32 pid, const char* file, const char* tool, const char* field,
                           const std::vector<oci::IdMapping>& map) {
  auto done = write_file("/proc/" + std::to_string(pid) + "/" + file, map_text(map));
  if (done) return {};
  if (done.error().code != Errno::kPerm || ::geteuid() == 0) return std::move(done).error().context(field);
  return run_tool(tool, pid, map).context(field);
}

}  // namespace

bool in_user_namespace() {
  auto map = read_file("/proc/self/uid_map");
  if (!map) return false;
  std::istringstream in(*map);
  u64 inside = 1, outside = 1, count = 0;
  in >> inside >> outside >> count;
  return inside != 0 || outside != 0 || count != 0xffffffff;
}

HostResult<void> write_id_maps(i32 pid, const std::vector<oci::IdMapping>& uids,
                               const std::vector<oci::IdMapping>& gids) {
  // Without privilege a gid map may only be written once setgroups is off (user_namespaces(7)); newgidmap wants it on.
  bool single = gids.size() == 1 && gids[0].size == 1;
  if (::geteuid() != 0 && single) (void)write_file("/proc/" + std::to_string(pid) + "/setgroups", "deny");
  TRY(write_map(pid, "uid_map", "newuidmap", "linux.uidMappings", uids));
  return write_map(pid, "gid_map", "newgidmap", "linux.gidMappings", gids);
}

std::vector<oci::IdMapping> rootless_map(u32 own_id, const char* ranges_file, const std::string& user) {
  std::vector<oci::IdMapping> out = {{0, own_id, 1}};
  if (find_tool("newuidmap") == nullptr || find_tool("newgidmap") == nullptr) return out;
  auto text = read_file(ranges_file);
  if (!text) return out;
  std::istringstream in(*text);
  u32 next = 1;
  for (std::string line; std::getline(in, line);) {
    size_t a = line.find(':'), b = line.rfind(':');
    if (a == std::string::npos || a == b) continue;
    std::string name = line.substr(0, a);
    if (name != user && name != std::to_string(own_id)) continue;
    u32 start = static_cast<u32>(std::strtoul(line.c_str() + a + 1, nullptr, 10));
    u32 size = static_cast<u32>(std::strtoul(line.c_str() + b + 1, nullptr, 10));
    if (size == 0) continue;
    out.push_back({next, start, size});
    next += size;
  }
  return out;
}

}  // namespace sbx::host
