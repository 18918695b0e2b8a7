// The sentry's start: privileges down, platform up, mounts, filter, then the loops that serve until init ends.
#include "sentry/main.h"

#include <grp.h>
#include <linux/capability.h>
#include <malloc.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "gofer/protocol/channel.h"
#include "sentry/base/descriptors.h"
#include "sentry/base/log.h"
#include "sentry/containers.h"
#include "sentry/control/filter.h"
#include "sentry/control/server.h"
#include "sentry/control/terminal.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/reactor.h"
#include "sentry/fs/host/host_file.h"
#include "sentry/net/inet_posts.h"
#include "sentry/platform/outbox.h"
#include "sentry/syscalls/table.h"
#include "sentry/task/kernel.h"

namespace sbx {

namespace {

using control::BootConfig;

constexpr u32 kNobody = 65534;

// Everything of the process itself that a container's kernel does not need goes away. With a user namespace of our own
// we are its root already and only drop the capabilities.
HostResult<void> drop_privileges() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Failure::from_errno("no_new_privs");
  if (getuid() == 0 && setgroups(0, nullptr) == 0) {
    if (setresgid(kNobody, kNobody, kNobody) == 0 && setresuid(kNobody, kNobody, kNobody) != 0) {
      return Failure::from_errno("giving up root");
    }
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (syscall(SYS_capset, &header, none) != 0) return Failure::from_errno("dropping capabilities");
  // Stubs inherit it: process_vm_readv needs a dumpable target.
  if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0) return Failure::from_errno("dumpable");
  return {};
}

constexpr u32 kDescriptors = 4096;  // the table takes 32 KiB
constexpr useconds_t kReapDelayUs = 1000;
constexpr u32 kReapTries = 10;

struct Sentry {
  RefPtr<control::Container> container = make_ref<control::Container>();
  std::shared_ptr<gofer::Client> gofer;
  UniqueFd signals, child_signals;
  fiber::HostWatch signal_watch;
};

void join_guest_cgroup(const BootConfig& config, i32 pid) {
  std::string text = std::to_string(pid);
  for (i32 fd : config.guest_cgroup_fds) {
    if (write(fd, text.data(), text.size()) < 0) LOG_WARNING("guest cgroup: %s", errno_text(last_errno()));
    close(fd);
  }
}

// SIGWINCH: the host's terminal. What a process outside sends to ours, which engines know as the container's init, is
// meant for the guest's; job control of the host's terminal is only kept from stopping us.
void on_signals(Sentry& sentry) {
  signalfd_siginfo info{};
  bool window = false;
  while (read(sentry.signals.get(), &info, sizeof(info)) == sizeof(info)) {
    window |= info.ssi_signo == SIGWINCH;
    static constexpr u32 kPassed[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    bool passed = std::find(std::begin(kPassed), std::end(kPassed), info.ssi_signo) != std::end(kPassed);
    if (passed && info.ssi_code <= 0) control::signal_init(*sentry.container, static_cast<int>(info.ssi_signo));
  }
  if (window) control::host_window_changed();
}

// Stubs that ended, on a thread of its own. Nobody waits for it: the guest's parent has heard of the end before. So it
// takes many at once, and with SCHED_BATCH its wake-up does not take the CPU from whoever just works for the guest.
[[noreturn]] void reap_stubs(int signals) {
  for (;;) {
    signalfd_siginfo info{};
    if (read(signals, &info, sizeof(info)) < 0) continue;
    // Not while somebody works for the guest: to be woken for the lock, and again, would take his CPU after all.
    bool locked = false;
    for (u32 tries = 0; tries < kReapTries && !locked; ++tries) {
      usleep(kReapDelayUs);
      locked = fiber::kernel_try_lock();
    }
    if (!locked) fiber::kernel_lock();
    for (;;) {
      int status = 0;
      pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);
      if (pid <= 0) break;
      task::kernel().platform->host_child_exited(pid, status);
    }
    fiber::run_ready();
    fiber::kernel_unlock();
  }
}

void start_reaper(Sentry& sentry) {
  const sched_param none{};
  // Before the filter, which knows no change of policy: a new thread has its maker's.
  bool batch = sched_setscheduler(0, SCHED_BATCH, &none) == 0;
  std::thread([fd = sentry.child_signals.get()] { reap_stubs(fd); }).detach();
  if (batch && sched_setscheduler(0, SCHED_OTHER, &none) != 0) LOG_WARNING("the reactor stays in SCHED_BATCH");
}

[[noreturn]] void finish(i32 status) {
  platform::Outbox::take_all_there_is();
  net::InetPosts::drain(2000);
  control::drain_terminals(2000);
  fs::host::drain(2000);
  _exit(status);
}

// On a fiber, before the filter: the mount tree, and whether init's command exists.
HostResult<void> boot_on_fiber(Sentry& sentry) {
  task::Kernel& kernel = task::kernel();
  kernel.boot_time_ns = fiber::now_ns();
  kernel.dispatch = &syscalls::dispatch;
  kernel.finish_file_read = &syscalls::finish_file_read;
  kernel.on_init_exit = [](i32 wait_status) { finish(control::exit_status_of(wait_status)); };
  return set_up_container(*sentry.container, sentry.gofer);
}

HostResult<void> boot(Sentry& sentry) {
  BootConfig& config = sentry.container->config;
  sentry.container->finish = [](i32 status) { finish(status); };
  sentry.container->kernel = task::kernel().container;
  raise_descriptor_limit();
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t mask;
  sigemptyset(&mask);
  sigset_t child_mask;
  sigemptyset(&child_mask);
  sigaddset(&child_mask, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &child_mask, nullptr) != 0) return Failure::from_errno("blocking signals");
  sentry.child_signals.reset(signalfd(-1, &child_mask, SFD_CLOEXEC));
  for (int s : {SIGWINCH, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU}) {
    sigaddset(&mask, s);
  }
  if (sigprocmask(SIG_BLOCK, &mask, nullptr) != 0) return Failure::from_errno("blocking signals");
  sentry.signals.reset(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!sentry.signals || !sentry.child_signals) return Failure::from_errno("signalfd");
  TRY(fiber::reactor_init());
  TRY(drop_privileges());
  platform::PlatformOptions options;
  options.report_all_syscalls = config.strace;
  options.on_template = [&config](i32 pid) { join_guest_cgroup(config, pid); };
  task::kernel().platform = TRY(platform::Platform::create(options));
  make_room_for_descriptors(kDescriptors);
  std::unique_ptr<gofer::Client> client = TRY(gofer::Client::connect(UniqueFd(config.gofer_fd)));
  sentry.gofer = std::move(client);
  // A terminal is one descriptor, named three times.
  for (int i = 0; i < (config.process.terminal ? 1 : 3); ++i)
    sentry.container->init_streams.fd[i].reset(config.stdio[i].fd);
  for (i32 fd : config.extra_fds) sentry.container->init_streams.extra.emplace_back(fd);
  if (config.strace) syscalls::strace_start(config.log_fd >= 0 ? config.log_fd : 2, config.strace_filter);

  HostResult<void> result;
  fiber::KernelLock lock;
  fiber::spawn([&] { result = boot_on_fiber(sentry); });
  fiber::run_ready();
  TRY(std::move(result));
  auto watched = sentry.signal_watch.watch(sentry.signals.get(), EPOLLIN, [&sentry](u32) { on_signals(sentry); });
  if (!watched) return Failure("signalfd cannot be watched");
  return {};
}

}  // namespace

int sentry_main(int boot_fd) {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TOP_PAD, 256 * 1024);
  auto config = control::read_boot_config(boot_fd);
  if (!config) {
    log_init(2, LogFormat::kText, LogLevel::kError);
    LOG_ERROR("%s", config.error().message.c_str());
    return 1;
  }
  close(boot_fd);
  auto* sentry = new Sentry;  // until the process ends
  sentry->container->config = std::move(*config);
  BootConfig& boot_config = sentry->container->config;
  log_init(boot_config.log_fd, static_cast<LogFormat>(boot_config.log_format),
           boot_config.debug ? LogLevel::kDebug : static_cast<LogLevel>(boot_config.log_level));
  int sync_fd = boot_config.sync_fd;
  auto fail = [&](const std::string& text) {
    control::send_boot_report(sync_fd, {.ready = false, .text = text});
    return 1;
  };
  if (auto booted = boot(*sentry); !booted) return fail(booted.error().message);
  std::thread receiver([] { task::kernel().platform->run(); });
  receiver.detach();
  start_reaper(*sentry);
  if (auto loaded =
          control::load_sentry_filter(boot_config.host_sockets != control::HostSockets::kNone, boot_config.raw_sockets);
      !loaded)
    return fail(loaded.error().message);
  {
    fiber::KernelLock lock;
    if (auto serving = control::serve_control(*sentry->container, &join_container); !serving)
      return fail(serving.error().message);
    fiber::run_ready();
  }
  control::send_boot_report(sync_fd, {.ready = true, .text = ""});
  close(sync_fd);
  fiber::reactor_run();
  return 1;
}

}  // namespace sbx
