// The state file: what the commands that come later know about a container. The public part of it is the runtime
// specification's state (`sbx state`), the rest is ours.
#pragma once
#include <string>
#include <vector>

#include "oci/spec.h"
#include "sentry/base/types.h"

namespace sbx::oci {

enum class Status : u8 { kCreating, kCreated, kRunning, kPaused, kStopped };
const char* status_name(Status status);

struct State {
  std::string oci_version;
  std::string id;
  Status status = Status::kCreating;
  i32 pid = 0;
  std::string bundle;
  StringMap annotations;

  std::string rootfs;
  std::string created;     // RFC 3339
  std::string owner;       // user name
  u64 pid_start_time = 0;  // field 22 of /proc/PID/stat: a reused pid is not ours
  i32 gofer_pid = 0;
  u64 gofer_start_time = 0;
  std::string cgroup_path;               // below each hierarchy's mount, "/docker/ID"; empty: none
  std::string systemd_unit;              // the scope that systemd made for it; empty: no --systemd-cgroup
  std::vector<std::string> cgroup_dirs;  // directories that we made or joined, children after parents
  bool own_user_namespace = false;
  // No pid namespace in the config: its init gets the number `pid` inside, too, and is an ordinary process there.
  bool host_pid_namespace = false;
  std::string sandbox;  // id of the container whose sandbox it has joined; empty: one of its own
  bool rootless = false;
  bool terminal = false;
  bool no_new_privs = false;
  std::vector<Hook> poststart, poststop, start_container;
  std::vector<std::string> init_args;  // for ps of a created container
  Process exec_defaults;               // env, cwd, user, capabilities, rlimits of init: what `exec ID CMD` starts from
};

}  // namespace sbx::oci
