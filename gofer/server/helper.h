// A second thread that takes a share of a loop over independent items while a CPU is free for it.
#pragma once
#include <atomic>
#include <functional>

#include "sentry/base/result.h"
#include "sentry/base/types.h"

namespace sbx::gofer {

class Helper {
 public:
  Helper() = default;
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;
  // Until the process ends. Before the filter is loaded, which knows no new threads.
  HostResult<void> start();
  // Calls item(0) to item(n - 1), some of them on the other thread, and returns when all are done. One caller at a
  // time; without start() all on this thread.
  void each(size_t n, const std::function<void(size_t)>& item);

 private:
  void serve();
  void take_share();
  std::atomic<u32> up_{0};
  std::atomic<u32> calls_{0};    // the helper sleeps on it
  std::atomic<u32> open_{0};     // what follows is a loop that is under way
  std::atomic<u32> working_{0};  // the helper looks at it
  std::atomic<size_t> next_{0};
  size_t n_ = 0;
  const std::function<void(size_t)>* item_ = nullptr;
};

}  // namespace sbx::gofer
