// Requests that change the tree: create, link, remove, rename, attributes, extended attributes, socket files.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "gofer/server/server.h"
#include "gofer/server/socket_kinds.h"

namespace sbx::gofer {
namespace {

constexpr u32 kPermissionBits = 07777;
constexpr size_t kMostXattr = 65536;

bool xattr_passes(std::string_view name) {
  return name.size() <= 255 && name.find('\0') == std::string_view::npos &&
         (name.starts_with("user.") || name == "security.capability" || name == "system.posix_acl_access" ||
          name == "system.posix_acl_default");
}

timespec host_time(const Timestamp& t, bool set, bool now) {
  if (now) return {0, UTIME_NOW};
  if (!set) return {0, UTIME_OMIT};
  return {static_cast<time_t>(t.seconds), static_cast<long>(t.nanoseconds)};
}

}  // namespace

Result<CreateReply> Server::handle(const CreateRequest& m, Descriptors& with) {
  Dir d = TRY(writable_dir(m.dir));
  FsIds ids(m.creation.uid, m.creation.gid);
  UniqueFd fd =
      TRY(open_beneath(d.fd, m.name.c_str(), O_RDWR | O_CREAT | O_EXCL, m.creation.mode & kPermissionBits, d.cross()));
  CreateReply reply;
  reply.attr = TRY(stat_at(fd.get(), "", nullptr));
  with.out.push_back(std::move(fd));
  return reply;
}

Result<TmpfileReply> Server::handle(const TmpfileRequest& m, Descriptors& with) {
  Dir d = TRY(writable_dir(m.dir));
  FsIds ids(m.creation.uid, m.creation.gid);
  UniqueFd fd = TRY(open_beneath(d.fd, ".", O_RDWR | O_TMPFILE, m.creation.mode & kPermissionBits, d.cross()));
  TmpfileReply reply;
  reply.attr = TRY(stat_at(fd.get(), "", nullptr));
  with.out.push_back(std::move(fd));
  return reply;
}

Result<MkdirReply> Server::handle(const MkdirRequest& m, Descriptors&) {
  Dir d = TRY(writable_dir(m.dir));
  {
    FsIds ids(m.creation.uid, m.creation.gid);
    if (mkdirat(d.fd, m.name.c_str(), m.creation.mode & kPermissionBits) != 0) return last_errno();
  }
  MkdirReply reply;
  reply.node = TRY(child_node(m.dir, d, m.name));
  return reply;
}

Result<SymlinkReply> Server::handle(const SymlinkRequest& m, Descriptors&) {
  if (m.target.empty()) return Errno::kNoent;
  if (m.target.size() >= 4096) return Errno::kNametoolong;
  if (m.target.find('\0') != std::string::npos) return Errno::kInval;
  Dir d = TRY(writable_dir(m.dir));
  {
    FsIds ids(m.uid, m.gid);
    if (symlinkat(m.target.c_str(), d.fd, m.name.c_str()) != 0) return last_errno();
  }
  SymlinkReply reply;
  reply.node = TRY(child_node(m.dir, d, m.name));
  return reply;
}

Result<MknodReply> Server::handle(const MknodRequest& m, Descriptors&) {
  u32 type = m.creation.mode & S_IFMT;
  if (type != S_IFIFO && type != S_IFSOCK && type != S_IFREG) return Errno::kPerm;
  Dir d = TRY(writable_dir(m.dir));
  {
    FsIds ids(m.creation.uid, m.creation.gid);
    if (mknodat(d.fd, m.name.c_str(), type | (m.creation.mode & kPermissionBits), 0) != 0) return last_errno();
  }
  MknodReply reply;
  reply.attr = TRY(child_attr(d, m.name.c_str()));
  return reply;
}

Result<LinkReply> Server::handle(const LinkRequest& m, Descriptors& with) {
  Dir to = TRY(writable_dir(m.dir));
  int done = -1;
  if (m.target.by_fd) {
    Resolved file = TRY(resolve(m.target, with.in, true));
    if (file.dir.mount != to.mount) return Errno::kXdev;
    if (!options_.self_fd.valid()) return Errno::kOpnotsupp;
    done = linkat(options_.self_fd.get(), file.path().c_str(), to.fd, m.name.c_str(), AT_SYMLINK_FOLLOW);
  } else {
    if (m.target.leaf.empty()) return Errno::kPerm;
    Dir from = TRY(dir(m.target.dir));
    if (from.mount != to.mount) return Errno::kXdev;
    done = linkat(from.fd, m.target.leaf.c_str(), to.fd, m.name.c_str(), 0);
  }
  if (done != 0) return last_errno();
  LinkReply reply;
  reply.attr = TRY(child_attr(to, m.name.c_str()));
  return reply;
}

Result<UnlinkReply> Server::handle(const UnlinkRequest& m, Descriptors&) {
  Dir d = TRY(writable_dir(m.dir));
  if (unlinkat(d.fd, m.name.c_str(), 0) != 0) return last_errno();
  nodes_.removed(m.dir, m.name);
  return UnlinkReply{};
}

Result<RmdirReply> Server::handle(const RmdirRequest& m, Descriptors&) {
  Dir d = TRY(writable_dir(m.dir));
  // Who still uses it (a working directory, an open directory) asks by node afterwards: open it while it has a name.
  NodeId node = nodes_.child(m.dir, m.name);
  if (node != kNoNode) (void)nodes_.descriptor(node);
  if (unlinkat(d.fd, m.name.c_str(), AT_REMOVEDIR) != 0) return last_errno();
  nodes_.removed(m.dir, m.name);
  return RmdirReply{};
}

Result<RenameReply> Server::handle(const RenameRequest& m, Descriptors&) {
  if ((m.flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) return Errno::kInval;
  Dir from = TRY(writable_dir(m.dir));
  Dir to = TRY(writable_dir(m.new_dir));
  if (from.mount != to.mount) return Errno::kXdev;
  NodeId replaced = nodes_.child(m.new_dir, m.new_name);
  if (replaced != kNoNode) (void)nodes_.descriptor(replaced);
  if (renameat2(from.fd, m.name.c_str(), to.fd, m.new_name.c_str(), m.flags) != 0) return last_errno();
  nodes_.renamed(m.dir, m.name, m.new_dir, m.new_name, (m.flags & RENAME_EXCHANGE) != 0);
  return RenameReply{};
}

Result<SetAttrReply> Server::handle(const SetAttrRequest& m, Descriptors& with) {
  const AttrChange& c = m.change;
  if (c.atime.nanoseconds >= 1'000'000'000 || c.mtime.nanoseconds >= 1'000'000'000) return Errno::kInval;
  Resolved r = TRY(resolve(m.target, with.in, true));
  if ((c.mask & (AttrChange::kUid | AttrChange::kGid)) != 0) {
    uid_t uid = (c.mask & AttrChange::kUid) != 0 ? c.uid : static_cast<uid_t>(-1);
    gid_t gid = (c.mask & AttrChange::kGid) != 0 ? c.gid : static_cast<gid_t>(-1);
    if (fchownat(r.fd, "", uid, gid, AT_EMPTY_PATH) != 0) return last_errno();
  }
  if ((c.mask & AttrChange::kMode) != 0) {
    mode_t mode = c.mode & kPermissionBits;
    if (r.open_file) {
      if (fchmod(r.fd, mode) != 0) return last_errno();
    } else {
      if (!options_.self_fd.valid()) return Errno::kOpnotsupp;
      if (fchmodat(options_.self_fd.get(), r.path().c_str(), mode, 0) != 0) return last_errno();
    }
  }
  if ((c.mask & AttrChange::kSize) != 0) {
    UniqueFd local;
    int fd = r.fd;
    if (!r.open_file) {
      Attr attr = TRY(stat_at(r.fd, "", nullptr));
      if (S_ISDIR(attr.mode)) return Errno::kIsdir;
      if (!S_ISREG(attr.mode)) return Errno::kInval;
      if (m.target.leaf.empty()) {
        fd = r.dir.mount->file.get();
      } else {
        local = TRY(open_beneath(r.dir.fd, m.target.leaf.c_str(), O_WRONLY, 0, r.dir.cross()));
        fd = local.get();
      }
    }
    if (c.size > static_cast<u64>(INT64_MAX)) return Errno::kInval;
    if (ftruncate64(fd, static_cast<off64_t>(c.size)) != 0) return last_errno();
  }
  constexpr u32 kTimes = AttrChange::kAtime | AttrChange::kMtime | AttrChange::kAtimeNow | AttrChange::kMtimeNow;
  if ((c.mask & kTimes) != 0) {
    timespec times[2] = {host_time(c.atime, (c.mask & AttrChange::kAtime) != 0, (c.mask & AttrChange::kAtimeNow) != 0),
                         host_time(c.mtime, (c.mask & AttrChange::kMtime) != 0, (c.mask & AttrChange::kMtimeNow) != 0)};
    if (utimensat(r.fd, "", times, AT_EMPTY_PATH) != 0) return last_errno();
  }
  SetAttrReply reply;
  reply.attr = TRY(stat_at(r.fd, "", nullptr));
  return reply;
}

Result<GetXattrReply> Server::handle(const GetXattrRequest& m, Descriptors& with) {
  if (!xattr_passes(m.name)) return Errno::kOpnotsupp;
  Resolved r = TRY(resolve(m.target, with.in, false));
  if (!r.open_file && !options_.self_fd.valid()) return Errno::kOpnotsupp;
  GetXattrReply reply;
  reply.value.resize(kMostXattr);
  ssize_t n = r.open_file ? fgetxattr(r.fd, m.name.c_str(), reply.value.data(), reply.value.size())
                          : getxattr(r.path().c_str(), m.name.c_str(), reply.value.data(), reply.value.size());
  if (n < 0) return last_errno();
  reply.value.resize(static_cast<size_t>(n));
  return reply;
}

Result<SetXattrReply> Server::handle(const SetXattrRequest& m, Descriptors& with) {
  if (!xattr_passes(m.name)) return Errno::kOpnotsupp;
  if (m.value.size() > kMostXattr) return Errno::kTooBig;
  if ((m.flags & ~static_cast<u32>(XATTR_CREATE | XATTR_REPLACE)) != 0) return Errno::kInval;
  Resolved r = TRY(resolve(m.target, with.in, true));
  if (!r.open_file && !options_.self_fd.valid()) return Errno::kOpnotsupp;
  int flags = static_cast<int>(m.flags);
  int done = r.open_file ? fsetxattr(r.fd, m.name.c_str(), m.value.data(), m.value.size(), flags)
                         : setxattr(r.path().c_str(), m.name.c_str(), m.value.data(), m.value.size(), flags);
  if (done != 0) return last_errno();
  return SetXattrReply{};
}

Result<ListXattrReply> Server::handle(const ListXattrRequest& m, Descriptors& with) {
  Resolved r = TRY(resolve(m.target, with.in, false));
  if (!r.open_file && !options_.self_fd.valid()) return Errno::kOpnotsupp;
  std::string all(kMostXattr, '\0');
  ssize_t n =
      r.open_file ? flistxattr(r.fd, all.data(), all.size()) : listxattr(r.path().c_str(), all.data(), all.size());
  if (n < 0) return last_errno();
  all.resize(static_cast<size_t>(n));
  ListXattrReply reply;
  for (size_t at = 0; at < all.size();) {
    std::string name(all.c_str() + at);
    at += name.size() + 1;
    if (xattr_passes(name)) reply.names.push_back(std::move(name));
  }
  return reply;
}

Result<RemoveXattrReply> Server::handle(const RemoveXattrRequest& m, Descriptors& with) {
  if (!xattr_passes(m.name)) return Errno::kOpnotsupp;
  Resolved r = TRY(resolve(m.target, with.in, true));
  if (!r.open_file && !options_.self_fd.valid()) return Errno::kOpnotsupp;
  int done = r.open_file ? fremovexattr(r.fd, m.name.c_str()) : removexattr(r.path().c_str(), m.name.c_str());
  if (done != 0) return last_errno();
  return RemoveXattrReply{};
}

namespace {

// The socket that came with a request: AF_UNIX, nothing else.
Result<void> check_socket(int fd) {
  int domain = 0;
  socklen_t n = sizeof(domain);
  if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) != 0) return Errno::kNotsock;
  return domain == AF_UNIX ? Result<void>() : Errno::kAfnosupport;
}

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return Errno::kNametoolong;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

Result<BindSocketReply> Server::handle(const BindSocketRequest& m, Descriptors& with) {
  Dir d = TRY(writable_dir(m.dir));
  if (!d.mount->sockets) return Errno::kPerm;
  TRY(check_socket(with.in.get()));
  if (!options_.self_fd.valid()) return Errno::kOpnotsupp;
  // bind(2) makes the file in our working directory, follows no link in the last component and takes the socket's bits.
  sockaddr_un address = TRY(unix_address(m.name));
  if (fchmod(with.in.get(), m.creation.mode & 0777) != 0) return last_errno();
  if (fchdir(d.fd) != 0) return last_errno();
  Result<void> result;
  {
    FsIds ids(m.creation.uid, m.creation.gid);
    if (bind(with.in.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) result = last_errno();
  }
  // Without its working directory the gofer must not go on naming things by number.
  if (fchdir(options_.self_fd.get()) != 0) options_.self_fd.reset();
  TRY(result);
  BindSocketReply reply;
  reply.attr = TRY(child_attr(d, m.name.c_str()));
  return reply;
}

Result<ConnectSocketReply> Server::handle(const ConnectSocketRequest& m, Descriptors& with) {
  TRY(check_socket(with.in.get()));
  // A blocking connect would stop all file work of the container.
  if ((fcntl(with.in.get(), F_GETFL) & O_NONBLOCK) == 0) return Errno::kInval;
  if (!options_.self_fd.valid()) return Errno::kOpnotsupp;
  Target target;
  target.dir = m.dir;
  target.leaf = m.leaf;
  UniqueFd none;
  Resolved r = TRY(resolve(target, none, false));
  if (!r.dir.mount->sockets) return Errno::kConnrefused;
  Attr attr = TRY(stat_at(r.fd, "", nullptr));
  if (!S_ISSOCK(attr.mode)) return Errno::kConnrefused;
  sockaddr_un address = TRY(unix_address(r.path()));
  Errno error = Errno::kNone;
  {
    EffectiveIds ids(m.uid, m.gid);
    if (!ids.taken()) return Errno::kPerm;
    if (connect(with.in.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) error = last_errno();
  }
  if (error != Errno::kNone) return error;
  return ConnectSocketReply{};
}

Result<MakeSocketReply> Server::handle(const MakeSocketRequest& m, Descriptors& with) {
  const int family = static_cast<int>(m.family), type = static_cast<int>(m.type);
  const int protocol = static_cast<int>(m.protocol);
  const bool known = std::any_of(std::begin(kSocketKinds), std::end(kSocketKinds), [&](const SocketKind& kind) {
    return kind.family == family && kind.type == type && (kind.protocol < 0 || kind.protocol == protocol);
  });
  if (!known) return Errno::kInval;
  // What is not for this gofer the filter refuses.
  UniqueFd made(socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
  if (!made) return last_errno();
  with.out.push_back(std::move(made));
  return MakeSocketReply{};
}

}  // namespace sbx::gofer
