// AF_NETLINK (netlink(7), rtnetlink(7), sock_diag(7)): questions about the container's network, put to the host's
// sockets of its network namespace. No byte of a guest's message reaches the host as it is: a message is rebuilt from
// its header, its fixed part and the few attributes listed here. What would change something goes as a bare header,
// which the host refuses (EPERM), since the sentry has no capability.
#include <linux/inet_diag.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/net/inet_socket.h"

namespace sbx::net {
namespace {

constexpr size_t kMaxMessage = 16 * 1024;
constexpr size_t kMaxAttributes = 4;

struct Attribute {
  u16 type;
  u16 most;  // bytes
};
struct Question {
  u16 type;
  size_t fixed;  // bytes of the fixed part
  Attribute attributes[kMaxAttributes];
};
constexpr Question kRouteQuestions[] = {
    {RTM_GETLINK, sizeof(ifinfomsg), {{IFLA_IFNAME, 16}, {IFLA_EXT_MASK, 4}, {IFLA_MASTER, 4}, {53, 128}}},
    {RTM_GETADDR, sizeof(ifaddrmsg), {{IFA_ADDRESS, 16}, {IFA_LOCAL, 16}}},
    {RTM_GETROUTE, sizeof(rtmsg), {{RTA_DST, 16}, {RTA_SRC, 16}, {RTA_OIF, 4}, {RTA_TABLE, 4}}},
    {RTM_GETNEIGH, sizeof(ndmsg), {{NDA_DST, 16}, {NDA_IFINDEX, 4}}},
    {RTM_GETRULE, sizeof(rtmsg), {}},
    {RTM_GETQDISC, sizeof(tcmsg), {}},
    {RTM_GETNETCONF, 4, {{1 /* NETCONFA_IFINDEX */, 4}}},
    {RTM_GETSTATS, 12, {}},
};
constexpr Question kDiagQuestions[] = {
    {SOCK_DIAG_BY_FAMILY, sizeof(inet_diag_req_v2), {}},
};

const Question* find_question(int protocol, u16 type) {
  auto search = [type](const Question* from, size_t n) -> const Question* {
    for (size_t i = 0; i < n; ++i) {
      if (from[i].type == type) return &from[i];
    }
    return nullptr;
  };
  return protocol == NETLINK_ROUTE ? search(kRouteQuestions, std::size(kRouteQuestions))
                                   : search(kDiagQuestions, std::size(kDiagQuestions));
}

void append(std::string& out, const void* bytes, size_t n) {
  out.append(static_cast<const char*>(bytes), n);
  out.append(NLMSG_ALIGN(n) - n, '\0');
}

// The host's form of one message of the guest: `header` and the bytes behind it.
std::string rebuild(int protocol, nlmsghdr header, std::string_view payload) {
  std::string out;
  append(out, &header, sizeof(header));
  const Question* question = find_question(protocol, header.nlmsg_type);
  if (question == nullptr) {
    u8 family[4] = {payload.empty() ? u8{0} : static_cast<u8>(payload[0])};
    append(out, family, sizeof(family));
    if (header.nlmsg_type >= RTM_BASE) STUB("netlink message", header.nlmsg_type);
  } else {
    std::string fixed(question->fixed, '\0');
    std::memcpy(fixed.data(), payload.data(), std::min(fixed.size(), payload.size()));
    // Only internet sockets: the unix sockets of this namespace are the sentry's own.
    if (protocol == NETLINK_SOCK_DIAG && fixed[0] != AF_INET && fixed[0] != AF_INET6) fixed[0] = '\xff';
    append(out, fixed.data(), fixed.size());
    for (size_t at = NLMSG_ALIGN(question->fixed); at + sizeof(rtattr) <= payload.size();) {
      rtattr attribute;
      std::memcpy(&attribute, payload.data() + at, sizeof(attribute));
      if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > payload.size() - at) break;
      size_t n = attribute.rta_len - sizeof(attribute);
      for (const Attribute& known : question->attributes) {
        if (known.type == 0 || known.type != attribute.rta_type || n > known.most) continue;
        append(out, payload.data() + at, attribute.rta_len);
        break;
      }
      at += RTA_ALIGN(attribute.rta_len);
    }
  }
  header.nlmsg_len = static_cast<u32>(out.size());
  std::memcpy(out.data(), &header, sizeof(header));
  return out;
}

class NetlinkSocket final : public InetSocket {
 public:
  using InetSocket::InetSocket;

  Result<size_t> send(const vfs::WalkContext*, SendRequest& request) override {
    if (!request.files.empty()) return Errno::kInval;
    sockaddr_nl to{};
    if (!request.address.empty()) {
      if (request.address.size() < sizeof(to)) return Errno::kInval;
      std::memcpy(&to, request.address.data(), sizeof(to));
      if (to.nl_family != AF_NETLINK) return Errno::kInval;
      // Other sockets are not the kernel: only with CAP_NET_ADMIN, and nobody listens.
      if (to.nl_pid != 0 || to.nl_groups != 0) return Errno::kPerm;
    }
    const size_t total = request.data.left();
    if (total > kMaxMessage) return Errno::kMsgsize;
    std::string bytes(total, '\0');
    if (total > 0 && TRY(request.data.get(bytes.data(), total)) < total) return Errno::kFault;
    std::string rebuilt;
    std::string_view rest = bytes;
    while (rest.size() >= sizeof(nlmsghdr)) {
      nlmsghdr header;
      std::memcpy(&header, rest.data(), sizeof(header));
      if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > rest.size()) break;
      rebuilt += rebuild(protocol(), header, rest.substr(sizeof(header), header.nlmsg_len - sizeof(header)));
      rest.remove_prefix(std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), rest.size()));
    }
    if (rebuilt.empty()) return total;  // as the kernel: nothing it could answer
    vfs::KernelSource source(rebuilt.data(), rebuilt.size());
    SendRequest host{source, {}, {}, {}, request.flags};
    auto sent = InetSocket::send(nullptr, host);
    if (!sent) {
      request.data.put_back(total);
      return sent.error();
    }
    return total;
  }
};

Result<RefPtr<Socket>> make(int type, int protocol, u32 flags) {
  if (type != SOCK_RAW && type != SOCK_DGRAM) return Errno::kSocktnosupport;
  if (protocol != NETLINK_ROUTE && protocol != NETLINK_SOCK_DIAG) {
    STUB("netlink protocol", protocol);
    return Errno::kProtonosupport;
  }
  UniqueFd fd = TRY(caller_network().host_socket(AF_NETLINK, SOCK_RAW, protocol));
  return RefPtr<Socket>(make_ref<NetlinkSocket>(std::move(fd), flags, AF_NETLINK, type, protocol));
}

}  // namespace

void register_netlink() { register_family(AF_NETLINK, {&make, nullptr}); }

}  // namespace sbx::net
