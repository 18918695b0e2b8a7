// Logging. A thin face over spdlog (seen only by log.cc) with printf-checked formats, so that headers stay light.
#pragma once
#include <string>

#include "sentry/base/types.h"

namespace sbx {

enum class LogLevel : u8 { kDebug, kInfo, kWarning, kError };
enum class LogFormat : u8 { kText, kJson };

// Sends log lines to `fd` (not owned; -1: nowhere). JSON lines are runc's: {"level","msg","time"}.
void log_init(int fd, LogFormat format, LogLevel least);
bool log_enabled(LogLevel level);
void log_line(LogLevel level, const std::string& message);
void log_printf(LogLevel level, const char* format, ...) __attribute__((format(printf, 2, 3)));
// printf into a std::string.
std::string str_printf(const char* format, ...) __attribute__((format(printf, 1, 2)));

#define LOG_DEBUG(...)                                                                                        \
  do {                                                                                                        \
    if (::sbx::log_enabled(::sbx::LogLevel::kDebug)) ::sbx::log_printf(::sbx::LogLevel::kDebug, __VA_ARGS__); \
  } while (0)
#define LOG_INFO(...) ::sbx::log_printf(::sbx::LogLevel::kInfo, __VA_ARGS__)
#define LOG_WARNING(...) ::sbx::log_printf(::sbx::LogLevel::kWarning, __VA_ARGS__)
#define LOG_ERROR(...) ::sbx::log_printf(::sbx::LogLevel::kError, __VA_ARGS__)

// Ends the process with a line in the log: a broken invariant of our own, never a guest's doing.
[[noreturn]] void panic(const char* file, int line, const char* format, ...) __attribute__((format(printf, 3, 4)));
#define PANIC(...) ::sbx::panic(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(cond)                                                \
  do {                                                             \
    if (!(cond)) [[unlikely]]                                      \
      ::sbx::panic(__FILE__, __LINE__, "check failed: %s", #cond); \
  } while (0)

}  // namespace sbx
