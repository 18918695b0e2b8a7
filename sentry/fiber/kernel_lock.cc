#include "sentry/fiber/kernel_lock.h"

#include <pthread.h>

#include <atomic>

#include "sentry/base/log.h"
#include "sentry/fiber/fiber.h"
#include "sentry/fiber/scheduler.h"

namespace sbx::fiber {
namespace {

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
std::atomic<pthread_t> owner{};
std::function<void(bool)>& hook() {
  static auto* fn = new std::function<void(bool)>;
  return *fn;
}
}  // namespace

void kernel_lock() {
  pthread_mutex_lock(&mutex);
  owner.store(pthread_self(), std::memory_order_relaxed);
}

void kernel_unlock() {
  owner.store(pthread_t{}, std::memory_order_relaxed);
  pthread_mutex_unlock(&mutex);
}

bool kernel_locked_by_me() { return owner.load(std::memory_order_relaxed) == pthread_self(); }

void set_host_block_hook(std::function<void(bool)> fn) { hook() = std::move(fn); }

HostBlock::HostBlock() : fiber_(current()) {
  if (hook()) hook()(true);
  set_current(nullptr);
  kernel_unlock();
}

HostBlock::~HostBlock() {
  kernel_lock();
  set_current(fiber_);
  if (hook()) hook()(false);
}

}  // namespace sbx::fiber
