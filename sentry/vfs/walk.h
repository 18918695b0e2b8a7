// Path resolution (path_resolution(7)) and the operations that take names: each checks permissions, mount flags and
// names, calls the filesystem and keeps the dentry cache right. syscalls/ calls these and nothing below.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/file.h"

namespace sbx::vfs {

// Sysctls of /proc/sys/fs that walking obeys (proc(5)).
struct Protections {
  int symlinks = 1, hardlinks = 1, fifos = 1, regular = 2;
};
Protections& protections();

// Steps that any walk took so far in directories whose names may change without a call that changes names.
extern u64 unsteady_steps;
// Walks that failed for what is there, and directories on the way of any that not everybody may search. Of a walk that
// succeeds, and of those where it ends, only note_failure() tells.
struct WalkFailures {
  u64 seen = 0, restricted = 0;
};
extern WalkFailures walk_failures;
// A call fails for what is at `at`, where a walk came from `root`.
void note_failure(const Path& at, const Path& root);
// What happened since who keeps what others know of names has looked.
struct NameChanges {
  std::vector<std::string> touched;  // made or removed
  bool trees = false;                // a directory has moved, or other rights
  bool any() const { return trees || !touched.empty(); }
};
extern NameChanges name_changes;

// Who walks, from where.
struct WalkContext {
  Path root;
  Path cwd;  // start of relative paths (or the directory of an *at call)
  const security::Credentials* creds;
  MountNamespace* ns;
};

struct WalkFlags {
  bool follow_last = true;  // follow a symbolic link in the last component
  bool need_dir = false;    // kNotdir otherwise (O_DIRECTORY)
  u64 resolve = 0;          // RESOLVE_* of openat2(2)
};

// The existing object at `path`. Empty path: kNoent.
Result<Path> resolve(const WalkContext& ctx, std::string_view path, WalkFlags flags = {});

// The parent directory and last name for creation and removal: "a/b/" gives name "b" with trailing_slash.
struct ParentPath {
  Path dir;
  std::string name;  // never empty; may be "." or ".." (callers answer as Linux does)
  bool trailing_slash = false;
};
Result<ParentPath> resolve_parent(const WalkContext& ctx, std::string_view path, u64 resolve_flags = 0);

// MAY_READ 4, MAY_WRITE 2, MAY_EXEC 1; real ids for access(2) are the caller's business (other creds).
constexpr u32 kMayRead = 4, kMayWrite = 2, kMayExec = 1;
Result<void> check_access(const security::Credentials& creds, Inode& inode, u32 may);
// Everybody may read the file, and search the directories of its path, as far as their modes say; of the tree's root
// mount only.
bool anybody_may_read(const Path& path);
// As check_access plus read-only mounts (kRofs on write) and noexec.
Result<void> check_path_access(const security::Credentials& creds, const Path& path, u32 may);

struct OpenRequest {
  u32 flags = 0;  // O_*
  u32 mode = 0;   // for creation, umask applied
  u64 resolve = 0;
};
Result<RefPtr<File>> open(const WalkContext& ctx, std::string_view path, const OpenRequest& request);
// Opens an object already found (exec, /proc magic links).
Result<RefPtr<File>> open_path(const security::Credentials& creds, const Path& path, u32 flags);

// Owner and group of new objects come from the credentials and the directory (S_ISGID), never from the NewNode.
Result<Path> make_node(const WalkContext& ctx, std::string_view path,
                       const NewNode& node);  // mknod, mkdir, symlink, bind
Result<void> link(const WalkContext& from, std::string_view old_path, bool follow, const WalkContext& to,
                  std::string_view new_path);
Result<void> link_path(const Path& old_path, const WalkContext& to, std::string_view new_path);
Result<void> unlink(const WalkContext& ctx, std::string_view path);
Result<void> rmdir(const WalkContext& ctx, std::string_view path);
Result<void> rename(const WalkContext& from, std::string_view old_path, const WalkContext& to,
                    std::string_view new_path, u32 flags);
// chmod/chown/utimes/truncate with their permission rules (who may; set-id bits cleared by chown and by writes).
Result<void> set_attr(const security::Credentials& creds, const Path& path, SetAttr change);
// ftruncate(2): the description's right to write is enough. kInval unless it is a regular file open for writing.
Result<void> truncate(const security::Credentials& creds, File& file, u64 size);
// After a read or write that moved bytes: inotify events; a write clears set-id bits as Linux does.
void after_read(File& file);
void after_write(const security::Credentials& creds, File& file);

}  // namespace sbx::vfs
