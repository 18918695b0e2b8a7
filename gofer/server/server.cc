#include "gofer/server/server.h"

#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "sentry/base/counters.h"

namespace sbx::gofer {

COUNTER(requests, "gofer.requests", "requests served");
COUNTER(malformed, "gofer.malformed", "requests that could not be decoded or had an unknown number");

Server::Server(std::vector<ServedMount> mounts, Options options)
    : mounts_(std::move(mounts)),
      options_(std::move(options)),
      nodes_(mounts_, options_.open_limit < 4 ? 4 : options_.open_limit),
      buffer_(32 * 1024) {
  // Calls without an *at form and without O_PATH support name their object "N" there.
  if (options_.self_fd.valid() && fchdir(options_.self_fd.get()) != 0) options_.self_fd.reset();
}

Result<std::string> Server::serve(u32 type, std::string_view bytes, UniqueFd& in, std::vector<UniqueFd>& out) {
  requests.add();
  nodes_.trim();
  Descriptors descriptors{in, out};
  switch (static_cast<MessageType>(type)) {
#define FIELD(type, name)
#define MESSAGE(number, Name, request, reply)         \
  case MessageType::k##Name: {                        \
    Name##Request m;                                  \
    if (!decode(bytes, m)) break;                     \
    Name##Reply answer = TRY(handle(m, descriptors)); \
    Encoder e;                                        \
    encode(e, answer);                                \
    return e.take();                                  \
  }
#include "gofer/protocol/messages.def"
#undef MESSAGE
#undef FIELD
  }
  malformed.add();
  return Errno::kProto;
}

FsIds::FsIds(u32 uid, u32 gid)
    : old_uid_(geteuid()), old_gid_(getegid()), changed_(uid != old_uid_ || gid != old_gid_) {
  if (!changed_) return;
  setfsgid(gid);
  setfsuid(uid);
}

FsIds::~FsIds() {
  if (!changed_) return;
  setfsuid(old_uid_);
  setfsgid(old_gid_);
}

// By number: the library's functions change all threads.
EffectiveIds::EffectiveIds(u32 uid, u32 gid)
    : old_uid_(geteuid()), old_gid_(getegid()), changed_(uid != old_uid_ || gid != old_gid_) {
  if (!changed_) return;
  taken_ = syscall(SYS_setresgid, -1, gid, -1) == 0 && syscall(SYS_setresuid, -1, uid, -1) == 0;
}

EffectiveIds::~EffectiveIds() {
  if (!changed_) return;
  // A thread that could not become itself again would make files that belong to others.
  if (syscall(SYS_setresuid, -1, old_uid_, -1) != 0 || syscall(SYS_setresgid, -1, old_gid_, -1) != 0) _exit(1);
}

Result<Server::Dir> Server::dir(NodeId id) {
  ServedMount* mount = TRY(nodes_.mount_of(id));
  int fd = TRY(nodes_.descriptor(id));
  return Dir{fd, mount};
}

Result<Server::Dir> Server::writable_dir(NodeId id) {
  Dir d = TRY(dir(id));
  if (d.mount->read_only) return Errno::kRofs;
  return d;
}

Result<Attr> Server::child_attr(const Dir& d, const char* name) {
  u64 mount_id = 0;
  Attr attr = TRY(stat_at(d.fd, name, &mount_id));
  if (!d.cross() && mount_id != d.mount->mount_id) return Errno::kXdev;
  return attr;
}

Result<std::string> Server::read_link_at(int fd, const char* name) {
  char target[4096];
  ssize_t n = readlinkat(fd, name, target, sizeof(target));
  if (n < 0) return last_errno();
  return std::string(target, static_cast<size_t>(n));
}

Result<Node> Server::child_node(NodeId id, const Dir& d, const std::string& name) {
  Node node;
  node.attr = TRY(child_attr(d, name.c_str()));
  TRY(complete(id, d, name, node));
  return node;
}

Result<void> Server::complete(NodeId id, const Dir& d, const std::string& name, Node& node) {
  if (S_ISDIR(node.attr.mode)) node.dir = TRY(nodes_.intern(id, name, node.attr));
  if (S_ISLNK(node.attr.mode)) node.target = TRY(read_link_at(d.fd, name.c_str()));
  return {};
}

Result<void> Server::check_passed_file(const Dir& d, int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0) return Errno::kBadf;
  u64 mount_id = 0;
  Attr attr = TRY(stat_at(fd, "", &mount_id));
  if (!S_ISREG(attr.mode)) return Errno::kBadf;
  // A file of a read-only mount must not be changed by calling it a file of another.
  for (const ServedMount& m : mounts_) {
    if (m.mount_id == mount_id && &m != d.mount && m.read_only != d.mount->read_only) return Errno::kBadf;
  }
  if (!d.cross() && mount_id != d.mount->mount_id) return Errno::kBadf;
  return {};
}

Result<Server::Resolved> Server::resolve(const Target& target, UniqueFd& in, bool change) {
  Dir d = TRY(change ? writable_dir(target.dir) : dir(target.dir));
  if (target.by_fd) {
    if (!in.valid()) return Errno::kBadf;
    TRY(check_passed_file(d, in.get()));
    return Resolved{d, in.get(), true, UniqueFd()};
  }
  if (target.leaf.empty()) return Resolved{d, d.fd, false, UniqueFd()};
  UniqueFd fd = TRY(open_beneath(d.fd, target.leaf.c_str(), O_PATH, 0, d.cross()));
  int number = fd.get();
  return Resolved{d, number, false, std::move(fd)};
}

UniqueFd open_self_fd() { return UniqueFd(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC)); }

HostResult<std::vector<ServedMount>> open_mounts(const std::vector<GoferMount>& mounts) {
  std::vector<ServedMount> served;
  for (const GoferMount& m : mounts) {
    ServedMount s;
    s.root = UniqueFd(fcntl(m.root_fd, F_DUPFD_CLOEXEC, 3));
    std::string which = "mount " + std::to_string(served.size()) + " of the gofer";
    if (!s.root) return Failure::from_errno(which);
    auto attr = stat_at(s.root.get(), "", &s.mount_id);
    if (!attr) return Failure(attr.error(), which + ": " + errno_text(attr.error()));
    s.read_only = m.read_only;
    s.recursive = m.recursive;
    s.exclusive = m.exclusive;
    s.sockets = m.sockets;
    s.is_dir = S_ISDIR(attr->mode);
    if (S_ISREG(attr->mode)) {
      std::string path = "/proc/self/fd/" + std::to_string(s.root.get());
      if (!m.read_only) s.file = UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY));
      s.file_writable = s.file.valid();
      if (!s.file) s.file = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
      if (!s.file) return Failure::from_errno(which);
    }
    served.push_back(std::move(s));
  }
  return served;
}

}  // namespace sbx::gofer
