// The socket options, interface ioctls and control messages of host sockets that pass: the whole list. The sentry's
// filter is made of it, so nothing else can reach the host even from a sentry that was taken over.
#pragma once
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "sentry/base/types.h"

namespace sbx::net {

struct HostOption {
  int level, name;
  bool settable;
};

// No option whose value holds addresses or descriptors (SO_ATTACH_*, TCP_ZEROCOPY_RECEIVE), that changes what the host
// does for others (SO_MARK, TCP_REPAIR, TCP_ULP), or that the sentry keeps itself (timeouts).
constexpr HostOption kHostOptions[] = {
    {SOL_SOCKET, SO_REUSEADDR, true},
    {SOL_SOCKET, SO_TYPE, false},
    {SOL_SOCKET, SO_ERROR, false},
    {SOL_SOCKET, SO_DONTROUTE, true},
    {SOL_SOCKET, SO_BROADCAST, true},
    {SOL_SOCKET, SO_SNDBUF, true},
    {SOL_SOCKET, SO_RCVBUF, true},
    {SOL_SOCKET, SO_KEEPALIVE, true},
    {SOL_SOCKET, SO_DETACH_FILTER, true},
    {SOL_SOCKET, SO_NO_CHECK, true},
    {SOL_SOCKET, SO_OOBINLINE, true},
    {SOL_SOCKET, SO_PRIORITY, true},
    {SOL_SOCKET, SO_LINGER, true},
    {SOL_SOCKET, SO_REUSEPORT, true},
    {SOL_SOCKET, SO_RCVLOWAT, true},
    {SOL_SOCKET, SO_SNDLOWAT, false},
    {SOL_SOCKET, SO_BINDTODEVICE, true},
    {SOL_SOCKET, SO_TIMESTAMP, true},
    {SOL_SOCKET, SO_TIMESTAMPNS, true},
    {SOL_SOCKET, SO_TIMESTAMPING, true},
    {SOL_SOCKET, SO_ACCEPTCONN, false},
    {SOL_SOCKET, SO_PROTOCOL, false},
    {SOL_SOCKET, SO_DOMAIN, false},
    {SOL_SOCKET, SO_RXQ_OVFL, true},
    {SOL_SOCKET, SO_PEEK_OFF, true},
    {SOL_SOCKET, SO_BUSY_POLL, false},
    {SOL_SOCKET, SO_MAX_PACING_RATE, true},
    {SOL_SOCKET, SO_INCOMING_CPU, true},
    {SOL_SOCKET, SO_INCOMING_NAPI_ID, false},
    {SOL_SOCKET, SO_COOKIE, false},
    {SOL_SOCKET, SO_MEMINFO, false},
    {IPPROTO_IP, IP_TOS, true},
    {IPPROTO_IP, IP_TTL, true},
    {IPPROTO_IP, IP_HDRINCL, false},
    {IPPROTO_IP, IP_OPTIONS, true},
    {IPPROTO_IP, IP_RECVOPTS, true},
    {IPPROTO_IP, IP_RETOPTS, true},
    {IPPROTO_IP, IP_PKTINFO, true},
    {IPPROTO_IP, IP_MTU_DISCOVER, true},
    {IPPROTO_IP, IP_RECVERR, true},
    {IPPROTO_IP, IP_RECVTTL, true},
    {IPPROTO_IP, IP_RECVTOS, true},
    {IPPROTO_IP, IP_MTU, false},
    {IPPROTO_IP, IP_FREEBIND, true},
    {IPPROTO_IP, IP_MINTTL, true},
    {IPPROTO_IP, IP_RECVORIGDSTADDR, true},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, true},
    {IPPROTO_IP, IP_MULTICAST_IF, true},
    {IPPROTO_IP, IP_MULTICAST_TTL, true},
    {IPPROTO_IP, IP_MULTICAST_LOOP, true},
    {IPPROTO_IP, IP_MULTICAST_ALL, true},
    {IPPROTO_IP, IP_ADD_MEMBERSHIP, true},
    {IPPROTO_IP, IP_DROP_MEMBERSHIP, true},
    {IPPROTO_IP, MCAST_JOIN_GROUP, true},
    {IPPROTO_IP, MCAST_LEAVE_GROUP, true},
    {IPPROTO_IP, IP_UNICAST_IF, true},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, true},
    {IPPROTO_IPV6, IPV6_MULTICAST_IF, true},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS, true},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP, true},
    {IPPROTO_IPV6, IPV6_JOIN_GROUP, true},
    {IPPROTO_IPV6, IPV6_LEAVE_GROUP, true},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER, true},
    {IPPROTO_IPV6, IPV6_MTU, true},
    {IPPROTO_IPV6, IPV6_RECVERR, true},
    {IPPROTO_IPV6, IPV6_V6ONLY, true},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO, true},
    {IPPROTO_IPV6, IPV6_PKTINFO, true},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT, true},
    {IPPROTO_IPV6, IPV6_RECVTCLASS, true},
    {IPPROTO_IPV6, IPV6_TCLASS, true},
    {IPPROTO_IPV6, IPV6_DONTFRAG, true},
    {IPPROTO_IPV6, IPV6_ADDRFORM, false},
    {IPPROTO_IPV6, IPV6_UNICAST_IF, true},
    {IPPROTO_IPV6, 74 /* IPV6_RECVORIGDSTADDR */, true},
    {IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, true},
    {IPPROTO_IPV6, MCAST_JOIN_GROUP, true},
    {IPPROTO_IPV6, MCAST_LEAVE_GROUP, true},
    {IPPROTO_TCP, TCP_NODELAY, true},
    {IPPROTO_TCP, TCP_MAXSEG, true},
    {IPPROTO_TCP, TCP_CORK, true},
    {IPPROTO_TCP, TCP_KEEPIDLE, true},
    {IPPROTO_TCP, TCP_KEEPINTVL, true},
    {IPPROTO_TCP, TCP_KEEPCNT, true},
    {IPPROTO_TCP, TCP_SYNCNT, true},
    {IPPROTO_TCP, TCP_LINGER2, true},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, true},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, true},
    {IPPROTO_TCP, TCP_INFO, false},
    {IPPROTO_TCP, TCP_QUICKACK, true},
    {IPPROTO_TCP, TCP_CONGESTION, true},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, true},
    {IPPROTO_TCP, TCP_FASTOPEN, true},
    {IPPROTO_TCP, TCP_FASTOPEN_CONNECT, true},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, true},
    {IPPROTO_TCP, TCP_INQ, true},
    {IPPROTO_TCP, TCP_TIMESTAMP, true},
    {IPPROTO_UDP, UDP_CORK, true},
    {IPPROTO_UDP, UDP_SEGMENT, true},
    {IPPROTO_UDP, UDP_GRO, true},
    {IPPROTO_UDP, UDP_NO_CHECK6_TX, true},
    {IPPROTO_UDP, UDP_NO_CHECK6_RX, true},
    {SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, true},
    {SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, true},
    {SOL_NETLINK, NETLINK_PKTINFO, true},
    {SOL_NETLINK, NETLINK_BROADCAST_ERROR, true},
    {SOL_NETLINK, NETLINK_NO_ENOBUFS, true},
    {SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, false},
    {SOL_NETLINK, NETLINK_CAP_ACK, true},
    {SOL_NETLINK, NETLINK_EXT_ACK, true},
    {SOL_NETLINK, NETLINK_GET_STRICT_CHK, true},
    {IPPROTO_ICMP, 1 /* ICMP_FILTER */, true},
    {IPPROTO_ICMPV6, 1 /* ICMPV6_FILTER */, true},
};

// More of them for raw and packet sockets (raw(7), packet(7)), in the filter only where the container may have those.
constexpr HostOption kRawOptions[] = {
    {SOL_SOCKET, SO_ATTACH_FILTER, true},
    {SOL_SOCKET, SO_LOCK_FILTER, true},
    {SOL_RAW, 1 /* ICMP_FILTER */, true},
    {SOL_RAW, IPV6_CHECKSUM, true},
    {IPPROTO_IP, IP_HDRINCL, true},
    {IPPROTO_IP, IP_NODEFRAG, true},
    {IPPROTO_IPV6, IPV6_CHECKSUM, true},
    {IPPROTO_IPV6, IPV6_HDRINCL, true},
    {SOL_PACKET, PACKET_ADD_MEMBERSHIP, true},
    {SOL_PACKET, PACKET_DROP_MEMBERSHIP, true},
    {SOL_PACKET, PACKET_RX_RING, true},
    {SOL_PACKET, PACKET_STATISTICS, false},
    {SOL_PACKET, PACKET_AUXDATA, true},
    {SOL_PACKET, PACKET_VERSION, true},
    {SOL_PACKET, PACKET_HDRLEN, false},
    {SOL_PACKET, PACKET_RESERVE, true},
    {SOL_PACKET, PACKET_COPY_THRESH, true},
    {SOL_PACKET, PACKET_TIMESTAMP, true},
    {SOL_PACKET, PACKET_FANOUT, true},
    {SOL_PACKET, PACKET_IGNORE_OUTGOING, true},
};

// Control messages a guest may send with its data.
struct HostControl {
  int level, type;
  size_t most;  // bytes
};
constexpr HostControl kSendControls[] = {
    {IPPROTO_IP, IP_PKTINFO, sizeof(in_pktinfo)},
    {IPPROTO_IP, IP_TTL, sizeof(int)},
    {IPPROTO_IP, IP_TOS, sizeof(int)},
    {IPPROTO_IPV6, IPV6_PKTINFO, 20},
    {IPPROTO_IPV6, IPV6_HOPLIMIT, sizeof(int)},
    {IPPROTO_IPV6, IPV6_TCLASS, sizeof(int)},
    {IPPROTO_UDP, UDP_SEGMENT, sizeof(u16)},
};

// Questions about interfaces, answered by the host for the container's network namespace. All take a struct ifreq.
constexpr u32 kInterfaceIoctls[] = {
    SIOCGIFNAME,   SIOCGIFFLAGS, SIOCGIFADDR,   SIOCGIFDSTADDR, SIOCGIFBRDADDR, SIOCGIFNETMASK,
    SIOCGIFMETRIC, SIOCGIFMTU,   SIOCGIFHWADDR, SIOCGIFINDEX,   SIOCGIFTXQLEN,  SIOCGIFMAP,
};

}  // namespace sbx::net
