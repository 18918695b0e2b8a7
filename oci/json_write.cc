#include "oci/json_write.h"

#include <nlohmann/json.hpp>

#include "oci/parse.h"

namespace sbx::oci {
namespace {

// Keeps the order of insertion, which is the specification's.
using Json = nlohmann::ordered_json;

// Arguments and paths may hold bytes that are no UTF-8.
std::string dump(const Json& j, int indent = -1, char with = ' ') {
  return j.dump(indent, with, false, Json::error_handler_t::replace);
}

Json map_json(const StringMap& map) {
  Json j = Json::object();
  for (const auto& [k, v] : map) j[k] = v;
  return j;
}

Json hooks_json(const std::vector<Hook>& hooks) {
  Json list = Json::array();
  for (const Hook& h : hooks) {
    Json j{{"path", h.path}, {"args", h.args}, {"env", h.env}};
    if (h.timeout_s) j["timeout"] = *h.timeout_s;
    list.push_back(std::move(j));
  }
  return list;
}

Json process_json(const Process& p) {
  Json j;
  j["terminal"] = p.terminal;
  j["user"] = {{"uid", p.user.uid}, {"gid", p.user.gid}, {"additionalGids", p.user.additional_gids}};
  if (p.user.umask) j["user"]["umask"] = *p.user.umask;
  j["args"] = p.args;
  j["env"] = p.env;
  j["cwd"] = p.cwd;
  if (p.capabilities) {
    j["capabilities"] = {{"bounding", p.capabilities->bounding},
                         {"effective", p.capabilities->effective},
                         {"inheritable", p.capabilities->inheritable},
                         {"permitted", p.capabilities->permitted},
                         {"ambient", p.capabilities->ambient}};
  }
  Json limits = Json::array();
  for (const Rlimit& r : p.rlimits) limits.push_back({{"type", r.type}, {"hard", r.hard}, {"soft", r.soft}});
  j["rlimits"] = std::move(limits);
  j["noNewPrivileges"] = p.no_new_privileges;
  j["apparmorProfile"] = p.apparmor_profile;
  j["selinuxLabel"] = p.selinux_label;
  return j;
}

Json base_state(const State& s, Status status) {
  Json j;
  j["ociVersion"] = s.oci_version;
  j["id"] = s.id;
  j["pid"] = status == Status::kStopped ? 0 : s.pid;
  j["status"] = status_name(status);
  j["bundle"] = s.bundle;
  return j;
}

}  // namespace

const char* status_name(Status status) {
  switch (status) {
    case Status::kCreating: return "creating";
    case Status::kCreated: return "created";
    case Status::kRunning: return "running";
    case Status::kPaused: return "paused";
    case Status::kStopped: return "stopped";
  }
  return "stopped";
}

std::string write_state_file(const State& s) {
  Json j;
  j["ociVersion"] = s.oci_version;
  j["id"] = s.id;
  j["status"] = status_name(s.status);
  j["pid"] = s.pid;
  j["bundle"] = s.bundle;
  j["annotations"] = map_json(s.annotations);
  j["rootfs"] = s.rootfs;
  j["created"] = s.created;
  j["owner"] = s.owner;
  j["pidStartTime"] = s.pid_start_time;
  j["goferPid"] = s.gofer_pid;
  j["goferStartTime"] = s.gofer_start_time;
  j["cgroupPath"] = s.cgroup_path;
  j["systemdUnit"] = s.systemd_unit;
  j["cgroupDirs"] = s.cgroup_dirs;
  j["ownUserNamespace"] = s.own_user_namespace;
  j["hostPidNamespace"] = s.host_pid_namespace;
  j["sandbox"] = s.sandbox;
  j["rootless"] = s.rootless;
  j["terminal"] = s.terminal;
  j["noNewPrivs"] = s.no_new_privs;
  j["poststart"] = hooks_json(s.poststart);
  j["poststop"] = hooks_json(s.poststop);
  j["startContainer"] = hooks_json(s.start_container);
  j["initArgs"] = s.init_args;
  j["execDefaults"] = process_json(s.exec_defaults);
  return dump(j);
}

std::string write_hook_state(const State& s, Status status) {
  Json j = base_state(s, status);
  if (!s.annotations.empty()) j["annotations"] = map_json(s.annotations);
  return dump(j);
}

std::string write_public_state(const State& s, Status status) {
  Json j = base_state(s, status);
  j["rootfs"] = s.rootfs;
  j["created"] = s.created;
  if (!s.annotations.empty()) j["annotations"] = map_json(s.annotations);
  j["owner"] = s.owner;
  return dump(j, 2);
}

std::string write_list(const std::vector<std::pair<State, Status>>& containers) {
  if (containers.empty()) return "null";  // what a Go slice without elements prints as, and tools expect
  Json list = Json::array();
  for (const auto& [s, status] : containers) {
    Json j = base_state(s, status);
    j["rootfs"] = s.rootfs;
    j["created"] = s.created;
    if (!s.annotations.empty()) j["annotations"] = map_json(s.annotations);
    j["owner"] = s.owner;
    list.push_back(std::move(j));
  }
  return dump(list);
}

std::string write_pids(const std::vector<i32>& pids) { return dump(Json(pids)); }

std::string write_default_spec(bool rootless, bool cgroup_namespace, u32 uid, u32 gid) {
  const std::vector<std::string> caps = {"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"};
  auto mount = [](const char* destination, const char* type, const char* source, std::vector<std::string> options) {
    Json m{{"destination", destination}, {"type", type}, {"source", source}};
    if (!options.empty()) m["options"] = options;
    return m;
  };
  Json j;
  j["ociVersion"] = "1.0.2-dev";
  j["process"] = {{"terminal", true},
                  {"user", {{"uid", 0}, {"gid", 0}}},
                  {"args", {"sh"}},
                  {"env", {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"}},
                  {"cwd", "/"},
                  {"capabilities", {{"bounding", caps}, {"effective", caps}, {"permitted", caps}, {"ambient", caps}}}};
  j["process"]["rlimits"] = Json::array({Json{{"type", "RLIMIT_NOFILE"}, {"hard", 1024}, {"soft", 1024}}});
  j["process"]["noNewPrivileges"] = true;
  j["root"] = {{"path", "rootfs"}, {"readonly", true}};
  j["hostname"] = "sbx";
  Json mounts = Json::array();
  mounts.push_back(mount("/proc", "proc", "proc", {}));
  mounts.push_back(mount("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}));
  std::vector<std::string> pts = {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"};
  if (!rootless) pts.push_back("gid=5");
  mounts.push_back(mount("/dev/pts", "devpts", "devpts", pts));
  mounts.push_back(mount("/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}));
  mounts.push_back(mount("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}));
  if (rootless) {
    mounts.push_back(mount("/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro"}));
  } else {
    mounts.push_back(mount("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}));
  }
  mounts.push_back(mount("/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}));
  j["mounts"] = std::move(mounts);
  Json l;
  if (rootless) {
    auto one = [](u32 id) { return Json::array({Json{{"containerID", 0}, {"hostID", id}, {"size", 1}}}); };
    l["uidMappings"] = one(uid);
    l["gidMappings"] = one(gid);
  } else {
    l["resources"] = {{"devices", Json::array({Json{{"allow", false}, {"access", "rwm"}}})}};
  }
  Json namespaces = Json::array();
  std::vector<const char*> types = {"pid", "network", "ipc", "uts", "mount"};
  if (rootless) types = {"pid", "ipc", "uts", "mount", "user"};
  if (cgroup_namespace) types.push_back("cgroup");
  for (const char* type : types) namespaces.push_back(Json{{"type", type}});
  l["namespaces"] = std::move(namespaces);
  l["maskedPaths"] = {"/proc/acpi",          "/proc/asound",     "/proc/kcore",       "/proc/keys",
                      "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                      "/sys/firmware",       "/proc/scsi"};
  l["readonlyPaths"] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
  j["linux"] = std::move(l);
  return dump(j, 1, '\t') + "\n";
}

std::string write_features(const Features& f) {
  Json j;
  j["ociVersionMin"] = "1.0.0";
  j["ociVersionMax"] = kSpecVersion;
  j["hooks"] = f.hooks;
  j["mountOptions"] = f.mount_options;
  Json l;
  l["namespaces"] = f.namespaces;
  l["capabilities"] = f.capabilities;
  l["cgroup"] = {
      {"v1", f.cgroup_v1}, {"v2", f.cgroup_v2}, {"systemd", f.systemd}, {"systemdUser", false}, {"rdma", false}};
  l["seccomp"] = {{"enabled", true},          {"actions", f.seccomp_actions},  {"operators", f.seccomp_operators},
                  {"archs", f.seccomp_archs}, {"knownFlags", f.seccomp_flags}, {"supportedFlags", f.seccomp_flags}};
  l["apparmor"] = {{"enabled", false}};
  l["selinux"] = {{"enabled", false}};
  l["intelRdt"] = {{"enabled", false}};
  l["mountExtensions"] = {{"idmap", {{"enabled", false}}}};
  j["linux"] = std::move(l);
  Json annotations = map_json(f.kernel);
  annotations["io.github.seccomp.libseccomp.version"] = f.libseccomp;
  annotations["org.sbx.version"] = f.version;
  annotations["org.sbx.commit"] = f.commit;
  j["annotations"] = std::move(annotations);
  j["potentiallyUnsafeConfigAnnotations"] = Json::array();
  return dump(j, 4) + "\n";
}

namespace {

Json blkio_json(const std::vector<Stats::BlkioEntry>& entries) {
  Json list = Json::array();
  for (const auto& e : entries)
    list.push_back({{"major", e.major}, {"minor", e.minor}, {"op", e.op}, {"value", e.value}});
  return list;
}

}  // namespace

std::string write_stats_event(const std::string& id, const Stats& s) {
  Json data;
  data["cpu"] = {
      {"usage",
       {{"total", s.cpu_total_ns}, {"percpu", s.cpu_percpu_ns}, {"kernel", s.cpu_system_ns}, {"user", s.cpu_user_ns}}},
      {"throttling",
       {{"periods", s.throttle_periods},
        {"throttledPeriods", s.throttled_periods},
        {"throttledTime", s.throttled_ns}}}};
  Json raw = Json::object();
  for (const auto& [k, v] : s.memory_raw) raw[k] = v;
  data["memory"] = {
      {"cache", s.memory_cache},
      {"usage",
       {{"limit", s.memory_limit}, {"usage", s.memory_usage}, {"max", s.memory_max}, {"failcnt", s.memory_failcnt}}},
      {"swap", {{"limit", s.swap_limit}, {"usage", s.swap_usage}, {"max", 0}, {"failcnt", 0}}},
      {"raw", std::move(raw)}};
  data["pids"] = {{"current", s.pids_current}, {"limit", s.pids_limit}};
  data["blkio"] = {{"ioServiceBytesRecursive", blkio_json(s.blkio_bytes)},
                   {"ioServicedRecursive", blkio_json(s.blkio_serviced)}};
  data["hugetlb"] = Json::object();
  data["network_interfaces"] = nullptr;
  return dump(Json{{"type", "stats"}, {"id", id}, {"data", std::move(data)}});
}

std::string write_event(const std::string& id, const std::string& type) {
  return dump(Json{{"type", type}, {"id", id}});
}

}  // namespace sbx::oci
