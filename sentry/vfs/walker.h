// Inside the vfs room: one path resolution in progress. Paths given to it must outlive the call only, not the walker.
#pragma once
#include "sentry/vfs/walk.h"

namespace sbx::vfs {

class Walker {
 public:
  // kNormal: a name; the others: the path ended in ".", ".." or was only slashes (the walk stands in that directory).
  enum class Last : u8 { kNormal, kDot, kDotDot, kRoot };

  Walker(const WalkContext& ctx, u64 resolve);

  // The whole path. Start with begin(), which checks it and chooses the starting directory.
  Result<void> begin(std::string_view path);
  Result<void> components(std::string_view text, bool follow_last);
  // All but the last component, which is then described by last(), name() and trailing_slash().
  Result<void> parents(std::string_view text);
  // The last component of a kDot or kDotDot ending.
  Result<void> finish_dots();
  // `link`, a child of the current directory in last position, is to be followed: its text, with the walk moved to
  // where it starts; or nothing if it was a magic link, with the walk moved to its target.
  Result<std::string> enter_link(Dentry& link, bool trailing, bool* jumped);
  // Follows mounts on `path`, as RESOLVE_NO_XDEV allows.
  Result<void> cross(Path& path) const;
  // The current directory may be searched.
  Result<void> may_search() const;
  // The walk ends with `error` for what is where it stands.
  Errno failed(Errno error) const;

  Path& at() { return at_; }
  Last last() const { return last_; }
  std::string_view name() const { return name_; }  // points into the text given to parents()
  bool trailing_slash() const { return trailing_slash_; }

 private:
  Result<void> step(std::string_view name, bool follow, bool trailing);
  Result<void> up();
  Result<void> jump_root();
  const WalkContext& ctx_;
  u64 resolve_;
  Path root_;
  Path at_;
  std::string_view name_;
  Last last_ = Last::kNormal;
  bool trailing_slash_ = false;
  int links_ = 0;
  u32 in_link_ = 0;  // texts of links that the walk is in
};

// access.cc
Result<void> check_sticky(const security::Credentials& creds, Inode& dir, Inode& child);
// The directory may get or lose entries: writable, searchable, mount writable.
Result<void> may_change_dir(const security::Credentials& creds, const Path& dir);
Result<void> may_delete(const security::Credentials& creds, const Path& dir, const Dentry& victim, bool want_dir);
Result<void> may_follow_link(const security::Credentials& creds, Inode& dir, Inode& link);
Result<void> may_hard_link(const security::Credentials& creds, Inode& target);
Result<void> may_open_sticky(const security::Credentials& creds, Inode& dir,
                             Inode& inode);  // protected_fifos, _regular
bool owner_or_capable(const security::Credentials& creds, u32 uid, u32 cap);
// Owner, group and set-group-id bit of a new object in `dir` (inode_init_owner).
Result<void> inherit_owner(const security::Credentials& creds, Inode& dir, NewNode& node);
// Mode without the bits that a write by `creds` clears; equal to `mode` if none.
u32 without_set_id(const security::Credentials& creds, const Owner& owner);
// Sets size with its side effects; rights already checked.
Result<void> truncate_inode(const security::Credentials& creds, Inode& inode, u64 size);

}  // namespace sbx::vfs
