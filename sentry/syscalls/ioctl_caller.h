// How an ioctl of a file reaches the memory of the task that made the call.
#pragma once
#include "sentry/syscalls/args.h"

namespace sbx::syscalls {

class IoctlDoor final : public vfs::IoctlCaller {
 public:
  explicit IoctlDoor(Task& task) : task_(task) {}
  Result<void> read(u64 addr, void* to, size_t n) override { return task_.memory().read(addr, to, n); }
  Result<void> write(u64 addr, const void* from, size_t n) override { return task_.memory().write(addr, from, n); }

 private:
  Task& task_;
};

}  // namespace sbx::syscalls
