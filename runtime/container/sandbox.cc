#include "runtime/container/sandbox.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "runtime/host/files.h"
#include "sentry/base/log.h"

namespace sbx::container {
namespace {

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

// The namespace that the specification names is the one the process is in.
bool shares(const oci::Spec& spec, const char* type, i32 pid, const char* name) {
  const oci::Namespace* wanted = spec.linux_.find_namespace(type);
  struct stat a {
  }, b{};
  return wanted != nullptr && !wanted->path.empty() && ::stat(wanted->path.c_str(), &a) == 0 &&
         ::stat(("/proc/" + std::to_string(pid) + "/ns/" + name).c_str(), &b) == 0 && same_file(a, b);
}

}  // namespace

HostResult<std::optional<Sandbox>> find_sandbox(const std::string& root, const oci::Spec& spec) {
  const oci::Namespace* wanted = spec.linux_.find_namespace("pid");
  if (wanted == nullptr || wanted->path.empty()) return std::optional<Sandbox>();
  UniqueFd fd = TRY(host::open_file(wanted->path, O_RDONLY).context("linux.namespaces: pid"));
  struct stat ours {};
  if (::fstat(fd.get(), &ours) < 0) return Failure::from_errno("linux.namespaces: pid: " + wanted->path);
  for (const std::string& id : Container::list(root)) {
    auto c = Container::open(root, id, Lock::kNone);
    // Who joined it is in the same namespace.
    if (!c || !c->alive() || !c->state.sandbox.empty()) continue;
    struct stat theirs {};
    const std::string path = "/proc/" + std::to_string(c->state.pid) + "/ns/pid";
    if (::stat(path.c_str(), &theirs) < 0 || !same_file(ours, theirs)) continue;
    Sandbox out;
    out.id = id;
    out.target.control = TRY(c->connect());
    out.target.pid_namespace = std::move(fd);
    out.shares_net = shares(spec, "network", c->state.pid, "net");
    out.shares_ipc = shares(spec, "ipc", c->state.pid, "ipc");
    out.shares_uts = shares(spec, "uts", c->state.pid, "uts");
    return std::optional<Sandbox>(std::move(out));
  }
  LOG_WARNING("linux.namespaces: pid: %s is not the pid namespace of a container of sbx: the container gets its own",
              wanted->path.c_str());
  return std::optional<Sandbox>();
}

}  // namespace sbx::container
