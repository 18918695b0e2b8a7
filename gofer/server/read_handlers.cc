// Requests that change nothing: attach, lookup, readdir, open, statfs, readlink, host proc.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>

#include "gofer/protocol/channel.h"
#include "gofer/server/server.h"

namespace sbx::gofer {

Result<AttachReply> Server::handle(const AttachRequest& m, Descriptors&) {
  if (m.mount >= mounts_.size()) return Errno::kNxio;
  const ServedMount& mount = mounts_[m.mount];
  AttachReply reply;
  reply.node.attr = TRY(stat_at(mount.root.get(), "", nullptr));
  reply.node.dir = TRY(nodes_.attach(m.mount, reply.node.attr));
  if (S_ISLNK(reply.node.attr.mode)) reply.node.target = TRY(read_link_at(mount.root.get(), ""));
  reply.read_only = mount.read_only;
  reply.exclusive = mount.exclusive;
  reply.sockets = mount.sockets;
  return reply;
}

Result<LookupReply> Server::handle(const LookupRequest& m, Descriptors&) {
  Dir d = TRY(dir(m.dir));
  LookupReply reply;
  reply.node = TRY(child_node(m.dir, d, m.name));
  return reply;
}

Result<WalkReply> Server::handle(const WalkRequest& m, Descriptors&) {
  WalkReply reply;
  NodeId at = m.dir;
  size_t bytes = 0;
  for (const Name& name : m.names) {
    auto d = dir(at);
    auto node = d ? child_node(at, *d, name) : Result<Node>(d.error());
    if (!node) {
      reply.error = static_cast<u32>(node.error());
      return reply;
    }
    at = node->dir;
    bytes += sizeof(Node) + node->target.size();
    reply.nodes.push_back(std::move(*node));
    if (at == kNoNode || bytes > kReadDirBytes) break;
  }
  return reply;
}

namespace {
size_t size_of(const DirEntry& entry, bool with_nodes) {
  return 48 + entry.name.size() + (with_nodes ? sizeof(Attr) + 16 + entry.node.target.size() : 0);
}
}  // namespace

// The rest of the directory is read again next time.
Result<void> Server::stop_before(u64 cookie) {
  stream_.cookie = cookie;
  if (lseek64(stream_.fd.get(), static_cast<off64_t>(cookie), SEEK_SET) < 0) return last_errno();
  return {};
}

// Names, as many as go into a reply.
Result<void> Server::read_names(bool with_nodes, ReadDirReply& reply) {
  size_t bytes = 0;
  for (;;) {
    ssize_t n = getdents64(stream_.fd.get(), buffer_.data(), buffer_.size());
    if (n < 0) return last_errno();
    if (n == 0) {
      reply.end = true;
      return {};
    }
    for (ssize_t at = 0; at < n;) {
      const auto* raw = reinterpret_cast<const dirent64*>(buffer_.data() + at);
      at += raw->d_reclen;
      stream_.cookie = static_cast<u64>(raw->d_off);
      std::string_view name(raw->d_name);
      if (name == "." || name == "..") continue;
      // A file system that offers impossible names is not passed on.
      if (!valid_name(name)) continue;
      DirEntry& entry = reply.entries.emplace_back();
      entry.name = name;
      entry.ino = raw->d_ino;
      entry.cookie = stream_.cookie;
      entry.type = raw->d_type;
      bytes += size_of(entry, with_nodes);
      if (bytes >= kReadDirBytes) return at < n ? stop_before(stream_.cookie) : Result<void>();
    }
  }
}

Result<void> Server::fill_directory(NodeId id, const Dir& d, bool with_nodes, ReadDirReply& reply) {
  TRY(read_names(with_nodes, reply));
  if (!with_nodes) return {};
  auto& entries = reply.entries;
  auto look = [&](size_t i) {
    auto attr = child_attr(d, entries[i].name.c_str());
    entries[i].known = attr.has_value();
    if (attr) entries[i].node.attr = *attr;
  };
  if (entries.size() >= kManyEntries) {
    helper_.each(entries.size(), look);
  } else {
    for (size_t i = 0; i < entries.size(); ++i) look(i);
  }
  size_t bytes = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    DirEntry& entry = entries[i];
    if (entry.known) entry.known = complete(id, d, entry.name, entry.node).has_value();
    bytes += size_of(entry, true);
    if (bytes < kReadDirBytes || i + 1 == entries.size()) continue;
    // The targets of links need more room than was thought.
    entries.resize(i + 1);
    reply.end = false;
    return stop_before(entries[i].cookie);
  }
  return {};
}

Result<ReadDirReply> Server::handle(const ReadDirRequest& m, Descriptors&) {
  Dir d = TRY(dir(m.dir));
  ReadDirReply reply;
  reply.attr = TRY(stat_at(d.fd, "", nullptr));
  if (!S_ISDIR(reply.attr.mode)) return Errno::kNotdir;
  if (m.cookie == 0 || stream_.node != m.dir || stream_.cookie != m.cookie) {
    stream_.node = kNoNode;
    stream_.fd = TRY(open_beneath(d.fd, ".", O_RDONLY | O_DIRECTORY, 0, d.cross()));
    if (m.cookie != 0 && lseek64(stream_.fd.get(), static_cast<off64_t>(m.cookie), SEEK_SET) < 0) return last_errno();
    stream_.cookie = m.cookie;
  }
  stream_.node = kNoNode;
  TRY(fill_directory(m.dir, d, m.with_nodes, reply));
  if (reply.end)
    stream_.fd.reset();
  else
    stream_.node = m.dir;
  return reply;
}

Result<GetAttrReply> Server::handle(const GetAttrRequest& m, Descriptors& with) {
  GetAttrReply reply;
  if (!m.target.by_fd) {
    Dir d = TRY(dir(m.target.dir));
    reply.attr = TRY(m.target.leaf.empty() ? stat_at(d.fd, "", nullptr) : child_attr(d, m.target.leaf.c_str()));
    return reply;
  }
  Resolved r = TRY(resolve(m.target, with.in, false));
  reply.attr = TRY(stat_at(r.fd, "", nullptr));
  return reply;
}

Result<UniqueFd> Server::reopen(int number, u32 flags) {
  if (!options_.self_fd.valid()) return Errno::kOpnotsupp;
  // The descriptor is ours and names a regular file: following it leads nowhere else.
  std::string name = std::to_string(number);
  UniqueFd fd(
      openat(options_.self_fd.get(), name.c_str(), static_cast<int>(flags) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) return last_errno();
  return fd;
}

Result<UniqueFd> Server::open_regular(const Dir& d, const char* name, u32 flags) {
  // Opening a device or a FIFO has effects of its own: look first. Whoever swaps it in between gets O_NONBLOCK.
  Attr seen = TRY(child_attr(d, name));
  if (S_ISDIR(seen.mode)) return Errno::kIsdir;
  if (S_ISLNK(seen.mode)) return Errno::kLoop;
  if (!S_ISREG(seen.mode)) return Errno::kInval;
  return open_beneath(d.fd, name, flags, 0, d.cross());
}

Result<OpenReply> Server::handle(const OpenRequest& m, Descriptors& with) {
  constexpr u32 kAllowed = O_ACCMODE | O_TRUNC | O_DIRECT | O_NOATIME | O_SYNC | O_DSYNC | O_LARGEFILE;
  if ((m.flags & ~kAllowed) != 0 || (m.flags & O_ACCMODE) == O_ACCMODE) return Errno::kInval;
  bool change = (m.flags & O_ACCMODE) != O_RDONLY || (m.flags & O_TRUNC) != 0;
  Dir d = TRY(change ? writable_dir(m.target.dir) : dir(m.target.dir));
  const Leaf& leaf = m.target.leaf;
  UniqueFd fd;
  if (m.target.by_fd) {
    if (!with.in.valid()) return Errno::kBadf;
    TRY(check_passed_file(d, with.in.get()));
    fd = TRY(reopen(with.in.get(), m.flags));
  } else if (leaf.empty()) {
    if (!nodes_.is_root(m.target.dir) || d.mount->is_dir) return Errno::kIsdir;
    if (!d.mount->file.valid()) return Errno::kInval;
    if ((m.flags & O_ACCMODE) != O_RDONLY && !d.mount->file_writable) return Errno::kAcces;
    fd = TRY(reopen(d.fd, m.flags));
  } else {
    fd = TRY(open_regular(d, leaf.c_str(), m.flags));
  }
  OpenReply reply;
  reply.attr = TRY(stat_at(fd.get(), "", nullptr));
  if (!S_ISREG(reply.attr.mode)) return Errno::kInval;
  with.out.push_back(std::move(fd));
  return reply;
}

Result<OpenSeveralReply> Server::handle(const OpenSeveralRequest& m, Descriptors& with) {
  if (m.names.size() > kMostOpened) return Errno::kInval;
  Dir d = TRY(dir(m.dir));
  struct Opened {
    UniqueFd fd;
    u64 dev, ino;
  };
  std::vector<Opened> opened(m.names.size());
  auto open = [&](size_t i) {
    auto fd = open_regular(d, m.names[i].c_str(), O_RDONLY);
    if (!fd) return;
    auto attr = stat_at(fd->get(), "", nullptr);
    if (attr && S_ISREG(attr->mode)) opened[i] = {std::move(*fd), attr->dev, attr->ino};
  };
  if (opened.size() >= kManyOpens) {
    helper_.each(opened.size(), open);
  } else {
    for (size_t i = 0; i < opened.size(); ++i) open(i);
  }
  OpenSeveralReply reply;
  for (size_t i = 0; i < opened.size(); ++i) {
    if (!opened[i].fd) continue;
    reply.files.push_back({i, opened[i].dev, opened[i].ino});
    with.out.push_back(std::move(opened[i].fd));
  }
  return reply;
}

Result<ReadLinkReply> Server::handle(const ReadLinkRequest& m, Descriptors&) {
  Dir d = TRY(dir(m.dir));
  ReadLinkReply reply;
  reply.target = TRY(read_link_at(d.fd, m.leaf.c_str()));
  return reply;
}

Result<StatFsReply> Server::handle(const StatFsRequest& m, Descriptors&) {
  Dir d = TRY(dir(m.dir));
  struct statfs64 s;
  if (fstatfs64(d.fd, &s) != 0) return last_errno();
  StatFsReply reply;
  FsStat& f = reply.stat;
  f.type = static_cast<u64>(s.f_type);
  f.bsize = static_cast<u64>(s.f_bsize);
  f.blocks = s.f_blocks;
  f.bfree = s.f_bfree;
  f.bavail = s.f_bavail;
  f.files = s.f_files;
  f.ffree = s.f_ffree;
  std::memcpy(&f.fsid, &s.f_fsid, sizeof(f.fsid));
  f.namelen = static_cast<u64>(s.f_namelen);
  f.frsize = static_cast<u64>(s.f_frsize);
  f.flags = static_cast<u64>(s.f_flags);
  return reply;
}

Result<ForgetReply> Server::handle(const ForgetRequest& m, Descriptors&) {
  for (NodeId id : m.dirs) nodes_.forget(id);
  return ForgetReply{};
}

Result<SyncReply> Server::handle(const SyncRequest& m, Descriptors&) {
  Dir d = TRY(dir(m.dir));
  UniqueFd local;
  int fd = d.mount->file.get();
  if (!nodes_.is_root(m.dir) || d.mount->is_dir) {
    local = TRY(open_beneath(d.fd, ".", O_RDONLY | O_DIRECTORY, 0, d.cross()));
    fd = local.get();
  }
  if (fd < 0) return Errno::kInval;
  if ((m.whole ? syncfs(fd) : fsync(fd)) != 0) return last_errno();
  return SyncReply{};
}

Result<HostProcReply> Server::handle(const HostProcRequest& m, Descriptors&) {
  if (!options_.proc.valid()) return Errno::kOpnotsupp;
  const bool of_system = m.kind == kProcMeminfo;
  if (m.kind >= std::size(kProcNames) || (m.pid == 0) != of_system) return Errno::kInval;
  const std::string dir = of_system ? "." : std::to_string(m.pid);
  // Memory maps are shown to who has the ids of the process (ptrace(2), PTRACE_MODE_READ_FSCREDS): stubs run as nobody.
  struct stat owner {};
  if (fstatat(options_.proc.get(), dir.c_str(), &owner, AT_SYMLINK_NOFOLLOW) != 0) return last_errno();
  FsIds as_owner(owner.st_uid, owner.st_gid);
  std::string path = dir + "/" + kProcNames[m.kind];
  UniqueFd fd(openat(options_.proc.get(), path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return last_errno();
  HostProcReply reply;
  constexpr size_t kMost = kReplyBytes - 64;
  while (reply.text.size() < kMost) {
    size_t room = std::min(buffer_.size(), kMost - reply.text.size());
    ssize_t n = read(fd.get(), buffer_.data(), room);
    if (n < 0) return last_errno();
    if (n == 0) break;
    reply.text.append(buffer_.data(), static_cast<size_t>(n));
  }
  return reply;
}

}  // namespace sbx::gofer
