// The sockets that a gofer makes (MakeSocket): the filter allows these and the handler knows no others.
#pragma once
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "sentry/base/types.h"

namespace sbx::gofer {

struct SocketKind {
  int family, type;
  int protocol;  // -1: any
  bool raw;      // needs GoferBoot::raw_sockets, else GoferBoot::sockets
};

constexpr SocketKind kSocketKinds[] = {
    {AF_INET, SOCK_STREAM, 0, false},
    {AF_INET, SOCK_STREAM, IPPROTO_TCP, false},
    {AF_INET, SOCK_DGRAM, 0, false},
    {AF_INET, SOCK_DGRAM, IPPROTO_UDP, false},
    {AF_INET, SOCK_DGRAM, IPPROTO_ICMP, false},
    {AF_INET6, SOCK_STREAM, 0, false},
    {AF_INET6, SOCK_STREAM, IPPROTO_TCP, false},
    {AF_INET6, SOCK_DGRAM, 0, false},
    {AF_INET6, SOCK_DGRAM, IPPROTO_UDP, false},
    {AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6, false},
    {AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, false},
    {AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG, false},
    {AF_INET, SOCK_RAW, -1, true},
    {AF_INET6, SOCK_RAW, -1, true},
    {AF_PACKET, SOCK_RAW, -1, true},
    {AF_PACKET, SOCK_DGRAM, -1, true},
};

}  // namespace sbx::gofer
