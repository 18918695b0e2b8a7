#include "oci/parse.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

namespace sbx::oci {
namespace {

using Json = nlohmann::json;

// One value of the document with its name. Keeps the first error of the whole document in `error`; after one, readers
// do nothing, so callers need not look after every field. A JSON null counts as absent.
class Node {
 public:
  Node(const Json* value, std::string path, std::string& error)
      : value_(value), path_(std::move(path)), error_(error) {}

  bool present() const { return value_ != nullptr && !value_->is_null(); }
  const std::string& path() const { return path_; }

  void fail(const std::string& what) const {
    if (error_.empty()) error_ = (path_.empty() ? "document" : path_) + ": " + what;
  }

  bool is_object() const {
    if (!present()) return false;
    if (!value_->is_object()) {
      fail("expected an object");
      return false;
    }
    return true;
  }

  Node at(const char* name) const {
    std::string path = path_.empty() ? name : path_ + "." + name;
    if (!is_object()) return {nullptr, std::move(path), error_};
    auto it = value_->find(name);
    return {it == value_->end() ? nullptr : &*it, std::move(path), error_};
  }

  void read(std::string& out) const {
    if (!present()) return;
    if (!value_->is_string()) return fail("expected a string");
    out = value_->get_ref<const std::string&>();
    if (out.find('\0') != std::string::npos) fail("contains a NUL character");
  }
  void read(bool& out) const {
    if (!present()) return;
    if (!value_->is_boolean()) return fail("expected true or false");
    out = value_->get<bool>();
  }
  template <typename T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) void read(T& out) const {
    if (!present()) return;
    if (value_->is_number_unsigned()) {
      u64 v = value_->get<u64>();
      if (v > static_cast<u64>(std::numeric_limits<T>::max())) return fail("number out of range");
      out = static_cast<T>(v);
    } else if (value_->is_number_integer()) {
      i64 v = value_->get<i64>();
      bool below = std::is_unsigned_v<T> ? v < 0 : v < static_cast<i64>(std::numeric_limits<T>::min());
      if (below) return fail("number out of range");
      out = static_cast<T>(v);
    } else {
      fail("expected an integer");
    }
  }
  template <typename T>
  void read(std::optional<T>& out) const {
    if (!present()) return;
    T v{};
    read(v);
    out = v;
  }
  template <typename T>
  void read(std::vector<T>& out) const {
    each([&](const Node& n) { n.read(out.emplace_back()); });
  }

  template <typename F>
  void each(F&& f) const {
    if (!present()) return;
    if (!value_->is_array()) return fail("expected an array");
    size_t i = 0;
    for (const Json& v : *value_) {
      Node n(&v, path_ + "[" + std::to_string(i++) + "]", error_);
      if (!n.present()) return n.fail("is null");
      f(n);
      if (!error_.empty()) return;
    }
  }
  void read_map(StringMap& out) const {
    if (!is_object()) return;
    for (auto it = value_->begin(); it != value_->end(); ++it) {
      Node n(&it.value(), path_ + "[\"" + it.key() + "\"]", error_);
      auto& entry = out.emplace_back(it.key(), std::string());
      n.read(entry.second);
    }
  }

 private:
  const Json* value_;
  std::string path_;
  std::string& error_;
};

template <typename T>
void list(const Node& n, std::vector<T>& out, void (*one)(const Node&, T&)) {
  n.each([&](const Node& e) {
    if (e.is_object()) one(e, out.emplace_back());
  });
}

void read_mapping(const Node& n, IdMapping& m) {
  n.at("containerID").read(m.container_id);
  n.at("hostID").read(m.host_id);
  n.at("size").read(m.size);
}

void read_rlimit(const Node& n, Rlimit& r) {
  n.at("type").read(r.type);
  n.at("soft").read(r.soft);
  n.at("hard").read(r.hard);
}

void read_process(const Node& n, Process& p) {
  n.at("terminal").read(p.terminal);
  if (Node size = n.at("consoleSize"); size.is_object()) {
    std::pair<u32, u32> v{0, 0};
    size.at("height").read(v.first);
    size.at("width").read(v.second);
    p.console_size = v;
  }
  Node user = n.at("user");
  user.at("uid").read(p.user.uid);
  user.at("gid").read(p.user.gid);
  user.at("umask").read(p.user.umask);
  user.at("additionalGids").read(p.user.additional_gids);
  user.at("username").read(p.user.username);
  n.at("args").read(p.args);
  n.at("commandLine").read(p.command_line);
  n.at("env").read(p.env);
  n.at("cwd").read(p.cwd);
  if (Node caps = n.at("capabilities"); caps.is_object()) {
    Capabilities& c = p.capabilities.emplace();
    caps.at("bounding").read(c.bounding);
    caps.at("effective").read(c.effective);
    caps.at("inheritable").read(c.inheritable);
    caps.at("permitted").read(c.permitted);
    caps.at("ambient").read(c.ambient);
  }
  list(n.at("rlimits"), p.rlimits, read_rlimit);
  n.at("noNewPrivileges").read(p.no_new_privileges);
  n.at("apparmorProfile").read(p.apparmor_profile);
  n.at("oomScoreAdj").read(p.oom_score_adj);
  n.at("selinuxLabel").read(p.selinux_label);
  Node scheduler = n.at("scheduler");
  scheduler.at("policy").read(p.scheduler_policy);
  scheduler.at("nice").read(p.nice);
  Node io = n.at("ioPriority");
  io.at("class").read(p.io_priority_class);
  io.at("priority").read(p.io_priority);
  Node affinity = n.at("execCPUAffinity");
  affinity.at("initial").read(p.exec_cpu_affinity_initial);
  affinity.at("final").read(p.exec_cpu_affinity_final);
}

void read_mount(const Node& n, Mount& m) {
  n.at("destination").read(m.destination);
  n.at("type").read(m.type);
  n.at("source").read(m.source);
  n.at("options").read(m.options);
  list(n.at("uidMappings"), m.uid_mappings, read_mapping);
  list(n.at("gidMappings"), m.gid_mappings, read_mapping);
}

void read_hook(const Node& n, Hook& h) {
  n.at("path").read(h.path);
  n.at("args").read(h.args);
  n.at("env").read(h.env);
  n.at("timeout").read(h.timeout_s);
}

void read_hooks(const Node& n, Hooks& h) {
  list(n.at("prestart"), h.prestart, read_hook);
  list(n.at("createRuntime"), h.create_runtime, read_hook);
  list(n.at("createContainer"), h.create_container, read_hook);
  list(n.at("startContainer"), h.start_container, read_hook);
  list(n.at("poststart"), h.poststart, read_hook);
  list(n.at("poststop"), h.poststop, read_hook);
}

void read_namespace(const Node& n, Namespace& v) {
  n.at("type").read(v.type);
  n.at("path").read(v.path);
}

void read_device(const Node& n, Device& d) {
  n.at("type").read(d.type);
  n.at("path").read(d.path);
  n.at("major").read(d.major);
  n.at("minor").read(d.minor);
  n.at("fileMode").read(d.file_mode);
  n.at("uid").read(d.uid);
  n.at("gid").read(d.gid);
}

void read_device_rule(const Node& n, DeviceRule& d) {
  n.at("allow").read(d.allow);
  n.at("type").read(d.type);
  n.at("major").read(d.major);
  n.at("minor").read(d.minor);
  n.at("access").read(d.access);
}

void read_weight(const Node& n, WeightDevice& w) {
  n.at("major").read(w.major);
  n.at("minor").read(w.minor);
  n.at("weight").read(w.weight);
  n.at("leafWeight").read(w.leaf_weight);
}

void read_throttle(const Node& n, ThrottleDevice& t) {
  n.at("major").read(t.major);
  n.at("minor").read(t.minor);
  n.at("rate").read(t.rate);
}

void read_hugepage(const Node& n, HugepageLimit& h) {
  n.at("pageSize").read(h.page_size);
  n.at("limit").read(h.limit);
}

void read_resources(const Node& n, Resources& r) {
  if (!n.is_object()) return;
  list(n.at("devices"), r.devices, read_device_rule);
  Node memory = n.at("memory");
  memory.at("limit").read(r.memory.limit);
  memory.at("reservation").read(r.memory.reservation);
  memory.at("swap").read(r.memory.swap);
  memory.at("kernel").read(r.memory.kernel);
  memory.at("kernelTCP").read(r.memory.kernel_tcp);
  memory.at("swappiness").read(r.memory.swappiness);
  memory.at("disableOOMKiller").read(r.memory.disable_oom_killer);
  memory.at("useHierarchy").read(r.memory.use_hierarchy);
  memory.at("checkBeforeUpdate").read(r.memory.check_before_update);
  Node cpu = n.at("cpu");
  cpu.at("shares").read(r.cpu.shares);
  cpu.at("quota").read(r.cpu.quota);
  cpu.at("burst").read(r.cpu.burst);
  cpu.at("period").read(r.cpu.period);
  cpu.at("realtimeRuntime").read(r.cpu.realtime_runtime);
  cpu.at("realtimePeriod").read(r.cpu.realtime_period);
  cpu.at("idle").read(r.cpu.idle);
  cpu.at("cpus").read(r.cpu.cpus);
  cpu.at("mems").read(r.cpu.mems);
  if (Node pids = n.at("pids"); pids.is_object()) pids.at("limit").read(r.pids_limit);
  Node block = n.at("blockIO");
  block.at("weight").read(r.block_io.weight);
  block.at("leafWeight").read(r.block_io.leaf_weight);
  list(block.at("weightDevice"), r.block_io.weight_devices, read_weight);
  list(block.at("throttleReadBpsDevice"), r.block_io.read_bps, read_throttle);
  list(block.at("throttleWriteBpsDevice"), r.block_io.write_bps, read_throttle);
  list(block.at("throttleReadIOPSDevice"), r.block_io.read_iops, read_throttle);
  list(block.at("throttleWriteIOPSDevice"), r.block_io.write_iops, read_throttle);
  list(n.at("hugepageLimits"), r.hugepage_limits, read_hugepage);
  Node network = n.at("network");
  network.at("classID").read(r.network.class_id);
  network.at("priorities").each([&](const Node& p) {
    auto& entry = r.network.priorities.emplace_back();
    p.at("name").read(entry.first);
    p.at("priority").read(entry.second);
  });
  n.at("unified").read_map(r.unified);
}

void read_seccomp_arg(const Node& n, SeccompArg& a) {
  n.at("index").read(a.index);
  n.at("value").read(a.value);
  n.at("valueTwo").read(a.value_two);
  n.at("op").read(a.op);
}

void read_seccomp_syscall(const Node& n, SeccompSyscall& s) {
  n.at("names").read(s.names);
  n.at("action").read(s.action);
  n.at("errnoRet").read(s.errno_ret);
  list(n.at("args"), s.args, read_seccomp_arg);
}

void read_seccomp(const Node& n, Seccomp& s) {
  n.at("defaultAction").read(s.default_action);
  n.at("defaultErrnoRet").read(s.default_errno_ret);
  n.at("architectures").read(s.architectures);
  n.at("flags").read(s.flags);
  n.at("listenerPath").read(s.listener_path);
  n.at("listenerMetadata").read(s.listener_metadata);
  list(n.at("syscalls"), s.syscalls, read_seccomp_syscall);
}

void read_linux(const Node& n, Linux& l) {
  list(n.at("uidMappings"), l.uid_mappings, read_mapping);
  list(n.at("gidMappings"), l.gid_mappings, read_mapping);
  n.at("sysctl").read_map(l.sysctl);
  read_resources(n.at("resources"), l.resources);
  n.at("cgroupsPath").read(l.cgroups_path);
  list(n.at("namespaces"), l.namespaces, read_namespace);
  list(n.at("devices"), l.devices, read_device);
  if (Node seccomp = n.at("seccomp"); seccomp.is_object()) read_seccomp(seccomp, l.seccomp.emplace());
  n.at("rootfsPropagation").read(l.rootfs_propagation);
  n.at("maskedPaths").read(l.masked_paths);
  n.at("readonlyPaths").read(l.readonly_paths);
  n.at("mountLabel").read(l.mount_label);
  n.at("intelRdt").at("closID").read(l.intel_rdt_clos_id);
  n.at("personality").at("domain").read(l.personality_domain);
  if (Node offsets = n.at("timeOffsets"); offsets.is_object()) {
    for (const char* clock : {"monotonic", "boottime"}) {
      if (Node o = offsets.at(clock); o.is_object()) {
        TimeOffset& t = l.time_offsets.emplace_back();
        t.clock = clock;
        o.at("secs").read(t.secs);
        o.at("nanosecs").read(t.nanosecs);
      }
    }
  }
}

void read_spec(const Node& n, Spec& s) {
  n.at("ociVersion").read(s.oci_version);
  if (Node p = n.at("process"); p.is_object()) read_process(p, s.process.emplace());
  if (Node r = n.at("root"); r.is_object()) {
    Root& root = s.root.emplace();
    r.at("path").read(root.path);
    r.at("readonly").read(root.readonly);
  }
  n.at("hostname").read(s.hostname);
  n.at("domainname").read(s.domainname);
  list(n.at("mounts"), s.mounts, read_mount);
  read_hooks(n.at("hooks"), s.hooks);
  n.at("annotations").read_map(s.annotations);
  if (Node l = n.at("linux"); l.is_object()) {
    s.has_linux = true;
    read_linux(l, s.linux_);
  }
}

void read_state(const Node& n, State& s) {
  n.at("ociVersion").read(s.oci_version);
  n.at("id").read(s.id);
  std::string status;
  n.at("status").read(status);
  for (Status v : {Status::kCreating, Status::kCreated, Status::kRunning, Status::kPaused, Status::kStopped}) {
    if (status == status_name(v)) s.status = v;
  }
  n.at("pid").read(s.pid);
  n.at("bundle").read(s.bundle);
  n.at("annotations").read_map(s.annotations);
  n.at("rootfs").read(s.rootfs);
  n.at("created").read(s.created);
  n.at("owner").read(s.owner);
  n.at("pidStartTime").read(s.pid_start_time);
  n.at("goferPid").read(s.gofer_pid);
  n.at("goferStartTime").read(s.gofer_start_time);
  n.at("cgroupPath").read(s.cgroup_path);
  n.at("systemdUnit").read(s.systemd_unit);
  n.at("cgroupDirs").read(s.cgroup_dirs);
  n.at("ownUserNamespace").read(s.own_user_namespace);
  n.at("hostPidNamespace").read(s.host_pid_namespace);
  n.at("sandbox").read(s.sandbox);
  n.at("rootless").read(s.rootless);
  n.at("terminal").read(s.terminal);
  n.at("noNewPrivs").read(s.no_new_privs);
  list(n.at("poststart"), s.poststart, read_hook);
  list(n.at("poststop"), s.poststop, read_hook);
  list(n.at("startContainer"), s.start_container, read_hook);
  n.at("initArgs").read(s.init_args);
  read_process(n.at("execDefaults"), s.exec_defaults);
}

template <typename T>
HostResult<T> parse_document(std::string_view text, void (*reader)(const Node&, T&)) {
  Json document;
  try {
    document = Json::parse(text);  // neither the parser nor the document's destructor recurses on its depth
  } catch (const Json::parse_error& e) {
    size_t at = std::min<size_t>(e.byte, text.size());
    size_t line = 1 + static_cast<size_t>(std::count(text.begin(), text.begin() + static_cast<long>(at), '\n'));
    return Failure("line " + std::to_string(line) + ": not valid JSON");
  } catch (const std::exception& e) {
    return Failure(std::string("not readable: ") + e.what());
  }
  if (!document.is_object()) return Failure("expected a JSON object");
  std::string error;
  T out;
  reader(Node(&document, "", error), out);
  if (!error.empty()) return Failure(std::move(error));
  return out;
}

}  // namespace

HostResult<Spec> parse_spec(std::string_view json) { return parse_document<Spec>(json, read_spec); }
HostResult<Process> parse_process(std::string_view json) { return parse_document<Process>(json, read_process); }
HostResult<Resources> parse_resources(std::string_view json) { return parse_document<Resources>(json, read_resources); }
HostResult<State> parse_state(std::string_view json) { return parse_document<State>(json, read_state); }

}  // namespace sbx::oci
