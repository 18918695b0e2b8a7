#include "runtime/host/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <sstream>

#include "runtime/host/files.h"
#include "runtime/host/process.h"
#include "sentry/base/log.h"

namespace sbx::host {
namespace {

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, by);) {
    if (!part.empty()) out.push_back(part);
  }
  return out;
}

std::vector<std::string> subdirectories(const std::string& dir) {
  std::vector<std::string> out;
  DIR* d = ::opendir(dir.c_str());
  if (d == nullptr) return out;
  while (dirent* e = ::readdir(d)) {
    if (e->d_type == DT_DIR && e->d_name[0] != '.') out.push_back(dir + "/" + e->d_name);
  }
  ::closedir(d);
  return out;
}

void collect_pids(const std::string& dir, std::vector<i32>& out) {
  auto text = read_file(dir + "/cgroup.procs");
  if (text) {
    std::istringstream in(*text);
    for (i32 pid; in >> pid;) {
      if (pid > 0) out.push_back(pid);
    }
  }
  for (const std::string& child : subdirectories(dir)) collect_pids(child, out);
}

// A new v1 cpuset has no processors and no memory nodes: nothing can join it. Takes the parent's, from the top down.
void fill_cpuset(const std::string& mount, const std::string& dir) {
  if (dir.size() <= mount.size()) return;
  for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
    auto own = read_file(dir + file);
    if (!own || !trimmed(*own).empty()) continue;
    std::string parent = dir.substr(0, dir.rfind('/'));
    fill_cpuset(mount, parent);
    auto above = read_file(parent + file);
    if (above) (void)write_file(dir + file, trimmed(*above));
  }
}

// v2: a child has a controller only if all its ancestors pass it on. What cannot be passed on is not there for us.
void pass_controllers(const std::string& mount, const std::string& dir, const std::vector<std::string>& controllers) {
  std::string at = mount;
  std::string rest = dir.substr(mount.size());
  for (const std::string& part : split(rest, '/')) {
    auto on = read_file(at + "/cgroup.subtree_control");
    std::vector<std::string> have = on ? split(trimmed(*on), ' ') : std::vector<std::string>();
    for (const std::string& c : controllers) {
      if (std::find(have.begin(), have.end(), c) == have.end())
        (void)write_file(at + "/cgroup.subtree_control", "+" + c);
    }
    at += "/" + part;
  }
}

}  // namespace

bool Hierarchy::has(const std::string& controller) const {
  return std::find(controllers.begin(), controllers.end(), controller) != controllers.end();
}

std::vector<Hierarchy> find_hierarchies(const std::string& mountinfo) {
  std::vector<Hierarchy> v1, v2;
  auto text = read_file(mountinfo);
  if (!text) return {};
  std::istringstream in(*text);
  for (std::string line; std::getline(in, line);) {
    size_t dash = line.find(" - cgroup");
    if (dash == std::string::npos) continue;
    std::vector<std::string> fields = split(line.substr(0, dash), ' ');
    std::vector<std::string> tail = split(line.substr(dash + 3), ' ');
    if (fields.size() < 6 || tail.size() < 3) continue;
    Hierarchy h;
    h.mount = fields[4];
    h.v2 = tail[0] == "cgroup2";
    if (h.v2) {
      if (!v2.empty()) continue;
      auto list = read_file(h.mount + "/cgroup.controllers");
      if (list) h.controllers = split(trimmed(*list), ' ');
      v2.push_back(std::move(h));
      continue;
    }
    if (tail[0] != "cgroup") continue;
    for (const std::string& o : split(tail[2], ',')) {
      static const char* const kNotControllers[] = {
          "rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"};
      if (std::none_of(std::begin(kNotControllers), std::end(kNotControllers), [&](const char* k) { return o == k; }) &&
          o.rfind("release_agent=", 0) != 0) {
        h.controllers.push_back(o);
      }
    }
    bool again = std::any_of(v1.begin(), v1.end(), [&](const Hierarchy& k) { return k.controllers == h.controllers; });
    if (!h.controllers.empty() && !again) v1.push_back(std::move(h));
  }
  v1.insert(v1.end(), v2.begin(), v2.end());
  return v1;
}

bool only_unified() {
  std::vector<Hierarchy> all = find_hierarchies();
  return std::none_of(all.begin(), all.end(), [](const Hierarchy& h) { return !h.v2 && !h.has("name=systemd"); });
}

std::string cgroup_path(const std::string& cgroups_path, const std::string& id) {
  return clean_path(cgroups_path.empty() ? id : cgroups_path);
}

Cgroup::Cgroup(std::string path, const std::vector<std::string>& dirs) : path_(std::move(path)) {
  if (path_.empty() || dirs.empty()) return;
  for (Hierarchy& h : find_hierarchies()) {
    std::string dir = h.mount + path_;
    if (std::find(dirs.begin(), dirs.end(), dir) == dirs.end()) continue;
    bool guest = std::find(dirs.begin(), dirs.end(), dir + "/guest") != dirs.end();
    places_.push_back({dir, std::move(h.controllers), h.v2, guest});
  }
}

HostResult<Cgroup> Cgroup::create(const std::string& path, const oci::Resources& r, bool tolerant) {
  Cgroup out;
  out.path_ = path;
  bool memory_limited = r.memory.limit && *r.memory.limit > 0;
  bool pids_limited = r.pids_limit && *r.pids_limit > 0;
  for (Hierarchy& h : find_hierarchies()) {
    Place place{path == "/" ? h.mount : h.mount + path, h.controllers, h.v2, false};
    auto made = path == "/" ? HostResult<void>() : make_directories(place.dir, 0755);
    if (made && tolerant && ::access((place.dir + "/cgroup.procs").c_str(), W_OK) < 0) {
      ::rmdir(place.dir.c_str());
      made = Failure::from_errno(place.dir);
    }
    if (!made) {
      Errno e = made.error().code;
      // A read-only or foreign hierarchy cannot hold us; its controllers are then missing, like unmounted ones.
      if (tolerant || e == Errno::kRofs) continue;
      (void)out.remove();
      return std::move(made).error().context("cgroup");
    }
    if (h.v2) {
      pass_controllers(h.mount, place.dir, h.controllers);
    } else {
      if (h.has("cpuset")) fill_cpuset(h.mount, place.dir);
      if (path != "/" && ((memory_limited && h.has("memory")) || (pids_limited && h.has("pids")))) {
        place.guest = ::mkdir((place.dir + "/guest").c_str(), 0755) == 0 || errno == EEXIST;
        if (place.guest && h.has("cpuset")) fill_cpuset(h.mount, place.dir + "/guest");
      }
    }
    out.places_.push_back(std::move(place));
  }
  return out;
}

std::vector<std::string> Cgroup::dirs() const {
  std::vector<std::string> out;
  for (const Place& p : places_) {
    out.push_back(p.dir);
    if (p.guest) out.push_back(p.dir + "/guest");
  }
  return out;
}

const Cgroup::Place* Cgroup::find(const std::string& controller) const {
  for (const Place& p : places_) {
    if (std::find(p.controllers.begin(), p.controllers.end(), controller) != p.controllers.end()) return &p;
  }
  return nullptr;
}

HostResult<void> Cgroup::apply(const oci::Resources& r, const std::string& field) const {
  for (const Place& p : places_) {
    if (p.v2)
      TRY(apply_v2(p, r, field));
    else
      TRY(apply_v1(p, r, field));
  }
  return {};
}

HostResult<void> Cgroup::attach(i32 pid) const {
  std::string text = std::to_string(pid);
  for (const Place& p : places_) {
    auto done = write_file(p.dir + "/cgroup.procs", text);
    if (!done) return std::move(done).error().context("cgroup");
  }
  return {};
}

HostResult<std::vector<UniqueFd>> Cgroup::open_guest_procs(bool every_hierarchy) const {
  std::vector<UniqueFd> out;
  for (const Place& p : places_) {
    if (!p.guest && !every_hierarchy) continue;
    out.push_back(TRY(open_file(p.dir + (p.guest ? "/guest" : "") + "/cgroup.procs", O_WRONLY)));
  }
  return out;
}

bool Cgroup::can_freeze() const {
  if (path_ == "/") return false;
  for (const Place& p : places_) {
    if (p.v2 ? host::exists(p.dir + "/cgroup.freeze") : find("freezer") == &p) return true;
  }
  return false;
}

HostResult<void> Cgroup::freeze(bool on) const {
  if (!can_freeze()) return Failure(Errno::kOpnotsupp, "no cgroup freezer on this host");
  const Place* v1 = find("freezer");
  u64 end = monotonic_ms() + 5000;
  if (v1 != nullptr && !v1->v2) {
    const char* want = on ? "FROZEN" : "THAWED";
    for (useconds_t pause_us = 100;; pause_us = std::min<useconds_t>(pause_us * 2, 20000)) {
      TRY(write_file(v1->dir + "/freezer.state", want));
      auto now = read_file(v1->dir + "/freezer.state");
      if (now && trimmed(*now) == want) return {};
      if (monotonic_ms() > end) {
        // Better running than half frozen.
        if (on) (void)write_file(v1->dir + "/freezer.state", "THAWED");
        return Failure(Errno::kTimedout, std::string("unable to ") + (on ? "freeze" : "thaw") + " the cgroup");
      }
      ::usleep(pause_us);
    }
  }
  for (const Place& p : places_) {
    if (!p.v2) continue;
    TRY(write_file(p.dir + "/cgroup.freeze", on ? "1" : "0"));
    while (frozen() != on) {
      if (monotonic_ms() > end) {
        if (on) (void)write_file(p.dir + "/cgroup.freeze", "0");
        return Failure(Errno::kTimedout, std::string("unable to ") + (on ? "freeze" : "thaw") + " the cgroup");
      }
      ::usleep(500);
    }
  }
  return {};
}

bool Cgroup::frozen() const {
  if (path_ == "/") return false;
  for (const Place& p : places_) {
    if (p.v2) {
      auto events = read_file(p.dir + "/cgroup.events");
      if (events && events->find("frozen 1") != std::string::npos) return true;
    } else if (find("freezer") == &p) {
      auto state = read_file(p.dir + "/freezer.state");
      if (state && trimmed(*state) != "THAWED") return true;
    }
  }
  return false;
}

std::vector<i32> Cgroup::pids() const {
  std::vector<i32> out;
  if (path_ == "/") return out;
  for (const Place& p : places_) collect_pids(p.dir, out);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

void Cgroup::signal_all(int signo) const {
  for (i32 pid : pids()) ::kill(pid, signo);
}

bool Cgroup::kill_all(int timeout_ms) const {
  if (path_ == "/") return true;
  u64 end = monotonic_ms() + static_cast<u64>(timeout_ms);
  for (useconds_t pause_us = 200;; pause_us = std::min<useconds_t>(pause_us * 2, 20000)) {
    for (const Place& p : places_) {
      if (p.v2 && host::exists(p.dir + "/cgroup.kill")) (void)write_file(p.dir + "/cgroup.kill", "1");
    }
    bool left = false;
    for (i32 pid : pids()) {
      auto stat = process_stat(pid);
      if (!stat || stat->state == 'Z' || stat->state == 'X') continue;
      left = true;
      ::kill(pid, SIGKILL);
    }
    if (!left) return true;
    // v1: a frozen process takes its SIGKILL only when thawed.
    if (const Place* f = find("freezer"); f != nullptr && !f->v2) (void)write_file(f->dir + "/freezer.state", "THAWED");
    if (monotonic_ms() > end) return false;
    ::usleep(pause_us);
  }
}

HostResult<void> Cgroup::remove() const {
  if (path_ == "/") return {};
  u64 end = monotonic_ms() + 3000;
  HostResult<void> result;
  for (const Place& p : places_) {
    for (useconds_t pause_us = 500;; pause_us = std::min<useconds_t>(pause_us * 2, 50000)) {
      // Children may have been made by others (a guest's own, a monitor's).
      std::function<void(const std::string&)> remove_below = [&](const std::string& dir) {
        for (const std::string& child : subdirectories(dir)) {
          remove_below(child);
          ::rmdir(child.c_str());
        }
      };
      if (::rmdir(p.dir.c_str()) == 0 || errno == ENOENT) break;
      if (errno != EBUSY && errno != ENOTEMPTY) {
        result = Failure::from_errno("removing cgroup " + p.dir);
        break;
      }
      remove_below(p.dir);
      if (::rmdir(p.dir.c_str()) == 0 || errno == ENOENT) break;
      if (monotonic_ms() > end) {
        result = Failure::from_errno("removing cgroup " + p.dir);
        break;
      }
      ::usleep(pause_us);
    }
  }
  return result;
}

void Cgroup::watch_oom(int stop_fd, const std::function<void()>& on_oom) const {
  const Place* p = find("memory");
  if (p == nullptr) {
    pollfd stop{stop_fd, POLLIN, 0};
    ::poll(&stop, 1, -1);
    return;
  }
  UniqueFd event, control;
  if (p->v2) {
    event = UniqueFd(::inotify_init1(IN_CLOEXEC));
    ::inotify_add_watch(event.get(), (p->dir + "/memory.events").c_str(), IN_MODIFY);
  } else {
    event = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    control = UniqueFd(::open((p->dir + "/memory.oom_control").c_str(), O_RDONLY | O_CLOEXEC));
    (void)write_file(p->dir + "/cgroup.event_control",
                     std::to_string(event.get()) + " " + std::to_string(control.get()));
  }
  auto kills = [&]() -> u64 {
    auto text = read_file(p->dir + "/memory.events");
    size_t at = text ? text->find("oom_kill ") : std::string::npos;
    return at == std::string::npos ? 0 : std::strtoull(text->c_str() + at + 9, nullptr, 10);
  };
  u64 before = p->v2 ? kills() : 0;
  for (;;) {
    pollfd fds[2] = {{event.get(), POLLIN, 0}, {stop_fd, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    if (fds[0].revents == 0) continue;
    char buffer[4096];
    if (::read(event.get(), buffer, sizeof(buffer)) <= 0) return;
    if (!host::exists(p->dir)) return;
    if (p->v2) {
      u64 now = kills();
      if (now == before) continue;
      before = now;
    }
    on_oom();
  }
}

}  // namespace sbx::host
