// Result<T>: a value or an error. Sentry code uses Result<T> (error = Errno); host-side code (runtime, oci, gofer
// start-up) uses Result<T, Failure> (errno plus a sentence). One template, two error types, no exceptions.
//
//   Result<int> f();                   return Errno::kInval;        return 3;
//   int v = TRY(f());                  TRY(g());                    return TRY(f());
//
// TRY stands alone: never inside braces or as one of several constructor arguments (elements already built would leak),
// never in a loop that has already moved bytes (the count would be lost).
#pragma once
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "sentry/base/errno.h"

namespace sbx {

// A host-side failure: what went wrong in one sentence that names the field or path, and the errno behind it if any.
struct Failure {
  Errno code = Errno::kInval;
  std::string message;

  Failure(Errno c, std::string m) : code(c), message(std::move(m)) {}
  explicit Failure(std::string m) : message(std::move(m)) {}
  // "what: No such file or directory", from the C errno of the calling thread.
  static Failure from_errno(const std::string& what) {
    Errno e = last_errno();
    return {e, what + ": " + errno_text(e)};
  }
  // Prefixes the sentence: "mounting /proc: ...".
  Failure context(const std::string& what) && { return {code, what + ": " + message}; }
};

template <typename T, typename E = Errno>
class [[nodiscard]] Result {
 public:
  using Value = T;
  using Error = E;

  Result(T value) : ok_(true) { new (&storage_.value) T(std::move(value)); }   // NOLINT(google-explicit-constructor)
  Result(E error) : ok_(false) { new (&storage_.error) E(std::move(error)); }  // NOLINT(google-explicit-constructor)
  template <typename U>
  requires(std::is_convertible_v<U, T> && !std::is_same_v<std::remove_cvref_t<U>, T> &&
           !std::is_same_v<std::remove_cvref_t<U>, E> && !std::is_same_v<std::remove_cvref_t<U>, Result>)
      Result(U&& value)
      : ok_(true) {  // NOLINT(google-explicit-constructor)
    new (&storage_.value) T(std::forward<U>(value));
  }

  Result(const Result& o) requires(std::is_trivially_copyable_v<T>&& std::is_trivially_copyable_v<E>) = default;
  Result(const Result& o) requires(std::is_copy_constructible_v<T> &&
                                   !(std::is_trivially_copyable_v<T> && std::is_trivially_copyable_v<E>))
      : ok_(o.ok_) {
    if (ok_)
      new (&storage_.value) T(o.storage_.value);
    else
      new (&storage_.error) E(o.storage_.error);
  }
  Result(Result&& o) requires(std::is_trivially_copyable_v<T>&& std::is_trivially_copyable_v<E>) = default;
  Result(Result&& o) noexcept requires(!(std::is_trivially_copyable_v<T> && std::is_trivially_copyable_v<E>))
      : ok_(o.ok_) {
    if (ok_)
      new (&storage_.value) T(std::move(o.storage_.value));
    else
      new (&storage_.error) E(std::move(o.storage_.error));
  }
  Result& operator=(Result o) noexcept {
    this->~Result();
    new (this) Result(std::move(o));
    return *this;
  }
  ~Result() requires(std::is_trivially_destructible_v<T>&& std::is_trivially_destructible_v<E>) = default;
  ~Result() {
    if (ok_)
      storage_.value.~T();
    else
      storage_.error.~E();
  }

  bool has_value() const { return ok_; }
  explicit operator bool() const { return ok_; }
  T& value() & { return storage_.value; }
  const T& value() const& { return storage_.value; }
  T&& value() && { return std::move(storage_.value); }
  T& operator*() & { return storage_.value; }
  const T& operator*() const& { return storage_.value; }
  T&& operator*() && { return std::move(storage_.value); }
  T* operator->() { return &storage_.value; }
  const T* operator->() const { return &storage_.value; }
  const E& error() const& { return storage_.error; }
  E&& error() && { return std::move(storage_.error); }
  T value_or(T other) const& { return ok_ ? storage_.value : std::move(other); }
  // Host side: prefixes the sentence of a Failure on the way up.
  Result context(const std::string& what) && {
    if (ok_) return std::move(*this);
    return std::move(storage_.error).context(what);
  }

 private:
  union Storage {
    Storage() {}
    ~Storage() requires(std::is_trivially_destructible_v<T>&& std::is_trivially_destructible_v<E>) = default;
    ~Storage() {}
    T value;
    E error;
  } storage_;
  bool ok_;
};

template <typename E>
class [[nodiscard]] Result<void, E> {
 public:
  using Value = void;
  using Error = E;

  Result() = default;
  Result(E error) : ok_(false), error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)
  bool has_value() const { return ok_; }
  explicit operator bool() const { return ok_; }
  void value() const {}
  void operator*() const {}
  const E& error() const& { return error_; }
  E&& error() && { return std::move(error_); }
  Result context(const std::string& what) && {
    if (ok_) return {};
    return std::move(error_).context(what);
  }

 private:
  static E no_error() {
    if constexpr (std::is_same_v<E, Errno>)
      return Errno::kNone;
    else
      return E(std::string());
  }
  bool ok_ = true;
  E error_ = no_error();
};

// Host-side result.
template <typename T = void>
using HostResult = Result<T, Failure>;

#define TRY(expr)                              \
  __extension__({                              \
    auto try_result_ = (expr);                 \
    if (!try_result_.has_value()) [[unlikely]] \
      return std::move(try_result_).error();   \
    std::move(try_result_).value();            \
  })

}  // namespace sbx
