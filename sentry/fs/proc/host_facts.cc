#include "sentry/fs/proc/host_facts.h"

#include <sched.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <charconv>

#include "sentry/base/log.h"

namespace sbx::fs::proc {

HostFacts& host_facts() {
  static auto* instance = new HostFacts;
  return *instance;
}

void complete_host_facts() {
  HostFacts& facts = host_facts();
  if (facts.cpus.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (::sched_getaffinity(0, sizeof(set), &set) == 0) {
      for (u32 i = 0; i < CPU_SETSIZE; ++i) {
        if (CPU_ISSET(i, &set)) facts.cpus.push_back(i);
      }
    }
  }
  if (facts.cpus.empty()) facts.cpus.push_back(0);
}

namespace {

// "MemAvailable:   123 kB" of a snapshot, in bytes; 0 if absent.
u64 snapshot_value(std::string_view text, std::string_view name) {
  size_t at = text.find(name);
  if (at == std::string_view::npos) return 0;
  text.remove_prefix(at + name.size());
  while (!text.empty() && (text.front() == ' ' || text.front() == ':')) text.remove_prefix(1);
  u64 value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value * 1024;
}

}  // namespace

MemoryFigures memory_figures() {
  const HostFacts& facts = host_facts();
  struct sysinfo info {};
  MemoryFigures m{};
  if (::sysinfo(&info) != 0) return m;
  const u64 unit = info.mem_unit == 0 ? 1 : info.mem_unit;
  m.total = info.totalram * unit;
  m.free = info.freeram * unit;
  m.buffers = info.bufferram * unit;
  m.shared = info.sharedram * unit;
  m.swap_total = info.totalswap * unit;
  m.swap_free = info.freeswap * unit;
  // Page cache moves slowly against the whole: the snapshot's share, never more than what is not free.
  m.cached = std::min(snapshot_value(facts.meminfo, "\nCached:"), m.total - std::min(m.total, m.free + m.buffers));
  m.available = std::min(m.total, m.free + m.buffers + m.cached);
  if (facts.memory_bytes > 0 && static_cast<u64>(facts.memory_bytes) < m.total) {
    const u64 limit = static_cast<u64>(facts.memory_bytes);
    m.total = limit;
    m.available = std::min(m.available, limit);
    m.free = std::min(m.free, limit);
    m.buffers = 0;
    m.cached = std::min(m.cached, limit - m.free);
    m.shared = std::min(m.shared, limit);
    const u64 swap = facts.memory_swap_bytes > facts.memory_bytes
                         ? static_cast<u64>(facts.memory_swap_bytes - facts.memory_bytes)
                         : 0;
    if (facts.memory_swap_bytes >= 0) {
      m.swap_total = std::min(m.swap_total, swap);
      m.swap_free = std::min(m.swap_free, m.swap_total);
    }
  }
  return m;
}

std::string cpu_list(const std::vector<u32>& cpus) {
  std::string out;
  for (size_t i = 0; i < cpus.size();) {
    size_t end = i;
    while (end + 1 < cpus.size() && cpus[end + 1] == cpus[end] + 1) ++end;
    if (!out.empty()) out += ',';
    out += std::to_string(cpus[i]);
    if (end > i) out += '-' + std::to_string(cpus[end]);
    i = end + 1;
  }
  return out;
}

std::vector<u32> parse_cpu_list(std::string_view text) {
  constexpr u32 kMost = 8192;
  std::vector<u32> cpus;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    u32 first = 0;
    auto [after, error] = std::from_chars(at, end, first);
    if (error != std::errc()) break;
    u32 last = first;
    at = after;
    if (at < end && *at == '-') {
      auto [after_last, bad] = std::from_chars(at + 1, end, last);
      if (bad != std::errc()) break;
      at = after_last;
    }
    for (u32 cpu = first; cpu <= last && cpu < kMost; ++cpu) cpus.push_back(cpu);
    if (at < end && *at != ',') break;
    ++at;
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

}  // namespace sbx::fs::proc
