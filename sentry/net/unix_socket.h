// AF_UNIX sockets (unix(7)): stream, datagram and sequenced-packet.
//
// Messages lie in the receiver's inbox. Sockets know each other by plain pointers with a way back, so that closing one
// (its destructor) takes it out of all others: a stream's two ends are each other's peer; a datagram socket is in the
// `followers_` of the one it is connected to, and in the `senders_` of the full one it waits for.
#pragma once
#include <deque>
#include <memory>

#include "sentry/net/network.h"
#include "sentry/net/socket.h"
#include "sentry/platform/stream_lease.h"

namespace sbx::net {

class UnixSocket;
class HostListener;
class HostPeer;

// What the inode of a bound path holds.
class BoundName final : public RefCounted {
 public:
  UnixSocket* socket = nullptr;  // null once it is closed
};

class UnixSocket final : public Socket {
 public:
  UnixSocket(int type, u32 flags);
  static void make_peers(UnixSocket& a, UnixSocket& b);

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
  fiber::WaitQueue* wait_queue() override;
  void set_flags(u32 flags) override;
  platform::LentStream* lent_reads() override;
  platform::LentStream* lent_writes() override;
  size_t bytes_left() override;
  size_t peek_bytes(u8* to, size_t most) override;
  void room_lent(RefPtr<platform::WriteRing> ring) override;
  void take_lent() override { settle_readiness(); }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override;

  // Descriptors sent and not yet received, in all sockets. Bounded (kToomanyrefs): a socket sent through itself would
  // otherwise let a guest keep any number of files that nobody can reach.
  static size_t files_in_flight;
  const Network& network() const { return *network_; }
  // A row of /proc/net/unix.
  std::string table_row();

 private:
  enum class State : u8 { kFresh, kListening, kConnected };
  struct Message {
    std::unique_ptr<u8[]> bytes;
    size_t length = 0, room = 0, read = 0;
    std::string sender;
    std::vector<RefPtr<vfs::File>> files;
    Identity identity;
    size_t left() const { return length - read; }
    // What it counts against the buffer.
    size_t charge() const { return kMessageOverhead + room; }
  };
  static constexpr size_t kMessageOverhead = 256;
  static constexpr size_t kMaxFilesInFlight = 16384;
  enum : u32 { kNoReceive = 1, kNoSend = 2 };

  ~UnixSocket() override;
  bool packets() const { return type() != SOCK_STREAM; }
  bool datagram() const { return type() == SOCK_DGRAM; }
  std::unordered_map<std::string, UnixSocket*>& abstract_names() const { return network_->abstract_names[type()]; }
  Result<UnixSocket*> find(const vfs::WalkContext& ctx, std::string_view address);
  Result<void> auto_bind();
  Result<void> connect_datagram(UnixSocket& target);
  Result<void> connect_stream(UnixSocket& listener);
  void attach(std::unique_ptr<HostPeer> host);
  Result<void> connect_to_host(const vfs::WalkContext& ctx, std::string_view address);
  Result<size_t> send_stream(SendRequest& request);
  Result<size_t> append(vfs::Source& data, std::vector<RefPtr<vfs::File>>& files, const Identity& from,
                        size_t send_buffer);
  // What processes have put into the inbox and taken out by themselves is so from here on.
  void settle() {
    if (lent_.any()) settle_lent();
  }
  void settle_lent();
  void settle_both() {
    settle();
    if (peer_ != nullptr) peer_->settle();
  }
  // The same, as far as it matters to what comes in here, and to whether there is room there.
  void settle_readiness() {
    settle();
    if (peer_ != nullptr && !(peer_->lent_.only_shrinks() && peer_->roomy(*this))) peer_->settle();
  }
  // The same, and nothing is with processes any more.
  void end_lent();
  void consume(size_t n);
  Result<size_t> send_packet(UnixSocket& to, SendRequest& request);
  Result<size_t> receive_stream(ReceiveRequest& request);
  Result<size_t> receive_packet(ReceiveRequest& request);
  Result<size_t> nothing_to_receive();
  // Room in the inbox for senders whose send buffer is this big.
  size_t room_for(size_t send_buffer) const;
  bool roomy(const UnixSocket& sender) const { return inbox_charge_ * 4 <= sender.send_buffer_; }
  void wait_for_room(UnixSocket& receiver);
  void stop_waiting();
  void drained();
  void pop_message();
  void detach_peer();
  void peer_closed(bool reset);
  Errno take_error();

  State state_ = State::kFresh;
  u32 shut_ = 0;
  Errno error_ = Errno::kNone;
  std::string name_;       // sockaddr; empty: not bound
  std::string peer_name_;  // kept when the peer goes
  RefPtr<BoundName> bound_;
  vfs::Path bound_path_;

  // Streams: what of the inbox is with processes. Whoever looks at the inbox settles it first.
  platform::LentStream lent_{[this] {
    settle();
    return !queue_.empty();
  }};
  std::deque<Message> inbox_;
  size_t inbox_charge_ = 0, inbox_bytes_ = 0;
  UnixSocket* peer_ = nullptr;
  std::vector<UnixSocket*> followers_;
  std::vector<UnixSocket*> senders_;  // wait until this one has room (in its inbox or its backlog)
  UnixSocket* waits_for_ = nullptr;

  // Connected to a socket of the host: data and readiness are that one's (unix_host.h), names are ours.
  std::unique_ptr<HostPeer> host_;
  // Its name is also one of the host's.
  std::unique_ptr<HostListener> host_listener_;

  std::deque<RefPtr<UnixSocket>> backlog_;
  size_t backlog_max_ = 0;
  Identity own_identity_, peer_identity_;
  RefPtr<Network> network_;

  size_t send_buffer_ = 212992, receive_buffer_ = 212992;
  bool pass_credentials_ = false;
  bool accepted_ = true;   // false while it is in a backlog
  i32 receive_least_ = 1;  // SO_RCVLOWAT
  u32 plain_options_ = 0;  // SO_* that have a value but no effect here, by number
  i32 linger_[2] = {0, 0};
  fiber::WaitQueue queue_;
};

}  // namespace sbx::net
