// Raw and packet sockets (raw(7), packet(7)): as other host sockets, but made by the gofer, which has the capability,
// and only for those who have it inside.
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if_packet.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "sentry/base/counters.h"
#include "sentry/net/inet_options.h"
#include "sentry/net/inet_socket.h"

namespace sbx::net {

namespace {

COUNTER(made, "net.raw_sockets", "raw and packet sockets made for guests");

// A ring is kernel memory that no control group counts. One that was mapped lives as long as the mapping, of whose end
// nobody tells: it is counted until the sandbox ends.
constexpr u64 kMaxRing = 16 << 20;
constexpr u64 kMaxRings = 512 << 20;
u64 ring_bytes = 0;

const HostOption* find_option(int level, int name) {
  for (const HostOption& option : kRawOptions) {
    if (option.level == level && option.name == name) return &option;
  }
  return nullptr;
}

class RawSocket final : public InetSocket {
 public:
  using InetSocket::InetSocket;

  // There are no ports to guard.
  Result<void> bind(const vfs::WalkContext&, u32, std::string_view address) override {
    if (::bind(host_fd(), reinterpret_cast<const sockaddr*>(address.data()), static_cast<socklen_t>(address.size())) !=
        0)
      return last_errno();
    return {};
  }

  Result<void> set_option(int level, int name, std::string_view value) override {
    const HostOption* option = find_option(level, name);
    if (option == nullptr) return InetSocket::set_option(level, name, value);
    if (!option->settable) return Errno::kNoprotoopt;
    if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) return attach(value);
    if (level == SOL_PACKET && name == PACKET_RX_RING) return set_ring(value);
    return set_on_host(level, name, value.data(), value.size());
  }

  Result<std::string> get_option(int level, int name, size_t max) override {
    if (find_option(level, name) == nullptr) return InetSocket::get_option(level, name, max);
    return get_from_host(level, name, std::string(max, '\0'));
  }

  Result<std::string> ask_option(int level, int name, std::string_view question) override {
    return get_from_host(level, name, std::string(question));
  }

  // The ring, which the host's kernel fills.
  Result<vfs::MapHandle> map_handle(bool) override {
    if (ring_ == 0) return Errno::kInval;
    mapped_ = true;
    vfs::MapHandle handle;
    handle.host_fd = host_fd();
    return handle;
  }

 private:
  ~RawSocket() override {
    if (!mapped_) ring_bytes -= ring_;
  }

  Result<void> set_on_host(int level, int name, const void* value, size_t n) {
    if (::setsockopt(host_fd(), level, name, value, static_cast<socklen_t>(n)) != 0) return last_errno();
    return {};
  }

  Result<std::string> get_from_host(int level, int name, std::string value) {
    auto length = static_cast<socklen_t>(value.size());
    if (::getsockopt(host_fd(), level, name, value.data(), &length) != 0) return last_errno();
    value.resize(std::min<size_t>(length, value.size()));
    return value;
  }

  Result<void> attach(std::string_view instructions) {
    std::vector<sock_filter> copy(instructions.size() / sizeof(sock_filter));
    std::memcpy(copy.data(), instructions.data(), copy.size() * sizeof(sock_filter));
    sock_fprog program{static_cast<unsigned short>(copy.size()), copy.data()};
    return set_on_host(SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
  }

  Result<void> set_ring(std::string_view value) {
    // struct tpacket_req, which begins struct tpacket_req3 as well.
    tpacket_req request{};
    if (value.size() < sizeof(request)) return Errno::kInval;
    std::memcpy(&request, value.data(), sizeof(request));
    const u64 wanted = u64{request.tp_block_size} * request.tp_block_nr;
    if (wanted > kMaxRing || ring_bytes + wanted > kMaxRings) return Errno::kNomem;
    TRY(set_on_host(SOL_PACKET, PACKET_RX_RING, value.data(), value.size()));
    // The host's kernel refuses a new ring where there is one, and any change of one that is mapped.
    ring_bytes = ring_bytes - ring_ + wanted;
    ring_ = wanted;
    return {};
  }

  u64 ring_ = 0;  // bytes
  bool mapped_ = false;
};

}  // namespace

Result<RefPtr<Socket>> raw_socket(int family, int type, int protocol, u32 flags) {
  if (caller_capable == nullptr || !caller_capable(CAP_NET_RAW)) return Errno::kPerm;
  const Network& network = caller_network();
  if (!network.make_raw) return Errno::kPerm;
  UniqueFd fd = TRY(network.make_raw(family, type, protocol));
  made.add();
  return RefPtr<Socket>(make_ref<RawSocket>(std::move(fd), flags, family, type, protocol));
}

}  // namespace sbx::net
