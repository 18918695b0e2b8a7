// The limits of linux.resources as files of a cgroup directory, v1 and v2, and the figures read back.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "runtime/host/cgroup.h"
#include "runtime/host/files.h"

namespace sbx::host {
namespace {

// Writes limits into one directory. A missing file is a missing controller (or an older kernel): no limit.
class LimitWriter {
 public:
  LimitWriter(std::string dir, std::string field) : dir_(std::move(dir)), field_(std::move(field)) {}

  HostResult<void> put(const char* file, const std::string& value, const std::string& name) const {
    std::string path = dir_ + "/" + file;
    if (!host::exists(path)) return {};
    auto done = write_file(path, value);
    if (done) return {};
    return std::move(done).error().context(field_ + "." + name);
  }
  HostResult<void> put(const char* file, i64 value, const std::string& name) const {
    return put(file, std::to_string(value), name);
  }
  const std::string& dir() const { return dir_; }
  const std::string& field() const { return field_; }

 private:
  std::string dir_;
  std::string field_;
};

// The guest's share of a memory limit: what is left when the sentry and gofer have theirs, so that the guest meets its
// limit first.
i64 guest_memory(i64 limit) {
  constexpr i64 kOurs = 16 << 20;
  return std::max(limit - kOurs, limit / 8 * 7);
}

// memory.limit and memory.memsw.limit of v1 must never cross, so the order depends on which way they move.
HostResult<void> put_memory_v1(const LimitWriter& w, std::optional<i64> limit, std::optional<i64> swap) {
  if (limit && !swap && *limit == -1) swap = -1;  // unlimited memory with a swap limit is refused by the kernel
  if (!limit && !swap) return {};
  if (!swap) {
    return w.put("memory.limit_in_bytes", *limit, "memory.limit");
  }
  if (!limit) return w.put("memory.memsw.limit_in_bytes", *swap, "memory.swap");
  auto now = read_file(w.dir() + "/memory.limit_in_bytes");
  u64 current = now ? std::strtoull(now->c_str(), nullptr, 10) : 0;
  if (*swap == -1 || current < static_cast<u64>(*swap)) {
    TRY(w.put("memory.memsw.limit_in_bytes", *swap, "memory.swap"));
    return w.put("memory.limit_in_bytes", *limit, "memory.limit");
  }
  TRY(w.put("memory.limit_in_bytes", *limit, "memory.limit"));
  return w.put("memory.memsw.limit_in_bytes", *swap, "memory.swap");
}

HostResult<void> put_throttle_v1(const LimitWriter& w, const char* file, const std::vector<oci::ThrottleDevice>& list,
                                 const std::string& name) {
  for (const auto& d : list) {
    TRY(w.put(file, std::to_string(d.major) + ":" + std::to_string(d.minor) + " " + std::to_string(d.rate), name));
  }
  return {};
}

std::string max_or(i64 value) { return value < 0 ? "max" : std::to_string(value); }

HostResult<void> apply_unified(const LimitWriter& w, const oci::StringMap& unified) {
  for (const auto& [file, value] : unified) {
    std::string name = "unified[\"" + file + "\"]";
    if (!host::exists(w.dir() + "/" + file)) {
      return Failure(Errno::kNoent, w.field() + "." + name + ": this cgroup has no such file");
    }
    std::istringstream lines(value);
    for (std::string line; std::getline(lines, line);) TRY(w.put(file.c_str(), line, name));
  }
  return {};
}

u64 number_in(const std::string& dir, const char* file) {
  auto text = read_file(dir + "/" + file);
  return text ? std::strtoull(text->c_str(), nullptr, 10) : 0;
}

u64 keyed(const std::string& text, const std::string& key) {
  std::istringstream in(text);
  std::string name;
  for (u64 value; in >> name >> value;) {
    if (name == key) return value;
  }
  return 0;
}

std::vector<oci::Stats::BlkioEntry> blkio_v1(const std::string& dir, const char* file) {
  std::vector<oci::Stats::BlkioEntry> out;
  auto text = read_file(dir + "/" + file);
  if (!text) return out;
  std::istringstream in(*text);
  for (std::string line; std::getline(in, line);) {
    oci::Stats::BlkioEntry e;
    char op[32] = {};
    unsigned long long major, minor, value;
    if (std::sscanf(line.c_str(), "%llu:%llu %31s %llu", &major, &minor, op, &value) != 4) continue;
    e.major = major;
    e.minor = minor;
    e.op = op;
    e.value = value;
    out.push_back(std::move(e));
  }
  return out;
}

}  // namespace

u64 weight_from_shares(u64 shares) {
  shares = std::clamp<u64>(shares, 2, 262144);
  return 1 + ((shares - 2) * 9999) / 262142;
}

i64 pids_with_ours(i64 guest_limit) {
  constexpr i64 kOurs = 80;
  return guest_limit + kOurs;
}

HostResult<void> Cgroup::apply_v1(const Place& p, const oci::Resources& r, const std::string& field) const {
  LimitWriter w(p.dir, field);
  auto has = [&](const char* c) {
    return std::find(p.controllers.begin(), p.controllers.end(), c) != p.controllers.end();
  };
  if (has("memory")) {
    if (r.memory.limit && *r.memory.limit != 0) {
      TRY(put_memory_v1(w, r.memory.limit, r.memory.swap && *r.memory.swap != 0 ? r.memory.swap : std::nullopt));
      if (p.guest) {
        LimitWriter guest(p.dir + "/guest", field);
        i64 limit = *r.memory.limit < 0 ? -1 : guest_memory(*r.memory.limit);
        TRY(guest.put("memory.limit_in_bytes", limit, "memory.limit"));
      }
    } else if (r.memory.swap && *r.memory.swap != 0) {
      TRY(put_memory_v1(w, std::nullopt, r.memory.swap));
    }
    if (r.memory.reservation && *r.memory.reservation != 0) {
      TRY(w.put("memory.soft_limit_in_bytes", *r.memory.reservation, "memory.reservation"));
    }
    if (r.memory.kernel_tcp && *r.memory.kernel_tcp != 0) {
      TRY(w.put("memory.kmem.tcp.limit_in_bytes", *r.memory.kernel_tcp, "memory.kernelTCP"));
    }
    if (r.memory.swappiness) {
      TRY(w.put("memory.swappiness", std::to_string(*r.memory.swappiness), "memory.swappiness"));
    }
    if (r.memory.disable_oom_killer && *r.memory.disable_oom_killer) {
      TRY(w.put("memory.oom_control", "1", "memory.disableOOMKiller"));
    }
  }
  if (has("cpu")) {
    if (r.cpu.shares && *r.cpu.shares != 0) TRY(w.put("cpu.shares", std::to_string(*r.cpu.shares), "cpu.shares"));
    if (r.cpu.idle) TRY(w.put("cpu.idle", *r.cpu.idle, "cpu.idle"));
    // A smaller period than the quota allows is refused: when the order is wrong the second try is right.
    bool period = r.cpu.period && *r.cpu.period != 0, quota = r.cpu.quota && *r.cpu.quota != 0, late = false;
    if (period) {
      auto done = w.put("cpu.cfs_period_us", std::to_string(*r.cpu.period), "cpu.period");
      if (!done && !quota) return done;
      late = !done;
    }
    if (quota) TRY(w.put("cpu.cfs_quota_us", *r.cpu.quota, "cpu.quota"));
    if (late) TRY(w.put("cpu.cfs_period_us", std::to_string(*r.cpu.period), "cpu.period"));
    if (r.cpu.burst) TRY(w.put("cpu.cfs_burst_us", std::to_string(*r.cpu.burst), "cpu.burst"));
    if (r.cpu.realtime_period && *r.cpu.realtime_period != 0) {
      TRY(w.put("cpu.rt_period_us", std::to_string(*r.cpu.realtime_period), "cpu.realtimePeriod"));
    }
    if (r.cpu.realtime_runtime && *r.cpu.realtime_runtime != 0) {
      TRY(w.put("cpu.rt_runtime_us", *r.cpu.realtime_runtime, "cpu.realtimeRuntime"));
    }
  }
  if (has("cpuset")) {
    if (!r.cpu.cpus.empty()) TRY(w.put("cpuset.cpus", r.cpu.cpus, "cpu.cpus"));
    if (!r.cpu.mems.empty()) TRY(w.put("cpuset.mems", r.cpu.mems, "cpu.mems"));
  }
  if (has("pids") && r.pids_limit && *r.pids_limit != 0) {
    // The sentry counts guest tasks exactly; this one is the backstop and leaves room for its spare processes.
    constexpr i64 kSpare = 16;
    if (p.guest) {
      LimitWriter guest(p.dir + "/guest", field);
      TRY(guest.put("pids.max", *r.pids_limit < 0 ? "max" : std::to_string(*r.pids_limit + kSpare), "pids.limit"));
    } else if (*r.pids_limit > 0) {
      TRY(w.put("pids.max", pids_with_ours(*r.pids_limit), "pids.limit"));
    } else {
      TRY(w.put("pids.max", "max", "pids.limit"));
    }
  }
  if (has("blkio")) {
    if (r.block_io.weight && *r.block_io.weight != 0) {
      bool plain = host::exists(p.dir + "/blkio.weight");
      TRY(w.put(plain ? "blkio.weight" : "blkio.bfq.weight", *r.block_io.weight, "blockIO.weight"));
    }
    if (r.block_io.leaf_weight && *r.block_io.leaf_weight != 0) {
      TRY(w.put("blkio.leaf_weight", *r.block_io.leaf_weight, "blockIO.leafWeight"));
    }
    for (const auto& d : r.block_io.weight_devices) {
      if (!d.weight) continue;
      bool plain = host::exists(p.dir + "/blkio.weight_device");
      TRY(w.put(plain ? "blkio.weight_device" : "blkio.bfq.weight_device",
                std::to_string(d.major) + ":" + std::to_string(d.minor) + " " + std::to_string(*d.weight),
                "blockIO.weightDevice"));
    }
    TRY(put_throttle_v1(w, "blkio.throttle.read_bps_device", r.block_io.read_bps, "blockIO.throttleReadBpsDevice"));
    TRY(put_throttle_v1(w, "blkio.throttle.write_bps_device", r.block_io.write_bps, "blockIO.throttleWriteBpsDevice"));
    TRY(put_throttle_v1(w, "blkio.throttle.read_iops_device", r.block_io.read_iops, "blockIO.throttleReadIOPSDevice"));
    TRY(put_throttle_v1(w, "blkio.throttle.write_iops_device", r.block_io.write_iops,
                        "blockIO.throttleWriteIOPSDevice"));
  }
  if (has("hugetlb")) {
    for (const auto& h : r.hugepage_limits) {
      TRY(w.put(("hugetlb." + h.page_size + ".limit_in_bytes").c_str(), std::to_string(h.limit), "hugepageLimits"));
    }
  }
  if (has("net_cls") && r.network.class_id && *r.network.class_id != 0) {
    TRY(w.put("net_cls.classid", *r.network.class_id, "network.classID"));
  }
  if (has("net_prio")) {
    for (const auto& [name, priority] : r.network.priorities) {
      TRY(w.put("net_prio.ifpriomap", name + " " + std::to_string(priority), "network.priorities"));
    }
  }
  if (!r.unified.empty() && std::none_of(places_.begin(), places_.end(), [](const Place& q) { return q.v2; })) {
    return Failure(field + ".unified: this host has no unified cgroup hierarchy");
  }
  return {};
}

HostResult<void> Cgroup::apply_v2(const Place& p, const oci::Resources& r, const std::string& field) const {
  LimitWriter w(p.dir, field);
  if (r.memory.limit && *r.memory.limit != 0) TRY(w.put("memory.max", max_or(*r.memory.limit), "memory.limit"));
  if (r.memory.swap && *r.memory.swap != 0) {
    // The specification's swap is memory and swap together, v2's is swap alone.
    i64 swap = *r.memory.swap;
    if (swap > 0 && r.memory.limit && *r.memory.limit > 0)
      swap -= *r.memory.limit;
    else if (swap > 0)
      return Failure(field + ".memory.swap: needs memory.limit on a unified hierarchy");
    TRY(w.put("memory.swap.max", max_or(swap), "memory.swap"));
  }
  if (r.memory.reservation && *r.memory.reservation != 0) {
    TRY(w.put("memory.low", max_or(*r.memory.reservation), "memory.reservation"));
  }
  if (r.cpu.shares && *r.cpu.shares != 0) {
    TRY(w.put("cpu.weight", std::to_string(weight_from_shares(*r.cpu.shares)), "cpu.shares"));
  }
  if (r.cpu.idle) TRY(w.put("cpu.idle", *r.cpu.idle, "cpu.idle"));
  bool quota = r.cpu.quota && *r.cpu.quota != 0, period = r.cpu.period && *r.cpu.period != 0;
  if (quota || period) {
    std::string value = quota ? max_or(*r.cpu.quota) : "max";
    if (period) value += " " + std::to_string(*r.cpu.period);
    TRY(w.put("cpu.max", value, "cpu.quota"));
  }
  if (r.cpu.burst) TRY(w.put("cpu.max.burst", std::to_string(*r.cpu.burst), "cpu.burst"));
  if (!r.cpu.cpus.empty()) TRY(w.put("cpuset.cpus", r.cpu.cpus, "cpu.cpus"));
  if (!r.cpu.mems.empty()) TRY(w.put("cpuset.mems", r.cpu.mems, "cpu.mems"));
  if (r.pids_limit && *r.pids_limit != 0) {
    TRY(w.put("pids.max", *r.pids_limit < 0 ? "max" : std::to_string(pids_with_ours(*r.pids_limit)), "pids.limit"));
  }
  if (r.block_io.weight && *r.block_io.weight != 0) {
    if (host::exists(p.dir + "/io.bfq.weight"))
      TRY(w.put("io.bfq.weight", *r.block_io.weight, "blockIO.weight"));
    else
      TRY(w.put("io.weight", 1 + (*r.block_io.weight - 10) * 9999 / 990, "blockIO.weight"));
  }
  const std::pair<const char*, const std::vector<oci::ThrottleDevice>*> throttles[] = {
      {"rbps", &r.block_io.read_bps},
      {"wbps", &r.block_io.write_bps},
      {"riops", &r.block_io.read_iops},
      {"wiops", &r.block_io.write_iops}};
  for (const auto& [key, list] : throttles) {
    for (const auto& d : *list) {
      std::string rate = d.rate == 0 ? "max" : std::to_string(d.rate);
      TRY(w.put("io.max", std::to_string(d.major) + ":" + std::to_string(d.minor) + " " + key + "=" + rate, "blockIO"));
    }
  }
  for (const auto& h : r.hugepage_limits) {
    TRY(w.put(("hugetlb." + h.page_size + ".max").c_str(), std::to_string(h.limit), "hugepageLimits"));
  }
  return apply_unified(w, r.unified);
}

oci::Stats Cgroup::stats() const {
  oci::Stats s;
  for (const Place& p : places_) {
    auto has = [&](const char* c) {
      return std::find(p.controllers.begin(), p.controllers.end(), c) != p.controllers.end();
    };
    if (p.v2) {
      if (auto cpu = read_file(p.dir + "/cpu.stat"); cpu && s.cpu_total_ns == 0) {
        s.cpu_total_ns = keyed(*cpu, "usage_usec") * 1000;
        s.cpu_user_ns = keyed(*cpu, "user_usec") * 1000;
        s.cpu_system_ns = keyed(*cpu, "system_usec") * 1000;
        s.throttle_periods = keyed(*cpu, "nr_periods");
        s.throttled_periods = keyed(*cpu, "nr_throttled");
        s.throttled_ns = keyed(*cpu, "throttled_usec") * 1000;
      }
      if (has("memory")) {
        s.memory_usage = number_in(p.dir, "memory.current");
        s.memory_limit = number_in(p.dir, "memory.max");
        s.swap_usage = number_in(p.dir, "memory.swap.current");
        if (auto text = read_file(p.dir + "/memory.stat")) s.memory_cache = keyed(*text, "file");
      }
      if (has("pids")) {
        s.pids_current = number_in(p.dir, "pids.current");
        s.pids_limit = number_in(p.dir, "pids.max");
      }
      continue;
    }
    if (has("cpuacct")) {
      s.cpu_total_ns = number_in(p.dir, "cpuacct.usage");
      if (auto text = read_file(p.dir + "/cpuacct.usage_percpu")) {
        std::istringstream in(*text);
        for (u64 v; in >> v;) s.cpu_percpu_ns.push_back(v);
      }
      s.cpu_user_ns = number_in(p.dir, "cpuacct.usage_user");
      s.cpu_system_ns = number_in(p.dir, "cpuacct.usage_sys");
    }
    if (has("cpu")) {
      if (auto text = read_file(p.dir + "/cpu.stat")) {
        s.throttle_periods = keyed(*text, "nr_periods");
        s.throttled_periods = keyed(*text, "nr_throttled");
        s.throttled_ns = keyed(*text, "throttled_time");
      }
    }
    if (has("memory")) {
      s.memory_usage = number_in(p.dir, "memory.usage_in_bytes");
      s.memory_max = number_in(p.dir, "memory.max_usage_in_bytes");
      s.memory_limit = number_in(p.dir, "memory.limit_in_bytes");
      s.memory_failcnt = number_in(p.dir, "memory.failcnt");
      s.swap_usage = number_in(p.dir, "memory.memsw.usage_in_bytes");
      s.swap_limit = number_in(p.dir, "memory.memsw.limit_in_bytes");
      if (auto text = read_file(p.dir + "/memory.stat")) {
        std::istringstream in(*text);
        std::string name;
        for (u64 value; in >> name >> value;) s.memory_raw.emplace_back(name, value);
        s.memory_cache = keyed(*text, "cache");
      }
    }
    if (has("pids")) {
      s.pids_current = number_in(p.dir, "pids.current");
      s.pids_limit = number_in(p.guest ? p.dir + "/guest" : p.dir, "pids.max");
    }
    if (has("blkio")) {
      s.blkio_bytes = blkio_v1(p.dir, "blkio.throttle.io_service_bytes_recursive");
      s.blkio_serviced = blkio_v1(p.dir, "blkio.throttle.io_serviced_recursive");
    }
  }
  return s;
}

}  // namespace sbx::host
