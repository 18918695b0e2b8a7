// The part of launch() that runs in the cloned child.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "sentry/base/unique_fd.h"

namespace sbx::boot {

struct ChildPlan {
  int parent_sync_fd = -1;  // the other end, to be closed: the runtime's death must be an end of file
  int sync_fd =
      -1;  // our end; packets: 'M' maps wanted / done, 'A' in the cgroup, 'P' prepared, 'G' go, else a boot report
  bool wait_for_maps = false;
  bool own_net = false;
  int unshare_flags = 0;                                     // after joining: what the clone could not make
  std::vector<std::pair<int, int>> join;                     // descriptor, CLONE_NEW*; the user namespace first
  bool set_ids = false;                                      // become 0:0 of the user namespace
  std::string hostname, domainname;                          // of a uts namespace of our own; empty: leave
  std::vector<std::pair<std::string, std::string>> sysctls;  // net.* only
  bool has_oom_score_adj = false;
  int oom_score_adj = 0;
  int tty = -1;
  int null_fd = -1;
  int log_fd = -1;
  int exe_fd = -1;
  int gofer_boot_fd = -1;
  int sentry_boot_fd = -1;
  int stand_in_fd = -1;        // the connection to the sandbox that the container has joined: no sentry of its own
  std::vector<int> gofer_fds;  // to be inherited
  std::vector<int> sentry_fds;
};

[[noreturn]] void child_main(const ChildPlan& plan);

}  // namespace sbx::boot
