#include "sentry/base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>
#include <memory>
#include <mutex>

namespace sbx {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

// Writes whole lines to one descriptor: the sentry may neither open files nor buffer across a crash.
class FdSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FdSink(int fd) : fd_(fd) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& msg) override {
    spdlog::memory_buf_t line;
    formatter_->format(msg, line);
    const char* p = line.data();
    size_t left = line.size();
    while (left > 0) {
      ssize_t n = ::write(fd_, p, left);
      if (n <= 0) return;  // nobody to tell
      p += n;
      left -= static_cast<size_t>(n);
    }
  }
  void flush_() override {}

 private:
  int fd_;
};

// The message itself, as the inside of a JSON string (RFC 8259 section 7).
class JsonMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& msg, const std::tm&, spdlog::memory_buf_t& out) override {
    for (char c : msg.payload) {
      switch (c) {
        case '"': append(out, "\\\""); break;
        case '\\': append(out, "\\\\"); break;
        case '\n': append(out, "\\n"); break;
        case '\t': append(out, "\\t"); break;
        case '\r': append(out, "\\r"); break;
        default:
          if (static_cast<unsigned char>(c) < 0x20) {
            char hex[8];
            std::snprintf(hex, sizeof(hex), "\\u%04x", c);
            append(out, hex);
          } else {
            out.push_back(c);
          }
      }
    }
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<JsonMessage>(); }

 private:
  static void append(spdlog::memory_buf_t& out, const char* s) { out.append(s, s + std::char_traits<char>::length(s)); }
};

// The zone as RFC 3339 has it, UTC as Z: runc's lines, which its callers compare.
class Zone : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg&, const std::tm& time, spdlog::memory_buf_t& out) override {
    long minutes = time.tm_gmtoff / 60;
    char text[48] = "Z";
    if (minutes != 0) {
      std::snprintf(text, sizeof(text), "%c%02ld:%02ld", minutes < 0 ? '-' : '+', std::labs(minutes) / 60,
                    std::labs(minutes) % 60);
    }
    out.append(text, text + std::char_traits<char>::length(text));
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<Zone>(); }
};

std::shared_ptr<spdlog::logger>& logger() {
  static std::shared_ptr<spdlog::logger> instance;
  return instance;
}
LogLevel least_level = LogLevel::kWarning;

std::string vformat(const char* format, va_list args) {
  va_list copy;
  va_copy(copy, args);
  int n = std::vsnprintf(nullptr, 0, format, copy);
  va_end(copy);
  std::string s(n > 0 ? static_cast<size_t>(n) : 0, '\0');
  if (n > 0) std::vsnprintf(s.data(), s.size() + 1, format, args);
  return s;
}

}  // namespace

void log_init(int fd, LogFormat format, LogLevel least) {
  least_level = least;
  if (fd < 0) {
    logger().reset();
    return;
  }
  auto sink = std::make_shared<FdSink>(fd);
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<JsonMessage>('*').add_flag<Zone>('Q');
  formatter->set_pattern(format == LogFormat::kJson ? R"({"level":"%l","msg":"%*","time":"%Y-%m-%dT%H:%M:%S%Q"})"
                                                    : R"(time="%Y-%m-%dT%H:%M:%S%Q" level=%l msg="%*")");
  sink->set_formatter(std::move(formatter));
  auto made = std::make_shared<spdlog::logger>("sbx", std::move(sink));
  made->set_level(to_spdlog(least));
  logger() = std::move(made);
}

bool log_enabled(LogLevel level) { return level >= least_level && logger() != nullptr; }

void log_line(LogLevel level, const std::string& message) {
  if (log_enabled(level)) logger()->log(to_spdlog(level), spdlog::string_view_t(message));
}

void log_printf(LogLevel level, const char* format, ...) {
  if (!log_enabled(level)) return;
  va_list args;
  va_start(args, format);
  std::string s = vformat(format, args);
  va_end(args);
  log_line(level, s);
}

std::string str_printf(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string s = vformat(format, args);
  va_end(args);
  return s;
}

void panic(const char* file, int line, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string s = str_printf("panic: %s:%d: ", file, line) + vformat(format, args);
  va_end(args);
  if (log_enabled(LogLevel::kError)) log_line(LogLevel::kError, s);
  s += '\n';
  if (::write(2, s.data(), s.size()) < 0) std::abort();
  std::abort();
}

}  // namespace sbx
