#include "runtime/container/hooks.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/host/files.h"
#include "runtime/host/process.h"

namespace sbx::container {
namespace {

HostResult<void> run_hook(const oci::Hook& hook, const std::string& state_json, const std::string& cwd,
                          HookNamespaces where, i32 pid) {
  // A memfd cannot block us when the hook does not read.
  UniqueFd input(::memfd_create("state", MFD_CLOEXEC));
  if (!input) return Failure::from_errno("memfd_create");
  host::write_all(input.get(), state_json);
  ::lseek(input.get(), 0, SEEK_SET);
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) < 0) return Failure::from_errno("pipe");
  UniqueFd out_read(pipe_fds[0]), out_write(pipe_fds[1]);
  UniqueFd pidfd_of_container = where == HookNamespaces::kContainer ? host::open_pidfd(pid) : UniqueFd();

  std::vector<char*> argv, env;
  for (const std::string& a : hook.args) argv.push_back(const_cast<char*>(a.c_str()));
  if (argv.empty()) argv.push_back(const_cast<char*>(hook.path.c_str()));
  argv.push_back(nullptr);
  for (const std::string& e : hook.env) env.push_back(const_cast<char*>(e.c_str()));
  env.push_back(nullptr);

  pid_t child = ::fork();
  if (child < 0) return Failure::from_errno("fork");
  if (child == 0) {
    if (pidfd_of_container && ::setns(pidfd_of_container.get(), CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
      ::_exit(126);
    ::dup2(input.get(), 0);
    ::dup2(out_write.get(), 1);
    ::dup2(out_write.get(), 2);
    ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    if (::chdir(cwd.c_str()) < 0 && ::chdir("/") < 0) ::_exit(126);
    ::setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execve(hook.path.c_str(), argv.data(), env.data());
    ::dprintf(2, "fork/exec %s: %s", hook.path.c_str(), std::strerror(errno));
    ::_exit(127);
  }
  ::setpgid(child, child);
  out_write.reset();

  u64 end = hook.timeout_s ? host::monotonic_ms() + static_cast<u64>(*hook.timeout_s) * 1000 : 0;
  UniqueFd pidfd = host::open_pidfd(child);
  std::string output;
  bool timed_out = false;
  // A hook may leave a daemon that keeps the pipe: its own exit ends the wait.
  for (bool reading = true;;) {
    pollfd fds[2] = {{pidfd.get(), POLLIN, 0}, {reading ? out_read.get() : -1, POLLIN, 0}};
    int wait = -1;
    if (end != 0) {
      u64 now = host::monotonic_ms();
      wait = now >= end ? 0 : static_cast<int>(end - now);
    }
    int n = ::poll(fds, 2, wait);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0 && !timed_out) {
      timed_out = true;
      end = 0;
      ::kill(-child, SIGKILL);
      continue;
    }
    if (fds[1].revents != 0) {
      char buffer[4096];
      ssize_t got = ::read(out_read.get(), buffer, sizeof(buffer));
      if (got <= 0)
        reading = false;
      else if (output.size() < 16384)
        output.append(buffer, static_cast<size_t>(got));
      continue;
    }
    if (fds[0].revents != 0) break;
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (timed_out) {
    return Failure(Errno::kTimedout, "hook ran past specified timeout of " + std::to_string(*hook.timeout_s) + ".0s");
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  std::string how = WIFEXITED(status) ? "exit status " + std::to_string(WEXITSTATUS(status))
                                      : std::string("signal: ") + ::strsignal(WTERMSIG(status));
  return Failure(how + ", stdout: , stderr: " + host::trimmed(output));
}

}  // namespace

HostResult<void> run_hooks(const char* kind, const std::vector<oci::Hook>& hooks, const std::string& state_json,
                           const std::string& cwd, HookNamespaces where, i32 pid) {
  for (size_t i = 0; i < hooks.size(); ++i) {
    auto done = run_hook(hooks[i], state_json, cwd, where, pid);
    if (!done) {
      return std::move(done).error().context(std::string("error running ") + kind + " hook #" + std::to_string(i));
    }
  }
  return {};
}

}  // namespace sbx::container
