// The kernel lock and the scope that drops it (docs/decisions/0001-kernel-lock.md).
#pragma once
#include <functional>

#include "sentry/base/types.h"

namespace sbx::fiber {

class Fiber;

void kernel_lock();
void kernel_unlock();
// Takes it if it is free.
bool kernel_try_lock();
// Takes it if it becomes free within some microseconds: does not sleep.
bool kernel_lock_soon();
bool kernel_locked_by_me();
// Another thread waits for it.
bool kernel_lock_wanted();

class KernelLock {
 public:
  KernelLock() { kernel_lock(); }
  ~KernelLock() { kernel_unlock(); }
  KernelLock(const KernelLock&) = delete;
  KernelLock& operator=(const KernelLock&) = delete;
};

// Scope inside fiber code in which the host thread may block: drops the kernel lock on entry, takes it again on exit.
// If this thread is the receiver, a spare worker receives in its place meanwhile. State read before the scope must be
// read again after it. Never hold a reference into a container that another fiber may change.
class HostBlock {
 public:
  HostBlock();
  ~HostBlock();
  HostBlock(const HostBlock&) = delete;
  HostBlock& operator=(const HostBlock&) = delete;

 private:
  Fiber* fiber_;  // the fiber that blocks; another one is current meanwhile
};

// Set once by the platform: called before (true) and after (false) a host-blocking scope on the receiver's thread.
void set_host_block_hook(std::function<void(bool entering)> hook);

}  // namespace sbx::fiber
