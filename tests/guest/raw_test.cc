// Raw and packet sockets over the loopback interface: raw(7), packet(7), icmp(7), socket(7) SO_ATTACH_FILTER,
// Documentation/networking/packet_mmap.rst.
#include <arpa/inet.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <vector>

#include "inet.h"

using namespace guest;

namespace {

int udp(int* port) {
  int fd = bound(SOCK_DGRAM);
  *port = port_of(fd);
  return fd;
}

uint16_t checksum(const void* data, size_t n) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < n; i += 2) sum += ((const uint16_t*)data)[i / 2];
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

bool readable(int fd, int ms = 3000) {
  pollfd p{fd, POLLIN, 0};
  return OK(poll(&p, 1, ms)) == 1;
}

// A packet socket bound to the loopback interface.
int packet_socket(int type = SOCK_RAW, int protocol = ETH_P_IP) {
  int fd = OK(socket(AF_PACKET, type | SOCK_CLOEXEC, htons((uint16_t)protocol)));
  sockaddr_ll a{};
  a.sll_family = AF_PACKET;
  a.sll_protocol = htons((uint16_t)protocol);
  a.sll_ifindex = (int)if_nametoindex("lo");
  CHECK(a.sll_ifindex > 0);
  OK(bind(fd, (sockaddr*)&a, sizeof a));
  return fd;
}

void send_udp(int port, const char* text) {
  int fd = OK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in to = local(port);
  CHECK_EQ(OK(sendto(fd, text, strlen(text), 0, (sockaddr*)&to, sizeof to)), strlen(text));
  close(fd);
}

// The text of a UDP datagram to `port` in an IP packet, "" if it is something else.
std::string udp_text(const uint8_t* bytes, size_t n, int port) {
  if (n < sizeof(iphdr)) return "";
  auto* ip = (const iphdr*)bytes;
  size_t head = ip->ihl * 4u;
  if (ip->protocol != IPPROTO_UDP || n < head + sizeof(udphdr)) return "";
  auto* header = (const udphdr*)(bytes + head);
  if (ntohs(header->dest) != port) return "";
  return std::string((const char*)(header + 1), n - head - sizeof(udphdr));
}

}  // namespace

TEST(raw, icmp_echo) {
  int fd = OK(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
  uint32_t filter = ~(1u << ICMP_ECHOREPLY);
  OK(setsockopt(fd, SOL_RAW, 1 /* ICMP_FILTER */, &filter, sizeof filter));
  struct {
    icmphdr header;
    char text[8];
  } request{};
  request.header.type = ICMP_ECHO;
  request.header.un.echo.id = htons(4711);
  memcpy(request.text, "echo me", 8);
  request.header.checksum = checksum(&request, sizeof request);
  sockaddr_in to = local();
  CHECK_EQ(OK(sendto(fd, &request, sizeof request, 0, (sockaddr*)&to, sizeof to)), sizeof request);
  CHECK(readable(fd));
  uint8_t reply[200];
  sockaddr_in from{};
  socklen_t n = sizeof from;
  ssize_t got = OK(recvfrom(fd, reply, sizeof reply, 0, (sockaddr*)&from, &n));
  CHECK_EQ(got, sizeof(iphdr) + sizeof request);  // with the IP header
  CHECK_EQ(from.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
  auto* header = (const icmphdr*)(reply + sizeof(iphdr));
  CHECK_EQ(header->type, ICMP_ECHOREPLY);
  CHECK_EQ(header->un.echo.id, htons(4711));
  CHECK_STR((const char*)(header + 1), "echo me");
  CHECK_EQ(recv(fd, reply, sizeof reply, MSG_DONTWAIT), -1);  // the request itself was filtered
  CHECK_EQ(errno, EAGAIN);
}

TEST(raw, own_ip_header) {
  int port;
  int receiver = udp(&port);
  int fd = OK(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));  // implies IP_HDRINCL
  struct {
    iphdr ip;
    udphdr udp;
    char text[4];
  } __attribute__((packed)) packet{};
  packet.ip.version = 4;
  packet.ip.ihl = 5;
  packet.ip.ttl = 9;
  packet.ip.protocol = IPPROTO_UDP;
  packet.ip.saddr = htonl(0x7f000002);
  packet.ip.daddr = htonl(INADDR_LOOPBACK);
  packet.udp.source = htons(1234);
  packet.udp.dest = htons((uint16_t)port);
  packet.udp.len = htons(sizeof(udphdr) + 4);
  memcpy(packet.text, "raw!", 4);
  sockaddr_in to = local();
  CHECK_EQ(OK(sendto(fd, &packet, sizeof packet, 0, (sockaddr*)&to, sizeof to)), sizeof packet);
  CHECK(readable(receiver));
  char text[10];
  sockaddr_in from{};
  socklen_t n = sizeof from;
  CHECK_EQ(OK(recvfrom(receiver, text, sizeof text, 0, (sockaddr*)&from, &n)), 4);
  CHECK_STR(std::string(text, 4), "raw!");
  CHECK_EQ(from.sin_addr.s_addr, htonl(0x7f000002));
  CHECK_EQ(ntohs(from.sin_port), 1234);
}

TEST(raw, options) {
  int fd = OK(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP));
  int on = 1, value = -1;
  socklen_t n = sizeof value;
  OK(setsockopt(fd, IPPROTO_IP, IP_HDRINCL, &on, sizeof on));
  OK(getsockopt(fd, IPPROTO_IP, IP_HDRINCL, &value, &n));
  CHECK_EQ(value, 1);
  OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &n));
  CHECK_EQ(value, SOCK_RAW);
  FAILS(listen(fd, 1), EOPNOTSUPP);
  FAILS(socket(AF_INET, SOCK_RAW, 0), EPROTONOSUPPORT);
  int stream = OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  FAILS(setsockopt(stream, IPPROTO_IP, IP_HDRINCL, &on, sizeof on), ENOPROTOOPT);
}

TEST(raw, packets_seen) {
  int port;
  udp(&port);
  int fd = packet_socket(SOCK_RAW, ETH_P_ALL);  // only then it sees what goes out
  send_udp(port, "hello");
  // Once on its way out, once on its way in.
  for (int type : {PACKET_OUTGOING, PACKET_HOST}) {
    std::string text;
    uint8_t bytes[300];
    sockaddr_ll from{};
    while (text.empty()) {
      CHECK(readable(fd));
      socklen_t n = sizeof from;
      ssize_t got = OK(recvfrom(fd, bytes, sizeof bytes, 0, (sockaddr*)&from, &n));
      CHECK(got > ETH_HLEN);
      text = udp_text(bytes + ETH_HLEN, (size_t)got - ETH_HLEN, port);
    }
    CHECK_STR(text, "hello");
    CHECK_EQ(from.sll_family, AF_PACKET);
    CHECK_EQ(from.sll_pkttype, type);
    CHECK_EQ(from.sll_ifindex, if_nametoindex("lo"));
  }
  tpacket_stats stats{};
  socklen_t n = sizeof stats;
  OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &n));
  CHECK(stats.tp_packets >= 2);
}

TEST(raw, cooked_packets) {
  int port;
  int receiver = udp(&port);
  int fd = packet_socket(SOCK_DGRAM);
  send_udp(port, "cooked");
  std::string text;
  uint8_t bytes[300];
  ssize_t got = 0;
  while (text.empty()) {
    CHECK(readable(fd));
    got = OK(recv(fd, bytes, sizeof bytes, 0));
    text = udp_text(bytes, (size_t)got, port);
  }
  CHECK_STR(text, "cooked");
  // And sent once more as it came, below the sockets that know of ports.
  CHECK_EQ(OK(recv(receiver, bytes + 200, 100, 0)), 6);
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_protocol = htons(ETH_P_IP);
  to.sll_ifindex = (int)if_nametoindex("lo");
  to.sll_halen = 6;
  CHECK_EQ(OK(sendto(fd, bytes, (size_t)got, 0, (sockaddr*)&to, sizeof to)), got);
}

TEST(raw, packet_filter) {
  int port;
  udp(&port);
  int fd = packet_socket(SOCK_DGRAM);
  // Only datagrams whose first byte of text is 'y': the IP header has no options here.
  sock_filter code[] = {
      {BPF_LD | BPF_B | BPF_ABS, 0, 0, sizeof(iphdr) + sizeof(udphdr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'y'},
      {BPF_RET | BPF_K, 0, 0, 0xffff},
      {BPF_RET | BPF_K, 0, 0, 0},
  };
  sock_fprog program{4, code};
  OK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
  send_udp(port, "no");
  send_udp(port, "yes");
  uint8_t bytes[300];
  CHECK(readable(fd));
  ssize_t got = OK(recv(fd, bytes, sizeof bytes, 0));
  CHECK_STR(udp_text(bytes, (size_t)got, port), "yes");
  program.len = 0;
  FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), EINVAL);
  program = {4, (sock_filter*)1};
  FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), EFAULT);
  code[0].code = 0xffff;
  program = {4, code};
  FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), EINVAL);
  int none = 0;
  OK(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none));
  send_udp(port, "no");
  CHECK(readable(fd));
}

TEST(raw, packet_ring) {
  int port;
  udp(&port);
  int fd = packet_socket(SOCK_DGRAM);
  int version = TPACKET_V2;
  int length = version;
  socklen_t n = sizeof length;
  OK(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &length, &n));
  CHECK_EQ(length, sizeof(tpacket2_hdr));
  OK(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version));
  FAILS((long)mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0), EINVAL);
  tpacket_req request{4096, 4, 2048, 8};
  OK(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request));
  auto* ring = (uint8_t*)mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(ring != MAP_FAILED);
  send_udp(port, "ringed");
  CHECK(readable(fd));
  std::string text;
  for (int i = 0; i < 8 && text.empty(); ++i) {
    auto* header = (tpacket2_hdr*)(ring + i * 2048);
    if ((header->tp_status & TP_STATUS_USER) == 0) break;
    text = udp_text((const uint8_t*)header + header->tp_net, header->tp_snaplen, port);
    header->tp_status = TP_STATUS_KERNEL;
  }
  CHECK_STR(text, "ringed");
  OK(munmap(ring, 4 * 4096));
}

TEST(raw, needs_capability) {
  int known = OK(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  OK(syscall(SYS_capget, &header, data));
  data[0].effective &= ~(1u << CAP_NET_RAW);
  OK(syscall(SYS_capset, &header, data));
  FAILS(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM);
  FAILS(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6), EPERM);
  FAILS(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), EPERM);
  uint32_t filter = 0;  // the one that is there goes on
  OK(setsockopt(known, SOL_RAW, 1 /* ICMP_FILTER */, &filter, sizeof filter));
}
