#include "gofer/server/helper.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sbx::gofer {
namespace {

constexpr size_t kChunk = 4;
constexpr u32 kSpins = 1000;

void wait(std::atomic<u32>& word, u32 value) { syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr); }
void wake(std::atomic<u32>& word) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1); }

}  // namespace

HostResult<void> Helper::start() {
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, 256 * 1024);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  int error = pthread_create(
      &thread, &attr,
      [](void* p) -> void* {
        static_cast<Helper*>(p)->serve();
        return nullptr;
      },
      this);
  pthread_attr_destroy(&attr);
  if (error != 0) return Failure(static_cast<Errno>(error), "starting the gofer's helper thread");
  // Its first system calls are the C library's.
  while (up_.load() == 0) wait(up_, 0);
  return {};
}

void Helper::take_share() {
  for (;;) {
    size_t at = next_.fetch_add(kChunk);
    if (at >= n_) return;
    for (size_t i = at; i < at + kChunk && i < n_; ++i) (*item_)(i);
  }
}

void Helper::serve() {
  up_.store(1);
  wake(up_);
  u32 seen = 0;
  for (;;) {
    u32 now = calls_.load();
    if (now == seen) {
      wait(calls_, seen);
      continue;
    }
    seen = now;
    working_.store(1);
    if (open_.load() != 0) take_share();
    working_.store(0);
    wake(working_);
  }
}

void Helper::each(size_t n, const std::function<void(size_t)>& item) {
  n_ = n;
  item_ = &item;
  next_.store(0);
  if (up_.load() != 0) {
    open_.store(1);
    calls_.fetch_add(1);
    wake(calls_);
  }
  take_share();
  open_.store(0);
  // It is in the middle of its last items, or not at all: then it finds the loop closed.
  for (u32 spins = 0; working_.load() != 0; ++spins) {
    if (spins < kSpins)
      __builtin_ia32_pause();
    else
      wait(working_, 1);
  }
}

}  // namespace sbx::gofer
