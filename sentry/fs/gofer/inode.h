// Inside fs/gofer: the inode.
#pragma once
#include <boost/container/small_vector.hpp>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/platform/file_window.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::gofer {

// The entries of a directory at one moment, as an open directory goes through them.
struct Listing {
  struct Entry {
    std::string name;
    u64 ino;
    u8 type;
  };
  std::vector<Entry> entries;
};

// What somebody did with a listing: looked at some of the files, or only at their names and types.
struct ListingUse {
  u32 lookups = 0;
};

class GoferInode final : public vfs::Inode {
 public:
  GoferInode(GoferFs& fs, const wire::Node& node);

  Result<vfs::Attr> attr() override;
  Result<vfs::Owner> owner() override;
  u32 type() const override { return attr_.mode & S_IFMT; }
  Result<void> set_attr(const vfs::SetAttr& change) override;
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
  Result<std::string> get_xattr(std::string_view name) override;
  Result<void> set_xattr(std::string_view name, std::string_view value, u32 flags) override;
  Result<std::vector<std::string>> list_xattr() override;
  Result<void> remove_xattr(std::string_view name) override;

  Result<RefPtr<vfs::Inode>> lookup(std::string_view name) override;
  Result<RefPtr<vfs::Inode>> create(std::string_view name, const vfs::NewNode& node) override;
  Result<void> link(std::string_view name, vfs::Inode& target) override;
  Result<void> unlink(std::string_view name, vfs::Inode& child) override;
  Result<void> rmdir(std::string_view name, vfs::Inode& child) override;
  Result<void> rename(std::string_view old_name, vfs::Inode& child, vfs::Inode& new_dir, std::string_view new_name,
                      vfs::Inode* replaced, u32 flags) override;
  Result<RefPtr<vfs::Inode>> tmpfile(const vfs::NewNode& node) override;
  bool child_still_valid(std::string_view name, vfs::Inode* child) override;
  Result<std::string> read_link() override;
  Result<void> connect_host_socket(int socket, const security::Credentials& creds) override;

  // --- for the files made of it ---
  GoferFs& gofer_fs() const { return static_cast<GoferFs&>(fs()); }
  // A descriptor for data, owned by the inode; stays open while users() > 0.
  Result<int> descriptor(bool write);
  // One that cannot write, whatever else is open: what a stub may map.
  Result<int> read_only_descriptor();
  void add_user();
  void remove_user();
  // Size and times changed through a descriptor: the next attr() asks it.
  void written() { invalidate(); }
  // As far as known the file is not longer.
  bool ends_by(u64 offset) const { return valid_ && !mapped_ && attr_.size <= offset; }
  // Where the file ends right now. kStale: unknown.
  Result<u64> end_of_data();
  // Its length, if that is known without asking and only we change it.
  std::optional<u64> steady_size() const;
  // The same after a look at the open file.
  std::optional<u64> learn_size();
  // The host's descriptor for reading, if there is one; -1.
  int known_descriptor() const { return has_descriptor() ? any_descriptor() : -1; }
  // What file windows know it by.
  const RefPtr<platform::WindowFile>& windows();
  bool has_windows() const { return windows_.get() != nullptr && windows_->ref_count() > 1; }
  // The guest maps it shared and writable: from now on each attr() asks.
  void mapped_shared() {
    mapped_ = true;
    take_back_positions();
  }
  bool was_mapped_shared() const { return mapped_; }
  Result<std::shared_ptr<const Listing>> listing();
  wire::NodeId node() const { return node_; }

  // --- for GoferFs ---
  const wire::Attr& known() const { return attr_; }
  // What the gofer just said; refreshes the times of validity.
  void update(const wire::Node& node);
  void close_kept();
  // Forgets the entries it caches.
  void drop_entries();

 private:
  friend class GoferFs;
  struct Entry {
    // The object of that name, or what the gofer said of it, or neither: only ino and type are known.
    GoferInode* inode = nullptr;
    std::unique_ptr<wire::Node> node;
    u64 ino = 0;
    u8 type = 0;
  };
  // Entries of a directory: all of them, or none.
  struct Entries {
    using ByName = std::unordered_map<std::string, Entry>;
    // Made of the listing when somebody asks for a name: who walks a tree asks for those of directories only.
    ByName& by_name();
    size_t count() const { return indexed ? names.size() : listing->entries.size(); }
    ByName names;          // none unless `indexed`
    bool indexed = false;  // else there is the listing
    std::shared_ptr<const Listing> listing;
    bool with_nodes = false;   // else few are known: those asked for since
    bool for_lookups = false;  // read because so many were asked for by name
    u32 asked = 0;
    std::shared_ptr<ListingUse> use;
    // Place in the listing of the file that was opened last, and how many were opened in that order.
    static constexpr size_t kNone = ~size_t{0};
    size_t opened_at = kNone;
    u32 in_order = 0;
    u64 read_at = 0;
    std::list<GoferInode*>::iterator in_fs;
  };
  // A name under which the gofer can be asked for it. Directories are asked for by node and keep it for their parent.
  struct Link {
    RefPtr<GoferInode> parent;
    std::string name;
  };

  ~GoferInode() override;
  bool is_dir() const { return S_ISDIR(attr_.mode); }
  bool has_descriptor() const { return read_only_.valid() || read_write_.valid(); }
  int any_descriptor() const { return read_write_.valid() ? read_write_.get() : read_only_.get(); }
  Result<void> refresh();
  void set_attributes(const wire::Attr& attr);
  // How to name it to the gofer; `fd` is set where a descriptor must go along.
  Result<wire::Target> target(int* fd) const;
  Result<int> open_descriptor(UniqueFd& slot, u32 flags);
  // Of a directory: opens a file in it read-only, with or as one of those opened ahead. Invalid: it is to be opened by
  // itself (the usual case).
  UniqueFd open_in_order(const std::string& name, const wire::Attr& attr);
  UniqueFd take_ahead(const std::string& name, const wire::Attr& attr);
  std::optional<size_t> place_in_order(const std::string& name) const;
  void drop_ahead_of_parents();
  void settle_kept();
  void retire_windows();
  void add_link(GoferInode& parent, std::string_view name);
  void remove_link(GoferInode& parent, std::string_view name);
  // The parent's entry does not speak of this object any more.
  void leave_entry(const Link& link);
  // Removed or replaced under that name, by us.
  void close_before_end();
  void lost_name(GoferInode& parent, std::string_view name);
  // A directory's own change: entry cache and attributes.
  void entry_added(std::string_view name, const wire::Node& node);
  void entry_removed(std::string_view name);
  // The entry speaks of this object, which has the link (after add_link).
  void entry_is(std::string_view name, GoferInode& inode);
  Result<RefPtr<GoferInode>> ask(std::string_view name);
  // Reading names costs some 0.2 µs an entry, with what stat tells 2: who walks a tree often needs no more than types.
  enum class Read : bool { kNames, kNodes };
  Result<void> read_entries(Read what);
  bool entries_fresh();
  // Directories of the container's own mounts: notices, once in a while, what was changed in them from outside (an
  // engine's `cp`). A change by the container itself within that time hides one from outside.
  void look_for_outside_changes();
  // Runs a request on this directory again after its node went stale, if it is where it was.
  template <typename Request>
  Result<typename Request::Reply> call_dir(Request& m);
  bool revive();

  // First, so it goes last: the destructor speaks to it, and a dentry may drop the filesystem before its inode.
  RefPtr<GoferFs> keep_fs_;
  wire::Attr attr_;
  wire::NodeId node_ = wire::kNoNode;         // directories, and a mount's root
  std::unique_ptr<std::string> link_target_;  // of a symbolic link
  std::string link_target() const { return link_target_ ? *link_target_ : std::string(); }
  bool valid_ = true;  // attr_ holds what the gofer or a descriptor said last, and nothing happened since
  bool mapped_ = false;
  u64 told_at_ = 0;       // when attr_ was told (coarse in the container's own mounts)
  u64 name_told_at_ = 0;  // when the gofer last found it under its name
  u32 found_after_ = 0;   // as a child: how many its directory had seen when it was last looked up there
  boost::container::small_vector<Link, 1> links_;
  UniqueFd read_only_, read_write_;
  bool read_only_old_ = false;  // opened before the file was opened for writing: a layer may have copied it since
  void take_back_positions();
  void know(const wire::Attr& attr);
  // Its attributes have changed, and nobody knows how.
  void invalidate() {
    valid_ = false;
    if (windows_) take_back_positions();
  }
  RefPtr<platform::WindowFile> windows_;
  u32 users_ = 0;
  bool kept_ = false;
  GoferFs::DescriptorList::iterator kept_at_;
  // What only directories have.
  struct Directory {
    // Its times when it was last looked at for outside changes; unknown after a change of our own.
    bool times_known = false;
    wire::Timestamp mtime, ctime;
    u64 looked_at = 0;
    u32 outside_changes = 0;  // seen so far
    u32 live_children = 0;    // links to it
    u32 misses = 0;           // lookups that had to ask since the entries were dropped
  };
  std::unique_ptr<Directory> directory_;
  Directory& directory() {
    if (!directory_) directory_ = std::make_unique<Directory>();
    return *directory_;
  }
  void note_times();
  // It changes, by us.
  void forget_times() {
    if (directory_) directory_->times_known = false;
    gofer_fs().drop_ahead(*this);
  }
  std::unique_ptr<Entries> entries_;
};

}  // namespace sbx::fs::gofer
