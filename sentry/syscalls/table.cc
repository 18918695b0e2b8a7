#include "sentry/syscalls/table.h"

#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/strace_args.h"

namespace sbx::syscalls {
namespace {

template <auto Handler>
struct Glue;

template <typename... Args, Result<i64> (*Handler)(Task&, Args...)>
struct Glue<Handler> {
  static constexpr u8 kCount = sizeof...(Args);

  template <size_t... I>
  static Result<i64> call(Task& task, const u64* regs, std::index_sequence<I...>) {
    (void)regs;
    return Handler(task, from_register<Args>(regs[I])...);
  }
  static i64 invoke(Task& task, const u64* regs) {
    Result<i64> result = call(task, regs, std::index_sequence_for<Args...>{});
    return result ? *result : -static_cast<i64>(result.error());
  }

  template <size_t... I>
  static void print_each(Task& task, const u64* regs, i64 result, bool after, std::string& out,
                         std::index_sequence<I...>) {
    (void)task, (void)regs, (void)result, (void)after, (void)out;
    ((I > 0 ? void(out += ", ") : void(), print_arg<Args>(task, regs, I, result, after, out)), ...);
  }
  static void print(Task& task, const u64* regs, i64 result, bool after, std::string& out) {
    print_each(task, regs, result, after, out, std::index_sequence_for<Args...>{});
  }
};

// A row out of order or repeated does not compile.
#define SYSCALL(nr, name, args, cost, support) nr,
#define REFUSE(nr, name, error, why) nr,
constexpr u32 kNumbers[] = {
#include "sentry/syscalls/table.def"
};
#undef SYSCALL
#undef REFUSE
constexpr bool ascending() {
  for (size_t i = 1; i < std::size(kNumbers); ++i) {
    if (kNumbers[i] <= kNumbers[i - 1]) return false;
  }
  return kNumbers[std::size(kNumbers) - 1] < kRows;
}
static_assert(ascending(), "table.def must be in ascending order, one row a number");

struct SupportNote {
  Support support;
  const char* note;
};
#define FULL \
  SupportNote { Support::kFull, "" }
#define PARTIAL(what) \
  SupportNote { Support::kPartial, what }

}  // namespace

namespace {
constexpr std::array<Row, kRows> make_table() {
  std::array<Row, kRows> table{};
#define SYSCALL(nr, id, args, cost_class, level)        \
  table[nr] = Row{.name = #id,                          \
                  .invoke = Glue<&sys_##id>::invoke,    \
                  .print_args = Glue<&sys_##id>::print, \
                  .refusal = Errno::kNosys,             \
                  .cost = Cost::cost_class,             \
                  .support = (level).support,           \
                  .note = (level).note,                 \
                  .arg_count = Glue<&sys_##id>::kCount};
#define REFUSE(nr, id, error, why) \
  table[nr] = Row{.name = #id, .refusal = Errno::error, .support = Support::kRefused, .note = why};
#include "sentry/syscalls/table.def"
#undef SYSCALL
#undef REFUSE
  return table;
}
}  // namespace
constinit const std::array<Row, kRows> kTable = make_table();

std::atomic<u64> call_counts[kRows];

}  // namespace sbx::syscalls
