#include "sentry/fiber/kernel_lock.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>

#include "sentry/base/log.h"
#include "sentry/fiber/fiber.h"
#include "sentry/fiber/scheduler.h"

namespace sbx::fiber {
namespace {

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
std::atomic<pthread_t> owner{};
std::atomic<int> waiting{0};
std::atomic<int> owner_cpu{-1};  // where it took the lock
std::function<void(bool)>& hook() {
  static auto* fn = new std::function<void(bool)>;
  return *fn;
}

// PAUSE is 40 to 140 cycles: 10 to 30 µs.
constexpr u32 kLooks = 600;

bool one_cpu() {
  static const bool one = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1;
  }();
  return one;
}

// Sections are short: some microseconds, while to sleep costs whoever is woken on another CPU 50 to 100. So look for a
// while first. Reading only: each attempt to take it would steal the line from the holder.
bool take_soon() {
  for (u32 looks = 0; looks < kLooks; ++looks) {
    if (owner.load(std::memory_order_relaxed) == pthread_t{} && pthread_mutex_trylock(&mutex) == 0) return true;
    // We took the CPU from it.
    if (owner_cpu.load(std::memory_order_relaxed) == sched_getcpu()) return false;
    __builtin_ia32_pause();
  }
  return false;
}
}  // namespace

void kernel_lock() {
  if (pthread_mutex_trylock(&mutex) != 0) {
    waiting.fetch_add(1, std::memory_order_relaxed);
    if (one_cpu() || !take_soon()) pthread_mutex_lock(&mutex);
    waiting.fetch_sub(1, std::memory_order_relaxed);
  }
  owner_cpu.store(sched_getcpu(), std::memory_order_relaxed);
  owner.store(pthread_self(), std::memory_order_relaxed);
}

bool kernel_try_lock() {
  if (pthread_mutex_trylock(&mutex) != 0) return false;
  owner_cpu.store(sched_getcpu(), std::memory_order_relaxed);
  owner.store(pthread_self(), std::memory_order_relaxed);
  return true;
}

bool kernel_lock_soon() {
  if (kernel_try_lock()) return true;
  if (one_cpu()) return false;
  waiting.fetch_add(1, std::memory_order_relaxed);
  const bool taken = take_soon();
  waiting.fetch_sub(1, std::memory_order_relaxed);
  if (!taken) return false;
  owner_cpu.store(sched_getcpu(), std::memory_order_relaxed);
  owner.store(pthread_self(), std::memory_order_relaxed);
  return true;
}

void kernel_unlock() {
  owner.store(pthread_t{}, std::memory_order_relaxed);
  pthread_mutex_unlock(&mutex);
}

bool kernel_lock_wanted() { return waiting.load(std::memory_order_relaxed) != 0; }

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
