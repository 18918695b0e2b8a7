// Helpers of the file tests: bodies run on fibers under the kernel lock, as handlers do.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "sentry/fiber/fiber.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/timer_queue.h"
#include "sentry/vfs/file.h"

namespace sbx::test {

// Runs `body` on a fiber and everything it started until nothing is ready; timers are served until `body` ended.
inline void on_fiber(std::function<void()> body) {
  fiber::KernelLock lock;
  bool done = false;
  fiber::spawn([&] {
    body();
    done = true;
  });
  u64 give_up = fiber::now_ns() + 5'000'000'000ull;
  fiber::run_ready();
  while (!done && fiber::now_ns() < give_up) {
    usleep(200);
    fiber::TimerQueue::get().fire_due();
    fiber::run_ready();
  }
  ASSERT_TRUE(done) << "the test's fiber is stuck";
}

inline Result<std::string> read_some(vfs::File& file, size_t max) {
  std::string out(max, '\0');
  vfs::KernelSink sink(out.data(), max);
  auto n = file.read(sink, nullptr);
  if (!n) return n.error();
  out.resize(*n);
  return out;
}
inline Result<size_t> write_some(vfs::File& file, std::string_view bytes) {
  vfs::KernelSource source(bytes.data(), bytes.size());
  return file.write(source, nullptr);
}
// As the syscall layer: blocks.
inline Result<std::string> read_wait(vfs::File& file, size_t max) {
  return file.block_until([&] { return read_some(file, max); }, "test read");
}
inline Result<size_t> write_wait(vfs::File& file, std::string_view bytes) {
  vfs::KernelSource source(bytes.data(), bytes.size());
  while (source.left() > 0) {
    auto n = file.block_until([&] { return file.write(source, nullptr); }, "test write");
    if (!n) return bytes.size() > source.left() ? Result<size_t>(bytes.size() - source.left()) : n;
  }
  return bytes.size();
}

// An ioctl whose argument is memory of the test.
class TestIoctl final : public vfs::IoctlCaller {
 public:
  Result<void> read(u64 addr, void* to, size_t n) override {
    if (addr == 0) return Errno::kFault;
    std::memcpy(to, reinterpret_cast<void*>(addr), n);
    return {};
  }
  Result<void> write(u64 addr, const void* from, size_t n) override {
    if (addr == 0) return Errno::kFault;
    std::memcpy(reinterpret_cast<void*>(addr), from, n);
    return {};
  }
};
template <typename T>
Result<i64> ioctl(vfs::File& file, u32 cmd, T* arg) {
  TestIoctl caller;
  return file.ioctl(caller, cmd, reinterpret_cast<u64>(arg));
}
inline Result<i64> ioctl_value(vfs::File& file, u32 cmd, u64 value) {
  TestIoctl caller;
  return file.ioctl(caller, cmd, value);
}

}  // namespace sbx::test
