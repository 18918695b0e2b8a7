#include "gofer/protocol/messages.h"

#include <algorithm>
#include <type_traits>

namespace sbx::gofer {

bool valid_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

const char* message_name(u32 type) {
  switch (static_cast<MessageType>(type)) {
#define FIELD(type, name)
#define MESSAGE(number, Name, request, reply) \
  case MessageType::k##Name:                  \
    return #Name;
#include "gofer/protocol/messages.def"
#undef MESSAGE
#undef FIELD
  }
  return "?";
}

namespace {

// --- how each field type is written and read; reading validates ---
// Types that are copied as they lie in memory: no padding, every bit pattern is a value.
template <typename T>
constexpr bool kPlain =
    std::is_same_v<T, Attr> || std::is_same_v<T, AttrChange> || std::is_same_v<T, Creation> ||
    std::is_same_v<T, FsStat> || std::is_same_v<T, OpenedFile> || std::is_same_v<T, u32> || std::is_same_v<T, u64>;

template <typename T>
requires kPlain<T>
void put(Encoder& e, const T& v) {
  static_assert(std::has_unique_object_representations_v<T>);
  e.raw(&v, sizeof(v));
}
template <typename T>
requires kPlain<T>
bool get(Decoder& d, T& v) { return d.raw(&v, sizeof(v)); }
void put(Encoder& e, const bool& v) { e.boolean(v); }
bool get(Decoder& d, bool& v) {
  v = d.boolean();
  return d.ok();
}
void put(Encoder& e, const std::string& v) { e.str(v); }
bool get(Decoder& d, std::string& v) {
  v = d.str();
  return d.ok();
}
bool get(Decoder& d, Name& v) {
  v = Name(d.str());
  return d.ok() && valid_name(v);
}
bool get(Decoder& d, Leaf& v) {
  v = Leaf(d.str());
  return d.ok() && (v.empty() || valid_name(v));
}
void put(Encoder& e, const Node& v) {
  put(e, v.attr);
  put(e, v.dir);
  put(e, v.target);
}
bool get(Decoder& d, Node& v) { return get(d, v.attr) && get(d, v.dir) && get(d, v.target); }
void put(Encoder& e, const DirEntry& v) {
  put(e, v.name);
  put(e, v.ino);
  put(e, v.cookie);
  e.u8v(v.type);
  put(e, v.known);
  if (v.known) put(e, v.node);
}
bool get(Decoder& d, DirEntry& v) {
  if (!get(d, v.name) || !get(d, v.ino) || !get(d, v.cookie)) return false;
  v.type = d.u8v();
  if (!get(d, v.known)) return false;
  return !v.known || get(d, v.node);
}
void put(Encoder& e, const Target& v) {
  put(e, v.dir);
  put(e, static_cast<const std::string&>(v.leaf));
  put(e, v.by_fd);
}
bool get(Decoder& d, Target& v) { return get(d, v.dir) && get(d, v.leaf) && get(d, v.by_fd); }
template <typename T>
void put(Encoder& e, const std::vector<T>& v) {
  e.u32v(static_cast<u32>(v.size()));
  for (const T& one : v) put(e, one);
}
template <typename T>
bool get(Decoder& d, std::vector<T>& v) {
  u32 n = d.u32v();
  // Grown by what is really there: a count alone must not make us allocate much.
  v.reserve(std::min<size_t>({n, d.left(), 256}));
  for (u32 i = 0; i < n; ++i) {
    T one{};
    if (!get(d, one)) return false;
    v.push_back(std::move(one));
  }
  return d.ok();
}

}  // namespace

#define FIELD(type, name) put(e, m.name);
#define MESSAGE(number, Name, request, reply)                                                   \
  void encode([[maybe_unused]] Encoder& e, [[maybe_unused]] const Name##Request& m) { request } \
  void encode([[maybe_unused]] Encoder& e, [[maybe_unused]] const Name##Reply& m) { reply }
#include "gofer/protocol/messages.def"
#undef MESSAGE
#undef FIELD

#define FIELD(type, name) \
  if (!get(d, m.name)) return false;
#define MESSAGE(number, Name, request, reply)                              \
  bool decode(std::string_view bytes, [[maybe_unused]] Name##Request& m) { \
    Decoder d(bytes);                                                      \
    request return d.at_end();                                             \
  }                                                                        \
  bool decode(std::string_view bytes, [[maybe_unused]] Name##Reply& m) {   \
    Decoder d(bytes);                                                      \
    reply return d.at_end();                                               \
  }
#include "gofer/protocol/messages.def"
#undef MESSAGE
#undef FIELD

}  // namespace sbx::gofer
