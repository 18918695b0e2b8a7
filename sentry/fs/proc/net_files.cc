// /proc/net: what the host says of the container's network namespace, in which every stub lives; unix sockets are the
// sentry's own; families that are not there are tables without rows.
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/proc/target.h"
#include "sentry/net/socket.h"

namespace sbx::fs::proc {

Result<std::string> read_host_net(const char* kind) {
  for (const auto& [pid, group] : task::kernel().groups()) {
    if (group->tasks.empty()) continue;
    auto space = group->tasks.front()->thread->address_space();
    if (!space || space->host_pid() == 0) continue;
    if (auto text = read_host_proc(space->host_pid(), kind)) return text;
  }
  return Errno::kNoent;
}

void add_net_files(StaticDir& net) {
  for (const char* kind :
       {"net/dev",   "net/tcp",      "net/tcp6",         "net/udp",       "net/udp6",        "net/icmp",
        "net/icmp6", "net/route",    "net/ipv6_route",   "net/if_inet6",  "net/arp",         "net/snmp",
        "net/snmp6", "net/netstat",  "net/sockstat",     "net/sockstat6", "net/protocols",   "net/igmp",
        "net/igmp6", "net/fib_trie", "net/fib_triestat", "net/dev_mcast", "net/softnet_stat"}) {
    net.text(kind + 4, [kind]() -> Result<std::string> {
      auto text = read_host_net(kind);
      // A host kernel without the protocol has no such file.
      if (!text && text.error() == Errno::kNoent) return std::string();
      return text;
    });
  }
  constexpr char kInet[] =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer "
      "drops\n";
  constexpr char kInet6[] =
      "  sl  local_address                         remote_address                        st tx_queue rx_queue tr "
      "tm->when retrnsmt   uid  timeout inode ref pointer drops\n";
  net.constant("raw", kInet);
  net.constant("raw6", kInet6);
  net.text("unix", []() -> Result<std::string> { return sbx::net::unix_table(); });
  net.constant("packet", "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n");
  net.constant("netlink", "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n");
  net.constant("wireless", "");
}

}  // namespace sbx::fs::proc
