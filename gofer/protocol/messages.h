// The messages of the rootfs protocol as structs, generated from messages.def, and their codec.
#pragma once
#include <string_view>

#include "gofer/protocol/types.h"
#include "sentry/base/codec.h"
#include "sentry/base/result.h"

namespace sbx::gofer {

enum class MessageType : u32 {
#define FIELD(type, name)
#define MESSAGE(number, Name, request, reply) k##Name = number,
#include "gofer/protocol/messages.def"
#undef MESSAGE
#undef FIELD
};

#define FIELD(type, name) type name{};
#define MESSAGE(number, Name, request, reply)                          \
  struct Name##Reply {                                                 \
    reply                                                              \
  };                                                                   \
  struct Name##Request {                                               \
    using Reply = Name##Reply;                                         \
    static constexpr MessageType kType = MessageType::k##Name;         \
    request                                                            \
  };                                                                   \
  void encode(Encoder& e, const Name##Request& m);                     \
  void encode(Encoder& e, const Name##Reply& m);                       \
  /* False: malformed (short, trailing bytes, a bad name). */          \
  [[nodiscard]] bool decode(std::string_view bytes, Name##Request& m); \
  [[nodiscard]] bool decode(std::string_view bytes, Name##Reply& m);
#include "gofer/protocol/messages.def"
#undef MESSAGE
#undef FIELD

// "Lookup"; "?" for an unknown number.
const char* message_name(u32 type);
// A single path component that may be looked up.
bool valid_name(std::string_view name);

}  // namespace sbx::gofer
