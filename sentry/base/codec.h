// Encoder/Decoder: little-endian byte strings for our own messages (boot config, control socket, gofer protocol).
// A Decoder never trusts its input: after the first short read every further value is zero/empty and ok() is false.
#pragma once
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/types.h"

namespace sbx {

class Encoder {
 public:
  void u8v(u8 v) { raw(&v, 1); }
  void u32v(u32 v) { raw(&v, 4); }
  void u64v(u64 v) { raw(&v, 8); }
  void i64v(i64 v) { raw(&v, 8); }
  void boolean(bool v) { u8v(v ? 1 : 0); }
  void str(std::string_view s) {
    u32v(static_cast<u32>(s.size()));
    raw(s.data(), s.size());
  }
  void strs(const std::vector<std::string>& v) {
    u32v(static_cast<u32>(v.size()));
    for (const auto& s : v) str(s);
  }
  void raw(const void* p, size_t n) { out_.append(static_cast<const char*>(p), n); }
  const std::string& bytes() const { return out_; }
  std::string take() { return std::move(out_); }
  void clear() { out_.clear(); }

 private:
  std::string out_;
};

class Decoder {
 public:
  explicit Decoder(std::string_view in) : in_(in) {}
  u8 u8v() { return get<u8>(); }
  u32 u32v() { return get<u32>(); }
  u64 u64v() { return get<u64>(); }
  i64 i64v() { return get<i64>(); }
  bool boolean() { return u8v() != 0; }
  std::string_view view() {
    u32 n = u32v();
    if (n > in_.size()) {
      fail();
      return {};
    }
    std::string_view s = in_.substr(0, n);
    in_.remove_prefix(n);
    return s;
  }
  std::string str() { return std::string(view()); }
  std::vector<std::string> strs() {
    u32 n = u32v();
    std::vector<std::string> v;
    for (u32 i = 0; i < n && ok_; ++i) v.push_back(str());
    return v;
  }
  bool raw(void* p, size_t n) {
    if (n > in_.size()) {
      fail();
      std::memset(p, 0, n);
      return false;
    }
    std::memcpy(p, in_.data(), n);
    in_.remove_prefix(n);
    return true;
  }
  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && in_.empty(); }
  size_t left() const { return in_.size(); }

 private:
  template <typename T>
  T get() {
    T v{};
    raw(&v, sizeof(v));
    return v;
  }
  void fail() {
    ok_ = false;
    in_ = {};
  }
  std::string_view in_;
  bool ok_ = true;
};

}  // namespace sbx
