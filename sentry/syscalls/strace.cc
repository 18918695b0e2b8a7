#include "sentry/syscalls/strace.h"

#include <unistd.h>

#include <set>

#include "sentry/signal/signal.h"
#include "sentry/syscalls/strace_args.h"
#include "sentry/syscalls/table.h"

namespace sbx::syscalls {

u32 trace_flags = 0;

namespace {

int trace_fd = -1;
std::array<bool, kRows> wanted{};
constexpr size_t kShown = 32;  // strace's default string length

void append_escaped(std::string_view bytes, std::string& out) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    auto c = static_cast<unsigned char>(bytes[i]);
    switch (c) {
      case '\n': out += "\\n"; break;
      case '\t': out += "\\t"; break;
      case '\r': out += "\\r"; break;
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      default:
        if (c >= 0x20 && c < 0x7f) {
          out.push_back(static_cast<char>(c));
        } else {
          bool digit_follows = i + 1 < bytes.size() && bytes[i + 1] >= '0' && bytes[i + 1] <= '9';
          out += str_printf(digit_follows ? "\\%03o" : "\\%o", c);
        }
    }
  }
}

void write_line(std::string line) {
  line += '\n';
  if (trace_fd >= 0 && ::write(trace_fd, line.data(), line.size()) < 0) trace_fd = -1;
}

}  // namespace

void strace_start(int fd, const std::string& filter) {
  trace_fd = fd;
  std::set<std::string> names;
  for (size_t at = 0; at < filter.size();) {
    size_t comma = filter.find(',', at);
    if (comma == std::string::npos) comma = filter.size();
    names.insert(filter.substr(at, comma - at));
    at = comma + 1;
  }
  for (u32 i = 0; i < kRows; ++i) {
    wanted[i] = kTable[i].name != nullptr && (names.empty() || names.count(kTable[i].name) > 0);
  }
  trace_flags |= kTraceStrace;
}

void print_string(Task& task, u64 addr, size_t max, std::string& out) {
  if (addr == 0) {
    out += "NULL";
    return;
  }
  auto text = task.memory().read_string(addr, max);
  if (!text) {
    out += str_printf("%#llx", static_cast<unsigned long long>(addr));
    return;
  }
  out += '"';
  append_escaped(*text, out);
  out += '"';
}

void print_bytes(Task& task, u64 addr, size_t n, std::string& out) {
  if (addr == 0) {
    out += "NULL";
    return;
  }
  size_t shown = std::min(n, kShown);
  std::string bytes(shown, '\0');
  if (!task.memory().read(addr, bytes.data(), shown)) {
    out += str_printf("%#llx", static_cast<unsigned long long>(addr));
    return;
  }
  out += '"';
  append_escaped(bytes, out);
  out += n > shown ? "\"..." : "\"";
}

void print_open_flags(u32 flags, std::string& out) {
  static constexpr const char* kModes[] = {"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"};
  static constexpr struct {
    u32 bit;
    const char* name;
  } kFlags[] = {{O_CREAT, "O_CREAT"},     {O_EXCL, "O_EXCL"},           {O_NOCTTY, "O_NOCTTY"},
                {O_TRUNC, "O_TRUNC"},     {O_APPEND, "O_APPEND"},       {O_NONBLOCK, "O_NONBLOCK"},
                {O_DIRECT, "O_DIRECT"},   {O_DIRECTORY, "O_DIRECTORY"}, {O_NOFOLLOW, "O_NOFOLLOW"},
                {O_NOATIME, "O_NOATIME"}, {O_CLOEXEC, "O_CLOEXEC"},     {O_PATH, "O_PATH"}};
  out += kModes[flags & O_ACCMODE];
  u32 rest = flags & ~static_cast<u32>(O_ACCMODE | 0100000);
  for (const auto& f : kFlags) {
    if ((rest & f.bit) == f.bit) {
      out += '|';
      out += f.name;
      rest &= ~f.bit;
    }
  }
  if (rest != 0) out += str_printf("|%#x", rest);
}

void print_signal(i32 signo, std::string& out) {
  out += signal::valid(signo) ? signal::signal_name(signo) : std::to_string(signo);
}

void strace_call(Task& task, u32 nr, const u64* args, i64 result, u64 ns) {
  if (nr < kRows && !wanted[nr]) return;
  std::string line = str_printf("[pid %5d] ", task.tid);
  if (nr >= kRows || kTable[nr].name == nullptr) {
    line += str_printf("syscall_%#x(...)", nr);
  } else {
    line += kTable[nr].name;
    line += '(';
    if (kTable[nr].print_args != nullptr) kTable[nr].print_args(task, args, result, true, line);
    line += ')';
  }
  if (result < 0 && result >= -4095) {
    auto e = static_cast<Errno>(-result);
    line += str_printf(" = -1 %s (%s)", errno_name(e), errno_text(e));
    if (is_restart(e)) line = line.substr(0, line.find(" = -1")) + str_printf(" = ? %s", errno_name(e));
  } else {
    line += str_printf(static_cast<u64>(result) > 0xffffffff ? " = %#llx" : " = %lld", static_cast<long long>(result));
  }
  constexpr u64 kNsPerSecond = 1'000'000'000;
  line += str_printf(" <%llu.%06llu>", static_cast<unsigned long long>(ns / kNsPerSecond),
                     static_cast<unsigned long long>(ns % kNsPerSecond / 1000));  // as strace -T
  write_line(std::move(line));
}

void strace_event(Task& task, const std::string& text) {
  if (trace_flags & kTraceStrace) write_line(str_printf("[pid %5d] %s", task.tid, text.c_str()));
}

}  // namespace sbx::syscalls
