#include "sentry/fs/gofer/gofer_fs.h"

#include <linux/magic.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/fs/gofer/inode.h"

namespace sbx::fs::gofer {
namespace {

constexpr u64 kSecond = 1'000'000'000;
// A file of a shared mount that the host removes must not stay on its disk because we once read it.
constexpr u64 kSharedKeepNs = 2 * kSecond;

const char* name_of_type(u64 magic) {
  switch (magic) {
    case EXT4_SUPER_MAGIC: return "ext4";
    case 0x58465342: return "xfs";
    case BTRFS_SUPER_MAGIC: return "btrfs";
    case OVERLAYFS_SUPER_MAGIC: return "overlay";
    case TMPFS_MAGIC: return "tmpfs";
    case NFS_SUPER_MAGIC: return "nfs";
    case FUSE_SUPER_MAGIC: return "fuse";
    case 0x2fc12fc1: return "zfs";
    case SQUASHFS_MAGIC: return "squashfs";
    case 0xe0f5e1e2: return "erofs";
    default: return "ext4";
  }
}

}  // namespace

Result<RefPtr<GoferFs>> GoferFs::create(std::shared_ptr<wire::Client> client, u32 mount, std::string source) {
  RefPtr<GoferFs> fs(new GoferFs);
  fs->client_ = std::move(client);
  fs->source_ = std::move(source);
  wire::AttachRequest m;
  m.mount = mount;
  auto attached = TRY(fs->client_->call(m));
  fs->read_only_ = attached.read_only;
  fs->exclusive_ = attached.exclusive;
  fs->root_node_ = attached.node.dir;
  fs->reaches_sockets_ = attached.sockets;
  fs->devices_[attached.node.attr.dev] = fs->dev();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) fs->most_kept_ = std::clamp<rlim_t>(limit.rlim_cur / 8, 16, 4096);
  fs->root_ = std::move(attached.node);
  auto stat = fs->statfs();
  if (stat) fs->type_name_ = name_of_type(stat->type);
  return fs;
}

GoferFs::~GoferFs() { flush_forgotten(1); }

RefPtr<vfs::Inode> GoferFs::root() {
  bool live = find(root_.attr) != nullptr;
  RefPtr<GoferInode> inode = intern(root_, false);
  if (!live) inode->written();  // what Attach told may be old
  return inode;
}

Result<vfs::StatFs> GoferFs::statfs() {
  wire::StatFsRequest m;
  m.dir = root_node_;
  auto reply = TRY(call(m));
  const wire::FsStat& f = reply.stat;
  vfs::StatFs s;
  s.type = f.type;
  s.bsize = f.bsize;
  s.blocks = f.blocks;
  s.bfree = f.bfree;
  s.bavail = f.bavail;
  s.files = f.files;
  s.ffree = f.ffree;
  s.fsid = f.fsid;
  s.namelen = f.namelen;
  s.frsize = f.frsize;
  s.flags = f.flags;
  return s;
}

Result<void> GoferFs::sync() {
  wire::SyncRequest m;
  m.dir = root_node_;
  m.whole = true;
  TRY(call(m));
  return {};
}

namespace {
// Else an inode number used again for something else.
bool is_same(const wire::Attr& known, const wire::Attr& told) {
  return (known.mode & S_IFMT) == (told.mode & S_IFMT) && known.btime.seconds == told.btime.seconds &&
         known.btime.nanoseconds == told.btime.nanoseconds;
}
}  // namespace

GoferInode* GoferFs::find(const wire::Attr& attr) const {
  auto it = inodes_.find({attr.dev, attr.ino});
  return it != inodes_.end() && is_same(it->second->known(), attr) ? it->second : nullptr;
}

RefPtr<GoferInode> GoferFs::intern(const wire::Node& node, bool fresh) {
  if (node.dir != wire::kNoNode) remember_node(node.dir);
  auto [it, added] = inodes_.try_emplace({node.attr.dev, node.attr.ino}, nullptr);
  if (!added && is_same(it->second->known(), node.attr)) {
    RefPtr<GoferInode> inode(it->second);
    if (fresh) inode->update(node);
    return inode;
  }
  auto inode = make_ref<GoferInode>(*this, node);
  it->second = inode.get();
  return inode;
}

void GoferFs::forget_inode(GoferInode& inode) {
  auto it = inodes_.find({inode.known().dev, inode.known().ino});
  if (it != inodes_.end() && it->second == &inode) inodes_.erase(it);
}

u64 GoferFs::guest_dev(u64 host_dev) {
  auto [it, added] = devices_.try_emplace(host_dev, 0);
  if (added) it->second = allocate_dev();
  return it->second;
}

GoferFs::DescriptorList::iterator GoferFs::keep_descriptor(GoferInode& inode) {
  kept_.push_front(&inode);
  auto at = kept_.begin();
  if (!exclusive_ && !sweep_.armed()) sweep_.arm(fiber::now_ns() + kSharedKeepNs);
  return at;
}

void GoferFs::limit_descriptors() { shrink_descriptors(most_kept_); }

void GoferFs::shrink_descriptors(size_t keep) {
  while (kept_.size() > keep) kept_.back()->close_kept();
}

bool GoferFs::expects_lookups(std::shared_ptr<ListingUse> use) {
  bool expected = last_listing_ && last_listing_->lookups >= 2;
  last_listing_ = std::move(use);
  return expected;
}

void GoferFs::directory_cached(GoferInode& dir, size_t entries) {
  cached_dirs_.push_front(&dir);
  cached_entries_ += entries;
  while (cached_entries_ > kMostCachedEntries && cached_dirs_.size() > 1) cached_dirs_.back()->drop_entries();
}

void GoferFs::directory_dropped(std::list<GoferInode*>::iterator at, size_t entries) {
  cached_dirs_.erase(at);
  cached_entries_ -= std::min(entries, cached_entries_);
}

void GoferFs::flush_forgotten(size_t least) {
  if (forgotten_.size() < least) return;
  wire::ForgetRequest m;
  m.dirs.assign(forgotten_.begin(), forgotten_.end());
  forgotten_.clear();
  // Nothing to do about a failure: the gofer is gone, or keeps a few more names.
  (void)client_->call(m);
}

Result<std::string> host_proc(wire::Client& client, i32 pid, std::string_view kind) {
  for (u32 i = 0; i < wire::kProcKinds; ++i) {
    if (kind != wire::kProcNames[i]) continue;
    wire::HostProcRequest m;
    m.pid = static_cast<u32>(pid);
    m.kind = i;
    auto reply = TRY(client.call(m));
    return std::move(reply.text);
  }
  return Errno::kInval;
}

Result<UniqueFd> host_socket(wire::Client& client, int family, int type, int protocol) {
  wire::MakeSocketRequest m;
  m.family = static_cast<u32>(family);
  m.type = static_cast<u32>(type);
  m.protocol = static_cast<u32>(protocol);
  UniqueFd fd;
  TRY(client.call(m, -1, &fd));
  if (!fd) return Errno::kIo;
  return fd;
}

}  // namespace sbx::fs::gofer
