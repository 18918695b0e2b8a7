// The nodes the client knows: directories and mount roots. A node remembers its parent, its name and its identity
// (device and inode number); its O_PATH descriptor is opened when needed and closed again when too many are open.
// Opening goes by (parent's descriptor, one name), never follows a symbolic link, never enters another mount, and must
// meet the same inode, so a node is either the directory it was or stale.
#pragma once
#include <sys/stat.h>

#include <list>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "gofer/boot.h"
#include "gofer/protocol/types.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"

namespace sbx::gofer {

// A mount as the server knows it.
struct ServedMount {
  UniqueFd root;  // O_PATH
  UniqueFd file;  // the root opened for data, if it is a regular file
  bool file_writable = false;
  u64 mount_id = 0;  // statx's
  bool read_only = false;
  bool recursive = false;
  bool exclusive = false;
  bool sockets = false;
  bool is_dir = false;
  NodeId node = kNoNode;  // once attached
};

// openat2 with the rules of this server, or openat where the kernel refuses openat2. `name`: one component or ".".
// Adds O_NOFOLLOW, O_CLOEXEC, O_NOCTTY, O_NONBLOCK.
Result<UniqueFd> open_beneath(int dir, const char* name, u64 flags, u32 mode, bool cross_mounts);
// statx of `name` in `dir` (empty: of `dir` itself), no link followed, no automount. `mount_id` may be null.
Result<Attr> stat_at(int dir, const char* name, u64* mount_id);

class NodeTable {
 public:
  // At most `open_limit` descriptors of directories are kept open between requests.
  NodeTable(std::vector<ServedMount>& mounts, u32 open_limit) : mounts_(mounts), open_limit_(open_limit) {}

  // The node of a mount's root. kNxio: no such mount.
  Result<NodeId> attach(u32 mount, const Attr& attr);
  // The node for the directory `name` of `parent`, which has been seen with `attr`: the known one if it is the same
  // inode, else a new one (the old one keeps its identity and becomes stale). kNfile: too many nodes.
  Result<NodeId> intern(NodeId parent, const std::string& name, const Attr& attr);
  // An open O_PATH descriptor, owned by the table, good until the end of the request. kStale, kBadf (unknown node).
  Result<int> descriptor(NodeId node);
  // kBadf: unknown node.
  Result<ServedMount*> mount_of(NodeId node);
  bool is_root(NodeId node) const;
  // Bookkeeping after changes made by us.
  void removed(NodeId parent, const std::string& name);
  void renamed(NodeId parent, const std::string& name, NodeId new_parent, const std::string& new_name, bool exchange);
  // The node of child `name`, kNoNode if it has none.
  NodeId child(NodeId parent, const std::string& name) const;
  void forget(NodeId node);
  // Closes what is over the limit. Call between requests.
  void trim();

  size_t size() const { return nodes_.size(); }
  size_t open_count() const { return open_.size(); }

 private:
  struct Entry {
    NodeId parent = kNoNode;
    std::string name;
    u32 mount = 0;
    u64 dev = 0;
    u64 ino = 0;
    UniqueFd fd;
    bool pinned = false;  // removed from its parent: cannot be reopened, so the descriptor stays
    bool linked = false;  // parent's children lead here
    std::list<NodeId>::iterator lru;
    std::map<std::string, NodeId> children;
  };
  Entry* find(NodeId node);
  void unlink_from_parent(NodeId node, Entry& e);
  void touch(Entry& e);
  bool is_below(NodeId node, NodeId ancestor);

  std::vector<ServedMount>& mounts_;
  u32 open_limit_;
  u32 pinned_ = 0;
  NodeId next_ = 1;
  std::unordered_map<NodeId, Entry> nodes_;
  std::list<NodeId> open_;  // most recently used first; roots and pinned ones are not in it
};

}  // namespace sbx::gofer
