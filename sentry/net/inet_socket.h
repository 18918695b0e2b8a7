// AF_INET and AF_INET6 sockets: host sockets of the container's network namespace, in which the sentry lives. What is
// done to them passes here call by call: families, types, options and control messages by explicit lists
// (inet_options.h), data through a buffer of the sentry's. The host's descriptor never blocks and is never the guest's.
#pragma once
#include "sentry/base/unique_fd.h"
#include "sentry/fiber/reactor.h"
#include "sentry/net/inet_posts.h"
#include "sentry/net/network.h"
#include "sentry/net/socket.h"
#include "sentry/platform/stream_lease.h"

namespace sbx::net {

// Whether the calling task has the capability in its user namespace; set once at start.
extern bool (*caller_capable)(int capability);

class InetSocket : public Socket {
 public:
  InetSocket(UniqueFd fd, u32 flags, int family, int type, int protocol);

  Result<void> bind(const vfs::WalkContext& ctx, u32 umask, std::string_view address) override;
  Result<void> listen(int backlog) override;
  Result<RefPtr<Socket>> accept(u32 flags) override;
  Result<void> connect(const vfs::WalkContext& ctx, std::string_view address) override;
  Result<size_t> send(const vfs::WalkContext* ctx, SendRequest& request) override;
  Result<size_t> receive(ReceiveRequest& request) override;
  Result<void> shutdown(int how) override;
  Result<std::string> local_address() override;
  Result<std::string> peer_address() override;
  Result<void> set_option(int level, int name, std::string_view value) override;
  Result<std::string> get_option(int level, int name, size_t max) override;

  u32 readiness() override;
  u32 readiness_for(u32 wanted) override;
  fiber::WaitQueue* wait_queue() override;
  bool told_by_host() const override { return true; }
  bool sends_files() const override { return type() == SOCK_STREAM && !connecting_; }
  Result<size_t> send_file(int host_fd, u64 offset, size_t n) override;
  int stream_to_lend() override;
  bool lends_rest(After after) override;
  size_t peek_bytes(u8* to, size_t most) override;
  void stream_lent(const RefPtr<platform::FileLease>& lease) override;
  void take_lent() override;
  platform::Poster* poster() override;
  void may_post(RefPtr<platform::PostRight> right) override { posts_->got_right(std::move(right)); }
  void end_posts() override {
    if (posts_) posts_->end_right();
  }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override;

 protected:
  ~InetSocket() override;
  int host_fd() const { return fd_.get(); }

 private:
  static void tell_posters();
  // Before bytes are sent: those that were posted are, and their errors told.
  Result<void> send_begins();
  Result<size_t> receive_kept(ReceiveRequest& request);
  // The next look asks the host.
  void forget_readiness() {
    quiet_ = false;
    room_ = 0;
  }

  UniqueFd fd_;
  // Somebody may wait for room: the host's news of it matter. Each of its events says also what was there before.
  bool wants_room_ = false;
  bool receives_no_more_ = false;  // shutdown(2)
  bool connecting_ = false;        // a blocking connect is under way
  // Received from the host and not taken by the guest, because its buffer was bad. Streams only.
  std::string kept_;
  // With whoever has the descriptor: what there was to be read (platform/file_lease.h). Every call that has to do with
  // what is received begins with take_lent().
  RefPtr<platform::FileLease> lent_;
  bool news_ = false;   // the host has told of something since they were lent
  bool quiet_ = false;  // there is nothing to be read, and the host has told of nothing since
  u32 room_ = 0;        // so many bytes can be sent for sure
  u32 luck_ = 4;        // how often some of it was taken lately
  // Nothing is lent: its buffer is small, and the sender may wait for room for each byte; or urgent bytes came, at
  // whose mark reads end (tcp(7)).
  bool small_ = false;
  bool lent_whole_ = true;                   // what was lent last was all there was
  platform::LendLuck* rest_luck_ = nullptr;  // how it went, if it was what a call had left; after what
  u32 most_rest_ = 0;                        // how much of that may be lent; 0: not known
  platform::LendLuck luck_after_[2];
  size_t last_asked_ = 0;             // by a receive
  u32 passed_by_ = 0;                 // not lent, for want of luck
  std::unique_ptr<InetPosts> posts_;  // null: nothing was posted yet
  bool peer_ends_ = false;            // the host has told of an end of the connection, or an error
  fiber::WaitQueue queue_;
  fiber::HostWatch watch_;
};

// The socket of a raw family for the calling task: kPerm without CAP_NET_RAW (raw(7), packet(7); raw_socket.cc).
Result<RefPtr<Socket>> raw_socket(int family, int type, int protocol, u32 flags);

// What the host says of an interface of the container's network namespace (netdevice(7)).
struct InterfaceFacts {
  i32 index = 0;
  u32 flags = 0;  // IFF_*
  i32 mtu = 0, queue_length = 0;
  u16 hardware = 0;  // ARPHRD_*
  u8 address[6] = {};
};
// kNodev.
Result<InterfaceFacts> interface_facts(const std::string& name);

// Once, at start: internet and packet sockets.
void register_inet();
// AF_NETLINK: routing and socket diagnosis, questions only (netlink_socket.cc). Once, at start.
void register_netlink();

}  // namespace sbx::net
