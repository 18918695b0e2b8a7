// The gofer filesystem: a host directory (or single file) of which the sentry knows only what the gofer tells. Names
// and attributes are asked for once and cached; data goes by descriptors that the gofer donated and that are kept with
// the inode. The rootfs is the container's own (exclusive): its caches hold until something is changed by us. Other
// mounts are shared with the host: what the caches say is used for a few milliseconds only.
//
// Kernel lock held everywhere. A round trip keeps it (docs/decisions/0002-gofer-transport.md); host calls that may take
// long drop it (HostBlock).
#pragma once
#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "gofer/protocol/channel.h"
#include "sentry/base/unique_fd.h"
#include "sentry/fiber/fiber.h"
#include "sentry/vfs/inode.h"

namespace sbx::fs::gofer {

namespace wire = ::sbx::gofer;

class GoferInode;
struct ListingUse;

class GoferFs final : public vfs::FileSystem {
 public:
  // mount: index in the gofer's boot data. source: the device column of /proc/mounts. Before or after the sentry's
  // filter is loaded.
  static Result<RefPtr<GoferFs>> create(std::shared_ptr<wire::Client> client, u32 mount, std::string source);

  const char* type_name() const override { return type_name_; }
  RefPtr<vfs::Inode> root() override;
  Result<vfs::StatFs> statfs() override;
  Result<void> sync() override;
  std::string source() const override { return source_; }
  bool read_only() const override { return read_only_; }

  bool exclusive() const { return exclusive_; }
  bool steady_names() const override { return exclusive_; }
  // Sockets of the host in it may be connected to. Else a socket file is just a name.
  bool reaches_sockets() const { return reaches_sockets_; }
  wire::Client& client() { return *client_; }
  wire::NodeId root_node() const { return root_node_; }

  // The one inode object of what `node` describes. fresh: the gofer just said so; else it is from a directory's cache.
  RefPtr<GoferInode> intern(const wire::Node& node, bool fresh);
  // The live object with that identity, or null.
  GoferInode* find(const wire::Attr& attr) const;
  void forget_inode(GoferInode& inode);  // its object ends, or its host inode does
  // The guest's st_dev for a host device number.
  u64 guest_dev(u64 host_dev);

  // Whether the host's filesystem on that device, as an overlay, is known to refuse RWF_NOWAIT.
  bool lacks_nowait(u64 host_dev) const {
    return std::find(no_nowait_.begin(), no_nowait_.end(), host_dev) != no_nowait_.end();
  }
  void note_no_nowait(u64 host_dev) {
    if (!lacks_nowait(host_dev)) no_nowait_.push_back(host_dev);
  }

  // One request; makes room and tries again when our descriptor table is full.
  template <typename Request>
  Result<typename Request::Reply> call(const Request& m, int fd = -1, UniqueFd* received = nullptr) {
    flush_forgotten(kForgetBatch);
    auto reply = client_->call(m, fd, received);
    if (reply || reply.error() != Errno::kMfile) return reply;
    shrink_descriptors(0);
    return client_->call(m, fd, received);
  }

  // --- descriptors kept with inodes nobody has open ---
  using DescriptorList = std::list<GoferInode*>;
  DescriptorList::iterator keep_descriptor(GoferInode& inode);
  void drop_descriptor(DescriptorList::iterator at) { kept_.erase(at); }
  // Closes what is too much. Not while an inode is in the middle of something.
  void limit_descriptors();

  // --- directories whose entries are cached ---
  void directory_cached(GoferInode& dir, size_t entries);
  void directory_dropped(std::list<GoferInode*>::iterator at, size_t entries);
  std::list<GoferInode*>::iterator newest_directory() { return cached_dirs_.begin(); }

  // A directory is about to be listed: whether its entries will be looked at too, to judge by the last one listed.
  bool expects_lookups(std::shared_ptr<ListingUse> use);

  // --- files opened ahead (ahead.cc) ---
  struct AheadFile {
    std::string name;
    u64 dev, ino;
    size_t place;  // in the directory's listing
    UniqueFd fd;   // invalid: taken
  };
  // Of one directory, opened along with a file in it.
  struct Ahead {
    const GoferInode* dir = nullptr;  // null: none
    std::vector<AheadFile> files;
    size_t used = 0;
    u64 made_at = 0;
  };
  Ahead* ahead_of(const GoferInode& dir);
  Ahead& new_batch(GoferInode& dir);
  // Something in that directory is about to change.
  void drop_ahead(const GoferInode& dir);
  bool walks_in_order() const { return walks_in_order_; }

  // The gofer need not remember `node` any more; told in batches.
  void forget_node(wire::NodeId node) { forgotten_.insert(node); }
  void remember_node(wire::NodeId node) { forgotten_.erase(node); }

 private:
  static constexpr size_t kForgetBatch = 256;
  static constexpr size_t kMostCachedEntries = 200'000;
  GoferFs() = default;
  ~GoferFs() override;
  void flush_forgotten(size_t least);
  void shrink_descriptors(size_t keep);

  std::shared_ptr<wire::Client> client_;
  const char* type_name_ = "gofer";
  std::string source_;
  bool read_only_ = false, exclusive_ = false, reaches_sockets_ = false;
  std::shared_ptr<ListingUse> last_listing_;
  wire::NodeId root_node_ = wire::kNoNode;
  // Host device and inode number.
  struct Identity {
    u64 dev, ino;
    bool operator==(const Identity&) const = default;
  };
  struct IdentityHash {
    size_t operator()(const Identity& i) const noexcept { return i.ino + i.dev * 0x9e3779b97f4a7c15; }
  };
  std::unordered_map<Identity, GoferInode*, IdentityHash> inodes_;
  std::map<u64, u64> devices_;
  std::vector<u64> no_nowait_;  // the host's numbers of devices
  std::unordered_set<wire::NodeId> forgotten_;
  DescriptorList kept_;  // most recently used first
  size_t most_kept_ = 1024;
  fiber::Timer sweep_{[this] { shrink_descriptors(0); }};  // shared mounts
  // A few, for several tasks.
  Ahead ahead_[4];
  bool walks_in_order_ = false;  // the last batch was of use
  void end_batch(Ahead& batch);
  void drop_old_ahead();
  fiber::Timer ahead_timer_{[this] { drop_old_ahead(); }};
  std::list<GoferInode*> cached_dirs_;  // most recently read first
  size_t cached_entries_ = 0;
  wire::Node root_;  // as attached; its inode is not held: inodes hold the filesystem
};

// The text of a file of /proc/PID of a host process of the sandbox, through the gofer: "maps", "smaps", "smaps_rollup",
// "statm", "stat", "status", "io". pid: in the sandbox's own pid namespace. kInval: another name.
Result<std::string> host_proc(wire::Client& client, i32 pid, std::string_view kind);
// A raw or packet socket of the container's network namespace.
Result<UniqueFd> host_socket(wire::Client& client, int family, int type, int protocol);

}  // namespace sbx::fs::gofer
