// update, events: limits and figures of a running container.
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "oci/json_write.h"
#include "oci/parse.h"
#include "oci/validate.h"
#include "runtime/boot/convert.h"
#include "runtime/commands/command.h"
#include "runtime/container/control_client.h"
#include "runtime/host/files.h"
#include "runtime/host/process.h"
#include "runtime/systemd/unit.h"
#include "sentry/base/log.h"

namespace sbx::commands {
namespace {

using container::Container;

// "512m" as Docker and runc write sizes; -1 stays.
HostResult<i64> size_value(const Arguments& args, const char* name) {
  std::string text = args.value(name);
  char* end = nullptr;
  i64 v = std::strtoll(text.c_str(), &end, 10);
  i64 factor = 1;
  switch (*end) {
    case 'k':
    case 'K':
      factor = 1 << 10;
      ++end;
      break;
    case 'm':
    case 'M':
      factor = 1 << 20;
      ++end;
      break;
    case 'g':
    case 'G':
      factor = 1 << 30;
      ++end;
      break;
    default: break;
  }
  if (*end == 'b' || *end == 'B') ++end;
  if (text.empty() || *end != '\0' || v < -1 || v > INT64_MAX / factor) {
    return Failure("invalid value for " + std::string(name) + ": " + text);
  }
  return v < 0 ? v : v * factor;
}

template <typename T>
HostResult<void> take(const Arguments& args, const char* name, std::optional<T>& out) {
  if (!args.has(name)) return {};
  i64 v = TRY(size_value(args, name));
  if (std::is_unsigned_v<T> && v < 0) return Failure("invalid value for " + std::string(name));
  out = static_cast<T>(v);
  return {};
}

HostResult<oci::Resources> resources_from_flags(const Arguments& args) {
  oci::Resources r;
  TRY(take(args, "blkio-weight", r.block_io.weight));
  TRY(take(args, "cpu-period", r.cpu.period));
  TRY(take(args, "cpu-quota", r.cpu.quota));
  TRY(take(args, "cpu-burst", r.cpu.burst));
  TRY(take(args, "cpu-share", r.cpu.shares));
  TRY(take(args, "cpu-rt-period", r.cpu.realtime_period));
  TRY(take(args, "cpu-rt-runtime", r.cpu.realtime_runtime));
  TRY(take(args, "kernel-memory-tcp", r.memory.kernel_tcp));
  TRY(take(args, "memory", r.memory.limit));
  TRY(take(args, "memory-reservation", r.memory.reservation));
  TRY(take(args, "memory-swap", r.memory.swap));
  TRY(take(args, "pids-limit", r.pids_limit));
  r.cpu.cpus = args.value("cpuset-cpus");
  r.cpu.mems = args.value("cpuset-mems");
  return r;
}

}  // namespace

HostResult<int> update(Globals& globals, const Arguments& args) {
  oci::Resources resources;
  if (args.has("resources")) {
    std::string path = args.value("resources");
    std::string text = path == "-" ? TRY(host::read_fd(0)) : TRY(host::read_file(path));
    std::string name = path == "-" ? "resources" : path;
    resources = TRY(oci::parse_resources(text).context(name));
  } else {
    resources = TRY(resources_from_flags(args));
  }
  TRY(oci::validate(resources, ""));
  Container c = TRY(Container::open(globals.settings.root, args.positional()[0], container::Lock::kWait));
  oci::Status status = c.status();
  if (status == oci::Status::kStopped) return Failure("container not running");
  host::Cgroup group = c.cgroup();
  if (!group.exists()) return Failure("container " + c.id() + " has no cgroup");
  TRY(group.apply(resources, "resources"));
  if (!c.state.systemd_unit.empty()) {
    TRY(systemd::set_properties(c.state.systemd_unit, systemd::limit_properties(resources, host::only_unified())));
  }
  control::UpdateRequest request{boot::convert_limits(resources, control::VisibleLimits::kUnchanged)};
  auto client = container::ControlClient::connect(c);
  if (client) {
    // A frozen sentry reads it when it is resumed.
    auto told = status == oci::Status::kPaused ? client->send(request) : HostResult<void>();
    if (status != oci::Status::kPaused) {
      auto reply = client->call(request, {}, 10'000);
      if (!reply) LOG_WARNING("the container still shows its former limits: %s", reply.error().message.c_str());
    } else if (!told) {
      LOG_WARNING("the container still shows its former limits: %s", told.error().message.c_str());
    }
  }
  return 0;
}

HostResult<int> events(Globals& globals, const Arguments& args) {
  Container c = TRY(Container::open(globals.settings.root, args.positional()[0], container::Lock::kNone));
  if (!c.alive()) return Failure("container with id " + c.id() + " is not running");
  host::Cgroup group = c.cgroup();
  if (args.on("stats")) {
    print(oci::write_stats_event(c.id(), group.stats()) + "\n");
    return 0;
  }
  std::string text = args.value("interval", "5s");
  char* end = nullptr;
  double interval = std::strtod(text.c_str(), &end);
  std::string unit = end;
  if (unit == "ms")
    interval /= 1000;
  else if (unit == "m")
    interval *= 60;
  else if (!unit.empty() && unit != "s")
    return Failure("invalid value \"" + text + "\" for flag -interval");
  if (!(interval > 0)) return Failure("duration interval must be greater than 0");
  UniqueFd pidfd = host::open_pidfd(c.state.pid);
  std::thread oom([&] { group.watch_oom(pidfd.get(), [&] { print(oci::write_event(c.id(), "oom") + "\n"); }); });
  for (;;) {
    pollfd p{pidfd.get(), POLLIN, 0};
    if (::poll(&p, 1, static_cast<int>(interval * 1000)) > 0) break;
    print(oci::write_stats_event(c.id(), group.stats()) + "\n");
  }
  oom.join();
  return 0;
}

}  // namespace sbx::commands
