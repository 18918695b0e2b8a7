#include "runtime/container/container.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "oci/json_write.h"
#include "oci/parse.h"
#include "runtime/host/files.h"
#include "runtime/host/process.h"
#include "runtime/systemd/unit.h"
#include "sentry/base/log.h"

namespace sbx::container {
namespace {

constexpr const char* kStateFile = "state.json";
constexpr const char* kSocket = "control.sock";

// A socket's address holds 108 bytes and engines' roots are longer: the directory goes by descriptor.
sockaddr_un socket_address(int dir_fd) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", dir_fd, kSocket);
  return address;
}

}  // namespace

HostResult<void> check_id(const std::string& id) {
  auto good = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("_+-.", c) != nullptr; };
  if (id.empty()) return Failure("container id cannot be empty");
  if (id.size() > 255 || id == "." || id == ".." || !std::all_of(id.begin(), id.end(), good)) {
    return Failure("invalid container ID format");
  }
  return {};
}

HostResult<Container> Container::create(const std::string& root, const std::string& id) {
  TRY(check_id(id));
  TRY(host::make_directories(root, 0711));
  Container c;
  c.path_ = root + "/" + id;
  if (::mkdir(c.path_.c_str(), 0711) < 0) {
    if (errno == EEXIST) return Failure(Errno::kExist, "container with given ID already exists");
    return Failure::from_errno("mkdir " + c.path_);
  }
  c.dir_ = TRY(host::open_file(c.path_, O_RDONLY | O_DIRECTORY));
  if (::flock(c.dir_.get(), LOCK_EX) < 0) return Failure::from_errno("locking " + c.path_);
  c.state.id = id;
  return c;
}

HostResult<Container> Container::open(const std::string& root, const std::string& id, Lock lock) {
  TRY(check_id(id));
  Container c;
  c.path_ = root + "/" + id;
  auto gone = [] { return Failure(Errno::kNoent, "container does not exist"); };
  c.dir_ = UniqueFd(::open(c.path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!c.dir_) {
    if (errno == ENOENT || errno == ENOTDIR) return gone();
    return Failure::from_errno(c.path_);
  }
  if (lock == Lock::kWait) {
    while (::flock(c.dir_.get(), LOCK_EX) < 0) {
      if (errno != EINTR) return Failure::from_errno("locking " + c.path_);
    }
    struct stat st {};
    if (::fstat(c.dir_.get(), &st) < 0 || st.st_nlink == 0) return gone();  // deleted while we waited
  }
  c.state.id = id;
  UniqueFd file(::openat(c.dir_.get(), kStateFile, O_RDONLY | O_CLOEXEC));
  if (file) {
    std::string text = TRY(host::read_fd(file.get()));
    c.state = TRY(oci::parse_state(text).context(c.path_ + "/" + kStateFile));
    c.state.id = id;
    c.has_state = true;
  } else if (errno != ENOENT) {
    return Failure::from_errno(c.path_ + "/" + kStateFile);
  } else if (lock == Lock::kNone) {
    return gone();
  }
  return c;
}

std::vector<std::string> Container::list(const std::string& root) {
  std::vector<std::string> out;
  DIR* d = ::opendir(root.c_str());
  if (d == nullptr) return out;
  while (dirent* e = ::readdir(d)) {
    if (e->d_name[0] != '.' && check_id(e->d_name)) out.emplace_back(e->d_name);
  }
  ::closedir(d);
  std::sort(out.begin(), out.end());
  return out;
}

HostResult<void> Container::save() const {
  return host::replace_file(dir_.get(), kStateFile, oci::write_state_file(state), 0600).context(path_);
}

bool Container::alive() const { return host::process_alive(state.pid, state.pid_start_time); }

oci::Status Container::status() const {
  if (!has_state) return oci::Status::kStopped;
  if (!alive())
    return state.status == oci::Status::kCreating && state.pid == 0 ? oci::Status::kCreating : oci::Status::kStopped;
  if (state.status == oci::Status::kRunning && cgroup().frozen()) return oci::Status::kPaused;
  return state.status;
}

host::Cgroup Container::cgroup() const { return {state.cgroup_path, state.cgroup_dirs}; }

HostResult<UniqueFd> Container::connect() const {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return Failure::from_errno("socket");
  sockaddr_un address = socket_address(dir_.get());
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) {
    return Failure::from_errno("connecting to the sandbox of container " + state.id);
  }
  return fd;
}

HostResult<UniqueFd> Container::listen() const {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return Failure::from_errno("socket");
  sockaddr_un address = socket_address(dir_.get());
  mode_t before = ::umask(0177);
  int rc = ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  int error = errno;
  ::umask(before);
  errno = error;
  if (rc < 0) return Failure::from_errno("binding " + path_ + "/" + kSocket);
  if (::listen(fd.get(), 64) < 0) return Failure::from_errno("listen");
  return fd;
}

HostResult<void> Container::kill_everything() const {
  host::Cgroup group = cgroup();
  bool dead = host::kill_process(state.pid, state.pid_start_time, SIGKILL) ? false : !alive();
  if (group.exists()) {
    if (!group.kill_all(10000)) return Failure(Errno::kBusy, "unable to kill all processes of the container");
  }
  if (!dead && !host::wait_dead(state.pid, state.pid_start_time, 10000)) {
    return Failure(Errno::kBusy, "unable to kill the container's init process");
  }
  return {};
}

HostResult<void> Container::remove() const {
  if (!state.systemd_unit.empty()) {
    auto stopped = systemd::stop(state.systemd_unit);
    if (!stopped) LOG_WARNING("unit %s: %s", state.systemd_unit.c_str(), stopped.error().message.c_str());
  }
  auto removed = cgroup().remove();
  // The directory goes even when a cgroup stays: the id must become free. The lock is on the directory itself.
  for (const char* name : {kSocket, kStateFile}) ::unlinkat(dir_.get(), name, 0);
  // Leftovers of an interrupted replace_file and, in time, of newer versions.
  if (DIR* d = ::fdopendir(::openat(dir_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))) {
    while (dirent* e = ::readdir(d)) {
      if (std::strcmp(e->d_name, ".") != 0 && std::strcmp(e->d_name, "..") != 0) ::unlinkat(dir_.get(), e->d_name, 0);
    }
    ::closedir(d);
  }
  if (::rmdir(path_.c_str()) < 0 && errno != ENOENT) return Failure::from_errno("removing " + path_);
  return removed;
}

void Container::unlock() const { ::flock(dir_.get(), LOCK_UN); }

}  // namespace sbx::container
