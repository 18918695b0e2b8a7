#include "sentry/net/socket.h"

#include <map>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"

namespace sbx::net {

Identity (*caller_identity)() = nullptr;

namespace {

constexpr u64 kSockfsMagic = 0x534F434B;

std::map<int, Family>& families() {
  static auto* all = new std::map<int, Family>;
  return *all;
}

class SockFs final : public vfs::FileSystem {
 public:
  const char* type_name() const override { return "sockfs"; }
  RefPtr<vfs::Inode> root() override { return nullptr; }
  Result<vfs::StatFs> statfs() override {
    vfs::StatFs out;
    out.type = kSockfsMagic;
    return out;
  }
  u64 next_ino() { return ++last_ino_; }

 private:
  u64 last_ino_ = 1000;
};

SockFs& sockfs() {
  static auto* fs = make_ref<SockFs>().leak();
  return *fs;
}

class SocketInode final : public vfs::Inode {
 public:
  SocketInode() : Inode(sockfs()) {
    Identity owner = caller_identity != nullptr ? caller_identity() : Identity{0, 0, 0};
    attr_.dev = sockfs().dev();
    attr_.ino = sockfs().next_ino();
    attr_.mode = S_IFSOCK | 0777;
    attr_.uid = owner.uid;
    attr_.gid = owner.gid;
    attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = vfs::time_now();
  }
  u64 ino() const { return attr_.ino; }
  Result<vfs::Attr> attr() override { return attr_; }
  u32 type() const override { return S_IFSOCK; }
  Result<void> set_attr(const vfs::SetAttr& change) override {
    using S = vfs::SetAttr;
    if (change.mask & S::kSize) return Errno::kInval;
    if (change.mask & S::kMode) attr_.mode = S_IFSOCK | (change.mode & 07777);
    if (change.mask & S::kUid) attr_.uid = change.uid;
    if (change.mask & S::kGid) attr_.gid = change.gid;
    return {};
  }
  Result<RefPtr<vfs::File>> open(const vfs::Path&, u32) override { return Errno::kNxio; }

 private:
  vfs::Attr attr_;
};

// Splits the type argument: the kind, and O_* for the description.
Result<std::pair<int, u32>> split_type(int type) {
  int flags = type & ~0xf;
  if (flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) return Errno::kInval;
  return std::pair<int, u32>(type & 0xf, flags & SOCK_NONBLOCK ? O_NONBLOCK : 0);
}

Result<const Family*> find_family(int family) {
  if (family < 0 || family > 45) return Errno::kAfnosupport;
  auto it = families().find(family);
  if (it == families().end()) {
    STUB("socket family", family);
    return Errno::kAfnosupport;
  }
  return &it->second;
}

}  // namespace

vfs::Path socket_path() {
  auto inode = make_ref<SocketInode>();
  std::string name = str_printf("socket:[%llu]", static_cast<unsigned long long>(inode->ino()));
  vfs::Path path;
  path.dentry = vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(&sockfs()), inode, std::move(name));
  return path;
}

void register_family(int family, Family maker) { families()[family] = std::move(maker); }

Result<RefPtr<Socket>> make_socket(int family, int type, int protocol) {
  auto split = TRY(split_type(type));
  const Family* maker = TRY(find_family(family));
  return maker->make(split.first, protocol, split.second);
}

Result<std::pair<RefPtr<Socket>, RefPtr<Socket>>> make_socket_pair(int family, int type, int protocol) {
  auto split = TRY(split_type(type));
  const Family* maker = TRY(find_family(family));
  if (!maker->make_pair) return Errno::kOpnotsupp;
  return maker->make_pair(split.first, protocol, split.second);
}

Result<std::string> Socket::ask_option(int level, int name, std::string_view) {
  STUB("socket option with a question", level * 1000 + name);
  return Errno::kNoprotoopt;
}

Result<size_t> Socket::read(vfs::Sink& sink, u64*) {
  ReceiveRequest request{sink};
  return receive(request);
}

Result<size_t> Socket::write(vfs::Source& source, u64*) {
  SendRequest request{source, {}, {}, {}, 0};
  return send(nullptr, request);
}

}  // namespace sbx::net
