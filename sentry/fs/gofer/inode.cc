#include "sentry/fs/gofer/inode.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "sentry/fs/gofer/file.h"
#include "sentry/vfs/special.h"
#include "sentry/vfs/walk.h"

namespace sbx::fs::gofer {
namespace {

// How long what the gofer said about a mount that is shared with the host is used without asking again.
constexpr u64 kSharedTtlNs = 20'000'000;

vfs::Time guest_time(const wire::Timestamp& t) { return {t.seconds, static_cast<u32>(t.nanoseconds)}; }
wire::Timestamp wire_time(const vfs::Time& t) { return {t.sec, t.nsec}; }
wire::Timestamp wire_time(const statx_timestamp& t) { return {t.tv_sec, t.tv_nsec}; }

// The attributes that may change, straight from the host by a donated descriptor.
Result<void> stat_descriptor(int fd, wire::Attr& a) {
  struct statx sx;
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS, &sx) != 0) return last_errno();
  a.mode = sx.stx_mode;
  a.nlink = sx.stx_nlink;
  a.uid = sx.stx_uid;
  a.gid = sx.stx_gid;
  a.size = sx.stx_size;
  a.blocks = sx.stx_blocks;
  a.atime = wire_time(sx.stx_atime);
  a.mtime = wire_time(sx.stx_mtime);
  a.ctime = wire_time(sx.stx_ctime);
  return {};
}

// So often a directory of the container's own, and a file of it when it is opened, is looked at for changes from
// outside.
constexpr u64 kOutsideNs = 1'000'000'000;

u64 coarse_now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000 + static_cast<u64>(t.tv_nsec);
}

std::unique_ptr<std::string> text_of(const std::string& target) {
  return target.empty() ? nullptr : std::make_unique<std::string>(target);
}

}  // namespace

GoferInode::GoferInode(GoferFs& fs, const wire::Node& node)
    : Inode(fs), keep_fs_(&fs), attr_(node.attr), node_(node.dir), link_target_(text_of(node.target)) {
  told_at_ = fs.exclusive() ? coarse_now() : fiber::now_ns();
  name_told_at_ = fs.exclusive() ? 0 : told_at_;
  if (is_dir()) {
    note_times();
    directory().looked_at = told_at_;
  }
}

GoferInode::~GoferInode() {
  GoferFs& fs = gofer_fs();
  retire_windows();
  drop_entries();
  if (kept_) fs.drop_descriptor(kept_at_);
  bool parent_knows = false;
  for (Link& link : links_) {
    --link.parent->directory().live_children;
    if (!link.parent->entries_) continue;
    auto it = link.parent->entries_->names.find(link.name);
    if (it == link.parent->entries_->names.end() || it->second.ino != attr_.ino) continue;
    Entry& e = it->second;
    if (e.inode != nullptr && e.inode != this) continue;
    e.inode = nullptr;
    parent_knows = valid_ && !mapped_;
    e.node = parent_knows ? std::make_unique<wire::Node>(wire::Node{attr_, node_, link_target()}) : nullptr;
  }
  if (node_ != wire::kNoNode && node_ != fs.root_node() && !parent_knows) fs.forget_node(node_);
  fs.forget_inode(*this);
}

// What processes were lent goes by what was known.
void GoferInode::know(const wire::Attr& attr) {
  if (windows_ && std::memcmp(&attr, &attr_, sizeof(attr)) != 0) {
    take_back_positions();
    auto same = [](const wire::Timestamp& a, const wire::Timestamp& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; };
    const bool as_it_was = attr.mode == attr_.mode && attr.size == attr_.size && same(attr.mtime, attr_.mtime) &&
                           same(attr.ctime, attr_.ctime);
    if (!as_it_was) windows_->leave_shelf();
  }
  attr_ = attr;
}

void GoferInode::update(const wire::Node& node) {
  know(node.attr);
  if (node.dir != wire::kNoNode) node_ = node.dir;
  if (S_ISLNK(attr_.mode)) link_target_ = text_of(node.target);
  valid_ = true;
  told_at_ = gofer_fs().exclusive() ? coarse_now() : fiber::now_ns();
  if (!gofer_fs().exclusive()) name_told_at_ = told_at_;
}

void GoferInode::set_attributes(const wire::Attr& attr) {
  know(attr);
  valid_ = true;
  told_at_ = gofer_fs().exclusive() ? coarse_now() : fiber::now_ns();
}

Result<void> GoferInode::refresh() {
  if (has_descriptor()) {
    wire::Attr now = attr_;
    TRY(stat_descriptor(any_descriptor(), now));
    set_attributes(now);
    return {};
  }
  int fd = -1;
  auto at = target(&fd);
  if (!at) {  // removed, and nobody holds a descriptor: nothing can change it any more
    valid_ = true;
    return {};
  }
  wire::GetAttrRequest m;
  m.target = std::move(*at);
  auto reply = gofer_fs().call(m, fd);
  if (!reply) return reply.error() == Errno::kNoent ? Errno::kStale : reply.error();
  // The host put something else there.
  if (reply->attr.ino != attr_.ino || reply->attr.dev != attr_.dev) return Errno::kStale;
  set_attributes(reply->attr);
  return {};
}

Result<vfs::Attr> GoferInode::attr() {
  bool fresh = valid_ && !mapped_ && (gofer_fs().exclusive() || fiber::now_ns() - told_at_ < kSharedTtlNs);
  if (!fresh) TRY(refresh());
  vfs::Attr a;
  a.dev = gofer_fs().guest_dev(attr_.dev);
  a.ino = attr_.ino;
  a.mode = attr_.mode;
  a.nlink = attr_.nlink;
  a.uid = attr_.uid;
  a.gid = attr_.gid;
  a.rdev = attr_.rdev;
  a.size = attr_.size;
  a.blocks = attr_.blocks;
  a.blksize = static_cast<u32>(attr_.blksize);
  a.atime = guest_time(attr_.atime);
  a.mtime = guest_time(attr_.mtime);
  a.ctime = guest_time(attr_.ctime);
  a.btime = guest_time(attr_.btime);
  return a;
}

// Changed by set_attr only (and by the host, noticed with the next lookup), so always at hand.
Result<vfs::Owner> GoferInode::owner() { return vfs::Owner{attr_.mode, attr_.uid, attr_.gid}; }

Result<wire::Target> GoferInode::target(int* fd) const {
  wire::Target t;
  if (node_ != wire::kNoNode) {
    t.dir = node_;
    return t;
  }
  if (!links_.empty()) {
    t.dir = links_.back().parent->node_;
    t.leaf = links_.back().name;
    return t;
  }
  if (!has_descriptor()) return Errno::kStale;
  t.dir = gofer_fs().root_node();
  t.by_fd = true;
  *fd = any_descriptor();
  return t;
}

Result<void> GoferInode::set_attr(const vfs::SetAttr& change) {
  static_assert(u32{wire::AttrChange::kMode} == u32{vfs::SetAttr::kMode} &&
                u32{wire::AttrChange::kMtimeNow} == u32{vfs::SetAttr::kMtimeNow} &&
                u32{wire::AttrChange::kSize} == u32{vfs::SetAttr::kSize});
  u32 mask = change.mask;
  invalidate();  // nobody is lent a position again before it is known what became of it
  drop_ahead_of_parents();
  if ((mask & vfs::SetAttr::kSize) != 0 && read_write_.valid()) {
    if (change.size > static_cast<u64>(INT64_MAX)) return Errno::kInval;
    if (ftruncate64(read_write_.get(), static_cast<off64_t>(change.size)) != 0) return last_errno();
    invalidate();
    mask &= ~u32{vfs::SetAttr::kSize};
  }
  if (mask == 0) return {};
  int fd = -1;
  forget_times();
  wire::SetAttrRequest m;
  m.target = TRY(target(&fd));
  m.change.mask = mask;
  m.change.mode = change.mode;
  m.change.uid = change.uid;
  m.change.gid = change.gid;
  m.change.size = change.size;
  m.change.atime = wire_time(change.atime);
  m.change.mtime = wire_time(change.mtime);
  auto reply = gofer_fs().call(m, fd);
  if (!reply) {
    invalidate();  // it may have done part of it
    return reply.error();
  }
  set_attributes(reply->attr);
  return {};
}

Result<RefPtr<vfs::File>> GoferInode::open(const vfs::Path& path, u32 flags) {
  switch (type()) {
    case S_IFDIR: return RefPtr<vfs::File>(make_ref<GoferDirFile>(*this, path, flags));
    case S_IFREG: {
      bool write = (flags & O_ACCMODE) != O_RDONLY;
      TRY(descriptor(write));
      // Somebody outside may have written it; that is asked for when it is opened, not at each stat.
      if (gofer_fs().exclusive() && coarse_now() - told_at_ > kOutsideNs) invalidate();
      return RefPtr<vfs::File>(make_ref<GoferFile>(*this, path, flags));
    }
    case S_IFLNK: return Errno::kLoop;
    default: return vfs::open_special(*this, type(), attr_.rdev, path, flags);
  }
}

Result<std::string> GoferInode::read_link() {
  if (type() != S_IFLNK) return Errno::kInval;
  return link_target();
}

Result<void> GoferInode::connect_host_socket(int socket, const security::Credentials& creds) {
  if (!gofer_fs().reaches_sockets()) return Errno::kConnrefused;
  int fd = -1;
  wire::Target at = TRY(target(&fd));
  if (at.by_fd) return Errno::kConnrefused;
  wire::ConnectSocketRequest m;
  m.dir = at.dir;
  m.leaf = at.leaf;
  m.uid = creds.euid;
  m.gid = creds.egid;
  TRY(gofer_fs().call(m, socket));
  return {};
}

// --- descriptors ---

Result<int> GoferInode::open_descriptor(UniqueFd& slot, u32 flags) {
  if (&slot == &read_only_ && !slot.valid() && !links_.empty() && node_ == wire::kNoNode) {
    const Link& link = links_.back();
    slot = link.parent->open_in_order(link.name, attr_);
    if (slot.valid()) {
      settle_kept();
      return slot.get();
    }
  }
  if (&slot == &read_write_) drop_ahead_of_parents();
  int fd = -1;
  wire::OpenRequest m;
  m.target = TRY(target(&fd));
  m.flags = flags;
  UniqueFd opened;
  auto reply = TRY(gofer_fs().call(m, fd, &opened));
  if (!opened) return Errno::kIo;
  if (reply.attr.ino != attr_.ino || reply.attr.dev != attr_.dev) return Errno::kStale;
  set_attributes(reply.attr);
  if (slot.valid()) {
    // In its place: whoever has borrowed the number and waits must not find another file there.
    if (dup3(opened.get(), slot.get(), O_CLOEXEC) < 0) return last_errno();
  } else {
    slot = std::move(opened);
  }
  if (&slot == &read_write_) {
    read_only_old_ = read_only_.valid();
    retire_windows();
  }
  settle_kept();
  return slot.get();
}

Result<int> GoferInode::descriptor(bool write) {
  if (read_write_.valid()) return read_write_.get();
  if (write) return open_descriptor(read_write_, O_RDWR);
  return read_only_descriptor();
}

Result<int> GoferInode::read_only_descriptor() {
  if (read_only_.valid() && !read_only_old_) return read_only_.get();
  auto opened = open_descriptor(read_only_, O_RDONLY);
  if (!opened && read_only_.valid()) return read_only_.get();  // removed meanwhile
  if (opened) read_only_old_ = false;
  return opened;
}

std::optional<u64> GoferInode::steady_size() const {
  if (!valid_ || mapped_ || !gofer_fs().exclusive()) return std::nullopt;
  return attr_.size;
}

std::optional<u64> GoferInode::learn_size() {
  if (valid_ || mapped_ || !gofer_fs().exclusive() || !has_descriptor() || !refresh()) return std::nullopt;
  return steady_size();
}

Result<u64> GoferInode::end_of_data() {
  if (auto size = steady_size()) return *size;
  if (!has_descriptor()) return Errno::kStale;
  struct stat st {};
  if (fstat(any_descriptor(), &st) != 0) return last_errno();
  return static_cast<u64>(st.st_size);
}

void GoferInode::take_back_positions() {
  if (windows_) windows_->take_back_positions();
}

const RefPtr<platform::WindowFile>& GoferInode::windows() {
  if (!windows_) windows_ = make_ref<platform::WindowFile>();
  return windows_;
}

void GoferInode::retire_windows() {
  if (!windows_) return;
  windows_->retire();
  windows_ = nullptr;
}

// Descriptors that nobody uses are kept for the next open, in a list from which the oldest go.
void GoferInode::settle_kept() {
  bool keep = users_ == 0 && has_descriptor() && (!links_.empty() || node_ != wire::kNoNode);
  if (keep == kept_) return;
  kept_ = keep;
  if (keep)
    kept_at_ = gofer_fs().keep_descriptor(*this);
  else
    gofer_fs().drop_descriptor(kept_at_);
}

void GoferInode::add_user() {
  ++users_;
  settle_kept();
}

void GoferInode::remove_user() {
  if (--users_ > 0) return;
  // A window keeps the file's blocks as an open descriptor does; what may be removed by others is not kept.
  if (attr_.nlink == 0 || !gofer_fs().exclusive()) retire_windows();
  // Open for writing keeps the host from running it (ETXTBSY).
  if (!gofer_fs().exclusive() && !links_.empty()) {
    if (!valid_ && read_write_.valid()) (void)refresh();
    read_write_.reset();
    mapped_ = false;
  }
  settle_kept();
  gofer_fs().limit_descriptors();
}

void GoferInode::close_kept() {
  if (!valid_) (void)refresh();  // while a descriptor is there to ask
  read_only_.reset();
  read_write_.reset();
  mapped_ = false;
  settle_kept();
}

// --- names ---

void GoferInode::add_link(GoferInode& parent, std::string_view name) {
  found_after_ = parent.directory().outside_changes;
  for (Link& link : links_) {
    if (link.parent.get() == &parent && link.name == name) return;
  }
  // A directory has one name; so does nearly everything else.
  if (is_dir()) {
    for (const Link& link : links_) {
      leave_entry(link);
      --link.parent->directory().live_children;
    }
    links_.clear();
  }
  links_.push_back({RefPtr<GoferInode>(&parent), std::string(name)});
  ++parent.directory().live_children;
  settle_kept();
}

void GoferInode::remove_link(GoferInode& parent, std::string_view name) {
  auto it = std::find_if(links_.begin(), links_.end(),
                         [&](const Link& link) { return link.parent.get() == &parent && link.name == name; });
  if (it == links_.end()) return;
  RefPtr<GoferInode> keep = it->parent;
  leave_entry(*it);
  --it->parent->directory().live_children;
  links_.erase(it);
  settle_kept();
}

void GoferInode::leave_entry(const Link& link) {
  if (!link.parent->entries_) return;
  auto it = link.parent->entries_->names.find(link.name);
  if (it != link.parent->entries_->names.end() && it->second.inode == this) it->second.inode = nullptr;
}

// --- extended attributes ---

Result<std::string> GoferInode::get_xattr(std::string_view name) {
  int fd = -1;
  wire::GetXattrRequest m;
  m.target = TRY(target(&fd));
  m.name = name;
  auto reply = TRY(gofer_fs().call(m, fd));
  return std::move(reply.value);
}

Result<void> GoferInode::set_xattr(std::string_view name, std::string_view value, u32 flags) {
  int fd = -1;
  wire::SetXattrRequest m;
  m.target = TRY(target(&fd));
  m.name = name;
  m.value = value;
  m.flags = flags;
  drop_ahead_of_parents();
  TRY(gofer_fs().call(m, fd));
  // An ACL changes the mode.
  forget_times();
  if (auto done = refresh(); !done) invalidate();
  return {};
}

Result<std::vector<std::string>> GoferInode::list_xattr() {
  int fd = -1;
  wire::ListXattrRequest m;
  m.target = TRY(target(&fd));
  auto reply = TRY(gofer_fs().call(m, fd));
  return std::move(reply.names);
}

Result<void> GoferInode::remove_xattr(std::string_view name) {
  int fd = -1;
  wire::RemoveXattrRequest m;
  m.target = TRY(target(&fd));
  m.name = name;
  drop_ahead_of_parents();
  TRY(gofer_fs().call(m, fd));
  forget_times();
  if (auto done = refresh(); !done) invalidate();
  return {};
}

bool GoferInode::child_still_valid(std::string_view, vfs::Inode* child) {
  if (gofer_fs().exclusive()) {
    look_for_outside_changes();
    if (directory().outside_changes == 0) return true;
    return child != nullptr && static_cast<GoferInode*>(child)->found_after_ == directory().outside_changes;
  }
  if (child == nullptr) return false;
  return fiber::now_ns() - static_cast<GoferInode*>(child)->name_told_at_ < kSharedTtlNs;
}

void GoferInode::note_times() {
  Directory& d = directory();
  d.times_known = true;
  d.mtime = attr_.mtime;
  d.ctime = attr_.ctime;
}

void GoferInode::look_for_outside_changes() {
  const u64 now = coarse_now();
  if (now - directory().looked_at < kOutsideNs) return;
  directory().looked_at = now;
  auto same = [](const wire::Timestamp& a, const wire::Timestamp& b) {
    return a.seconds == b.seconds && a.nanoseconds == b.nanoseconds;
  };
  const Directory before = directory();
  const bool there = refresh().has_value();
  note_times();
  if (there && (!before.times_known || (same(before.mtime, attr_.mtime) && same(before.ctime, attr_.ctime)))) return;
  ++directory().outside_changes;
  drop_entries();
  vfs::name_changes.trees = true;  // nobody is to go by what was missing
}

bool GoferInode::entries_fresh() {
  if (gofer_fs().exclusive()) look_for_outside_changes();
  if (!entries_) return false;
  return gofer_fs().exclusive() || fiber::now_ns() - entries_->read_at < kSharedTtlNs;
}

}  // namespace sbx::fs::gofer
