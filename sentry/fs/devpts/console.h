// HostConsole: the container's terminal. An emulated pty whose master is relayed to a host terminal (the slave of the
// pty that the runtime handed to the engine, or the user's own terminal). Line discipline, echo and job control happen
// in the emulated tty; the host's is raw.
#pragma once
#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/host/host_file.h"

namespace sbx::fs::devpts {

class HostConsole final : public RefCounted {
 public:
  // Makes the pair in `fs` and starts the relay (two fibers). host_fd: a terminal, best O_NONBLOCK; it is put into raw
  // mode. uid, gid: owner of the slave. The slave's place is /dev/pts/<index>: open it by path so that ttyname(3)
  // works.
  static Result<RefPtr<HostConsole>> create(DevptsFs& fs, UniqueFd host_fd, u32 uid, u32 gid);

  Tty& tty() const { return *tty_; }
  u32 index() const { return tty_->index(); }
  // Takes the window size of the host terminal over. When told of a resize (SIGWINCH, control message).
  void update_window();
  // Writes what the guest printed before the sentry ends, blocking the host thread at most this long.
  void drain(u64 timeout_ms);

 private:
  HostConsole(RefPtr<host::HostDescriptor> host, RefPtr<vfs::File> master, RefPtr<Tty> tty);
  ~HostConsole() override = default;
  void relay_input();
  void relay_output();
  // Writes all; false if the host side is gone.
  bool write_host(const u8* bytes, size_t n);
  RefPtr<host::HostDescriptor> host_;
  RefPtr<vfs::File> master_;
  RefPtr<Tty> tty_;
};

}  // namespace sbx::fs::devpts
