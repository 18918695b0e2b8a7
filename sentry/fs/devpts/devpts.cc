#include "sentry/fs/devpts/devpts.h"

#include <dirent.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <charconv>

#include "sentry/base/log.h"
#include "sentry/task/kernel.h"

namespace sbx::fs::devpts {
namespace {

constexpr u64 kMagic = 0x1cd1;
constexpr u64 kRootIno = 1, kPtmxIno = 2, kFirstPtsIno = 3;
DevptsFs* the_default = nullptr;

}  // namespace

// ---- open files ----

class SlaveFile final : public vfs::File {
 public:
  SlaveFile(vfs::Path path, u32 flags, RefPtr<Tty> tty) : File(std::move(path), flags), tty_(std::move(tty)) {
    tty_->slave_opened();
  }
  Result<size_t> read(vfs::Sink& sink, u64*) override { return tty_->slave_read(sink, nonblocking()); }
  Result<size_t> write(vfs::Source& source, u64*) override { return tty_->slave_write(source); }
  u32 readiness() override { return tty_->slave_readiness(); }
  fiber::WaitQueue* wait_queue() override { return &tty_->slave_queue; }
  bool tells_async() const override { return true; }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override {
    return tty_->ioctl(caller, cmd, arg, false);
  }
  Tty& tty() { return *tty_; }

 private:
  ~SlaveFile() override { tty_->slave_closed(); }
  RefPtr<Tty> tty_;
};

class MasterFile final : public vfs::File {
 public:
  MasterFile(vfs::Path path, u32 flags, RefPtr<DevptsFs> fs, RefPtr<Tty> tty)
      : File(std::move(path), flags), fs_(std::move(fs)), tty_(std::move(tty)) {}
  Result<size_t> read(vfs::Sink& sink, u64*) override { return tty_->master_read(sink); }
  Result<size_t> write(vfs::Source& source, u64*) override { return tty_->master_write(source); }
  u32 readiness() override { return tty_->master_readiness(); }
  fiber::WaitQueue* wait_queue() override { return &tty_->master_queue; }
  bool tells_async() const override { return true; }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override;
  Tty& tty() { return *tty_; }

 private:
  ~MasterFile() override {
    fs_->pairs_.erase(tty_->index());
    tty_->hang_up();
  }
  RefPtr<DevptsFs> fs_;
  RefPtr<Tty> tty_;
};

// ---- inodes ----

// Mode, owner and times of a devpts inode.
class PtsBase : public vfs::Inode {
 public:
  PtsBase(vfs::FileSystem& fs, u64 ino, u32 mode, u32 uid, u32 gid, u64 rdev) : Inode(fs) {
    attr_.dev = fs.dev();
    attr_.ino = ino;
    attr_.mode = mode;
    attr_.uid = uid;
    attr_.gid = gid;
    attr_.rdev = rdev;
    attr_.blksize = 1024;
    attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = vfs::time_now();
  }
  Result<vfs::Attr> attr() override { return attr_; }
  u32 type() const override { return attr_.mode & S_IFMT; }
  Result<void> set_attr(const vfs::SetAttr& change) override {
    using S = vfs::SetAttr;
    vfs::Time now = vfs::time_now();
    if (change.mask & S::kMode) attr_.mode = (attr_.mode & S_IFMT) | (change.mode & 07777);
    if (change.mask & S::kUid) attr_.uid = change.uid;
    if (change.mask & S::kGid) attr_.gid = change.gid;
    if (change.mask & (S::kAtime | S::kAtimeNow)) attr_.atime = change.mask & S::kAtimeNow ? now : change.atime;
    if (change.mask & (S::kMtime | S::kMtimeNow)) attr_.mtime = change.mask & S::kMtimeNow ? now : change.mtime;
    attr_.ctime = now;
    return {};
  }

 protected:
  vfs::Attr attr_;
};

class PtsInode final : public PtsBase {
 public:
  PtsInode(DevptsFs& fs, RefPtr<Tty> tty, u32 mode, u32 uid, u32 gid)
      : PtsBase(fs, kFirstPtsIno + tty->index(), S_IFCHR | mode, uid, gid, tty->rdev()), tty_(std::move(tty)) {}
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override { return open_slave(*tty_, path, flags); }

 private:
  RefPtr<Tty> tty_;
};

class PtmxInode final : public PtsBase {
 public:
  PtmxInode(DevptsFs& fs, u32 mode) : PtsBase(fs, kPtmxIno, S_IFCHR | mode, 0, 0, makedev(5, 2)), fs_(fs) {}
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override {
    task::Task* task = task::current_task();
    u32 uid = task != nullptr ? task->creds->fsuid : 0, gid = task != nullptr ? task->creds->fsgid : 0;
    return fs_.open_ptmx(path, flags, uid, gid);
  }

 private:
  DevptsFs& fs_;
};

class PtsDir final : public vfs::File {
 public:
  PtsDir(vfs::Path path, u32 flags, std::function<std::vector<vfs::DirEntry>()> list)
      : File(std::move(path), flags), list_(std::move(list)) {}
  Result<size_t> read(vfs::Sink&, u64*) override { return Errno::kIsdir; }
  bool seekable() const override { return true; }
  Result<void> read_dir(const std::function<bool(const vfs::DirEntry&)>& emit) override {
    for (const vfs::DirEntry& entry : list_()) {
      if (entry.next <= position) continue;
      if (!emit(entry)) break;
      position = entry.next;
    }
    return {};
  }

 private:
  std::function<std::vector<vfs::DirEntry>()> list_;
};

class RootInode final : public PtsBase {
 public:
  explicit RootInode(DevptsFs& fs) : PtsBase(fs, kRootIno, S_IFDIR | 0755, 0, 0, 0), fs_(fs) {
    attr_.nlink = 2;
    ptmx_ = make_ref<PtmxInode>(fs, fs.options_.ptmx_mode);
  }
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override {
    return RefPtr<vfs::File>(make_ref<PtsDir>(path, flags, [this] { return entries(); }));
  }
  Result<RefPtr<vfs::Inode>> lookup(std::string_view name) override {
    if (name == "ptmx") return RefPtr<vfs::Inode>(ptmx_);
    u32 index = 0;
    auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
    bool plain = error == std::errc() && end == name.data() + name.size() && (name[0] != '0' || name.size() == 1);
    auto it = plain ? fs_.pairs_.find(index) : fs_.pairs_.end();
    if (it == fs_.pairs_.end()) return Errno::kNoent;
    return it->second.inode;
  }
  bool children_cacheable() const override { return false; }

 private:
  // Positions: 1 ".", 2 "..", 3 "ptmx", 4 + index.
  std::vector<vfs::DirEntry> entries() const {
    std::vector<vfs::DirEntry> out;
    out.push_back({".", kRootIno, DT_DIR, 1});
    out.push_back({"..", kRootIno, DT_DIR, 2});
    out.push_back({"ptmx", kPtmxIno, DT_CHR, 3});
    for (const auto& [index, pair] : fs_.pairs_) {
      out.push_back({std::to_string(index), kFirstPtsIno + index, DT_CHR, u64{4} + index});
    }
    return out;
  }
  DevptsFs& fs_;
  RefPtr<PtmxInode> ptmx_;
};

Result<i64> MasterFile::ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) {
  switch (cmd) {
    case TIOCGPTN: {
      u32 index = tty_->index();
      TRY(caller.write(arg, &index, sizeof(index)));
      return i64{0};
    }
    case TIOCSPTLCK: {
      i32 on = 0;
      TRY(caller.read(arg, &on, sizeof(on)));
      tty_->locked = on != 0;
      return i64{0};
    }
    case TIOCGPTLCK: {
      i32 on = tty_->locked ? 1 : 0;
      TRY(caller.write(arg, &on, sizeof(on)));
      return i64{0};
    }
    case TIOCGPTPEER: {
      task::Task* task = task::current_task();
      if (task == nullptr) return Errno::kInval;
      auto it = fs_->pairs_.find(tty_->index());
      if (it == fs_->pairs_.end()) return Errno::kIo;
      // The slave's place in the mount that the master was opened in, if that was the devpts one.
      vfs::Path at;
      if (path().dentry && path().dentry->parent() != nullptr && &path().dentry->fs() == fs_.get()) {
        at.mount = path().mount;
        at.dentry = TRY(path().dentry->parent()->child(std::to_string(tty_->index())));
      } else {
        at.dentry = vfs::Dentry::make_root(RefPtr<vfs::FileSystem>(fs_), it->second.inode,
                                           "/dev/pts/" + std::to_string(tty_->index()));
      }
      auto slave = TRY(open_slave(*tty_, at, static_cast<u32>(arg) & ~u32{O_CLOEXEC}));
      return i64{TRY(task->fds->add(slave, arg & O_CLOEXEC, task->nofile_limit()))};
    }
    default: return tty_->ioctl(caller, cmd, arg, true);
  }
}

// ---- the filesystem ----

Result<Options> parse_options(std::string_view data) {
  Options out;
  while (!data.empty()) {
    size_t comma = data.find(',');
    std::string_view item = data.substr(0, comma);
    data = comma == std::string_view::npos ? std::string_view{} : data.substr(comma + 1);
    size_t equals = item.find('=');
    std::string_view key = item.substr(0, equals);
    std::string_view text = equals == std::string_view::npos ? std::string_view{} : item.substr(equals + 1);
    if (item.empty() || key == "newinstance") continue;
    bool octal = key == "mode" || key == "ptmxmode";
    u32 value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, octal ? 8 : 10);
    if (error != std::errc() || end != text.data() + text.size() || text.empty()) return Errno::kInval;
    if (key == "uid") {
      out.uid = value;
      out.has_uid = true;
    } else if (key == "gid") {
      out.gid = value;
      out.has_gid = true;
    } else if (key == "mode") {
      out.mode = value & 07777;
    } else if (key == "ptmxmode") {
      out.ptmx_mode = value & 07777;
    } else if (key == "max") {
      out.max = value;
    } else {
      return Errno::kInval;
    }
  }
  return out;
}

DevptsFs::DevptsFs(const Options& options) : options_(options) {
  if (the_default == nullptr) the_default = this;
}

DevptsFs::~DevptsFs() {
  if (the_default == this) the_default = nullptr;
}

DevptsFs* DevptsFs::default_instance() { return the_default; }

RefPtr<vfs::Inode> DevptsFs::root() { return make_ref<RootInode>(*this); }

Result<vfs::StatFs> DevptsFs::statfs() {
  vfs::StatFs out;
  out.type = kMagic;
  return out;
}

std::string DevptsFs::options() const {
  std::string out;
  if (options_.has_uid) out += str_printf("uid=%u,", options_.uid);
  if (options_.has_gid) out += str_printf("gid=%u,", options_.gid);
  return out + str_printf("mode=%03o,ptmxmode=%03o", options_.mode, options_.ptmx_mode);
}

Result<RefPtr<vfs::File>> DevptsFs::open_ptmx(const vfs::Path& path, u32 flags, u32 uid, u32 gid) {
  u32 index = 0;
  for (const auto& [taken, pair] : pairs_) {
    if (taken != index) break;
    ++index;
  }
  if (index >= options_.max) return Errno::kNospc;
  auto tty = make_ref<Tty>(index, makedev(kPtsMajor, index));
  tty->locked = true;
  auto inode = make_ref<PtsInode>(*this, tty, options_.mode, options_.has_uid ? options_.uid : uid,
                                  options_.has_gid ? options_.gid : gid);
  pairs_[index] = {tty, inode};
  return RefPtr<vfs::File>(make_ref<MasterFile>(path, flags, RefPtr<DevptsFs>(this), tty));
}

RefPtr<Tty> DevptsFs::find(u32 index) const {
  auto it = pairs_.find(index);
  return it == pairs_.end() ? nullptr : it->second.tty;
}

Result<RefPtr<vfs::File>> open_slave(Tty& tty, const vfs::Path& path, u32 flags) {
  if (tty.locked || tty.hung_up()) return Errno::kIo;
  if (tty.exclusive) {
    task::Task* task = task::current_task();
    if (task != nullptr && !task->creds->capable(21 /* CAP_SYS_ADMIN */)) return Errno::kBusy;
  }
  auto file = make_ref<SlaveFile>(path, flags, RefPtr<Tty>(&tty));
  if (!(flags & O_NOCTTY) && file->readable()) tty.opened_by_current_task();
  return RefPtr<vfs::File>(file);
}

Tty* tty_of(vfs::File& file) {
  if (auto* slave = dynamic_cast<SlaveFile*>(&file)) return &slave->tty();
  if (auto* master = dynamic_cast<MasterFile*>(&file)) return &master->tty();
  return nullptr;
}

Result<RefPtr<Tty>> controlling_tty() {
  task::Task* task = task::current_task();
  if (task == nullptr || !task->group->group) return Errno::kNxio;
  RefPtr<Tty> tty = ref_cast<Tty>(task->group->session().tty);
  if (!tty) return Errno::kNxio;
  return tty;
}

}  // namespace sbx::fs::devpts
