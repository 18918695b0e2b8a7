#include "runtime/boot/mounts.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "sentry/base/log.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

namespace sbx::boot {
namespace {

using control::BootMount;
using control::MountFlag;
using control::Propagation;

// A detached copy of the mount keeps the source usable even if the host unmounts it, and needs no mount point. Where
// the bind shall see mounts that the host makes later (slave, shared), or where we may not clone, it is the place
// itself.
HostResult<UniqueFd> open_source(const std::string& path, bool recursive, bool live) {
  if (!live) {
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0);
    UniqueFd fd(static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), flags)));
    if (fd) return fd;
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EACCES) return Failure::from_errno(path);
  }
  UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd) return Failure::from_errno(path);
  return fd;
}

// A file system that the host has and we do not emulate (overlay, ext4, nfs): mounted without a mount point.
HostResult<UniqueFd> mount_host_filesystem(const oci::Mount& m, const BootMount& mount) {
  UniqueFd context(static_cast<int>(::syscall(SYS_fsopen, m.type.c_str(), FSOPEN_CLOEXEC)));
  if (!context) return Failure::from_errno("file system type \"" + m.type + "\"");
  auto set = [&](unsigned command, const char* key, const char* value) {
    return ::syscall(SYS_fsconfig, context.get(), command, key, value, 0);
  };
  if (!m.source.empty() && set(FSCONFIG_SET_STRING, "source", m.source.c_str()) < 0) {
    return Failure::from_errno("source \"" + m.source + "\"");
  }
  std::string data = mount.data;
  while (!data.empty()) {
    size_t comma = data.find(',');
    std::string one = data.substr(0, comma);
    data = comma == std::string::npos ? "" : data.substr(comma + 1);
    size_t equals = one.find('=');
    long rc = equals == std::string::npos
                  ? set(FSCONFIG_SET_FLAG, one.c_str(), nullptr)
                  : set(FSCONFIG_SET_STRING, one.substr(0, equals).c_str(), one.substr(equals + 1).c_str());
    if (rc < 0) return Failure::from_errno("option \"" + one + "\"");
  }
  if (set(FSCONFIG_CMD_CREATE, nullptr, nullptr) < 0) return Failure::from_errno("mounting");
  UniqueFd fd(static_cast<int>(::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
  if (!fd) return Failure::from_errno("mounting");
  return fd;
}

bool emulated(const std::string& type) {
  static constexpr std::array<const char*, 9> kTypes = {"proc",   "tmpfs",   "sysfs",    "devpts", "mqueue",
                                                        "cgroup", "cgroup2", "devtmpfs", "ramfs"};
  return std::any_of(kTypes.begin(), kTypes.end(), [&](const char* t) { return type == t; });
}

}  // namespace

HostResult<std::vector<OpenedMount>> open_mounts(const oci::Spec& spec, const std::string& bundle,
                                                 control::BootConfig& config) {
  std::vector<OpenedMount> out;
  std::string root = spec.root->path[0] == '/' ? spec.root->path : bundle + "/" + spec.root->path;
  struct stat st {};
  if (::stat(root.c_str(), &st) < 0) {
    if (errno == ENOENT) return Failure(Errno::kNoent, "rootfs (" + root + ") does not exist");
    return Failure::from_errno("root.path: " + root);
  }
  if (!S_ISDIR(st.st_mode)) return Failure(Errno::kNotdir, "root.path: " + root + ": not a directory");
  OpenedMount first;
  first.fd = TRY(open_source(root, true, false).context("root.path"));
  first.recursive = true;
  first.exclusive = true;
  // A read-only root is the sentry's to enforce: mount points that are missing in it are made first, as runc does.
  first.read_only = config.overlay == control::OverlayMode::kMemory;
  out.push_back(std::move(first));

  bool socket_mounted = false;
  for (size_t i = 0; i < config.mounts.size(); ++i) {
    BootMount& mount = config.mounts[i];
    const oci::Mount& m = spec.mounts[i];
    if (!mount.has(MountFlag::kBind) && emulated(mount.type)) continue;
    std::string what = "error mounting \"" + m.source + "\" to rootfs at \"" + m.destination + "\"";
    OpenedMount opened;
    if (mount.has(MountFlag::kBind)) {
      std::string source = m.source[0] == '/' ? m.source : bundle + "/" + m.source;
      bool live = mount.propagation == Propagation::kSlave || mount.propagation == Propagation::kShared;
      opened.recursive = mount.has(MountFlag::kRecursive);
      auto fd = open_source(source, opened.recursive, live);
      if (!fd) return std::move(fd).error().context(what);
      opened.fd = std::move(fd).value();
    } else {
      auto fd = mount_host_filesystem(m, mount);
      if (!fd) return std::move(fd).error().context("mounts[" + std::to_string(i) + "]: " + what);
      opened.fd = std::move(fd).value();
      mount.type = "bind";
      mount.data.clear();
    }
    if (::fstat(opened.fd.get(), &st) < 0) return Failure::from_errno(what);
    mount.is_directory = S_ISDIR(st.st_mode);
    const bool socket = S_ISSOCK(st.st_mode);
    socket_mounted = socket_mounted || socket;
    opened.sockets = config.host_sockets == control::HostSockets::kAll ||
                     (config.host_sockets == control::HostSockets::kMounted && socket);
    opened.read_only = mount.has(MountFlag::kReadOnly);
    mount.gofer_index = static_cast<i32>(out.size());
    out.push_back(std::move(opened));
  }
  // Nothing to connect to: the sentry's filter then has no such socket.
  if (config.host_sockets == control::HostSockets::kMounted && !socket_mounted) {
    config.host_sockets = control::HostSockets::kNone;
  }
  return out;
}

}  // namespace sbx::boot
