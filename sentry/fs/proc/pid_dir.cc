// The directories of /proc/PID and the links in them.
#include <dirent.h>
#include <linux/capability.h>

#include <algorithm>
#include <charconv>

#include "sentry/base/log.h"
#include "sentry/fs/proc/mem_file.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/proc/target.h"

namespace sbx::fs::proc {

using task::Task;
using task::ThreadGroup;

namespace {

enum class Kind : u8 { kText, kExe, kCwd, kRoot, kFd, kFdInfo, kTask, kNs, kAttr, kNetLink, kMem };
enum class Guard : u8 { kNone, kReader };  // kReader: needs ptrace read access

using TargetStore = Result<void> (*)(const Target&, std::string_view);

struct Entry {
  const char* name;
  u32 mode;
  Kind kind = Kind::kText;
  TargetText text = nullptr;
  TargetStore store = nullptr;
  Guard guard = Guard::kNone;
  bool of_thread = true;  // also in /proc/PID/task/TID
};

template <const char* Value>
Result<std::string> constant(const Target&) {
  return std::string(Value);
}

constexpr char kNothing[] = "", kAllow[] = "allow\n", kCoredump[] = "00000033\n", kSlack[] = "50000\n",
               kUnconfined[] = "unconfined\n", kOomScore[] = "666\n";

Result<void> set_oom_score_adj(const Target& target, i64 value) {
  if (value < -1000 || value > 1000) return Errno::kInval;
  const Task* caller = task::current_task();
  if (value < target.group->oom_score_adj && caller != nullptr && !caller->creds->capable(CAP_SYS_RESOURCE)) {
    return Errno::kAcces;
  }
  target.group->oom_score_adj = static_cast<i32>(value);
  return {};
}

Result<std::string> loginuid_text(const Target& target) { return std::to_string(target.group->loginuid); }
Result<std::string> sessionid_text(const Target& target) { return std::to_string(target.group->sessionid); }

// One's own only; once it is set, by who may control auditing (kernel/auditsc.c audit_set_loginuid).
Result<void> store_loginuid(const Target& target, std::string_view in) {
  static u32 sessions = 0;
  const Task* caller = task::current_task();
  if (caller == nullptr || caller->group != target.group) return Errno::kPerm;
  i64 value = TRY(parse_number(in));
  if (value < 0 || value > 0xffffffffll) return Errno::kInval;
  ThreadGroup& group = *caller->group;
  if (group.loginuid != ~0u && !caller->creds->capable(CAP_AUDIT_CONTROL)) return Errno::kPerm;
  group.loginuid = static_cast<u32>(value);
  group.sessionid = group.loginuid == ~0u ? ~0u : ++sessions;
  return {};
}

Result<void> store_oom_score_adj(const Target& target, std::string_view in) {
  return set_oom_score_adj(target, TRY(parse_number(in)));
}

Result<void> store_oom_adj(const Target& target, std::string_view in) {
  i64 value = TRY(parse_number(in));
  if (value < -17 || value > 15) return Errno::kInval;
  return set_oom_score_adj(target, value == 15 ? 1000 : value * 1000 / 17);
}

Result<void> store_comm(const Target& target, std::string_view in) {
  Task* t = TRY(target.live_task());
  const Task* caller = task::current_task();
  if (caller != nullptr && caller->group != target.group) return Errno::kInval;
  in = in.substr(0, in.find('\0'));
  t->comm = std::string(in.substr(0, 15));
  return {};
}

const Entry kEntries[] = {
    {"attr", S_IFDIR | 0555, Kind::kAttr},
    {"auxv", S_IFREG | 0400, Kind::kText, auxv_text, nullptr, Guard::kReader},
    {"cgroup", S_IFREG | 0444, Kind::kText, cgroup_text},
    {"cmdline", S_IFREG | 0444, Kind::kText, cmdline_text},
    {"comm", S_IFREG | 0644, Kind::kText, comm_text, store_comm},
    {"coredump_filter", S_IFREG | 0644, Kind::kText, constant<kCoredump>, nullptr, Guard::kNone, false},
    {"cwd", S_IFLNK | 0777, Kind::kCwd},
    {"environ", S_IFREG | 0400, Kind::kText, environ_text, nullptr, Guard::kReader},
    {"exe", S_IFLNK | 0777, Kind::kExe},
    {"fd", S_IFDIR | 0500, Kind::kFd},
    {"fdinfo", S_IFDIR | 0555, Kind::kFdInfo},
    {"gid_map", S_IFREG | 0644, Kind::kText, uid_map_text},
    {"io", S_IFREG | 0400, Kind::kText, io_text, nullptr, Guard::kReader},
    {"limits", S_IFREG | 0444, Kind::kText, limits_text},
    {"loginuid", S_IFREG | 0644, Kind::kText, loginuid_text, store_loginuid},
    {"maps", S_IFREG | 0444, Kind::kText, maps_text, nullptr, Guard::kReader},
    {"mem", S_IFREG | 0600, Kind::kMem},
    {"mountinfo", S_IFREG | 0444, Kind::kText, mountinfo_text},
    {"mounts", S_IFREG | 0444, Kind::kText, mounts_text},
    {"mountstats", S_IFREG | 0400, Kind::kText, mountstats_text, nullptr, Guard::kNone, false},
    {"net", S_IFLNK | 0777, Kind::kNetLink},
    {"ns", S_IFDIR | 0511, Kind::kNs},
    {"oom_adj", S_IFREG | 0644, Kind::kText, oom_adj_text, store_oom_adj},
    {"oom_score", S_IFREG | 0444, Kind::kText, constant<kOomScore>},
    {"oom_score_adj", S_IFREG | 0644, Kind::kText, oom_score_adj_text, store_oom_score_adj},
    {"personality", S_IFREG | 0400, Kind::kText, personality_text, nullptr, Guard::kReader},
    {"projid_map", S_IFREG | 0644, Kind::kText, uid_map_text},
    {"root", S_IFLNK | 0777, Kind::kRoot},
    {"sched", S_IFREG | 0644, Kind::kText, sched_text},
    {"schedstat", S_IFREG | 0444, Kind::kText, schedstat_text},
    {"sessionid", S_IFREG | 0444, Kind::kText, sessionid_text},
    {"setgroups", S_IFREG | 0644, Kind::kText, constant<kAllow>},
    {"smaps", S_IFREG | 0444, Kind::kText, smaps_text, nullptr, Guard::kReader},
    {"smaps_rollup", S_IFREG | 0444, Kind::kText, smaps_rollup_text, nullptr, Guard::kReader},
    {"stack", S_IFREG | 0400, Kind::kText, constant<kNothing>, nullptr, Guard::kReader},
    {"stat", S_IFREG | 0444, Kind::kText, stat_text},
    {"statm", S_IFREG | 0444, Kind::kText, statm_text},
    {"status", S_IFREG | 0444, Kind::kText, status_text},
    {"syscall", S_IFREG | 0400, Kind::kText, syscall_text, nullptr, Guard::kReader},
    {"task", S_IFDIR | 0555, Kind::kTask, nullptr, nullptr, Guard::kNone, false},
    {"timers", S_IFREG | 0444, Kind::kText, constant<kNothing>, nullptr, Guard::kNone, false},
    {"timerslack_ns", S_IFREG | 0666, Kind::kText, constant<kSlack>, nullptr, Guard::kReader, false},
    {"uid_map", S_IFREG | 0644, Kind::kText, uid_map_text},
    {"wchan", S_IFREG | 0444, Kind::kText, wchan_text},
};
const Entry kAttrEntries[] = {
    {"current", S_IFREG | 0666, Kind::kText, constant<kUnconfined>},
    {"exec", S_IFREG | 0666, Kind::kText, constant<kNothing>},
    {"prev", S_IFREG | 0444, Kind::kText, constant<kUnconfined>},
};

struct NsKind {
  const char* name;
  u64 number;
};
// Namespaces without state of their own here have the numbers of the initial ones (proc_ns.h).
constexpr NsKind kNsKinds[] = {{"cgroup", 4026531835},
                               {"ipc", 4026531839},
                               {"mnt", 0},
                               {"net", 4026531840},
                               {"pid", 4026531836},
                               {"pid_for_children", 4026531836},
                               {"time", 4026531834},
                               {"time_for_children", 4026531834},
                               {"user", 4026531837},
                               {"uts", 0}};

u64 ns_number(const Task& t, const NsKind& kind) {
  // Distinct objects get distinct numbers for as long as they live.
  auto of = [](const void* p) { return 4026532000 + (reinterpret_cast<uintptr_t>(p) >> 4) % 1'000'000'000; };
  if (std::string_view(kind.name) == "mnt") return of(t.mounts.get());
  if (std::string_view(kind.name) == "uts") return of(t.uts.get());
  return kind.number;
}

// Inode numbers must not repeat while an inode lives; those of one process are made once with its directory.
class PidNode {
 public:
  explicit PidNode(Target target) : target_(std::move(target)) {}

 protected:
  const Target target_;
};

class PidText final : public TextNode, PidNode {
 public:
  PidText(PseudoFs& fs, u64 ino, const Target& target, const Entry& entry)
      : TextNode(fs, ino, entry.mode), PidNode(target), entry_(entry) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  Result<void> may_open(u32) override {
    if (!target_.alive()) return Errno::kSrch;
    if (entry_.guard == Guard::kReader && !target_.may_read()) return Errno::kAcces;
    return {};
  }
  Result<std::string> text() override {
    if (!target_.alive()) return Errno::kSrch;
    return entry_.text(target_);
  }
  Result<void> store(std::string_view in) override {
    if (!target_.alive()) return Errno::kSrch;
    if (entry_.store == nullptr) return Errno::kPerm;
    return entry_.store(target_, in);
  }

 private:
  const Entry& entry_;
};

// exe, cwd, root: lead where the task's own paths lead.
// As d_path() of the kernel, which does not say of what lies outside of the root that it does.
std::string link_text(const vfs::Path& path, const vfs::Path& root) {
  constexpr std::string_view kOutside = "(unreachable)";
  std::string text = vfs::path_text(path, root);
  return text.starts_with(kOutside) ? text.substr(kOutside.size()) : text;
}

class PathLink final : public LinkNode, PidNode {
 public:
  PathLink(PseudoFs& fs, u64 ino, const Target& target, Kind kind) : LinkNode(fs, ino), PidNode(target), kind_(kind) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  Result<vfs::Path> follow_magic() override {
    if (!target_.may_read()) return Errno::kAcces;
    const Task* t = target_.task();
    if (t == nullptr) return Errno::kNoent;
    if (kind_ == Kind::kExe) {
      if (!target_.group->image) return Errno::kNoent;
      return target_.group->image->exe;
    }
    if (!t->fs) return Errno::kNoent;
    return kind_ == Kind::kCwd ? t->fs->cwd : t->fs->root;
  }
  Result<std::string> read_link() override {
    vfs::Path path = TRY(follow_magic());
    const Task* caller = task::current_task();
    return link_text(path, caller != nullptr && caller->fs ? caller->fs->root : target_.task()->fs->root);
  }

 private:
  Kind kind_;
};

class FdLink final : public LinkNode, PidNode {
 public:
  FdLink(PseudoFs& fs, u64 ino, const Target& target, int fd, u32 mode)
      : LinkNode(fs, ino, mode), PidNode(target), fd_(fd) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  Result<vfs::Path> follow_magic() override {
    RefPtr<vfs::File> file = TRY(get());
    return file->path();
  }
  Result<std::string> read_link() override {
    RefPtr<vfs::File> file = TRY(get());
    const Task* caller = task::current_task();
    return link_text(file->path(), caller != nullptr && caller->fs ? caller->fs->root : vfs::Path());
  }

 private:
  Result<RefPtr<vfs::File>> get() const {
    if (!target_.may_read()) return Errno::kAcces;
    const Task* t = target_.task();
    if (t == nullptr || !t->fds) return Errno::kNoent;
    vfs::File* file = t->fds->peek(fd_);
    if (file == nullptr) return Errno::kNoent;
    return RefPtr<vfs::File>(file);
  }
  int fd_;
};

class FdInfo final : public TextNode, PidNode {
 public:
  FdInfo(PseudoFs& fs, u64 ino, const Target& target, int fd)
      : TextNode(fs, ino, S_IFREG | 0444), PidNode(target), fd_(fd) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  Result<std::string> text() override {
    if (!target_.may_read()) return Errno::kAcces;
    const Task* t = target_.task();
    if (t == nullptr || !t->fds) return Errno::kNoent;
    RefPtr<vfs::File> file(t->fds->peek(fd_));
    if (!file) return Errno::kNoent;
    auto cloexec = t->fds->cloexec(fd_);
    const u32 flags = file->flags() | (cloexec && *cloexec ? u32{O_CLOEXEC} : 0u);
    const u32 mount = file->path().mount ? file->path().mount->id() : 0;
    std::string out = str_printf("pos:\t%llu\nflags:\t0%o\nmnt_id:\t%u\n",
                                 static_cast<unsigned long long>(file->position), flags, mount);
    if (auto attr = file->attr()) out += str_printf("ino:\t%llu\n", static_cast<unsigned long long>(attr->ino));
    return out + file->fdinfo();
  }

 private:
  int fd_;
};

class FdDir final : public DirNode, PidNode {
 public:
  FdDir(PseudoFs& fs, u64 ino, const Target& target, bool info)
      : DirNode(fs, ino, S_IFDIR | (info ? 0555 : 0500)), PidNode(target), info_(info) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  bool children_cacheable() const override { return false; }
  Result<void> may_list() override {
    if (!target_.may_read()) return Errno::kAcces;
    return {};
  }
  Result<RefPtr<vfs::Inode>> lookup(std::string_view name) override {
    if (!target_.may_read()) return Errno::kAcces;
    int fd = 0;
    auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), fd);
    if (error != std::errc() || end != name.data() + name.size() || (name[0] == '0' && name.size() > 1)) {
      return Errno::kNoent;
    }
    const Task* t = target_.task();
    vfs::File* file = t != nullptr && t->fds ? t->fds->peek(fd) : nullptr;
    if (file == nullptr) return Errno::kNoent;
    if (info_) return RefPtr<vfs::Inode>(make_ref<FdInfo>(pseudo_fs(), ino_of(fd), target_, fd));
    return RefPtr<vfs::Inode>(make_ref<FdLink>(pseudo_fs(), ino_of(fd), target_, fd, link_mode(*file)));
  }
  Result<std::vector<vfs::DirEntry>> list() override {
    const Task* t = TRY(target_.live_task());
    std::vector<vfs::DirEntry> out;
    if (!t->fds) return out;
    t->fds->for_each([&](int fd, vfs::File&, bool) {
      out.push_back(
          {std::to_string(fd), ino_of(fd), static_cast<u8>(info_ ? DT_REG : DT_LNK), static_cast<u64>(fd) + 3});
    });
    return out;
  }

 private:
  u64 ino_of(int fd) const { return (ino() << 24) + static_cast<u64>(fd) + 1; }
  static u32 link_mode(const vfs::File& file) {
    return 0100 | (file.readable() ? 0400u : 0u) | (file.writable() ? 0200u : 0u);
  }
  bool info_;
};

class NsLink final : public LinkNode, PidNode {
 public:
  NsLink(PseudoFs& fs, u64 ino, const Target& target, const NsKind& kind)
      : LinkNode(fs, ino), PidNode(target), kind_(kind) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  Result<std::string> read_link() override {
    if (!target_.may_read()) return Errno::kAcces;
    const Task* t = TRY(target_.live_task());
    std::string name = kind_.name;
    if (size_t at = name.find("_for_children"); at != std::string::npos) name.resize(at);
    return str_printf("%s:[%llu]", name.c_str(), static_cast<unsigned long long>(ns_number(*t, kind_)));
  }
  // An object of its own without content: it can be opened and compared, not entered (setns is refused).
  Result<vfs::Path> follow_magic() override {
    std::string text = TRY(read_link());
    const Task* t = TRY(target_.live_task());
    class NsNode final : public TextNode {
     public:
      using TextNode::TextNode;
      Result<std::string> text() override { return Errno::kInval; }
    };
    RefPtr<vfs::Inode> inode(new NsNode(pseudo_fs(), ns_number(*t, kind_), S_IFREG | 0444));
    return vfs::Path{nullptr, vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(&fs()), inode, text)};
  }

 private:
  const NsKind& kind_;
};

// A directory of fixed names about one process. Its nodes are made when they are first asked for.
class TableDir : public DirNode, protected PidNode {
 public:
  TableDir(PseudoFs& fs, u64 ino, const Target& target, u32 mode) : DirNode(fs, ino, mode), PidNode(target) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  // The process may end at any time.
  bool children_cacheable() const override { return false; }
  Result<RefPtr<vfs::Inode>> lookup(std::string_view name) override {
    if (!target_.alive()) return Errno::kNoent;
    for (size_t i = 0; i < count(); ++i) {
      if (name_of(i) != name) continue;
      if (nodes_.size() < count()) nodes_.resize(count());
      if (!nodes_[i]) nodes_[i] = make(i, ino_of(i));
      return RefPtr<vfs::Inode>(nodes_[i]);
    }
    return Errno::kNoent;
  }
  Result<std::vector<vfs::DirEntry>> list() override {
    if (!target_.alive()) return Errno::kNoent;
    std::vector<vfs::DirEntry> out;
    for (size_t i = 0; i < count(); ++i) {
      out.push_back({std::string(name_of(i)), ino_of(i), dirent_type(mode_of(i)), 3 + i});
    }
    return out;
  }

 protected:
  virtual size_t count() const = 0;
  virtual std::string_view name_of(size_t i) const = 0;
  virtual u32 mode_of(size_t i) const = 0;
  virtual RefPtr<Node> make(size_t i, u64 ino) = 0;

 private:
  // /proc/PID has a number with 16 free bits; its sub-directories take from 64 on.
  u64 ino_of(size_t i) const { return ((ino() & 0xffff) == 0 ? ino() : ino() * 16) + 1 + i; }
  std::vector<RefPtr<Node>> nodes_;
};

class NsDir final : public TableDir {
 public:
  using TableDir::TableDir;

 protected:
  size_t count() const override { return std::size(kNsKinds); }
  std::string_view name_of(size_t i) const override { return kNsKinds[i].name; }
  u32 mode_of(size_t) const override { return S_IFLNK; }
  RefPtr<Node> make(size_t i, u64 ino) override { return make_ref<NsLink>(pseudo_fs(), ino, target_, kNsKinds[i]); }
};

class AttrDir final : public TableDir {
 public:
  using TableDir::TableDir;

 protected:
  size_t count() const override { return std::size(kAttrEntries); }
  std::string_view name_of(size_t i) const override { return kAttrEntries[i].name; }
  u32 mode_of(size_t i) const override { return kAttrEntries[i].mode; }
  RefPtr<Node> make(size_t i, u64 ino) override {
    return make_ref<PidText>(pseudo_fs(), ino, target_, kAttrEntries[i]);
  }
};

class TaskDir final : public DirNode, PidNode {
 public:
  TaskDir(PseudoFs& fs, u64 ino, const Target& target) : DirNode(fs, ino, S_IFDIR | 0555), PidNode(target) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  bool children_cacheable() const override { return false; }
  Result<RefPtr<vfs::Inode>> lookup(std::string_view name) override {
    auto tid = parse_number(name);
    if (!tid) return Errno::kNoent;
    Task* t = task::kernel().find_task(static_cast<i32>(*tid));
    if (t == nullptr || t->group != target_.group) return Errno::kNoent;
    return pid_directory(pseudo_fs(), Target{target_.group, t->tid}, true);
  }
  Result<std::vector<vfs::DirEntry>> list() override {
    std::vector<i32> tids;
    for (const Task* t : target_.group->tasks) tids.push_back(t->tid);
    std::sort(tids.begin(), tids.end());
    std::vector<vfs::DirEntry> out;
    for (i32 tid : tids) {
      out.push_back({std::to_string(tid), ino() + static_cast<u64>(tid), 4 /* DT_DIR */, static_cast<u64>(tid) + 3});
    }
    return out;
  }

 protected:
  u32 links() const override { return 2 + static_cast<u32>(target_.group->tasks.size()); }
};

class PidDir final : public TableDir {
 public:
  PidDir(PseudoFs& fs, u64 ino, const Target& target, bool is_thread);
  ~PidDir() override;

 protected:
  size_t count() const override { return entries_.size(); }
  std::string_view name_of(size_t i) const override { return entries_[i]->name; }
  u32 mode_of(size_t i) const override { return entries_[i]->mode; }
  RefPtr<Node> make(size_t i, u64 ino) override;

 private:
  std::vector<const Entry*> entries_;
  const bool is_thread_;
};

// Directories alive, so that one process has one inode however often it is looked up.
using Key = std::pair<const ThreadGroup*, i32>;
std::map<Key, PidDir*>& live_directories() {
  static std::map<Key, PidDir*> instance;
  return instance;
}

PidDir::PidDir(PseudoFs& fs, u64 ino, const Target& target, bool is_thread)
    : TableDir(fs, ino, target, S_IFDIR | 0555), is_thread_(is_thread) {
  for (const Entry& entry : kEntries) {
    if (!is_thread || entry.of_thread) entries_.push_back(&entry);
  }
  live_directories()[Key{target.group.get(), target.tid}] = this;
}

PidDir::~PidDir() { live_directories().erase(Key{target_.group.get(), target_.tid}); }

RefPtr<Node> PidDir::make(size_t i, u64 ino) {
  const Entry& entry = *entries_[i];
  PseudoFs& fs = pseudo_fs();
  switch (entry.kind) {
    case Kind::kText: return make_ref<PidText>(fs, ino, target_, entry);
    case Kind::kMem: return mem_node(fs, ino, target_);
    case Kind::kExe:
    case Kind::kCwd:
    case Kind::kRoot: return make_ref<PathLink>(fs, ino, target_, entry.kind);
    case Kind::kFd: return make_ref<FdDir>(fs, ino, target_, false);
    case Kind::kFdInfo: return make_ref<FdDir>(fs, ino, target_, true);
    case Kind::kTask: return make_ref<TaskDir>(fs, ino, target_);
    case Kind::kNs: return make_ref<NsDir>(fs, ino, target_, entry.mode);
    case Kind::kAttr: return make_ref<AttrDir>(fs, ino, target_, entry.mode);
    case Kind::kNetLink:
      return make_ref<SimpleLink>(fs, [thread = is_thread_]() -> Result<std::string> {
        return std::string(thread ? "../../../net" : "../net");
      });
  }
  return nullptr;
}

}  // namespace

RefPtr<vfs::Inode> pid_directory(PseudoFs& fs, const Target& target, bool is_thread) {
  const Target own{target.group, is_thread ? target.tid : 0};
  auto it = live_directories().find(Key{own.group.get(), own.tid});
  if (it != live_directories().end()) return it->second;
  return make_ref<PidDir>(fs, fs.next_ino() << 16, own, is_thread);
}

}  // namespace sbx::fs::proc
