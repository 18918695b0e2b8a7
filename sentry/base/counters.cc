#include "sentry/base/counters.h"

#include <map>
#include <mutex>

#include "sentry/base/log.h"

namespace sbx {
namespace {
Counter*& head() {
  static Counter* first = nullptr;
  return first;
}
std::mutex missing_mutex;
std::map<std::pair<std::string, u64>, u64>& missing() {
  static std::map<std::pair<std::string, u64>, u64> map;
  return map;
}
constexpr size_t kMaxMissing = 4096;  // a hostile guest chooses `detail`: bound what it can make us remember
}  // namespace

Counter::Counter(const char* name, const char* what) : name_(name), what_(what), next_(head()) { head() = this; }

std::vector<const Counter*> Counter::all() {
  std::vector<const Counter*> out;
  for (const Counter* c = head(); c != nullptr; c = c->next_) out.push_back(c);
  return {out.rbegin(), out.rend()};
}

void count_missing(const char* name, u64 detail) {
  std::lock_guard lock(missing_mutex);
  auto& map = missing();
  auto it = map.find({name, detail});
  if (it != map.end()) {
    ++it->second;
    return;
  }
  if (map.size() >= kMaxMissing) return;
  map[{name, detail}] = 1;
  LOG_DEBUG("not supported: %s %#llx", name, static_cast<unsigned long long>(detail));
}

std::vector<MissingPiece> missing_pieces() {
  std::lock_guard lock(missing_mutex);
  std::vector<MissingPiece> out;
  for (const auto& [key, count] : missing()) out.push_back({key.first, key.second, count});
  return out;
}

}  // namespace sbx
