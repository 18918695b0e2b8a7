// The table at run time: what dispatch, strace, counters and reports read. Built from table.def in table.cc.
#pragma once
#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "sentry/syscalls/args.h"

namespace sbx::syscalls {

struct Row {
  const char* name = nullptr;                       // null: a number Linux does not have
  i64 (*invoke)(Task&, const u64* args) = nullptr;  // null: refused
  void (*print_args)(Task&, const u64* args, i64 result, bool after, std::string& out) = nullptr;
  Errno refusal = Errno::kNosys;
  Cost cost = Cost::kFast;
  Support support = Support::kRefused;
  const char* note = "";
  u8 arg_count = 0;
};

constexpr u32 kRows = 463;
extern const std::array<Row, kRows> kTable;

// Calls seen, per number; refused ones included.
extern std::atomic<u64> call_counts[kRows];

// The kernel's dispatch function (task::Kernel::dispatch).
i64 dispatch(Task& task);
// task::Kernel::finish_file_read.
i64 finish_file_read(Task& task, u64 copied);

// Per-call instrumentation, one branch when off.
enum : u32 { kTraceStrace = 1, kTraceMonitor = 2 };
extern u32 trace_flags;
// strace lines go here (whole lines); filter: comma-separated names, empty for all.
void strace_start(int fd, const std::string& filter);

}  // namespace sbx::syscalls
