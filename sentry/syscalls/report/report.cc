// `sbx syscalls` and docs/syscalls.md. Rows only: no handler is named here, so the runtime links without the kernel.
#include "sentry/syscalls/report.h"

#include "sentry/base/log.h"
#include "sentry/base/types.h"

namespace sbx::syscalls {
namespace {

struct ReportRow {
  u32 nr;
  const char* name;
  const char* support;
  const char* cost;
  const char* note;
};

struct Level {
  const char* support;
  const char* note;
};
#define FULL \
  Level { "full", "" }
#define PARTIAL(what) \
  Level { "partial", what }
#define SYSCALL(nr, name, args, cost, level) {nr, #name, (level).support, #cost, (level).note},
#define REFUSE(nr, name, error, why) {nr, #name, "refused", #error, why},
constexpr ReportRow kRows[] = {
#include "sentry/syscalls/table.def"
};
#undef SYSCALL
#undef REFUSE

std::string lower(const char* k) {  // kNative -> native
  std::string s(k + 1);
  for (char& c : s) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return s;
}
std::string escaped(const char* s) {
  std::string out;
  for (; *s != '\0'; ++s) {
    if (*s == '"' || *s == '\\') out += '\\';
    out += *s;
  }
  return out;
}
std::string cost_or_errno(const ReportRow& row) {
  std::string s = lower(row.cost);
  if (std::string_view(row.support) != "refused") return s;
  for (char& c : s) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return "E" + s;
}

}  // namespace

std::string syscalls_table(bool json) {
  std::string out = json ? "[" : "  NR  NAME                     SUPPORT  COST      NOTE\n";
  bool first = true;
  for (const ReportRow& row : kRows) {
    if (json) {
      out += str_printf("%s\n  {\"number\":%u,\"name\":\"%s\",\"support\":\"%s\",\"%s\":\"%s\",\"note\":\"%s\"}",
                        first ? "" : ",", row.nr, row.name, row.support,
                        std::string_view(row.support) == "refused" ? "errno" : "cost", cost_or_errno(row).c_str(),
                        escaped(row.note).c_str());
    } else {
      std::string line =
          str_printf("%4u  %-24s %-8s %-9s %s", row.nr, row.name, row.support, cost_or_errno(row).c_str(), row.note);
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + "\n";
    }
    first = false;
  }
  if (json) out += "\n]\n";
  return out;
}

std::string syscalls_markdown() {
  std::string out =
      "# System calls\n\nMade from `sentry/syscalls/table.def` by `sbx syscalls --markdown`.\n\n"
      "| nr | name | support | cost or errno | note |\n| --- | --- | --- | --- | --- |\n";
  for (const ReportRow& row : kRows) {
    out +=
        str_printf("| %u | %s | %s | %s | %s |\n", row.nr, row.name, row.support, cost_or_errno(row).c_str(), row.note);
  }
  return out;
}

}  // namespace sbx::syscalls
