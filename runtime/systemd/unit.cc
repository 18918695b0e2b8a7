#include "runtime/systemd/unit.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>

#include "runtime/host/cgroup.h"
#include "runtime/host/files.h"
#include "runtime/systemd/bus.h"

namespace sbx::systemd {
namespace {

constexpr u64 kInfinity = ~0ull;
constexpr const char* kNoSuchUnit = "org.freedesktop.systemd1.NoSuchUnit";
constexpr const char* kUnitExists = "org.freedesktop.systemd1.UnitExists";

u64 or_infinity(i64 value) { return value < 0 ? kInfinity : static_cast<u64>(value); }

// "0-2,5" as systemd's bit mask, lowest CPU first. Text that is no list has been refused by the kernel or will be.
std::vector<u8> mask_of(const std::string& list) {
  std::vector<u8> out;
  std::istringstream parts(list);
  for (std::string part; std::getline(parts, part, ',');) {
    char* end = nullptr;
    unsigned long first = std::strtoul(part.c_str(), &end, 10), last = first;
    if (*end == '-') last = std::strtoul(end + 1, nullptr, 10);
    for (unsigned long n = first; n <= last && n < 8192; ++n) {
      if (out.size() <= n / 8) out.resize(n / 8 + 1);
      out[n / 8] = static_cast<u8>(out[n / 8] | 1u << n % 8);
    }
  }
  return out;
}

// The end of the path of `pid`'s control group is the unit's name: so is its scope told from another place it is in.
std::string cgroup_of(i32 pid, const std::string& unit) {
  auto text = host::read_file("/proc/" + std::to_string(pid) + "/cgroup");
  if (!text) return "";
  std::istringstream in(*text);
  for (std::string line; std::getline(in, line);) {
    size_t a = line.find(':'), b = a == std::string::npos ? a : line.find(':', a + 1);
    if (b == std::string::npos) continue;
    std::string controllers = line.substr(a + 1, b - a - 1), path = line.substr(b + 1);
    if (!controllers.empty() && controllers != "name=systemd") continue;
    if (path.size() > unit.size() && path.compare(path.size() - unit.size() - 1, std::string::npos, "/" + unit) == 0) {
      return path;
    }
  }
  return "";
}

HostResult<void> start_unit(Bus& bus, const std::string& unit, const std::vector<Property>& properties) {
  Writer body;
  body.string(unit);
  body.string("replace");
  body.properties(properties);
  Writer::Array none = body.begin_array(8);  // auxiliary units
  body.end_array(none);
  Message reply = TRY(bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", body));
  auto job = Reader(reply.body).string();
  if (!job) return Failure(Errno::kProto, "StartTransientUnit: systemd names no job");
  std::string result;
  TRY(bus.wait_signal("JobRemoved", [&](const Message& m) {
    Reader r(m.body);
    (void)r.u32_();
    auto path = r.string(), name = r.string(), how = r.string();
    if (!path || !how || *path != *job) return false;
    result = *how;
    return true;
  }));
  if (result != "done") return Failure(Errno::kRemoteio, "job \"" + result + "\"");
  return {};
}

HostResult<void> reset_failed(Bus& bus, const std::string& unit) {
  Writer body;
  body.string(unit);
  TRY(bus.call("ResetFailedUnit", "s", body));
  return {};
}

}  // namespace

HostResult<UnitName> unit_name(const std::string& cgroups_path, const std::string& id, bool root) {
  const std::string kField = "linux.cgroupsPath: ";
  std::string slice = root ? "system.slice" : "user.slice", prefix = "sbx", name = id;
  if (!cgroups_path.empty()) {
    size_t a = cgroups_path.find(':');
    size_t b = a == std::string::npos ? a : cgroups_path.find(':', a + 1);
    if (b == std::string::npos || cgroups_path.find(':', b + 1) != std::string::npos) {
      return Failure(kField + "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"" +
                     cgroups_path + "\" instead");
    }
    if (a > 0) slice = cgroups_path.substr(0, a);
    prefix = cgroups_path.substr(a + 1, b - a - 1);
    name = cgroups_path.substr(b + 1);
  }
  // a-b-c.slice lies in a.slice/a-b.slice (systemd.slice(5)), so no part may be empty.
  std::string stem = slice.size() > 6 ? slice.substr(0, slice.size() - 6) : "";
  bool good = slice == "-.slice" ||
              (!stem.empty() && slice.substr(stem.size()) == ".slice" && slice.find('/') == std::string::npos &&
               stem.front() != '-' && stem.back() != '-' && stem.find("--") == std::string::npos);
  if (!good) return Failure(kField + "invalid slice name \"" + slice + "\"");
  std::string unit = prefix.empty() ? name : prefix + "-" + name;
  bool is_slice = name.size() > 6 && name.substr(name.size() - 6) == ".slice";
  if (name.empty() || is_slice || unit.find('/') != std::string::npos) {
    return Failure(kField + "\"" + name + "\" is no name for a scope");
  }
  return UnitName{slice, unit + ".scope"};
}

std::vector<Property> limit_properties(const oci::Resources& r, bool unified) {
  std::vector<Property> out;
  auto number = [&](const char* name, u64 value) { out.push_back({name, value}); };
  if (r.memory.limit && *r.memory.limit != 0)
    number(unified ? "MemoryMax" : "MemoryLimit", or_infinity(*r.memory.limit));
  if (unified && r.memory.reservation && *r.memory.reservation != 0) {
    number("MemoryLow", or_infinity(*r.memory.reservation));
  }
  if (unified && r.memory.swap && *r.memory.swap != 0) {
    i64 swap = *r.memory.swap;
    if (swap > 0 && r.memory.limit && *r.memory.limit > 0) swap -= *r.memory.limit;
    number("MemorySwapMax", or_infinity(swap));
  }
  if (r.cpu.shares && *r.cpu.shares != 0) {
    if (unified)
      number("CPUWeight", host::weight_from_shares(*r.cpu.shares));
    else
      number("CPUShares", *r.cpu.shares);
  }
  if (r.cpu.quota && *r.cpu.quota != 0) {
    u64 period = r.cpu.period && *r.cpu.period != 0 ? *r.cpu.period : 100'000;
    u64 per_second = kInfinity;
    if (*r.cpu.quota > 0) {
      // systemd keeps whole percents: rounded up, as less than asked for would be a surprise.
      per_second = (static_cast<u64>(*r.cpu.quota) * 1'000'000 / period + 9'999) / 10'000 * 10'000;
    }
    number("CPUQuotaPerSecUSec", per_second);
    if (r.cpu.period && *r.cpu.period != 0) number("CPUQuotaPeriodUSec", period);
  }
  if (unified && !r.cpu.cpus.empty()) out.push_back({"AllowedCPUs", mask_of(r.cpu.cpus)});
  if (unified && !r.cpu.mems.empty()) out.push_back({"AllowedMemoryNodes", mask_of(r.cpu.mems)});
  if (r.pids_limit && *r.pids_limit != 0) {
    number("TasksMax", *r.pids_limit < 0 ? kInfinity : static_cast<u64>(host::pids_with_ours(*r.pids_limit)));
  }
  if (!unified && r.block_io.weight && *r.block_io.weight != 0) number("BlockIOWeight", *r.block_io.weight);
  return out;
}

HostResult<std::vector<Property>> annotated_properties(const oci::StringMap& annotations) {
  const std::string kPrefix = "org.systemd.property.";
  std::vector<Property> out;
  for (const auto& [key, text] : annotations) {
    if (key.rfind(kPrefix, 0) != 0) continue;
    std::string name = key.substr(kPrefix.size());
    char* end = nullptr;
    if (text == "true" || text == "false") {
      out.push_back({name, text == "true"});
    } else if (text.size() >= 2 && (text[0] == '\'' || text[0] == '"') && text.back() == text[0]) {
      out.push_back({name, text.substr(1, text.size() - 2)});
    } else if (u64 value = text.rfind("uint64 ", 0) == 0 ? std::strtoull(text.c_str() + 7, &end, 0) : 0;
               end != nullptr && end != text.c_str() + 7 && *end == '\0') {
      out.push_back({name, value});
    } else {
      return Failure("annotations[\"" + key + "\"]: \"" + text + "\" is none of true, false, 'text', uint64 NUMBER");
    }
  }
  return out;
}

HostResult<Scope> Scope::start(const UnitName& name, const std::string& id, std::vector<Property> properties) {
  Bus bus = TRY(Bus::connect());
  pid_t holder = ::fork();
  if (holder < 0) return Failure::from_errno("fork");
  if (holder == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  Scope scope(holder);
  for (const char* counted : {"MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting"}) {
    properties.insert(properties.begin(), {counted, true});
  }
  properties.push_back({"Description", "sbx container " + id});
  properties.push_back({"Slice", name.slice});
  properties.push_back({"Delegate", true});
  properties.push_back({"DefaultDependencies", false});
  properties.push_back({"PIDs", std::vector<u32>{static_cast<u32>(holder)}});
  auto started = start_unit(bus, name.unit, properties);
  if (!started && started.error().message.find(kUnitExists) != std::string::npos && reset_failed(bus, name.unit)) {
    started = start_unit(bus, name.unit, properties);
  }
  if (!started) return std::move(started).error().context("unable to start unit \"" + name.unit + "\"");
  scope.path_ = cgroup_of(holder, name.unit);
  if (scope.path_.empty()) {
    (void)stop(name.unit);
    return Failure(Errno::kProto, "systemd started unit \"" + name.unit + "\" without a cgroup that is seen from here");
  }
  return scope;
}

Scope::~Scope() {
  if (holder_ < 0) return;
  ::kill(holder_, SIGKILL);
  while (::waitpid(holder_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

HostResult<void> set_properties(const std::string& unit, const std::vector<Property>& properties) {
  if (properties.empty()) return {};
  Bus bus = TRY(Bus::connect());
  Writer body;
  body.string(unit);
  body.boolean(true);  // for this boot only
  body.properties(properties);
  TRY(bus.call("SetUnitProperties", "sba(sv)", body));
  return {};
}

HostResult<void> stop(const std::string& unit) {
  Bus bus = TRY(Bus::connect());
  Writer body;
  body.string(unit);
  body.string("replace");
  auto reply = bus.call("StopUnit", "ss", body);
  if (!reply) {
    if (reply.error().message.find(kNoSuchUnit) != std::string::npos) return {};
    return std::move(reply).error();
  }
  auto job = Reader(reply->body).string();
  TRY(bus.wait_signal("JobRemoved", [&](const Message& m) {
    Reader r(m.body);
    (void)r.u32_();
    auto path = r.string();
    return path && job && *path == *job;
  }));
  (void)reset_failed(bus, unit);  // gone with its stop unless it failed
  return {};
}

}  // namespace sbx::systemd
