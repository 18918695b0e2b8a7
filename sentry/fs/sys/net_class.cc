#include "sentry/fs/sys/net_class.h"

#include <dirent.h>
#include <net/if.h>
#include <net/if_arp.h>

#include <algorithm>
#include <sstream>

#include "sentry/base/log.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/net/inet_socket.h"

namespace sbx::fs::sys {

using proc::StaticDir;

namespace {

// The columns of /proc/net/dev, as files of statistics/.
constexpr const char* kColumns[] = {"rx_bytes",       "rx_packets",      "rx_errors",         "rx_dropped",
                                    "rx_fifo_errors", "rx_frame_errors", "rx_compressed",     "multicast",
                                    "tx_bytes",       "tx_packets",      "tx_errors",         "tx_dropped",
                                    "tx_fifo_errors", "collisions",      "tx_carrier_errors", "tx_compressed"};
// Counters that Linux has and that table sums up or leaves out.
constexpr const char* kOthers[] = {"rx_crc_errors",  "rx_length_errors",  "rx_missed_errors",    "rx_nohandler",
                                   "rx_over_errors", "tx_aborted_errors", "tx_heartbeat_errors", "tx_window_errors"};

// Calls `visit(name, rest of the line)` for each interface.
template <typename Visit>
Result<void> each_interface(Visit visit) {
  std::istringstream lines(TRY(proc::read_host_net("net/dev")));
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(' ');
    visit(line.substr(begin, colon - begin), line.substr(colon + 1));
  }
  return {};
}

Result<std::string> statistic(const std::string& name, size_t column) {
  std::string out;
  TRY(each_interface([&](const std::string& found, const std::string& figures) {
    if (found != name) return;
    std::istringstream words(figures);
    for (size_t i = 0; i <= column; ++i) words >> out;
  }));
  if (out.empty()) return Errno::kNodev;
  return out + "\n";
}

std::string hex_address(const u8* bytes) {
  return str_printf("%02x:%02x:%02x:%02x:%02x:%02x\n", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]);
}

using Facts = net::InterfaceFacts;

Result<std::string> up_only(const Facts& f, const char* text) {
  if ((f.flags & IFF_UP) == 0) return Errno::kInval;
  return std::string(text);
}

struct File {
  const char* name;
  Result<std::string> (*text)(const Facts& f);
};
constexpr File kFiles[] = {
    {"addr_assign_type", [](const Facts&) -> Result<std::string> { return std::string("0\n"); }},
    {"addr_len", [](const Facts&) -> Result<std::string> { return std::string("6\n"); }},
    {"address", [](const Facts& f) -> Result<std::string> { return hex_address(f.address); }},
    {"broadcast",
     [](const Facts& f) -> Result<std::string> {
       const u8 all[6] = {255, 255, 255, 255, 255, 255}, none[6] = {};
       return hex_address(f.hardware == ARPHRD_LOOPBACK ? none : all);
     }},
    {"carrier", [](const Facts& f) { return up_only(f, (f.flags & IFF_RUNNING) != 0 ? "1\n" : "0\n"); }},
    {"dev_id", [](const Facts&) -> Result<std::string> { return std::string("0x0\n"); }},
    {"dev_port", [](const Facts&) -> Result<std::string> { return std::string("0\n"); }},
    {"dormant", [](const Facts& f) { return up_only(f, "0\n"); }},
    // What a virtual Ethernet pair says; the loopback has neither.
    {"duplex",
     [](const Facts& f) {
       return f.hardware == ARPHRD_LOOPBACK ? Result<std::string>(Errno::kInval) : up_only(f, "full\n");
     }},
    {"flags",
     [](const Facts& f) -> Result<std::string> {
       // Without those that only the ioctl computes.
       return str_printf("0x%x\n", f.flags & ~static_cast<u32>(IFF_RUNNING));
     }},
    {"ifalias", [](const Facts&) -> Result<std::string> { return std::string(); }},
    {"ifindex", [](const Facts& f) -> Result<std::string> { return std::to_string(f.index) + "\n"; }},
    {"iflink", [](const Facts& f) -> Result<std::string> { return std::to_string(f.index) + "\n"; }},
    {"link_mode", [](const Facts&) -> Result<std::string> { return std::string("0\n"); }},
    {"mtu", [](const Facts& f) -> Result<std::string> { return std::to_string(f.mtu) + "\n"; }},
    {"operstate",
     [](const Facts& f) -> Result<std::string> {
       if (f.hardware == ARPHRD_LOOPBACK) return std::string("unknown\n");
       return std::string((f.flags & IFF_RUNNING) != 0 ? "up\n" : "down\n");
     }},
    {"speed",
     [](const Facts& f) {
       return f.hardware == ARPHRD_LOOPBACK ? Result<std::string>(Errno::kInval) : up_only(f, "10000\n");
     }},
    {"tx_queue_len", [](const Facts& f) -> Result<std::string> { return std::to_string(f.queue_length) + "\n"; }},
    {"type", [](const Facts& f) -> Result<std::string> { return std::to_string(f.hardware) + "\n"; }},
};

RefPtr<StaticDir> make_interface(proc::PseudoFs& fs, const std::string& name) {
  auto dir = make_ref<StaticDir>(fs);
  for (const File& file : kFiles) {
    dir->text(file.name, [name, &file]() -> Result<std::string> { return file.text(TRY(net::interface_facts(name))); });
  }
  StaticDir& statistics = dir->dir("statistics");
  for (size_t i = 0; i < std::size(kColumns); ++i) {
    statistics.text(kColumns[i], [name, i] { return statistic(name, i); });
  }
  for (const char* other : kOthers) statistics.constant(other, "0\n");
  dir->dir("queues/rx-0");
  dir->dir("queues/tx-0");
  dir->dir("power");
  dir->link("subsystem", "../../../../class/net");
  dir->text("uevent", [name]() -> Result<std::string> {
    return "INTERFACE=" + name + "\nIFINDEX=" + std::to_string(TRY(net::interface_facts(name)).index) + "\n";
  });
  return dir;
}

// One entry an interface, looked up each time: they come and go.
class Interfaces final : public proc::DirNode {
 public:
  Interfaces(proc::PseudoFs& fs, bool links) : DirNode(fs, fs.next_ino(), S_IFDIR | 0555), links_(links) {}
  Result<RefPtr<vfs::Inode>> lookup(std::string_view name) override {
    std::string own(name);
    auto known = nodes_.find(own);
    if (!net::interface_facts(own)) {
      if (known != nodes_.end()) nodes_.erase(known);
      return Errno::kNoent;
    }
    if (known == nodes_.end()) {
      RefPtr<proc::Node> node;
      if (links_)
        node = make_ref<proc::SimpleLink>(
            pseudo_fs(), [own]() -> Result<std::string> { return "../../devices/virtual/net/" + own; });
      else
        node = make_interface(pseudo_fs(), own);
      known = nodes_.emplace(own, std::move(node)).first;
    }
    return RefPtr<vfs::Inode>(known->second);
  }
  Result<std::vector<vfs::DirEntry>> list() override {
    std::vector<vfs::DirEntry> out;
    TRY(each_interface([&](const std::string& name, const std::string&) {
      vfs::DirEntry entry;
      entry.name = name;
      entry.type = links_ ? DT_LNK : DT_DIR;
      entry.ino = 1;
      entry.next = out.size() + 3;
      out.push_back(std::move(entry));
    }));
    return out;
  }

 private:
  const bool links_;
  std::map<std::string, RefPtr<proc::Node>> nodes_;
};

}  // namespace

void add_net_class(proc::PseudoFs& fs, StaticDir& root) {
  root.dir("class").add("net", make_ref<Interfaces>(fs, true));
  root.dir("devices/virtual").add("net", make_ref<Interfaces>(fs, false));
}

}  // namespace sbx::fs::sys
