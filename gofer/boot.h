// What the runtime tells a gofer when it starts it. The runtime makes all descriptors, leaves them open (no
// FD_CLOEXEC) in the process that becomes the gofer, writes this struct into a sealed memfd and calls
// gofer_main(argc, argv) with the memfd's number as argv[1], in a forked child or after exec.
//
//   GoferBoot boot;  boot.request_socket = ...;  int fd = TRY(write_gofer_boot(boot)).release();
//
// The gofer closes every descriptor that is not named here.
#pragma once
#include <vector>

#include "sentry/base/result.h"
#include "sentry/base/types.h"
#include "sentry/base/unique_fd.h"

namespace sbx::gofer {

// One directory (or single file) of the host that the container sees. Its index in GoferBoot::mounts is its name in
// the protocol (Attach).
struct GoferMount {
  // O_PATH descriptor of the root: a directory, a regular file, a socket, a device node (which is never opened).
  // Make it with open_tree(OPEN_TREE_CLONE), so that it is a mount of its own: descriptors that come back are told
  // apart by their mount, and refused (EBADF) if a read-only and a writable entry share one.
  int root_fd = -1;
  // Changes answer EROFS.
  bool read_only = false;
  // Mounts below the root belong to it (rbind made with AT_RECURSIVE). Otherwise they are not entered (EXDEV).
  bool recursive = false;
  // The container is the only regular user (rootfs): passed on to the client, which then caches without asking.
  bool exclusive = false;
  // AF_UNIX sockets of the host in it may be connected to.
  bool sockets = false;
};

struct GoferBoot {
  // Our end of socketpair(AF_UNIX, SOCK_SEQPACKET); the sentry holds the other end. EOF ends the gofer.
  int request_socket = -1;
  // Our end of another SOCK_SEQPACKET pair for news to the sentry (changes made on the host); -1: none.
  int notify_socket = -1;
  int log_fd = -1;    // -1: no log
  u8 log_format = 0;  // sbx::LogFormat
  u8 log_level = 1;   // sbx::LogLevel
  // O_PATH descriptor of a /proc in which the sandbox's host processes are visible by the pids the sentry knows. -1:
  // the gofer makes one of its own pid namespace, if it may.
  int proc_fd = -1;
  // Most descriptors of directories kept open; 0: half of RLIMIT_NOFILE, which is raised to its hard limit first.
  u32 directory_fds = 0;
  // Raw and packet sockets may be asked for: the container has CAP_NET_RAW.
  bool raw_sockets = false;
  // Other sockets of the network namespace that the gofer is in, too: the sentry is in another one.
  bool sockets = false;
  std::vector<GoferMount> mounts;
};

// A sealed memfd with the encoded struct (not close-on-exec).
HostResult<UniqueFd> write_gofer_boot(const GoferBoot& boot);
HostResult<GoferBoot> read_gofer_boot(int memfd);

}  // namespace sbx::gofer
