// Control groups behind one interface: v1, v2 and the hybrid of both.
//
// A container has one path ("/docker/ID"), made in every mounted hierarchy: each v1 controller, name=systemd, and the
// unified one. The sentry (the pid that engines see) and the gofer live in the container's own directory, so what
// engines read from there covers everything. On v1 the guest's stubs live in a child `guest` of the memory and pids
// hierarchies when those have a limit: running out of memory then costs a guest process and not the sentry, and the
// pids limit counts guest tasks, not our threads. v2 forbids processes beside a child with controllers: one directory
// there. A controller that is not there means no limit.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "oci/json_write.h"
#include "oci/spec.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"

namespace sbx::host {

struct Hierarchy {
  std::string mount;                     // /sys/fs/cgroup/memory
  std::vector<std::string> controllers;  // v1: as mounted, "name=systemd" included; v2: from cgroup.controllers
  bool v2 = false;
  bool has(const std::string& controller) const;
};

// What is mounted, v2 last. `mountinfo` replaces /proc/self/mountinfo in tests.
std::vector<Hierarchy> find_hierarchies(const std::string& mountinfo = "/proc/self/mountinfo");

// Controllers are where v2 has them, none in a v1 hierarchy.
bool only_unified();

// linux.cgroupsPath to the path below each mount: "" is "/ID", and what is meant for systemd a name like others (as
// with runc). systemd/unit.h has the way of --systemd-cgroup.
std::string cgroup_path(const std::string& cgroups_path, const std::string& id);

// The limit for a directory that holds our threads and spare processes beside the guest's tasks.
i64 pids_with_ours(i64 guest_limit);
// cpu.weight (1..10000) for cpu.shares (2..262144): the conversion of runc and systemd.
u64 weight_from_shares(u64 shares);

class Cgroup {
 public:
  Cgroup() = default;
  // Of an existing container: `dirs` as dirs() gave them at its creation.
  Cgroup(std::string path, const std::vector<std::string>& dirs);

  // Makes the directories. Hierarchies where we may not are left out when `tolerant` (rootless), and it is no error
  // when none is left: exists() is false then.
  static HostResult<Cgroup> create(const std::string& path, const oci::Resources& resources, bool tolerant);

  bool exists() const { return !places_.empty(); }
  const std::string& path() const { return path_; }
  std::vector<std::string> dirs() const;

  // Limits; also for `update`. Errors name the field.
  HostResult<void> apply(const oci::Resources& resources, const std::string& field) const;
  // Moves a process with all its threads into the container's own directory everywhere.
  HostResult<void> attach(i32 pid) const;
  // Writable cgroup.procs of the `guest` children; with `every_hierarchy` also of the directories that have none.
  HostResult<std::vector<UniqueFd>> open_guest_procs(bool every_hierarchy) const;

  bool can_freeze() const;
  HostResult<void> freeze(bool frozen) const;
  bool frozen() const;
  // All processes, children included.
  std::vector<i32> pids() const;
  // SIGKILL to all until none is left (true), thawing as needed. Never touches the root cgroup.
  bool kill_all(int timeout_ms) const;
  void signal_all(int signo) const;
  // Removes our directories, retrying while dying processes hold them.
  HostResult<void> remove() const;

  oci::Stats stats() const;
  // v1 memory.oom_control eventfd or v2 memory.events: calls `on_oom` for each kill until the cgroup is gone or
  // `stop_fd` becomes readable.
  void watch_oom(int stop_fd, const std::function<void()>& on_oom) const;

 private:
  struct Place {
    std::string dir;
    std::vector<std::string> controllers;
    bool v2 = false;
    bool guest = false;  // has (or is given) a `guest` child
  };
  const Place* find(const std::string& controller) const;
  HostResult<void> apply_v1(const Place& place, const oci::Resources& r, const std::string& field) const;
  HostResult<void> apply_v2(const Place& place, const oci::Resources& r, const std::string& field) const;

  std::string path_;
  std::vector<Place> places_;
};

}  // namespace sbx::host
