// How strace shows an argument, by its type in the table (strace(1)'s notation as far as it goes).
#pragma once
#include <fcntl.h>

#include <string>

#include "sentry/base/log.h"
#include "sentry/syscalls/args.h"

namespace sbx::syscalls {

void print_string(Task& task, u64 addr, size_t max, std::string& out);  // "text"... or address
void print_bytes(Task& task, u64 addr, size_t n, std::string& out);     // "bytes\n"...
void print_open_flags(u32 flags, std::string& out);
void print_signal(i32 signo, std::string& out);

template <typename T>
void print_arg(Task& task, const u64* regs, size_t i, i64 result, bool after, std::string& out) {
  u64 v = regs[i];
  if constexpr (std::is_same_v<T, DirFd>) {
    out += static_cast<i32>(v) == AT_FDCWD ? "AT_FDCWD" : std::to_string(static_cast<i32>(v));
  } else if constexpr (std::is_same_v<T, UserPath> || std::is_same_v<T, UserString>) {
    print_string(task, v, 4096, out);
  } else if constexpr (std::is_same_v<T, InBuf>) {
    // The next argument is nearly always its length; bounded, so a wrong guess is harmless.
    print_bytes(task, v, i + 1 < 6 ? regs[i + 1] : 0, out);
  } else if constexpr (std::is_same_v<T, OutBuf>) {
    if (after && result > 0)
      print_bytes(task, v, static_cast<size_t>(result), out);
    else
      out += v == 0 ? "NULL" : str_printf("%#llx", static_cast<unsigned long long>(v));
  } else if constexpr (std::is_same_v<T, OpenFlags>) {
    print_open_flags(static_cast<u32>(v), out);
  } else if constexpr (std::is_same_v<T, Mode>) {
    out += str_printf("0%o", static_cast<u32>(v));
  } else if constexpr (std::is_same_v<T, Signo>) {
    print_signal(static_cast<i32>(v), out);
  } else if constexpr (std::is_same_v<T, Fd> || std::is_same_v<T, Pid> || std::is_same_v<T, Int>) {
    out += std::to_string(static_cast<i32>(v));
  } else if constexpr (std::is_same_v<T, UInt>) {
    out += std::to_string(static_cast<u32>(v));
  } else if constexpr (std::is_same_v<T, Long>) {
    out += std::to_string(static_cast<i64>(v));
  } else if constexpr (std::is_same_v<T, Hex>) {
    out += v == 0 ? "0" : str_printf("%#llx", static_cast<unsigned long long>(v));
  } else if constexpr (std::is_same_v<T, ULong>) {
    out += std::to_string(v);
  } else {
    out += v == 0 ? "NULL" : str_printf("%#llx", static_cast<unsigned long long>(v));
  }
}

}  // namespace sbx::syscalls
