// The directory half of the inode: entries, lookup, and changes of the tree.
#include <dirent.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <algorithm>

#include "sentry/fs/gofer/inode.h"

namespace sbx::fs::gofer {

namespace {
wire::Creation creation_of(const vfs::NewNode& node) {
  wire::Creation c;
  c.mode = node.mode;
  c.uid = node.uid;
  c.gid = node.gid;
  return c;
}
// So many are stat'ed in the time of one more round trip.
constexpr size_t kFewEntries = 32;

GoferInode& ours(vfs::Inode& inode) { return static_cast<GoferInode&>(inode); }
}  // namespace

bool GoferInode::revive() {
  if (links_.empty()) return false;
  wire::LookupRequest m;
  m.dir = links_.back().parent->node_;
  m.name = links_.back().name;
  auto reply = gofer_fs().call(m);
  if (!reply || reply->node.attr.dev != attr_.dev || reply->node.attr.ino != attr_.ino) return false;
  update(reply->node);
  return node_ != wire::kNoNode;
}

template <typename Request>
Result<typename Request::Reply> GoferInode::call_dir(Request& m) {
  m.dir = node_;
  auto reply = gofer_fs().call(m);
  if (reply || reply.error() != Errno::kStale || !revive()) return reply;
  m.dir = node_;
  return gofer_fs().call(m);
}

GoferInode::Entries::ByName& GoferInode::Entries::by_name() {
  if (indexed) return names;
  indexed = true;
  names.reserve(listing->entries.size());
  for (const Listing::Entry& e : listing->entries) names.emplace(e.name, Entry{nullptr, nullptr, e.ino, e.type});
  return names;
}

void GoferInode::drop_entries() {
  if (!entries_) return;
  GoferFs& fs = gofer_fs();
  fs.drop_ahead(*this);
  std::unique_ptr<Entries> gone = std::move(entries_);
  fs.directory_dropped(gone->in_fs, gone->count());
  for (auto& [name, e] : gone->names) {
    if (e.node && e.node->dir != wire::kNoNode && fs.find(e.node->attr) == nullptr) fs.forget_node(e.node->dir);
  }
  if (directory_) directory_->misses = 0;
}

Result<void> GoferInode::read_entries(Read what) {
  drop_entries();
  auto fresh = std::make_unique<Entries>();
  auto listing = std::make_shared<Listing>();
  GoferFs& fs = gofer_fs();
  wire::ReadDirRequest m;
  m.with_nodes = what == Read::kNodes;
  for (;;) {
    auto reply = TRY(call_dir(m));
    if (m.cookie == 0) {  // often all of it
      listing->entries.reserve(reply.entries.size());
      if (m.with_nodes) fresh->names.reserve(reply.entries.size());
    }
    for (wire::DirEntry& e : reply.entries) {
      m.cookie = e.cookie;
      // A filesystem that does not tell types: only stat knows them.
      if (e.type == DT_UNKNOWN && !m.with_nodes) return read_entries(Read::kNodes);
      Entry entry;
      entry.ino = e.ino;
      entry.type = e.type;
      if (e.known) {
        // On some filesystems (overlay) the two differ; stat's is the one that counts.
        entry.ino = e.node.attr.ino;
        entry.type = static_cast<u8>(IFTODT(e.node.attr.mode));
        if (e.node.dir != wire::kNoNode) fs.remember_node(e.node.dir);
        // Without other names and unknown under this one, there is no object of it.
        bool may_live = directory().live_children != 0 || e.node.attr.nlink > 1 || e.type == DT_DIR;
        if (GoferInode* live = may_live ? fs.find(e.node.attr) : nullptr) live->update(e.node);
        entry.node = std::make_unique<wire::Node>(std::move(e.node));
      }
      if (!m.with_nodes) {
        listing->entries.push_back({std::move(e.name), entry.ino, entry.type});
        continue;
      }
      listing->entries.push_back({e.name, entry.ino, entry.type});
      fresh->names.emplace(std::move(e.name), std::move(entry));
    }
    if (reply.end) {
      set_attributes(reply.attr);
      note_times();
      break;
    }
    if (reply.entries.empty()) return Errno::kIo;
  }
  fresh->with_nodes = fresh->indexed = m.with_nodes;
  fresh->listing = std::move(listing);
  if (!fs.exclusive()) fresh->read_at = fiber::now_ns();
  size_t count = fresh->count();
  entries_ = std::move(fresh);
  fs.directory_cached(*this, count);
  entries_->in_fs = fs.newest_directory();
  return {};
}

Result<std::shared_ptr<const Listing>> GoferInode::listing() {
  auto use = std::make_shared<ListingUse>();
  bool whole = gofer_fs().expects_lookups(use);
  if (!entries_fresh()) TRY(read_entries(whole ? Read::kNodes : Read::kNames));
  entries_->use = std::move(use);
  if (!entries_->listing) {
    auto listing = std::make_shared<Listing>();
    for (auto& [name, e] : entries_->by_name()) listing->entries.push_back({name, e.ino, e.type});
    entries_->listing = std::move(listing);
  }
  return entries_->listing;
}

Result<RefPtr<GoferInode>> GoferInode::ask(std::string_view name) {
  wire::LookupRequest m;
  m.name = wire::Name(std::string(name));
  auto reply = call_dir(m);
  if (!reply) {
    if (reply.error() == Errno::kNoent && entries_ && entries_->by_name().contains(m.name)) entry_removed(name);
    // The host moved this directory away from where we know it.
    return reply.error() == Errno::kStale ? Errno::kNoent : reply.error();
  }
  if (entries_) {
    Entry& e = entries_->by_name()[m.name];
    if (e.ino != reply->node.attr.ino) entries_->listing.reset();
    e = Entry{nullptr, nullptr, reply->node.attr.ino, static_cast<u8>(IFTODT(reply->node.attr.mode))};
  }
  RefPtr<GoferInode> inode = gofer_fs().intern(reply->node, true);
  inode->add_link(*this, name);
  entry_is(name, *inode);
  return inode;
}

Result<RefPtr<vfs::Inode>> GoferInode::lookup(std::string_view name) {
  if (!is_dir()) return Errno::kNotdir;
  if (!entries_fresh()) {
    // Asking for one name costs 10 µs: worth reading all of them once a share was asked for, as many searches are for
    // names that are not there. 40 bytes an entry is what ext4 needs for names of ordinary length.
    ++directory().misses;
    bool worth = gofer_fs().exclusive() && directory().misses >= 4 && u64{directory().misses} * 4096 >= attr_.size;
    if (!worth || !read_entries(Read::kNames)) return TRY(ask(name));
    entries_->for_lookups = true;
  }
  auto it = entries_->by_name().find(std::string(name));
  if (it == entries_->by_name().end()) return Errno::kNoent;
  if (entries_->use && it->second.type != DT_DIR) ++entries_->use->lookups;
  if (it->second.inode == nullptr && !it->second.node && !entries_->with_nodes) {
    auto use = entries_->use;
    // Listed by name, and now somebody looks at what the names mean: most likely at all of them. Who opens files by
    // name does not, and to look at all others the first time may take longer than his work: 2 to 6 µs each.
    size_t enough = entries_->for_lookups ? entries_->count() / 8 : 2;
    bool worth = ++entries_->asked >= enough || entries_->count() <= kFewEntries;
    if (!worth || !read_entries(Read::kNodes)) return TRY(ask(name));
    entries_->use = std::move(use);
    it = entries_->by_name().find(std::string(name));
    if (it == entries_->by_name().end()) return Errno::kNoent;
  }
  Entry& e = it->second;
  RefPtr<GoferInode> inode(e.inode);
  if (!inode) {
    // Something with several names may have changed under another one, unless its object is alive.
    bool usable =
        e.node && (S_ISDIR(e.node->attr.mode) || e.node->attr.nlink <= 1 || gofer_fs().find(e.node->attr) != nullptr);
    if (!usable) return TRY(ask(name));
    inode = gofer_fs().intern(*e.node, false);
    if (S_ISDIR(e.node->attr.mode)) inode->node_ = e.node->dir;
    inode->add_link(*this, name);
    entry_is(name, *inode);
  }
  if (!gofer_fs().exclusive()) inode->name_told_at_ = entries_->read_at;
  inode->found_after_ = directory().outside_changes;
  return RefPtr<vfs::Inode>(inode);
}

void GoferInode::entry_added(std::string_view name, const wire::Node& node) {
  invalidate();
  forget_times();
  if (!entries_) return;
  entries_->by_name()[std::string(name)] =
      Entry{nullptr, std::make_unique<wire::Node>(node), node.attr.ino, static_cast<u8>(IFTODT(node.attr.mode))};
  entries_->listing.reset();
}

void GoferInode::entry_is(std::string_view name, GoferInode& inode) {
  if (!entries_) return;
  auto it = entries_->names.find(std::string(name));
  if (it == entries_->names.end()) return;
  it->second.inode = &inode;
  it->second.node.reset();
}

void GoferInode::entry_removed(std::string_view name) {
  invalidate();
  forget_times();
  if (!entries_) return;
  entries_->by_name().erase(std::string(name));
  entries_->listing.reset();
}

Result<RefPtr<vfs::Inode>> GoferInode::create(std::string_view name, const vfs::NewNode& what) {
  wire::Name wire_name{std::string(name)};
  wire::Node made;
  UniqueFd fd;
  switch (what.mode & S_IFMT) {
    case S_IFREG: {
      wire::CreateRequest m;
      m.name = wire_name;
      m.creation = creation_of(what);
      m.dir = node_;
      auto reply = TRY(gofer_fs().call(m, -1, &fd));
      made.attr = reply.attr;
      break;
    }
    case S_IFDIR: {
      wire::MkdirRequest m;
      m.name = wire_name;
      m.creation = creation_of(what);
      auto reply = TRY(call_dir(m));
      made = std::move(reply.node);
      break;
    }
    case S_IFLNK: {
      wire::SymlinkRequest m;
      m.name = wire_name;
      m.target = what.target;
      m.uid = what.uid;
      m.gid = what.gid;
      auto reply = TRY(call_dir(m));
      made = std::move(reply.node);
      break;
    }
    case S_IFIFO:
    case S_IFSOCK: {
      const bool binds =
          S_ISSOCK(what.mode) && what.host_socket && gofer_fs().reaches_sockets() && !gofer_fs().exclusive();
      if (const int socket = binds ? what.host_socket() : -1; socket >= 0) {
        wire::BindSocketRequest m;
        m.dir = node_;
        m.name = wire_name;
        m.creation = creation_of(what);
        made.attr = TRY(gofer_fs().call(m, socket)).attr;
        break;
      }
      wire::MknodRequest m;
      m.name = wire_name;
      m.creation = creation_of(what);
      auto reply = TRY(call_dir(m));
      made.attr = reply.attr;
      break;
    }
    default: return Errno::kPerm;  // devices do not go to the host
  }
  entry_added(name, made);
  RefPtr<GoferInode> inode = gofer_fs().intern(made, true);
  inode->add_link(*this, name);
  entry_is(name, *inode);
  if (fd) {
    inode->read_write_ = std::move(fd);
    inode->settle_kept();
  }
  return RefPtr<vfs::Inode>(inode);
}

Result<RefPtr<vfs::Inode>> GoferInode::tmpfile(const vfs::NewNode& what) {
  wire::TmpfileRequest m;
  m.dir = node_;
  m.creation = creation_of(what);
  wire::Node made;
  UniqueFd fd;
  auto reply = TRY(gofer_fs().call(m, -1, &fd));
  if (!fd) return Errno::kIo;
  made.attr = reply.attr;
  RefPtr<GoferInode> inode = gofer_fs().intern(made, true);
  inode->read_write_ = std::move(fd);
  return RefPtr<vfs::Inode>(inode);
}

Result<void> GoferInode::link(std::string_view name, vfs::Inode& target_inode) {
  GoferInode& file = ours(target_inode);
  int fd = -1;
  wire::LinkRequest m;
  m.target = TRY(file.target(&fd));
  file.drop_ahead_of_parents();
  m.dir = node_;
  m.name = wire::Name(std::string(name));
  auto reply = TRY(gofer_fs().call(m, fd));
  file.set_attributes(reply.attr);
  wire::Node node;
  node.attr = reply.attr;
  node.target = file.link_target();
  entry_added(name, node);
  file.add_link(*this, name);
  return {};
}

Result<void> GoferInode::unlink(std::string_view name, vfs::Inode& child) {
  ours(child).close_before_end();
  wire::UnlinkRequest m;
  m.name = wire::Name(std::string(name));
  TRY(call_dir(m));
  entry_removed(name);
  ours(child).lost_name(*this, name);
  return {};
}

Result<void> GoferInode::rmdir(std::string_view name, vfs::Inode& child) {
  wire::RmdirRequest m;
  m.name = wire::Name(std::string(name));
  TRY(call_dir(m));
  entry_removed(name);
  ours(child).lost_name(*this, name);
  return {};
}

// A file that loses its last name goes at once, unless somebody has it open: then the host has to note down an orphan.
void GoferInode::close_before_end() {
  if (kept_ && attr_.nlink <= 1) close_kept();
}

void GoferInode::lost_name(GoferInode& parent, std::string_view name) {
  remove_link(parent, name);
  bool last = is_dir() || attr_.nlink <= 1;
  if (is_dir())
    attr_.nlink = 0;
  else if (attr_.nlink > 0)
    --attr_.nlink;
  // The change time moved too; without name and descriptor it cannot be asked for.
  invalidate();
  valid_ = links_.empty() && !has_descriptor();
  if (last && users_ == 0) retire_windows();
  if (last) gofer_fs().forget_inode(*this);
}

Result<void> GoferInode::rename(std::string_view old_name, vfs::Inode& child, vfs::Inode& new_dir,
                                std::string_view new_name, vfs::Inode* replaced, u32 flags) {
  GoferInode& to = ours(new_dir);
  GoferInode& moved = ours(child);
  if (replaced != nullptr && (flags & RENAME_EXCHANGE) == 0) ours(*replaced).close_before_end();
  wire::RenameRequest m;
  m.name = wire::Name(std::string(old_name));
  m.new_dir = to.node_;
  m.new_name = wire::Name(std::string(new_name));
  m.flags = flags & (RENAME_NOREPLACE | RENAME_EXCHANGE);
  TRY(call_dir(m));
  auto node_of = [](GoferInode& i) {
    wire::Node node;
    node.attr = i.attr_;
    node.dir = i.node_;
    node.target = i.link_target();
    return node;
  };
  bool exchange = (flags & RENAME_EXCHANGE) != 0;
  entry_removed(old_name);
  if (replaced != nullptr && !exchange) ours(*replaced).lost_name(to, new_name);
  moved.remove_link(*this, old_name);
  if (exchange && replaced != nullptr) {
    GoferInode& other = ours(*replaced);
    other.remove_link(to, new_name);
    other.add_link(*this, old_name);
    entry_added(old_name, node_of(other));
    other.invalidate();
  }
  moved.add_link(to, new_name);
  to.entry_added(new_name, node_of(moved));
  moved.invalidate();  // its change time
  return {};
}

}  // namespace sbx::fs::gofer
