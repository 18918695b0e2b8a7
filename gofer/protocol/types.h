// The value types of the rootfs protocol (messages.def). Plain data; how each is written is in codec.h of this folder.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/types.h"

namespace sbx::gofer {

// Raised by one with every change of messages.def that an older peer would misread.
constexpr u32 kProtocolVersion = 2;

// A directory (or a mount's root, whatever it is) known to the server, until Forget or the loss of its parent.
using NodeId = u64;
constexpr NodeId kNoNode = 0;

// Seconds since the epoch may be negative.
struct Timestamp {
  i64 seconds = 0;
  u64 nanoseconds = 0;
};

// What statx(2) tells. Copied as bytes: no padding.
struct Attr {
  u64 dev = 0;
  u64 ino = 0;
  u64 rdev = 0;
  u64 size = 0;
  u64 blocks = 0;  // of 512 bytes
  u32 mode = 0;    // type and permission bits
  u32 nlink = 0;
  u32 uid = 0;
  u32 gid = 0;
  Timestamp atime, mtime, ctime, btime;
  u64 blksize = 0;
};
static_assert(sizeof(Attr) == 128);

// A single path component, never empty. Decoding refuses "", ".", "..", '/', NUL and more than 255 bytes.
struct Name : std::string {
  using std::string::string;
  Name(std::string s) : std::string(std::move(s)) {}  // NOLINT(google-explicit-constructor)
};
// A Name, or empty: then the node itself is meant.
struct Leaf : std::string {
  using std::string::string;
  Leaf(std::string s) : std::string(std::move(s)) {}  // NOLINT(google-explicit-constructor)
};

// An object and where to go on from it.
struct Node {
  Attr attr;
  NodeId dir = kNoNode;  // directories only
  std::string target;    // symbolic links only
};

struct DirEntry {
  std::string name;
  u64 ino = 0;
  u64 cookie = 0;      // continues after this entry
  u8 type = 0;         // DT_*
  bool known = false;  // `node` is filled
  Node node;
};

// Whose attributes are meant: `leaf` in `dir`, or (by_fd) the open file whose descriptor comes with the request, of
// the mount that `dir` belongs to.
struct Target {
  NodeId dir = kNoNode;
  Leaf leaf;
  bool by_fd = false;
};

struct AttrChange {
  enum : u32 { kMode = 1, kUid = 2, kGid = 4, kSize = 8, kAtime = 16, kMtime = 32, kAtimeNow = 64, kMtimeNow = 128 };
  u32 mask = 0;
  u32 mode = 0;
  u32 uid = 0;
  u32 gid = 0;
  u64 size = 0;
  Timestamp atime, mtime;
};

// Owner and permission bits of something new; the caller's umask is already applied.
struct Creation {
  u32 mode = 0;
  u32 uid = 0;
  u32 gid = 0;
};

struct FsStat {
  u64 type = 0, bsize = 0, blocks = 0, bfree = 0, bavail = 0, files = 0, ffree = 0, fsid = 0, namelen = 0, frsize = 0,
      flags = 0;
};

// Files of /proc/PID that HostProc may read; kMeminfo is of /proc itself (pid 0). Those of net/ are about the network
// namespace of the process.
constexpr const char* kProcNames[] = {"maps",
                                      "smaps",
                                      "smaps_rollup",
                                      "statm",
                                      "stat",
                                      "status",
                                      "io",
                                      "meminfo",
                                      "net/dev",
                                      "net/tcp",
                                      "net/tcp6",
                                      "net/udp",
                                      "net/udp6",
                                      "net/icmp",
                                      "net/icmp6",
                                      "net/route",
                                      "net/ipv6_route",
                                      "net/if_inet6",
                                      "net/arp",
                                      "net/snmp",
                                      "net/snmp6",
                                      "net/netstat",
                                      "net/sockstat",
                                      "net/sockstat6",
                                      "net/protocols",
                                      "net/igmp",
                                      "net/igmp6",
                                      "net/fib_trie",
                                      "net/fib_triestat",
                                      "net/dev_mcast",
                                      "net/softnet_stat"};
constexpr u32 kProcKinds = sizeof(kProcNames) / sizeof(kProcNames[0]);
constexpr u32 kProcMeminfo = 7;
static_assert(std::string_view(kProcNames[kProcMeminfo]) == "meminfo");

// A file that OpenSeveral has opened. Copied as bytes: no padding.
struct OpenedFile {
  u64 place = 0;
  u64 dev = 0, ino = 0;
};
constexpr size_t kMostOpened = 32;

using Bytes = std::string;
using Names = std::vector<Name>;
using NodeIds = std::vector<NodeId>;
using Nodes = std::vector<Node>;
using DirEntries = std::vector<DirEntry>;
using OpenedFiles = std::vector<OpenedFile>;
using Strings = std::vector<std::string>;

}  // namespace sbx::gofer
