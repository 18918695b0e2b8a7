#include "runtime/systemd/message.h"

#include <cstring>

namespace sbx::systemd {
namespace {

constexpr u8 kLittleEndian = 'l', kVersion = 1;
constexpr size_t kLongest = 1 << 20;
// Header fields by number and type.
enum Field : u8 {
  kPath = 1,
  kInterface = 2,
  kMember = 3,
  kErrorName = 4,
  kReplySerial = 5,
  kDestination = 6,
  kSender = 7,
  kSignature = 8,
  kUnixFds = 9,
};

void put_field(Writer& w, Field field, char type, const std::string& value) {
  if (value.empty()) return;
  w.align(8);
  w.byte(field);
  w.signature(std::string(1, type));
  if (type == 'g')
    w.signature(value);
  else
    w.string(value);
}

}  // namespace

void Writer::string(std::string_view v) {
  number<u32>(static_cast<u32>(v.size()));
  bytes_.append(v);
  bytes_.push_back('\0');
}

void Writer::signature(std::string_view v) {
  byte(static_cast<u8>(v.size()));
  bytes_.append(v);
  bytes_.push_back('\0');
}

Writer::Array Writer::begin_array(size_t element_alignment) {
  number<u32>(0);
  size_t length_at = bytes_.size() - sizeof(u32);
  align(element_alignment);
  return {length_at, bytes_.size()};
}

void Writer::end_array(Array array) {
  u32 length = static_cast<u32>(bytes_.size() - array.start);
  std::memcpy(bytes_.data() + array.length_at, &length, sizeof(length));
}

void Writer::variant(const Value& value) {
  struct Visitor {
    Writer& w;
    void operator()(bool v) const {
      w.signature("b");
      w.boolean(v);
    }
    void operator()(u64 v) const {
      w.signature("t");
      w.u64_(v);
    }
    void operator()(const std::string& v) const {
      w.signature("s");
      w.string(v);
    }
    void operator()(const std::vector<u32>& v) const {
      w.signature("au");
      Array array = w.begin_array(4);
      for (u32 n : v) w.u32_(n);
      w.end_array(array);
    }
    void operator()(const std::vector<u8>& v) const {
      w.signature("ay");
      Array array = w.begin_array(1);
      for (u8 n : v) w.byte(n);
      w.end_array(array);
    }
    void operator()(const std::vector<std::pair<std::string, std::string>>& v) const {
      w.signature("a(ss)");
      Array array = w.begin_array(8);
      for (const auto& [a, b] : v) {
        w.align(8);
        w.string(a);
        w.string(b);
      }
      w.end_array(array);
    }
  };
  std::visit(Visitor{*this}, value);
}

void Writer::properties(const std::vector<Property>& list) {
  Array array = begin_array(8);
  for (const Property& p : list) {
    align(8);
    string(p.name);
    variant(p.value);
  }
  end_array(array);
}

bool Reader::align(size_t n) {
  at_ = (at_ + n - 1) / n * n;
  return at_ <= bytes_.size();
}

std::optional<u8> Reader::byte() {
  if (at_ >= bytes_.size()) return std::nullopt;
  return static_cast<u8>(bytes_[at_++]);
}

std::optional<u32> Reader::u32_() {
  u32 v = 0;
  if (!align(4) || bytes_.size() - at_ < sizeof(v)) {
    at_ = bytes_.size();
    return std::nullopt;
  }
  std::memcpy(&v, bytes_.data() + at_, sizeof(v));
  at_ += sizeof(v);
  return v;
}

std::optional<std::string> Reader::string() {
  auto length = u32_();
  if (!length || *length >= bytes_.size() - at_ || bytes_[at_ + *length] != '\0') {
    at_ = bytes_.size();
    return std::nullopt;
  }
  std::string out(bytes_.substr(at_, *length));
  at_ += *length + 1;
  return out;
}

std::optional<std::string> Reader::signature() {
  auto length = byte();
  if (!length || *length >= bytes_.size() - at_ || bytes_[at_ + *length] != '\0') {
    at_ = bytes_.size();
    return std::nullopt;
  }
  std::string out(bytes_.substr(at_, *length));
  at_ += *length + 1u;
  return out;
}

std::string encode(const Message& m) {
  Writer w;
  w.byte(kLittleEndian);
  w.byte(static_cast<u8>(m.type));
  w.byte(0);
  w.byte(kVersion);
  w.u32_(static_cast<u32>(m.body.size()));
  w.u32_(m.serial);
  Writer::Array fields = w.begin_array(8);
  put_field(w, kPath, 'o', m.path);
  put_field(w, kInterface, 's', m.interface);
  put_field(w, kMember, 's', m.member);
  put_field(w, kErrorName, 's', m.error);
  put_field(w, kDestination, 's', m.destination);
  put_field(w, kSignature, 'g', m.signature);
  if (m.reply_serial != 0) {
    w.align(8);
    w.byte(kReplySerial);
    w.signature("u");
    w.u32_(m.reply_serial);
  }
  w.end_array(fields);
  w.align(8);
  return w.bytes() + m.body;
}

std::optional<size_t> message_length(std::string_view start) {
  if (start.size() < kFixedHeader) return 0;
  Reader r(start);
  auto endian = r.byte(), type = r.byte(), flags = r.byte(), version = r.byte();
  auto body = r.u32_(), serial = r.u32_(), fields = r.u32_();
  if (*endian != kLittleEndian || *version != kVersion || !type || !flags || !serial) return std::nullopt;
  if (*body > kLongest || *fields > kLongest) return std::nullopt;
  return kFixedHeader + (*fields + 7) / 8 * 8 + *body;
}

std::optional<Message> decode(std::string_view bytes) {
  auto length = message_length(bytes);
  if (!length || *length == 0 || *length != bytes.size()) return std::nullopt;
  Message m;
  Reader r(bytes);
  (void)r.byte();
  m.type = static_cast<MessageType>(*r.byte());
  (void)r.byte();
  (void)r.byte();
  u32 body = *r.u32_();
  m.serial = *r.u32_();
  size_t end = kFixedHeader + *r.u32_();
  while (r.position() < end) {
    if (!r.align(8)) return std::nullopt;
    auto field = r.byte();
    auto type = r.signature();
    if (!field || !type) return std::nullopt;
    if (*type == "u") {
      auto v = r.u32_();
      if (!v) return std::nullopt;
      if (*field == kReplySerial) m.reply_serial = *v;
      continue;
    }
    std::optional<std::string> v;
    if (*type == "s" || *type == "o")
      v = r.string();
    else if (*type == "g")
      v = r.signature();
    if (!v) return std::nullopt;
    switch (*field) {
      case kPath: m.path = std::move(*v); break;
      case kInterface: m.interface = std::move(*v); break;
      case kMember: m.member = std::move(*v); break;
      case kErrorName: m.error = std::move(*v); break;
      case kDestination: m.destination = std::move(*v); break;
      case kSignature: m.signature = std::move(*v); break;
      default: break;  // unknown fields are to be ignored
    }
  }
  m.body = bytes.substr(bytes.size() - body);
  return m;
}

}  // namespace sbx::systemd
