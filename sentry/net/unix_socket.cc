#include "sentry/net/unix_socket.h"

#include <sys/un.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "sentry/base/log.h"
#include "sentry/net/unix_host.h"

namespace sbx::net {
namespace {

constexpr size_t kPathOffset = offsetof(sockaddr_un, sun_path);
constexpr size_t kMaxBacklog = 4096;  // net.core.somaxconn

std::set<UnixSocket*>& all_sockets() {
  static auto* all = new std::set<UnixSocket*>;
  return *all;
}

Identity identity() { return caller_identity != nullptr ? caller_identity() : Identity{0, 0, 0}; }

// The name within a sockaddr: "" (only a family), "\0abstract" or a path without its NUL.
Result<std::string_view> name_within(std::string_view address) {
  if (address.size() < kPathOffset || address.size() > sizeof(sockaddr_un)) return Errno::kInval;
  u16 family = 0;
  std::memcpy(&family, address.data(), sizeof(family));
  if (family != AF_UNIX) return Errno::kInval;
  std::string_view name = address.substr(kPathOffset);
  if (name.empty() || name[0] == '\0') return name;
  return name.substr(0, name.find('\0'));
}

std::string address_of(std::string_view name) {
  std::string out(kPathOffset, '\0');
  u16 family = AF_UNIX;
  std::memcpy(out.data(), &family, sizeof(family));
  out.append(name);
  if (!name.empty() && name[0] != '\0') out.push_back('\0');
  return out;
}

Result<int> check_type(int type, int protocol) {
  if (protocol != 0 && protocol != AF_UNIX) return Errno::kProtonosupport;
  if (type == SOCK_RAW) return SOCK_DGRAM;  // as Linux
  if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET) return Errno::kSocktnosupport;
  return type;
}

}  // namespace

size_t UnixSocket::files_in_flight = 0;

UnixSocket::UnixSocket(int type, u32 flags)
    : Socket(socket_path(), O_RDWR | flags, AF_UNIX, type, 0), own_identity_(identity()), network_(&caller_network()) {
  all_sockets().insert(this);
}

UnixSocket::~UnixSocket() {
  end_lent();
  all_sockets().erase(this);
  if (bound_) bound_->socket = nullptr;
  // An accepted socket has the listener's name and is not what the name leads to.
  auto named = abstract_names().find(name_);
  if (named != abstract_names().end() && named->second == this) abstract_names().erase(named);
  stop_waiting();
  detach_peer();
  for (UnixSocket* follower : std::exchange(followers_, {})) {
    follower->peer_ = nullptr;  // its next send answers ECONNREFUSED
    follower->queue_.wake_all();
  }
  for (const Message& message : inbox_) files_in_flight -= message.files.size();
  drained();
  // Connections that nobody accepted: their clients see a reset.
  for (auto& waiting : std::exchange(backlog_, {})) {
    if (waiting->peer_ != nullptr) waiting->peer_->error_ = Errno::kConnreset;
  }
}

void UnixSocket::make_peers(UnixSocket& a, UnixSocket& b) {
  a.peer_ = &b;
  b.peer_ = &a;
  a.state_ = b.state_ = State::kConnected;
  a.peer_identity_ = b.own_identity_;
  b.peer_identity_ = a.own_identity_;
  if (a.datagram()) {
    a.followers_.push_back(&b);
    b.followers_.push_back(&a);
  }
}

void UnixSocket::detach_peer() {
  UnixSocket* peer = std::exchange(peer_, nullptr);
  if (peer == nullptr) return;
  if (datagram()) {
    std::erase(peer->followers_, this);
    return;
  }
  end_lent();
  peer->end_lent();
  peer->peer_closed(!inbox_.empty());
}

// The other end of a stream is gone: what it sent stays readable.
void UnixSocket::peer_closed(bool reset) {
  peer_name_ = peer_->name_;  // what is left to read still says whom it is from
  peer_ = nullptr;
  shut_ = kNoReceive | kNoSend;
  if (reset) error_ = Errno::kConnreset;
  queue_.wake_all();
}

Errno UnixSocket::take_error() { return std::exchange(error_, Errno::kNone); }

// ---- names ----

Result<void> UnixSocket::auto_bind() {
  static u32 next = 0;
  for (u32 tries = 0; tries < 0x100000; ++tries) {
    std::string address = address_of(std::string(1, '\0') + str_printf("%05x", next++ & 0xfffff));
    if (!abstract_names().emplace(address, this).second) continue;
    name_ = std::move(address);
    return {};
  }
  return Errno::kNospc;
}

Result<void> UnixSocket::bind(const vfs::WalkContext& ctx, u32 umask, std::string_view address) {
  std::string_view name = TRY(name_within(address));
  if (!name_.empty()) {
    // A path is tried first, whatever the socket is called already.
    const bool is_path = !name.empty() && name[0] != '\0';
    return is_path && vfs::resolve(ctx, name) ? Errno::kAddrinuse : Errno::kInval;
  }
  if (name.empty()) return auto_bind();
  if (name[0] == '\0') {
    std::string full = address_of(name);
    if (!abstract_names().emplace(full, this).second) return Errno::kAddrinuse;
    name_ = std::move(full);
    return {};
  }
  vfs::NewNode node;
  // The socket's own bits: fchmod(2) before bind(2) is how programs make it private (unix_bind_bsd).
  node.mode = S_IFSOCK | (TRY(attr()).mode & 07777 & ~umask);
  std::unique_ptr<HostListener> listener;
  if (!datagram()) {
    node.host_socket = [&] {
      if (auto socket = HostListener::make(type())) listener = std::move(*socket);
      return listener ? listener->fd() : -1;
    };
  }
  auto made = vfs::make_node(ctx, name, node);
  if (!made) return made.error() == Errno::kExist ? Errno::kAddrinuse : made.error();
  if (!name_.empty()) return Errno::kInval;  // another thread, while make_node waited
  bound_ = make_ref<BoundName>();
  bound_->socket = this;
  made->inode()->special_state() = bound_;
  bound_path_ = *made;
  name_ = address_of(name);
  host_listener_ = std::move(listener);
  return {};
}

Result<UnixSocket*> UnixSocket::find(const vfs::WalkContext& ctx, std::string_view address) {
  std::string_view name = TRY(name_within(address));
  if (name.empty()) return Errno::kInval;
  UnixSocket* found = nullptr;
  if (name[0] == '\0') {
    auto it = abstract_names().find(address_of(name));
    if (it != abstract_names().end()) found = it->second;
  } else {
    vfs::Path path = TRY(vfs::resolve(ctx, name));
    TRY(vfs::check_path_access(*ctx.creds, path, vfs::kMayWrite));
    if (path.inode()->type() != S_IFSOCK) return Errno::kConnrefused;
    RefPtr<BoundName> bound = ref_cast<BoundName>(path.inode()->special_state());
    if (bound) found = bound->socket;
  }
  if (found == nullptr) return Errno::kConnrefused;
  if (found->type() != type()) return Errno::kPrototype;
  return found;
}

Result<std::string> UnixSocket::local_address() { return name_.empty() ? address_of({}) : name_; }

Result<std::string> UnixSocket::peer_address() {
  if (state_ != State::kConnected) return Errno::kNotconn;
  if (host_) return peer_name_.empty() ? address_of({}) : peer_name_;
  if (peer_ != nullptr) return peer_->name_.empty() ? address_of({}) : peer_->name_;
  if (datagram()) return Errno::kNotconn;
  return peer_name_.empty() ? address_of({}) : peer_name_;
}

// ---- connections ----

Result<void> UnixSocket::listen(int backlog) {
  if (datagram()) return Errno::kOpnotsupp;
  if (name_.empty() || state_ == State::kConnected) return Errno::kInval;
  state_ = State::kListening;
  backlog_max_ = backlog < 0 ? kMaxBacklog : std::min<size_t>(static_cast<size_t>(backlog), kMaxBacklog);
  own_identity_ = identity();
  drained();
  if (host_listener_) TRY(host_listener_->listen(static_cast<int>(backlog_max_), queue_));
  return {};
}

Result<RefPtr<Socket>> UnixSocket::accept(u32 flags) {
  if (datagram()) return Errno::kOpnotsupp;
  if (state_ != State::kListening || (shut_ & kNoReceive)) return Errno::kInval;
  if (backlog_.empty()) {
    if (!host_listener_) return Errno::kAgain;
    auto host = TRY(host_listener_->accept());
    auto socket = make_ref<UnixSocket>(type(), flags);
    socket->own_identity_ = own_identity_;
    socket->name_ = name_;
    socket->bound_path_ = bound_path_;
    socket->attach(std::move(host));
    return RefPtr<Socket>(socket);
  }
  RefPtr<UnixSocket> socket = std::move(backlog_.front());
  backlog_.pop_front();
  socket->set_flags(O_RDWR | flags);
  socket->accepted_ = true;
  drained();
  return RefPtr<Socket>(socket);
}

Result<void> UnixSocket::connect_stream(UnixSocket& listener) {
  if (state_ == State::kConnected) return Errno::kIsconn;
  if (state_ == State::kListening) return Errno::kInval;
  if (listener.state_ != State::kListening || (listener.shut_ & kNoReceive)) return Errno::kConnrefused;
  if (listener.backlog_.size() > listener.backlog_max_) {
    wait_for_room(listener);
    return Errno::kAgain;
  }
  own_identity_ = identity();
  auto server = make_ref<UnixSocket>(type(), 0u);
  make_peers(*this, *server);
  server->accepted_ = false;
  server->own_identity_ = listener.own_identity_;
  server->name_ = listener.name_;
  server->bound_path_ = listener.bound_path_;
  server->pass_credentials_ = listener.pass_credentials_;
  server->peer_identity_ = own_identity_;
  server->peer_name_ = name_;
  peer_identity_ = listener.own_identity_;
  peer_name_ = listener.name_;
  listener.backlog_.push_back(std::move(server));
  listener.queue_.wake_all();
  queue_.wake_all();
  return {};
}

Result<void> UnixSocket::connect_datagram(UnixSocket& target) {
  if (target.peer_ != nullptr && target.peer_ != this) return Errno::kPerm;
  detach_peer();
  peer_ = &target;
  target.followers_.push_back(this);
  state_ = State::kConnected;
  error_ = Errno::kNone;
  queue_.wake_all();
  return {};
}

Result<void> UnixSocket::connect(const vfs::WalkContext& ctx, std::string_view address) {
  u16 family = 0;
  if (address.size() < sizeof(family)) return Errno::kInval;
  std::memcpy(&family, address.data(), sizeof(family));
  if (datagram() && family == AF_UNSPEC) {
    detach_peer();
    state_ = State::kFresh;
    return {};
  }
  if (host_) return datagram() ? Errno::kInval : Errno::kIsconn;
  stop_waiting();
  auto found = find(ctx, address);
  if (!found && found.error() == Errno::kConnrefused && state_ == State::kFresh) return connect_to_host(ctx, address);
  UnixSocket* target = TRY(found);
  return datagram() ? connect_datagram(*target) : connect_stream(*target);
}

Result<void> UnixSocket::connect_to_host(const vfs::WalkContext& ctx, std::string_view address) {
  std::string_view name = TRY(name_within(address));
  if (name.empty() || name[0] == '\0') return Errno::kConnrefused;
  vfs::Path path = TRY(vfs::resolve(ctx, name));  // find() has checked the access
  if (path.inode()->type() != S_IFSOCK) return Errno::kConnrefused;
  auto host = TRY(HostPeer::connect(*path.inode(), type(), *ctx.creds, nonblocking()));
  if (host_ || state_ != State::kFresh) return Errno::kIsconn;  // another thread meanwhile
  attach(std::move(host));
  peer_name_ = std::string(address);
  return {};
}

void UnixSocket::attach(std::unique_ptr<HostPeer> host) {
  host_ = std::move(host);
  host_->watch(queue_);
  peer_identity_ = host_->identity();
  state_ = State::kConnected;
  error_ = Errno::kNone;
  queue_.wake_all();
}

Result<void> UnixSocket::shutdown(int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return Errno::kInval;
  if (!datagram() && state_ == State::kFresh) return Errno::kNotconn;
  if (datagram() && state_ != State::kConnected) return Errno::kNotconn;
  if (host_) return host_->shutdown(how);
  if (host_listener_ && how != SHUT_WR) host_listener_->shut();
  end_lent();
  if (peer_ != nullptr) peer_->end_lent();
  bool receive = how != SHUT_WR, send = how != SHUT_RD;
  if (receive) shut_ |= kNoReceive;
  if (send) shut_ |= kNoSend;
  if (!datagram() && peer_ != nullptr) {
    if (receive) peer_->shut_ |= kNoSend;
    if (send) peer_->shut_ |= kNoReceive;
    peer_->queue_.wake_all();
  }
  if (receive) drained();
  queue_.wake_all();
  return {};
}

// ---- waiting for room ----

size_t UnixSocket::room_for(size_t send_buffer) const {
  return inbox_charge_ >= send_buffer ? 0 : send_buffer - inbox_charge_;
}

void UnixSocket::wait_for_room(UnixSocket& receiver) {
  if (waits_for_ == &receiver) return;
  stop_waiting();
  waits_for_ = &receiver;
  receiver.senders_.push_back(this);
}

void UnixSocket::stop_waiting() {
  if (waits_for_ == nullptr) return;
  std::erase(waits_for_->senders_, this);
  waits_for_ = nullptr;
}

// There is room (or no use in waiting): everybody who waits for this socket tries again.
void UnixSocket::drained() {
  for (UnixSocket* sender : std::exchange(senders_, {})) {
    sender->waits_for_ = nullptr;
    sender->queue_.wake_all();
  }
}

// ---- readiness ----

u32 UnixSocket::readiness() {
  if (host_) return host_->readiness();
  settle_readiness();
  u32 mask = 0;
  if (error_ != Errno::kNone) mask |= POLLERR;
  if ((shut_ & (kNoReceive | kNoSend)) == (kNoReceive | kNoSend)) mask |= POLLHUP;
  if (shut_ & kNoReceive) mask |= POLLRDHUP | POLLIN | POLLRDNORM;
  if (state_ == State::kListening) {
    const bool any = !backlog_.empty() || (host_listener_ && host_listener_->readable());
    return any ? mask | POLLIN | POLLRDNORM : mask;
  }
  if (!inbox_.empty()) mask |= POLLIN | POLLRDNORM;
  if (!datagram() && state_ == State::kFresh) mask |= POLLHUP;
  bool room = peer_ == nullptr || peer_->roomy(*this);
  if (room)
    mask |= POLLOUT | POLLWRNORM | POLLWRBAND;
  else
    wait_for_room(*peer_);
  return mask;
}

// ---- showing them ----

std::string UnixSocket::table_row() {
  constexpr u32 kAccepts = 0x10000;  // __SO_ACCEPTCON
  const bool connected = state_ == State::kConnected;
  // SS_UNCONNECTED, SS_CONNECTED; one in a backlog belongs to nobody yet: SS_CONNECTING, no inode.
  const u32 state = !accepted_ ? 2 : connected ? 3 : 1;
  auto own = attr();
  const u64 ino = accepted_ && own ? own->ino : 0;
  std::string row =
      str_printf("0000000000000000: %08X 00000000 %08X %04X %02X %5llu", ref_count() + 1,
                 state_ == State::kListening ? kAccepts : 0, type(), state, static_cast<unsigned long long>(ino));
  if (name_.size() > kPathOffset) {
    row += ' ';
    const bool abstract = name_[kPathOffset] == '\0';
    for (size_t i = kPathOffset; i < name_.size(); ++i) {
      if (name_[i] != '\0')
        row += name_[i];
      else if (abstract)
        row += '@';
    }
  }
  return row + '\n';
}

std::string unix_table() {
  std::string out = "Num       RefCount Protocol Flags    Type St Inode Path\n";
  for (UnixSocket* socket : all_sockets()) {
    if (&socket->network() == &caller_network()) out += socket->table_row();
  }
  return out;
}

// ---- making them ----

void register_unix() {
  Family maker;
  maker.make = [](int type, int protocol, u32 flags) -> Result<RefPtr<Socket>> {
    int kind = TRY(check_type(type, protocol));
    return RefPtr<Socket>(make_ref<UnixSocket>(kind, flags));
  };
  maker.make_pair = [](int type, int protocol, u32 flags) -> Result<std::pair<RefPtr<Socket>, RefPtr<Socket>>> {
    int kind = TRY(check_type(type, protocol));
    auto a = make_ref<UnixSocket>(kind, flags), b = make_ref<UnixSocket>(kind, flags);
    UnixSocket::make_peers(*a, *b);
    return std::pair<RefPtr<Socket>, RefPtr<Socket>>(a, b);
  };
  register_family(AF_UNIX, std::move(maker));
}

}  // namespace sbx::net
