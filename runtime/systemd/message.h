// D-Bus messages as bytes (D-Bus Specification, "Type System" and "Message Protocol"): what is needed to ask systemd
// for a unit. A static program cannot use libsystemd or libdbus, which exist as shared libraries only.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "sentry/base/types.h"

namespace sbx::systemd {

// The value of a unit's property: b, t, s, au, ay, a(ss).
using Value = std::variant<bool, u64, std::string, std::vector<u32>, std::vector<u8>,
                           std::vector<std::pair<std::string, std::string>>>;
struct Property {
  std::string name;
  Value value;
};

// Marshals a body. Offsets count from the body's start, which the header pads to eight bytes.
class Writer {
 public:
  void boolean(bool v) { number<u32>(v ? 1 : 0); }
  void u32_(u32 v) { number(v); }
  void u64_(u64 v) { number(v); }
  void byte(u8 v) { bytes_.push_back(static_cast<char>(v)); }
  void string(std::string_view v);
  void signature(std::string_view v);
  void align(size_t n) { bytes_.resize((bytes_.size() + n - 1) / n * n); }
  // An array's length is known at its end; padding before its first element does not count.
  struct Array {
    size_t length_at, start;
  };
  Array begin_array(size_t element_alignment);
  void end_array(Array array);
  void variant(const Value& value);
  // a(sv)
  void properties(const std::vector<Property>& list);

  const std::string& bytes() const { return bytes_; }

 private:
  template <typename T>
  void number(T v) {
    align(sizeof(T));
    bytes_.append(reinterpret_cast<const char*>(&v), sizeof(T));
  }
  std::string bytes_;
};

// Reads what came; every take fails (and all after it) beyond the end or on bytes that break the rules.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  std::optional<u8> byte();
  std::optional<u32> u32_();
  std::optional<std::string> string();
  std::optional<std::string> signature();
  bool align(size_t n);
  size_t position() const { return at_; }

 private:
  std::string_view bytes_;
  size_t at_ = 0;
};

enum class MessageType : u8 { kCall = 1, kReturn = 2, kError = 3, kSignal = 4 };

struct Message {
  MessageType type = MessageType::kCall;
  u32 serial = 0;
  u32 reply_serial = 0;
  std::string path, interface, member, destination, error, signature;
  std::string body;
};

std::string encode(const Message& message);

// The length of the message that begins with these bytes; 0: more than the 16 of a fixed header are needed to tell.
// Nothing if it is none of ours: another byte order, version, or longer than a megabyte.
constexpr size_t kFixedHeader = 16;
std::optional<size_t> message_length(std::string_view start);
std::optional<Message> decode(std::string_view bytes);

}  // namespace sbx::systemd
