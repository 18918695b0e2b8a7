#include "sentry/control/mounts.h"

#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "sentry/base/log.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/fs_types.h"
#include "sentry/vfs/walk.h"

namespace sbx::control {

namespace {

u64 mount_flags(const BootMount& mount) {
  static constexpr struct {
    MountFlag from;
    u64 to;
  } kFlags[] = {{MountFlag::kReadOnly, MS_RDONLY},
                {MountFlag::kNoSuid, MS_NOSUID},
                {MountFlag::kNoDev, MS_NODEV},
                {MountFlag::kNoExec, MS_NOEXEC},
                {MountFlag::kNoAtime, MS_NOATIME},
                {MountFlag::kNoDirAtime, MS_NODIRATIME},
                {MountFlag::kRelAtime, MS_RELATIME},
                {MountFlag::kStrictAtime, MS_STRICTATIME},
                {MountFlag::kSynchronous, MS_SYNCHRONOUS},
                {MountFlag::kDirSync, MS_DIRSYNC}};
  u64 flags = 0;
  for (const auto& f : kFlags) flags |= mount.has(f.from) ? f.to : 0;
  return flags;
}

Failure mount_failure(const BootMount& mount, Errno e) {
  return {e, "mounting \"" + mount.source + "\" to \"" + mount.destination + "\": " + errno_text(e)};
}

class Builder {
 public:
  Builder(const BootConfig& config, const BindMaker& make_bind) : config_(config), make_bind_(make_bind) {}

  HostResult<RefPtr<vfs::MountNamespace>> build() {
    TRY(mount_root());
    for (const BootMount& mount : config_.mounts) TRY(mount_one(mount));
    TRY(make_devices());
    for (const std::string& path : config_.readonly_paths) TRY(make_read_only(path));
    for (const std::string& path : config_.masked_paths) TRY(mask(path));
    // Last: the runtime itself had to write mount points.
    if (config_.root_mount.has(MountFlag::kReadOnly)) ns_->root().mount->flags |= MS_RDONLY;
    return ns_;
  }

 private:
  vfs::WalkContext context() const {
    vfs::Path root = ns_->root();
    return {root, root, security::kernel_credentials().get(), ns_.get()};
  }

  HostResult<void> mount_root() {
    auto fs = make_bind_(config_.root_mount);
    if (!fs) return Failure(fs.error(), std::string("root.path: ") + errno_text(fs.error()));
    RefPtr<vfs::FileSystem> root = *fs;
    if (config_.overlay == OverlayMode::kMemory) {
      auto upper = tmpfs::Tmpfs::create(tmpfs::Options{.mode = 0755});
      auto overlay = overlay::OverlayFs::create(upper, root);
      if (!overlay) return Failure(overlay.error(), std::string("overlay of the root: ") + errno_text(overlay.error()));
      root = *overlay;
    }
    u64 flags = mount_flags(config_.root_mount) & ~static_cast<u64>(MS_RDONLY);
    ns_ = vfs::MountNamespace::create(root, flags, config_.root_mount.source);
    return {};
  }

  // The mount point, made when missing as runc does.
  Result<vfs::Path> mount_point(const std::string& path, bool directory) {
    auto found = vfs::resolve(context(), path);
    if (found || found.error() != Errno::kNoent) return found;
    for (size_t at = 1; at < path.size();) {
      size_t slash = path.find('/', at);
      if (slash == std::string::npos) break;
      auto made = vfs::make_node(context(), path.substr(0, slash), {.mode = S_IFDIR | 0755});
      if (!made && made.error() != Errno::kExist) return made.error();
      at = slash + 1;
    }
    auto made = vfs::make_node(context(), path, {.mode = directory ? S_IFDIR | 0755u : S_IFREG | 0755u});
    if (!made) return made.error();
    return vfs::resolve(context(), path);
  }

  HostResult<void> mount_one(const BootMount& mount) {
    RefPtr<vfs::FileSystem> fs;
    if (mount.gofer_index >= 0) {
      auto made = make_bind_(mount);
      if (!made) return mount_failure(mount, made.error());
      fs = *made;
    } else if (mount.type == "cgroup" || mount.type == "cgroup2") {
      // Shown by sysfs, read-only.
      return {};
    } else {
      const vfs::FsType* type = vfs::find_fs_type(mount.type);
      if (type == nullptr) return mount_failure(mount, Errno::kNodev);
      auto made = type->make(mount.source, mount.data);
      if (!made) return mount_failure(mount, made.error());
      fs = *made;
    }
    auto at = mount_point(mount.destination, mount.is_directory);
    if (!at) return mount_failure(mount, at.error());
    auto mounted = ns_->mount(fs, *at, mount_flags(mount), mount.source);
    if (!mounted) return mount_failure(mount, mounted.error());
    return {};
  }

  HostResult<void> make_devices() {
    for (const BootDevice& device : config_.devices) {
      vfs::NewNode node;
      u32 type = device.type == 'b' ? S_IFBLK : device.type == 'p' ? S_IFIFO : S_IFCHR;
      node.mode = type | device.mode;
      node.uid = device.uid;
      node.gid = device.gid;
      node.rdev = makedev(device.major, device.minor);
      if (vfs::resolve(context(), device.path)) continue;
      auto parent = device.path.substr(0, device.path.rfind('/'));
      if (!parent.empty() && !mount_point(parent, true)) continue;
      auto made = vfs::make_node(context(), device.path, node);
      // On a rootfs without a tmpfs at /dev the host would have to make the node: it must not.
      if (!made && made.error() != Errno::kExist) {
        LOG_WARNING("device %s: %s", device.path.c_str(), errno_text(made.error()));
      }
    }
    static constexpr struct {
      const char* path;
      const char* target;
    } kLinks[] = {{"/dev/fd", "/proc/self/fd"},
                  {"/dev/stdin", "/proc/self/fd/0"},
                  {"/dev/stdout", "/proc/self/fd/1"},
                  {"/dev/stderr", "/proc/self/fd/2"},
                  {"/dev/ptmx", "pts/ptmx"}};
    for (const auto& link : kLinks) {
      vfs::NewNode node;
      node.mode = S_IFLNK | 0777;
      node.target = link.target;
      auto made = vfs::make_node(context(), link.path, node);
      if (!made && made.error() != Errno::kExist) LOG_DEBUG("%s: %s", link.path, errno_text(made.error()));
    }
    return {};
  }

  HostResult<void> make_read_only(const std::string& path) {
    auto found = vfs::resolve(context(), path);
    if (!found) return {};  // nothing to protect
    auto mounted = ns_->bind(*found, *found, found->mount->flags | MS_RDONLY, true);
    if (!mounted) return Failure(mounted.error(), "linux.readonlyPaths: " + path + ": " + errno_text(mounted.error()));
    return {};
  }

  HostResult<void> mask(const std::string& path) {
    auto found = vfs::resolve(context(), path);
    if (!found) return {};
    Errno error = Errno::kNone;
    if (S_ISDIR(found->inode()->type())) {
      auto empty = tmpfs::Tmpfs::create(tmpfs::Options{.mode = 0755});
      if (auto m = ns_->mount(empty, *found, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "tmpfs"); !m)
        error = m.error();
    } else {
      auto null = vfs::resolve(context(), "/dev/null");
      if (!null)
        error = null.error();
      else if (auto m = ns_->bind(*null, *found, 0, false); !m)
        error = m.error();
    }
    if (error != Errno::kNone) return Failure(error, "linux.maskedPaths: " + path + ": " + errno_text(error));
    return {};
  }

  const BootConfig& config_;
  const BindMaker& make_bind_;
  RefPtr<vfs::MountNamespace> ns_;
};

}  // namespace

HostResult<RefPtr<vfs::MountNamespace>> build_mounts(const BootConfig& config, const BindMaker& make_bind) {
  return Builder(config, make_bind).build();
}

}  // namespace sbx::control
