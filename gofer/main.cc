#include "gofer/main.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "gofer/boot.h"
#include "gofer/protocol/channel.h"
#include "gofer/server/confine.h"
#include "gofer/server/server.h"
#include "sentry/base/descriptors.h"
#include "sentry/base/log.h"

namespace sbx::gofer {
namespace {

constexpr int kFirstFree = 3;

// A copy above the standard descriptors; -1 stays -1.
int keep(int fd) { return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, kFirstFree); }

// A /proc of our own pid namespace, mounted nowhere; -1 where the caller may not make one.
UniqueFd own_proc() {
  UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC)));
  if (!context || syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return UniqueFd();
  constexpr unsigned kAttributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  return UniqueFd(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, kAttributes)));
}

constexpr u32 kDescriptors = 1024;  // directories that are open, most of all

HostResult<void> run(int memfd) {
  GoferBoot boot = TRY(read_gofer_boot(memfd));
  log_init(boot.log_fd, static_cast<LogFormat>(boot.log_format != 0), static_cast<LogLevel>(boot.log_level & 3));
  int log_fd = keep(boot.log_fd);
  log_init(log_fd, static_cast<LogFormat>(boot.log_format != 0), static_cast<LogLevel>(boot.log_level & 3));
  const auto limit = static_cast<u32>(std::min<u64>(raise_descriptor_limit(), 1 << 20));
  make_room_for_descriptors(kDescriptors);
  umask(0);
  // A stop of the whole control group is the sentry's to act on: the gofer ends with it.
  for (int s : {SIGPIPE, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2}) signal(s, SIG_IGN);

  Server::Options options;
  options.open_limit = boot.directory_fds != 0 ? boot.directory_fds : limit / 2;
  options.proc = boot.proc_fd >= 0 ? UniqueFd(keep(boot.proc_fd)) : UniqueFd(keep(own_proc().get()));
  options.self_fd = UniqueFd(keep(open_self_fd().get()));
  if (!options.self_fd)
    LOG_WARNING("gofer: no /proc/self/fd: changes of mode, xattrs and socket files will be refused");
  std::vector<ServedMount> mounts = TRY(open_mounts(boot.mounts));
  int socket = keep(boot.request_socket);
  if (socket < 0) return Failure(Errno::kBadf, "the gofer's request socket");

  // Nothing reaches a donated descriptor that happens to get the number of a standard one.
  int null = keep(open("/dev/null", O_RDWR | O_CLOEXEC));
  std::vector<int> kept = {null, log_fd, socket, options.proc.get(), options.self_fd.get()};
  for (const ServedMount& m : mounts) {
    kept.push_back(m.root.get());
    kept.push_back(m.file.get());
  }
  close_all_but(kept);
  for (int fd = 0; fd < kFirstFree; ++fd)
    if (null < 0 || dup2(null, fd) < 0) return Failure::from_errno("/dev/null for the gofer");
  close(null);

  if (auto done = enter_empty_root(); !done) LOG_WARNING("gofer: %s", done.error().message.c_str());
  TRY(drop_privileges(boot.raw_sockets));
  Server server(std::move(mounts), std::move(options));
  std::unique_ptr<ServerChannel> channel = TRY(ServerChannel::create(
      socket, [&server](u32 type, std::string_view request, UniqueFd& in, std::vector<UniqueFd>& out) {
        return server.serve(type, request, in, out);
      }));
  if (sysconf(_SC_NPROCESSORS_CONF) > 1) TRY(server.start_helper());
  TRY(load_filter(boot.sockets, boot.raw_sockets));
  channel->go();
  channel->wait_for_end();
  // The lanes' threads are blocked or in the middle of a request nobody waits for.
  _exit(0);
}

}  // namespace

int gofer_main(int argc, char** argv) {
  mallopt(M_ARENA_MAX, 1);  // one handler runs at a time
  if (argc < 2) return 2;
  auto result = run(std::atoi(argv[1]));
  LOG_ERROR("gofer: %s", result.error().message.c_str());
  return 1;
}

}  // namespace sbx::gofer
