// Argument types of the syscall table. A row's types decide how a register becomes a parameter, how strace prints it,
// and what `sbx syscalls` says. A handler is `Result<i64> sys_<name>(Task&, <types of its row>...)`.
#pragma once
#include <string>
#include <type_traits>

#include "sentry/base/result.h"
#include "sentry/task/task.h"

namespace sbx::syscalls {

using task::Task;

struct Fd {
  i32 n;
};
struct DirFd {
  i32 n;
};                 // AT_FDCWD or a descriptor
struct UserPath {  // NUL-terminated path in guest memory
  u64 addr;
  // kFault, kNametoolong (PATH_MAX). Empty strings are the caller's business.
  Result<std::string> read(Task& task) const { return task.memory().read_string(addr, 4095); }
};
struct UserString {
  u64 addr;
};  // NUL-terminated, not a path (xattr names, hostnames)
struct InBuf {
  u64 addr;
};  // guest buffer the kernel reads; its length is another argument
struct OutBuf {
  u64 addr;
};  // guest buffer the kernel fills
struct UserAddr {
  u64 addr;
};  // an address that is not followed here (mmap, brk)
struct Mode {
  u32 bits;
};
struct OpenFlags {
  u32 bits;
};
struct Signo {
  i32 n;
};
struct Pid {
  i32 n;
};
struct Hex {
  u64 v;
};  // flags without a printer of their own
using Int = i32;
using UInt = u32;
using Long = i64;
using ULong = u64;
using Size = u64;
using Off = i64;

// Typed pointers with a direction: reading through an Out does not compile. Null is the handler's business.
template <typename T>
struct In {
  u64 addr;
  bool null() const { return addr == 0; }
  Result<T> read(Task& task) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    TRY(task.memory().read(addr, &value, sizeof(T)));
    return value;
  }
  Result<T> read_at(Task& task, u64 index) const { return In{addr + index * sizeof(T)}.read(task); }
};
template <typename T>
struct Out {
  u64 addr;
  bool null() const { return addr == 0; }
  // T must have no uninitialised padding: zero it when made.
  Result<void> write(Task& task, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    return task.memory().write(addr, &value, sizeof(T));
  }
};
template <typename T>
struct InOut {
  u64 addr;
  bool null() const { return addr == 0; }
  Result<T> read(Task& task) const { return In<T>{addr}.read(task); }
  Result<void> write(Task& task, const T& value) const { return Out<T>{addr}.write(task, value); }
};
// A counted array in guest memory (iovec, pollfd).
template <typename T>
struct Array {
  u64 addr;
};

// Register -> parameter.
template <typename T>
T from_register(u64 reg) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(reg);
  else if constexpr (sizeof(T) == 4)
    return T{static_cast<decltype(T::n)>(reg)};
  else
    return T{reg};
}
template <>
inline Mode from_register<Mode>(u64 reg) {
  return Mode{static_cast<u32>(reg)};
}
template <>
inline OpenFlags from_register<OpenFlags>(u64 reg) {
  return OpenFlags{static_cast<u32>(reg)};
}

// Cost class: the most a call may do (docs/adding_a_syscall.md). Debug builds check it.
enum class Cost : u8 {
  kNative,  // answered in the stub; the sentry sees only what the stub passes on
  kFast,    // touches this task only
  kLocal,   // touches kernel objects
  kHost,    // makes host system calls
  kGofer,   // asks the gofer and waits for its answer
  kBlock,   // may wait for something the guest controls; signals interrupt it
};
enum class Support : u8 { kFull, kPartial, kRefused };

}  // namespace sbx::syscalls
