// RefCounted / RefPtr: intrusive shared ownership. Counts are not atomic: every object that uses them is protected by
// the kernel lock (fiber/kernel_lock.h). Use std::shared_ptr where an object crosses threads without it.
#pragma once
#include <utility>

#include "sentry/base/types.h"

namespace sbx {

class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;
  void ref() const { ++refs_; }
  void unref() const {
    if (--refs_ == 0) {
      // last_unref may resurrect (a cache keeps the object): it then has taken a reference of its own.
      const_cast<RefCounted*>(this)->last_unref();
    }
  }
  u32 ref_count() const { return refs_; }

 protected:
  virtual ~RefCounted() = default;
  virtual void last_unref() { delete this; }

 private:
  mutable u32 refs_ = 0;
};

template <typename T>
class RefPtr {
 public:
  RefPtr() = default;
  RefPtr(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  RefPtr(T* p) : p_(p) {
    if (p_) p_->ref();
  }  // NOLINT(google-explicit-constructor)
  RefPtr(const RefPtr& o) : p_(o.p_) {
    if (p_) p_->ref();
  }
  RefPtr(RefPtr&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  template <typename U>
  RefPtr(const RefPtr<U>& o) : p_(o.get()) {
    if (p_) p_->ref();
  }  // NOLINT(google-explicit-constructor)
  template <typename U>
  RefPtr(RefPtr<U>&& o) noexcept : p_(o.leak()) {}  // NOLINT(google-explicit-constructor)
  ~RefPtr() {
    if (p_) p_->unref();
  }
  RefPtr& operator=(RefPtr o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  void reset() { *this = RefPtr(); }
  T* get() const { return p_; }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_ != nullptr; }
  // Gives the reference up without dropping it.
  T* leak() { return std::exchange(p_, nullptr); }
  friend bool operator==(const RefPtr& a, const RefPtr& b) { return a.p_ == b.p_; }
  friend bool operator==(const RefPtr& a, const T* b) { return a.p_ == b; }

 private:
  T* p_ = nullptr;
};

template <typename T, typename... Args>
RefPtr<T> make_ref(Args&&... args) {
  return RefPtr<T>(new T(std::forward<Args>(args)...));
}

// Down-cast that keeps the reference; null if the object is of another type.
template <typename T, typename U>
RefPtr<T> ref_cast(const RefPtr<U>& p) {
  return RefPtr<T>(dynamic_cast<T*>(p.get()));
}

}  // namespace sbx
