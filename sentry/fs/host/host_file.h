// Host descriptors as files: the container's stdio when it is not an emulated terminal, given at start. Nothing here
// blocks the host thread. A write may be accepted before the host took all of it: drain() before the sentry ends.
//
// The sentry must ignore SIGPIPE. Best if the runtime reopened pipes and terminals with O_NONBLOCK; a descriptor that
// blocks is used with RWF_NOWAIT, or after a poll and in pieces that a ready pipe takes whole.
#pragma once
#include <sys/stat.h>

#include <string>

#include "sentry/base/unique_fd.h"
#include "sentry/fiber/reactor.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::host {

// The host side, shared by all files made of one descriptor (stdio opened again through /proc/self/fd).
class HostDescriptor final : public RefCounted {
 public:
  explicit HostDescriptor(UniqueFd fd);
  int fd() const { return fd_.get(); }
  u32 type() const { return mode_ & S_IFMT; }
  u32 access_mode() const { return access_mode_; }
  // It is the host's /dev/null.
  bool is_null() const { return null_; }
  // EOF is 0; kAgain if nothing is there.
  Result<size_t> read(void* to, size_t n);
  // May be short.
  Result<size_t> write(const void* from, size_t n);
  // Poll bits now.
  u32 poll(u32 events) const;
  // Starts watching on first use; null if the host says it is always ready.
  fiber::WaitQueue* queue();

  // Bytes the guest's write gave up but the host has not taken; they go first. True when none is left.
  bool flush_pending();
  void keep(const void* from, size_t n) { pending_.append(static_cast<const char*>(from), n); }
  bool has_pending() const { return !pending_.empty(); }

 private:
  friend void drain(u64 timeout_ms);
  ~HostDescriptor() override;
  UniqueFd fd_;
  u32 mode_ = 0, access_mode_ = 0;
  bool nonblocking_ = false, no_nowait_ = false, always_ready_ = false, null_ = false;
  std::string pending_;
  size_t pending_done_ = 0;
  fiber::HostWatch watch_;
  fiber::WaitQueue queue_;
};

// tty: the descriptor is a terminal and the guest may know (TCGETS and TIOCGWINSZ are answered from the host's).
// uid, gid: the owner the guest sees. Files of a descriptor are readable and writable as the host's is.
Result<RefPtr<vfs::File>> make_host_file(UniqueFd fd, bool tty, u32 uid, u32 gid);
// Writes what is still pending on all descriptors, blocking the host thread at most this long. At the sentry's end.
void drain(u64 timeout_ms);

}  // namespace sbx::fs::host
