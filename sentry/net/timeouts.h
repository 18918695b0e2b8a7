// SO_RCVTIMEO and SO_SNDTIMEO, which all families leave to the caller's loop.
#pragma once
#include <sys/time.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "sentry/base/result.h"

namespace sbx::net {

// A struct timeval in ns; 0: none. kInval: too short; kDom: no time.
inline Result<u64> timeout_from(std::string_view value) {
  if (value.size() < sizeof(timeval)) return Errno::kInval;
  timeval t{};
  std::memcpy(&t, value.data(), sizeof(t));
  if (t.tv_usec < 0 || t.tv_usec >= 1'000'000) return Errno::kDom;
  if (t.tv_sec < 0) return u64{1};  // at once
  return static_cast<u64>(std::min<i64>(t.tv_sec, 1'000'000'000)) * 1'000'000'000 + static_cast<u64>(t.tv_usec) * 1000;
}

inline std::string timeout_bytes(u64 ns, size_t max) {
  timeval t{};
  t.tv_sec = static_cast<time_t>(ns / 1'000'000'000);
  t.tv_usec = static_cast<suseconds_t>(ns % 1'000'000'000 / 1000);
  return std::string(reinterpret_cast<const char*>(&t), std::min(sizeof(t), max));
}

}  // namespace sbx::net
