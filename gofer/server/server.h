// The gofer's request handlers, one per row of protocol/messages.def. Policy is here: read-only mounts, what may be
// opened, which extended attributes pass. Not thread-safe; the channel calls one at a time.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "gofer/protocol/messages.h"
#include "gofer/server/helper.h"
#include "gofer/server/node_table.h"

namespace sbx::gofer {

// Descriptors that travel with a request and its reply.
struct Descriptors {
  UniqueFd& in;
  std::vector<UniqueFd>& out;
};

class Server {
 public:
  struct Options {
    u32 open_limit = 1024;  // descriptors of directories kept open
    UniqueFd proc;          // of the sandbox, or none
    UniqueFd self_fd;       // O_PATH of /proc/self/fd, or none: reopening, sockets and unnamed files then fail
  };
  Server(std::vector<ServedMount> mounts, Options options);

  // One request as it came; never throws, never ends the process.
  Result<std::string> serve(u32 type, std::string_view request, UniqueFd& in, std::vector<UniqueFd>& out);
  NodeTable& nodes() { return nodes_; }
  // Where there are several CPUs: a thread that shares the work on large directories. Before the filter.
  HostResult<void> start_helper() { return helper_.start(); }

 private:
#define FIELD(type, name)
#define MESSAGE(number, Name, request, reply) Result<Name##Reply> handle(const Name##Request&, Descriptors&);
#include "gofer/protocol/messages.def"
#undef MESSAGE
#undef FIELD

  // A directory to work in, good for this request.
  struct Dir {
    int fd;
    ServedMount* mount;
    bool cross() const { return mount->recursive; }
  };
  Result<Dir> dir(NodeId id);
  // As dir(), for changes: kRofs on a read-only mount.
  Result<Dir> writable_dir(NodeId id);
  // Attributes of a child; kXdev if another mount lies there.
  Result<Attr> child_attr(const Dir& d, const char* name);
  Result<UniqueFd> open_regular(const Dir& d, const char* name, u32 flags);
  // Attributes plus link target and, for directories, the node.
  Result<Node> child_node(NodeId id, const Dir& d, const std::string& name);
  // What child_node() adds to the attributes.
  Result<void> complete(NodeId id, const Dir& d, const std::string& name, Node& node);
  Result<std::string> read_link_at(int fd, const char* name);
  // What `target` means, resolved. `fd` is O_PATH unless by_fd; `owned` keeps it open where it is ours alone.
  struct Resolved {
    Dir dir;
    int fd;
    bool open_file;  // a real descriptor: the f* calls work on it
    UniqueFd owned;
    std::string path() const { return std::to_string(fd); }  // below /proc/self/fd, our working directory
  };
  Result<Resolved> resolve(const Target& target, UniqueFd& in, bool change);
  // Checks that `fd` is an open regular file of the mount that `d` is in.
  Result<void> check_passed_file(const Dir& d, int fd);
  Result<void> stop_before(u64 cookie);
  Result<void> read_names(bool with_nodes, ReadDirReply& reply);
  Result<void> fill_directory(NodeId id, const Dir& d, bool with_nodes, ReadDirReply& reply);
  // A descriptor we hold, opened again with other flags.
  Result<UniqueFd> reopen(int number, u32 flags);

  std::vector<ServedMount> mounts_;
  Options options_;
  NodeTable nodes_;
  // The directory read last, to go on where it was.
  struct {
    NodeId node = kNoNode;
    UniqueFd fd;
    u64 cookie = 0;
  } stream_;
  std::vector<char> buffer_;
  // To wake it costs as much as this many entries.
  static constexpr size_t kManyEntries = 48;
  static constexpr size_t kManyOpens = 12;  // each takes as long as four looks
  Helper helper_;
};

// Makes new files belong to a guest id while it lives: the file system ids of the calling thread (credentials(7)). Ids
// that cannot be taken (not mapped in our user namespace) leave our own.
class FsIds {
 public:
  FsIds(u32 uid, u32 gid);
  ~FsIds();
  FsIds(const FsIds&) = delete;
  FsIds& operator=(const FsIds&) = delete;

 private:
  u32 old_uid_, old_gid_;
  bool changed_;
};

// The calling thread's effective ids while it lives, for what the kernel tells of us to others. taken(): they are.
class EffectiveIds {
 public:
  EffectiveIds(u32 uid, u32 gid);
  ~EffectiveIds();
  EffectiveIds(const EffectiveIds&) = delete;
  EffectiveIds& operator=(const EffectiveIds&) = delete;
  bool taken() const { return taken_; }

 private:
  u32 old_uid_, old_gid_;
  bool changed_, taken_ = true;
};

// The mounts and the descriptor of /proc/self/fd, prepared while the process still sees the host's files.
HostResult<std::vector<ServedMount>> open_mounts(const std::vector<GoferMount>& mounts);
UniqueFd open_self_fd();

}  // namespace sbx::gofer
