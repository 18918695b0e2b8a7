// A container as the commands see it: a directory ROOT/ID with the state file, the lock and the control socket.
//
// Life: (nothing) -> creating -> created -> running <-> paused -> stopped -> (nothing). The file records creating,
// created and running; paused and stopped are found by looking (freezer, process), so that no crash can leave them
// wrong. Commands that change something hold the lock: an flock on the directory, which outlives no process.
#pragma once
#include <string>
#include <vector>

#include "oci/state.h"
#include "runtime/host/cgroup.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"

namespace sbx::container {

enum class Lock : u8 { kNone, kWait };

// "invalid container ID format" unless it can be a file name of [A-Za-z0-9_+-.].
HostResult<void> check_id(const std::string& id);

class Container {
 public:
  // Makes ROOT/ID, locked, with a state of `creating` not yet saved. kExist: "container with given ID already exists".
  static HostResult<Container> create(const std::string& root, const std::string& id);
  // kNoent: "container does not exist". With kWait returns once no other command works on it.
  static HostResult<Container> open(const std::string& root, const std::string& id, Lock lock);
  // The ids below root, sorted.
  static std::vector<std::string> list(const std::string& root);

  const std::string& id() const { return state.id; }
  // -1 only in a moved-from object. O_PATH would not do: it carries the lock.
  int dir_fd() const { return dir_.get(); }
  const std::string& dir_path() const { return path_; }

  HostResult<void> save() const;
  oci::Status status() const;
  // The init process is there (created, running or paused).
  bool alive() const;
  host::Cgroup cgroup() const;
  // Connects to the sentry. kConnrefused, kNoent: it is gone.
  HostResult<UniqueFd> connect() const;
  HostResult<UniqueFd> listen() const;

  // SIGKILL to everything that belongs to the container, whatever still works: the cgroup, then pid 1 of the sandbox's
  // pid namespace, whose death takes the rest. Waits for the end.
  HostResult<void> kill_everything() const;
  // Removes cgroup and directory. Everything must be dead.
  HostResult<void> remove() const;
  // Gives the lock up early.
  void unlock() const;

  oci::State state;
  bool has_state = false;  // false: a create died before it wrote the file

 private:
  std::string path_;
  UniqueFd dir_;
};

}  // namespace sbx::container
