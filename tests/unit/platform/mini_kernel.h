// A kernel of twenty system calls for tests of the platform: passes files through to the host, knows processes,
// threads, wait4 and simple signals. Not a sandbox.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sentry/fiber/fiber.h"
#include "sentry/platform/platform.h"

namespace sbx::platform::test {

struct MiniAction {
  u64 handler = 0, flags = 0, restorer = 0, mask = 0;
};

struct MiniFile;

struct MiniProcess {
  i32 pid = 0, parent = 0;
  std::map<int, std::shared_ptr<MiniFile>> files;
  std::map<int, MiniAction> actions;
  int threads = 0;
  bool dead = false, reaped = false, vfork_child = false, execed = false;
  int status = 0;
  std::string exe;
};

struct MiniTask {
  std::shared_ptr<MiniProcess> process;
  std::unique_ptr<GuestThread> thread;
  i32 tid = 0;
  u64 pending = 0;
  fiber::Fiber* fiber = nullptr;
};

class MiniKernel {
 public:
  explicit MiniKernel(Platform& platform) : platform_(platform) {}
  // Starts a program as pid 1; done() is true once it ended.
  void start(const std::vector<std::string>& argv);
  bool done() const { return done_; }
  int status() const { return status_; }
  std::function<void()> on_done;
  u64 calls[512]{};
  // Sends a signal to a task (kick test).
  void signal(MiniTask& task, int signo);
  std::map<i32, std::shared_ptr<MiniTask>> tasks;

 private:
  void run(std::shared_ptr<MiniTask> task);
  void spawn(std::shared_ptr<MiniTask> task, std::vector<std::string> argv);
  Result<void> load(MiniTask& task, const std::string& path, std::vector<std::string> argv);
  // True: the entry was resumed here.
  bool syscall(std::shared_ptr<MiniTask>& task, const Entry& entry, i64& ret);
  bool clone(std::shared_ptr<MiniTask>& task, const Entry& entry, i64& ret);
  bool deliver(MiniTask& task, const Entry& entry, i64 ret);
  void end_process(MiniProcess& process, int status);
  i64 wait4(MiniTask& task, const Entry& entry);

  Platform& platform_;
  i32 next_id_ = 1;
  bool done_ = false;
  int status_ = 0;
  fiber::WaitQueue child_queue_;
  std::map<i32, std::shared_ptr<MiniProcess>> zombies_;  // all children, until reaped
};

}  // namespace sbx::platform::test
