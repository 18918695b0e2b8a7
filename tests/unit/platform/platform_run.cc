// Runs a static program under the platform with the mini kernel: platform_run [--no-patch] [--no-spin] PROGRAM [ARG...]
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <thread>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/reactor.h"
#include "tests/unit/platform/mini_kernel.h"

namespace sbx::platform::test {
namespace {

int sentry_main(int argc, char** argv) {
  log_init(2, LogFormat::kText, getenv("SBX_DEBUG") != nullptr ? LogLevel::kDebug : LogLevel::kWarning);
  PlatformOptions options;
  options.uid = options.gid = getuid() == 0 && getenv("SBX_KEEP_ROOT") == nullptr ? 65534 : ~0u;
  bool stats = false;
  int i = 1;
  for (; i < argc && argv[i][0] == '-'; ++i) {
    if (strcmp(argv[i], "--no-patch") == 0) options.patch = false;
    if (strcmp(argv[i], "--no-spin") == 0) options.spin = false;
    if (strcmp(argv[i], "--stats") == 0) stats = true;
  }
  if (auto ready = fiber::reactor_init(); !ready) {
    fprintf(stderr, "%s\n", ready.error().message.c_str());
    return 125;
  }
  auto platform = Platform::create(options);
  if (!platform) {
    fprintf(stderr, "platform: %s\n", platform.error().message.c_str());
    return 125;
  }
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, nullptr);
  MiniKernel kernel(**platform);
  int status = -1;
  kernel.on_done = [&] {
    status = kernel.status();
    if (stats) {
      fputs((*platform)->debug_state().c_str(), stderr);
      for (const Counter* c : Counter::all()) {
        if (c->value() != 0) fprintf(stderr, "%-28s %llu\n", c->name(), (unsigned long long)c->value());
      }
    }
    fflush(nullptr);
    _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  };
  {
    fiber::KernelLock lock;
    kernel.start(std::vector<std::string>(argv + i, argv + argc));
    fiber::run_ready();
  }
  std::thread reactor([] { fiber::reactor_run(); });
  std::thread reaper([&] {
    for (;;) {
      siginfo_t info{};
      if (waitid(P_ALL, 0, &info, WEXITED | __WALL) != 0) {
        usleep(1000);
        continue;
      }
      fiber::KernelLock lock;
      (*platform)->host_child_exited(info.si_pid, info.si_status);
      fiber::run_ready();
    }
  });
  (*platform)->run();
  return 0;
}

}  // namespace
}  // namespace sbx::platform::test

int main(int argc, char** argv) {
  // The sentry is the init of a pid namespace; everything dies with it.
  if (unshare(CLONE_NEWPID) != 0) {
    perror("unshare");
    return 125;
  }
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(sbx::platform::test::sentry_main(argc, argv));
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
