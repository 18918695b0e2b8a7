#include "sentry/vfs/walker.h"

#include <linux/capability.h>
#include <linux/openat2.h>
#include <sys/mount.h>

#include <cstring>

namespace sbx::vfs {
namespace {

constexpr size_t kNameMax = 255, kPathMax = 4096;
constexpr int kMaxLinks = 40;
constexpr u64 kScoped = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
#ifndef MS_NOSYMFOLLOW
constexpr u64 MS_NOSYMFOLLOW = 256;
#endif

}  // namespace

Walker::Walker(const WalkContext& ctx, u64 resolve)
    : ctx_(ctx), resolve_(resolve), root_((resolve & kScoped) != 0 ? ctx.cwd : ctx.root) {}

Result<void> Walker::begin(std::string_view path) {
  if (path.empty()) return Errno::kNoent;
  if (path.size() >= kPathMax) return Errno::kNametoolong;
  at_ = ctx_.cwd;
  if (path[0] == '/') return jump_root();
  return {};
}

Result<void> Walker::jump_root() {
  if ((resolve_ & RESOLVE_BENEATH) != 0) return Errno::kXdev;
  if ((resolve_ & RESOLVE_NO_XDEV) != 0 && at_.mount != root_.mount) return Errno::kXdev;
  at_ = root_;
  return {};
}

WalkFailures walk_failures;

namespace {

void note_restricted(const Dentry& dir) {
  const auto owner = dir.inode()->owner();
  if (!owner || (owner->mode & S_IXOTH) == 0) ++walk_failures.restricted;
}

void note_restricted_above(Path at, const Path& root) {
  if (at.dentry->is_dir()) note_restricted(*at.dentry);
  while (at != root) {
    if (at.dentry == at.mount->root()) {
      if (at.mount->parent() == nullptr) return;
      at = Path{RefPtr<Mount>(at.mount->parent()), at.mount->mountpoint()};  // covered: nobody searches it
      continue;
    }
    if (at.dentry->parent() == nullptr) return;
    at.dentry = RefPtr<Dentry>(at.dentry->parent());
    note_restricted(*at.dentry);
  }
}

}  // namespace

Result<void> Walker::may_search() const {
  constexpr u64 kCaps = (1ull << CAP_DAC_OVERRIDE) | (1ull << CAP_DAC_READ_SEARCH);
  if ((ctx_.creds->effective & kCaps) != 0) return {};
  return check_access(*ctx_.creds, *at_.dentry->inode(), kMayExec);
}

Result<void> Walker::cross(Path& path) const {
  if (path.dentry->mount_count() == 0) return {};
  const Mount* before = path.mount.get();
  MountNamespace::cross_down(path);
  if (path.mount != before && (resolve_ & RESOLVE_NO_XDEV) != 0) return Errno::kXdev;
  return {};
}

Result<void> Walker::up() {
  for (;;) {
    if (at_ == root_) {
      if ((resolve_ & RESOLVE_BENEATH) != 0) return Errno::kXdev;
      break;
    }
    if (at_.dentry == at_.mount->root()) {
      if (at_.mount->parent() == nullptr) break;
      if ((resolve_ & RESOLVE_NO_XDEV) != 0) return Errno::kXdev;
      at_ = Path{RefPtr<Mount>(at_.mount->parent()), at_.mount->mountpoint()};
      continue;
    }
    if (at_.dentry->parent() == nullptr) break;
    // A directory moved out of a bound subtree must not lead to what lies above it (mount_namespaces(7)).
    if (!at_.mount->root()->is_root() && !at_.dentry->is_below(*at_.mount->root())) return Errno::kNoent;
    at_.dentry = RefPtr<Dentry>(at_.dentry->parent());
    break;
  }
  return cross(at_);
}

Result<std::string> Walker::enter_link(Dentry& link, bool trailing, bool* jumped) {
  *jumped = false;
  if (++links_ > kMaxLinks) return Errno::kLoop;
  if ((resolve_ & RESOLVE_NO_SYMLINKS) != 0 || (at_.mount->flags & MS_NOSYMFOLLOW) != 0) return Errno::kLoop;
  RefPtr<Inode> inode(link.inode());
  if (trailing) TRY(may_follow_link(*ctx_.creds, *at_.dentry->inode(), *inode));
  auto target = inode->follow_magic();
  if (target) {
    if ((resolve_ & RESOLVE_NO_MAGICLINKS) != 0) return Errno::kLoop;
    if ((resolve_ & kScoped) != 0) return Errno::kXdev;
    if ((resolve_ & RESOLVE_NO_XDEV) != 0 && target->mount != at_.mount) return Errno::kXdev;
    at_ = std::move(*target);
    *jumped = true;
    return std::string();
  }
  if (target.error() != Errno::kNosys) return target.error();
  std::string text = TRY(inode->read_link());
  if (text.empty()) return Errno::kNoent;
  if (text[0] == '/') {
    note_restricted_above(at_, root_);
    TRY(jump_root());
  }
  return text;
}

u64 unsteady_steps = 0;
NameChanges name_changes;

void note_failure(const Path& at, const Path& root) {
  ++walk_failures.seen;
  note_restricted_above(at, root);
}

Errno Walker::failed(Errno error) const {
  if (in_link_ != 0)
    ++unsteady_steps;  // for a name that the path does not show
  else
    note_failure(at_, root_);
  return error;
}

Result<void> Walker::step(std::string_view name, bool follow, bool trailing) {
  Dentry& dir = *at_.dentry;
  if (!dir.is_dir()) return failed(Errno::kNotdir);
  if (!dir.inode()->fs().steady_names()) ++unsteady_steps;
  TRY(may_search());
  if (name[0] == '.') {
    if (name.size() == 1) return {};
    if (name.size() == 2 && name[1] == '.') {
      note_restricted(dir);  // it is none of those above where the walk ends
      return up();
    }
  }
  RefPtr<Dentry> child(dir.valid_child(name));
  if (!child) {
    if (name.size() > kNameMax) return Errno::kNametoolong;
    if ((resolve_ & RESOLVE_CACHED) != 0) return Errno::kAgain;
    child = TRY(dir.child(name));
  }
  if (child->inode() == nullptr) return failed(Errno::kNoent);
  if (child->is_link() && follow && child->mount_count() == 0) [[unlikely]] {
    bool jumped = false;
    std::string text = TRY(enter_link(*child, trailing, &jumped));
    if (jumped) return {};
    ++in_link_;
    auto walked = components(text, true);
    --in_link_;
    return walked;
  }
  if (child->mount_count() != 0) [[unlikely]] {
    Path below{at_.mount, std::move(child)};
    TRY(cross(below));
    at_ = std::move(below);
    return {};
  }
  at_.dentry = std::move(child);
  return {};
}

Result<void> Walker::components(std::string_view text, bool follow_last) {
  size_t i = 0, n = text.size();
  while (i < n && text[i] == '/') ++i;
  while (i < n) {
    const void* slash = std::memchr(text.data() + i, '/', n - i);
    size_t end = slash == nullptr ? n : static_cast<size_t>(static_cast<const char*>(slash) - text.data());
    size_t next = end;
    while (next < n && text[next] == '/') ++next;
    TRY(step(text.substr(i, end - i), end < n || follow_last, next == n));
    if (next == n && end < n && !at_.dentry->is_dir()) return failed(Errno::kNotdir);
    i = next;
  }
  return {};
}

Result<void> Walker::parents(std::string_view text) {
  size_t n = text.size(), tail = n;
  while (tail > 0 && text[tail - 1] == '/') --tail;
  trailing_slash_ = tail < n;
  size_t start = tail;
  while (start > 0 && text[start - 1] != '/') --start;
  name_ = text.substr(start, tail - start);
  last_ = name_.empty() ? Last::kRoot : name_ == "." ? Last::kDot : name_ == ".." ? Last::kDotDot : Last::kNormal;
  TRY(components(text.substr(0, start), true));
  if (!at_.dentry->is_dir()) return Errno::kNotdir;
  TRY(may_search());
  if (name_.size() > kNameMax) return Errno::kNametoolong;
  return {};
}

Result<void> Walker::finish_dots() {
  if (last_ == Last::kDotDot) return up();
  return {};
}

Result<Path> resolve(const WalkContext& ctx, std::string_view path, WalkFlags flags) {
  Walker walker(ctx, flags.resolve);
  TRY(walker.begin(path));
  TRY(walker.components(path, flags.follow_last));
  if (flags.need_dir && !walker.at().dentry->is_dir()) return Errno::kNotdir;
  return std::move(walker.at());
}

Result<ParentPath> resolve_parent(const WalkContext& ctx, std::string_view path, u64 resolve_flags) {
  Walker walker(ctx, resolve_flags);
  TRY(walker.begin(path));
  TRY(walker.parents(path));
  ParentPath out;
  out.dir = std::move(walker.at());
  out.trailing_slash = walker.trailing_slash();
  out.name = walker.last() == Walker::Last::kRoot ? "." : std::string(walker.name());
  return out;
}

}  // namespace sbx::vfs
