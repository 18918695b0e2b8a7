// install, uninstall: the entry of sbx in Docker's daemon.json, and nothing else of that file.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>

#include "oci/daemon_json.h"
#include "runtime/commands/command.h"
#include "runtime/host/files.h"

namespace sbx::commands {
namespace {

constexpr char kDockerConfig[] = "/etc/docker/daemon.json";

HostResult<std::string> own_path() {
  char path[PATH_MAX];
  ssize_t n = ::readlink("/proc/self/exe", path, sizeof(path));
  if (n <= 0 || n == static_cast<ssize_t>(sizeof(path))) return Failure::from_errno("/proc/self/exe");
  return std::string(path, static_cast<size_t>(n));
}

struct Place {
  std::string path, directory, name;
  std::string text;      // empty: no such file
  unsigned mode = 0644;  // of the file that is there
};

HostResult<Place> find_place(const Arguments& args) {
  if (!args.on("docker")) return Failure("say for which engine: --docker");
  Place place;
  place.path = args.value("config", kDockerConfig);
  size_t slash = place.path.rfind('/');
  place.directory = slash == std::string::npos ? "." : place.path.substr(0, slash + 1);
  place.name = slash == std::string::npos ? place.path : place.path.substr(slash + 1);
  if (place.name.empty()) return Failure("--config: " + place.path + " names no file");
  struct stat s {};
  if (::stat(place.path.c_str(), &s) == 0) {
    if (!S_ISREG(s.st_mode)) return Failure(place.path + " is no regular file");
    place.mode = s.st_mode & 07777;
    place.text = TRY(host::read_file(place.path));
  } else if (errno != ENOENT) {
    return Failure::from_errno(place.path);
  }
  return place;
}

HostResult<void> write_place(const Place& place, const std::string& text) {
  if (::mkdir(place.directory.c_str(), 0755) != 0 && errno != EEXIST) return Failure::from_errno(place.directory);
  UniqueFd directory(::open(place.directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return Failure::from_errno(place.directory);
  return host::replace_file(directory.get(), place.name, text, place.mode);
}

}  // namespace

HostResult<int> install(Globals&, const Arguments& args) {
  Place place = TRY(find_place(args));
  std::string name = args.value("name", "sbx");
  std::string path = TRY(own_path());
  auto changed = TRY(oci::add_docker_runtime(place.text, place.path, name, path, args.values("runtime-arg")));
  if (changed == place.text) {
    print(place.path + ": runtime \"" + name + "\" is there already\n");
    return 0;
  }
  TRY(write_place(place, changed));
  print(place.path + ": runtime \"" + name + "\" is " + path +
        "\nLet a running daemon read it (kill -HUP, or systemctl reload docker), then: docker run --runtime=" + name +
        " ...\n");
  return 0;
}

HostResult<int> uninstall(Globals&, const Arguments& args) {
  Place place = TRY(find_place(args));
  std::string name = args.value("name", "sbx");
  auto changed = TRY(oci::remove_docker_runtime(place.text, place.path, name));
  if (changed == place.text) {
    print(place.path + ": no runtime \"" + name + "\"\n");
    return 0;
  }
  TRY(write_place(place, changed));
  print(place.path + ": runtime \"" + name + "\" removed\n");
  return 0;
}

}  // namespace sbx::commands
