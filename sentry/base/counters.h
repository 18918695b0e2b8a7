// Counters beside the code they count; `sbx debug` prints them all.
//
//   COUNTER(traps, "platform.traps", "syscalls that arrived through SIGSYS");   ...   traps.add();
//   STUB("fcntl", cmd);   a missing piece of the Linux surface: counted per (name, detail), logged once, listable.
#pragma once
#include <atomic>
#include <string>
#include <vector>

#include "sentry/base/types.h"

namespace sbx {

class Counter {
 public:
  Counter(const char* name, const char* what);
  // By one thread at a time (the kernel lock); no locked instruction, whose wait for the stores before it is what
  // costs.
  void add(u64 n = 1) { value_.store(value() + n, std::memory_order_relaxed); }
  u64 value() const { return value_.load(std::memory_order_relaxed); }
  const char* name() const { return name_; }
  const char* what() const { return what_; }
  // All counters of the process, in registration order.
  static std::vector<const Counter*> all();

 private:
  const char* name_;
  const char* what_;
  std::atomic<u64> value_{0};
  Counter* next_;
};

#define COUNTER(variable, name, what) static ::sbx::Counter variable(name, what)

struct MissingPiece {
  std::string name;
  u64 detail;
  u64 count;
};
// Counts a use of something we do not support (a flag, a command); logs the first time. `name` must be a literal.
void count_missing(const char* name, u64 detail);
std::vector<MissingPiece> missing_pieces();
#define STUB(name, detail) ::sbx::count_missing(name, static_cast<::sbx::u64>(detail))

}  // namespace sbx
