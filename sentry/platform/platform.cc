// Receiving and handing out requests, stub processes, their death.
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <cstring>
#include <system_error>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/reactor.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

COUNTER(notifications, "platform.doorbells", "requests by doorbell");
COUNTER(tier0_calls, "platform.tier0", "calls answered in the stub (threads that ended)");
COUNTER(traps, "platform.traps", "calls that came by SIGSYS (threads that ended)");
COUNTER(patched_calls, "platform.patched_calls", "calls that came by a patched site (threads that ended)");
COUNTER(patches, "platform.patches", "sites patched (threads that ended)");
COUNTER(unpatchable, "platform.unpatchable", "sites that stay on the trap (threads that ended)");
COUNTER(spun, "platform.spun", "requests answered to a spinning stub (threads that ended)");
COUNTER(reactor_events, "platform.reactor_events", "batches of the reactor's events served by the receiver");
COUNTER(orphans, "platform.orphans_killed", "unknown stubs that rang and were killed");

constexpr u32 kMaxSpares = 3;
const int kStopSignal = SIGRTMIN;  // of ours alone: what comes from outside is the guest's
// So many doorbells in a row without an event: the reactor's thread may have its work back.
constexpr u32 kBellsAlone = 200;
// The same where it was taken only because its thread did not get the lock.
constexpr u32 kBellsAloneAfterWait = 8;

thread_local bool receives = false;
__attribute__((noinline)) void set_receive(bool value) { receives = value; }

}  // namespace

// Not inline: fibers change threads' stacks, a cached address of a thread-local would be another thread's.
__attribute__((noinline)) bool i_receive() { return receives; }

PlatformImpl::~PlatformImpl() {
  fiber::set_host_block_hook(nullptr);
  end_maker();
  for (auto& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
  zygotes_.clear();
  making_.reset();
  template_.reset();
}

// ---- notifications ----

bool PlatformImpl::receive(Notification& out) {
  seccomp_notif request;
  memset(&request, 0, sizeof(request));
  if (ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &request) != 0) return false;
  out = {request.id, static_cast<i32>(request.pid), request.data.args[0], request.data.args[1]};
  return true;
}

bool PlatformImpl::answer(u64 notif) {
  seccomp_notif_resp response{};
  response.id = notif;
  return ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &response) == 0;
}

int PlatformImpl::add_fd(u64 notif, int fd, int number) {
  if (notif == 0) return -ENOENT;
  seccomp_notif_addfd request{};
  request.id = notif;
  request.srcfd = static_cast<u32>(fd);
  if (number >= 0) {
    request.flags = SECCOMP_ADDFD_FLAG_SETFD;
    request.newfd = static_cast<u32>(number);
  }
  int ret = ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_ADDFD, &request);
  return ret < 0 ? -errno : ret;
}

void PlatformImpl::bind(HostThread& thread, i32 tid) {
  by_cookie.erase(thread.cookie);
  thread.parent_area = nullptr;
  thread.tid = tid;
  by_tid[tid] = &thread;
  tell_of_room();
  Process& process = *thread.process;
  if (process.host_pid_ == 0) {
    process.host_pid_ = tid;
    by_pid[tid] = &process;
    if (process.dead && ::kill(tid, SIGKILL) != 0) LOG_DEBUG("host process %d is gone already", tid);
  }
}

void PlatformImpl::forget(HostThread& thread) {
  if (auto it = by_tid.find(thread.tid); it != by_tid.end() && it->second == &thread) by_tid.erase(it);
  tell_of_room();
  if (auto it = by_cookie.find(thread.cookie); it != by_cookie.end() && it->second == &thread) by_cookie.erase(it);
}

void PlatformImpl::handle(const Notification& n) {
  notifications.add();
  woken_ = 0;
  HostThread* thread = nullptr;
  if (auto known = by_tid.find(n.pid); known != by_tid.end()) thread = known->second;
  if (thread == nullptr || static_cast<RequestKind>(n.kind) == RequestKind::kBind) {
    auto waiting = static_cast<RequestKind>(n.kind) == RequestKind::kBind ? by_cookie.find(n.cookie) : by_cookie.end();
    if (waiting != by_cookie.end()) {
      if (thread != nullptr) {  // the host gave the tid of a thread that ended by itself to a new one
        HostThread* old = thread;
        forget(*old);
        if (old->guest != nullptr) old->guest->lost();
      }
      thread = waiting->second;
      bind(*thread, n.pid);
    } else if (thread == nullptr) {
      if (!leaving_.empty()) {  // most likely a thread of such a process: it ends with it
        bool walker = false;
        for (const auto& [pid, leaving] : leaving_) walker |= leaving.walker == n.pid;
        if (walker)
          answer(n.id);
        else
          strangers_.push_back(n.pid);
        return;
      }
      if (static_cast<RequestKind>(n.kind) != RequestKind::kBind && left_cookies().erase(n.cookie) != 0) {
        answer(n.id);
        return;
      }
      orphans.add();
      if (::kill(n.pid, SIGKILL) != 0) LOG_DEBUG("orphan %d is gone already", n.pid);
      answer(n.id);
      return;
    }
  }
  Slot& slot = thread->slot();
  if (thread->where == Where::kSentry) {
    thread->notif = n.id;  // its spin ran out, or its doorbell was interrupted
    if (thread->guest != nullptr) thread->guest->rang();
    return;
  }
  if (thread->where == Where::kGone || __atomic_load_n(&slot.state, __ATOMIC_SEQ_CST) != kStateRequest) {
    answer(n.id);
    return;
  }
  thread->where = Where::kSentry;
  thread->notif = n.id;
  note_request(*thread);
  dispatch(*thread);
}

void PlatformImpl::dispatch(HostThread& thread) {
  auto kind = thread.slot().kind;
  switch (thread.role) {
    case Role::kGuest:
      if (thread.guest != nullptr) thread.guest->on_request();
      return;
    case Role::kTemplate: on_template_request(kind); return;
    case Role::kZygote: on_zygote_request(thread, kind); return;
  }
}

// ---- death ----

void PlatformImpl::bury(Process& process) {
  RefPtr<Process> keep(&process);
  process.kill();
  auto threads = process.threads;
  for (HostThread* thread : threads) {
    forget(*thread);
    if (thread->role == Role::kGuest && thread->where != Where::kGone) collect_counters(thread->slot());
    thread->where = Where::kGone;
    if (thread->guest != nullptr) thread->guest->lost();
    if (thread->waiter != nullptr) thread->waiter->wake();
  }
}

void PlatformImpl::keep_child_tids(HostThread& parent) {
  i32 tid = static_cast<i32>(__atomic_load_n(&parent.slot().native_child_tid, __ATOMIC_SEQ_CST));
  if (tid == 0) return;
  for (auto& [cookie, child] : by_cookie) {
    if (child->parent_area != parent.process->area || child->parent_index != parent.index) continue;
    if (child->native_tid == 0) child->native_tid = tid;
  }
}

void PlatformImpl::child_failed(HostThread& parent) {
  std::vector<HostThread*> children;
  for (auto& [cookie, child] : by_cookie) {
    bool made_before = child->native_tid != 0;
    if (child->parent_area == parent.process->area && child->parent_index == parent.index && !made_before) {
      children.push_back(child);
    }
  }
  for (HostThread* child : children) {
    child->process->dead = child->process->dead || child->process->host_pid_ == 0;
    if (child->guest != nullptr) child->guest->lost();
  }
}

void PlatformImpl::host_child_exited(i32 pid, i32 wait_status) {
  (void)wait_status;
  left(pid);
  if (auto it = by_pid.find(pid); it != by_pid.end()) {
    RefPtr<Process> process(it->second);
    process->reaped = true;
    by_pid.erase(it);
    bury(*process);
    if (template_ && template_->process == process) LOG_ERROR("the template stub died");
    std::erase_if(zygotes_, [&](const auto& zygote) { return zygote->process == process; });
  }
  // Children that died before they bound, and children that a dead parent never made.
  std::vector<HostThread*> gone;
  for (auto& [cookie, child] : by_cookie) {
    if (!child->parent_area) continue;
    i32 native = child->native_tid;
    if (native == 0) native = static_cast<i32>(child->parent_area->slot(child->parent_index).native_child_tid);
    if (native == pid || (child->parent_pid == pid && native == 0)) gone.push_back(child);
  }
  for (HostThread* child : gone) {
    forget(*child);
    child->process->dead = child->process->dead || child->process->host_pid_ == 0;
    child->where = Where::kGone;
    if (child->guest != nullptr) child->guest->lost();
    if (child == making_.get()) {
      making_.reset();
      ++zygotes_failed_;
      zygote_queue_.wake_all();
    }
  }
}

// ---- workers ----

void PlatformImpl::host_block(bool entering) {
  if (!entering || !i_receive()) return;
  end_polling();
  if (holds_reactor_) {  // there may be nobody to receive for long
    holds_reactor_ = false;
    fiber::reactor_hold(false);
  }
  set_receive(false);
  std::lock_guard guard(turn_lock_);
  turn_taken_ = false;
  if (spares_ == 0 && threads_.size() < kMaxSpares) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {  // a limit of the host's; requests wait until this thread is back
      LOG_WARNING("no spare thread to receive requests: %s", error.what());
    }
  }
  turn_.notify_one();
}

// Before a receive that may wait. While the reactor's events come often they are served here, between doorbells. False:
// look again whether we still receive.
bool PlatformImpl::await_bell() {
  if (!holds_reactor_) {
    const bool waits = fiber::reactor_waits();
    if (!waits && !fiber::reactor_is_hot()) return true;
    fiber::reactor_hold(true);
    holds_reactor_ = true;
    most_bells_alone_ = waits ? kBellsAloneAfterWait : kBellsAlone;
    bells_alone_ = 0;
  }
  pollfd waiting[2] = {{listener_.get(), POLLIN, 0}, {fiber::reactor_fd(), POLLIN, 0}};
  if (::poll(waiting, 2, -1) <= 0) return false;
  if (waiting[1].revents != 0) {
    reactor_events.add();
    fiber::KernelLock lock;
    bells_alone_ = woken_ = 0;
    fiber::reactor_serve();
    poll_slots();
    end_round();
    // What rang meanwhile can be received without another look: a receive never waits for what poll(2) has told of,
    // even if its task is gone by now (ENOENT).
    return i_receive() && (waiting[0].revents & POLLIN) != 0;
  }
  if (++bells_alone_ >= most_bells_alone_) {
    holds_reactor_ = false;
    fiber::reactor_hold(false);
  }
  return true;
}

void PlatformImpl::work() {
  {
    std::lock_guard guard(turn_lock_);
    handles_.push_back(pthread_self());
    ++working_;
  }
  while (!stopping_.load(std::memory_order_acquire)) {
    {
      std::unique_lock guard(turn_lock_);
      ++spares_;
      turn_.wait(guard, [this] { return !turn_taken_ || stopping_.load(std::memory_order_acquire); });
      --spares_;
      turn_taken_ = true;
    }
    set_receive(true);
    while (i_receive() && !stopping_.load(std::memory_order_acquire)) {
      Notification n{};
      if (!await_bell() || !receive(n)) continue;
      fiber::KernelLock lock;
      handle(n);
      fiber::run_ready();
      poll_slots();
      end_round();
    }
  }
  if (i_receive() && holds_reactor_) {
    holds_reactor_ = false;
    fiber::reactor_hold(false);
  }
  std::lock_guard guard(turn_lock_);
  --working_;
}

void PlatformImpl::run() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigaction(kStopSignal, &action, nullptr);
  fiber::set_host_block_hook([this](bool entering) { host_block(entering); });
  work();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

void PlatformImpl::stop() {
  stopping_.store(true, std::memory_order_release);
  turn_.notify_all();
  // A worker may be just about to enter its receive: signal until all have left.
  std::thread([this] {
    for (;;) {
      {
        std::lock_guard guard(turn_lock_);
        if (working_ == 0) return;
        for (pthread_t handle : handles_) pthread_kill(handle, kStopSignal);
      }
      usleep(500);
    }
  }).detach();
}

void PlatformImpl::collect_counters(Slot& slot) {
  SlotCounters c = slot.counters;
  slot.counters = {};
  tier0_calls.add(c.tier0);
  traps.add(c.traps);
  patched_calls.add(c.patched_calls);
  patches.add(c.patches);
  unpatchable.add(c.unpatchable);
  spun.add(c.spun);
}

std::string PlatformImpl::debug_state() const {
  SlotCounters sum{};
  for (const auto& [tid, thread] : by_tid) {
    const SlotCounters& c = thread->slot().counters;
    sum.tier0 += c.tier0;
    sum.traps += c.traps;
    sum.patched_calls += c.patched_calls;
    sum.patches += c.patches;
    sum.unpatchable += c.unpatchable;
    sum.doorbells += c.doorbells;
    sum.spun += c.spun;
    sum.kicks += c.kicks;
  }
  return str_printf(
      "host threads %u, zygotes %zu, unbound %zu\nliving threads: tier0 %llu traps %llu patched %llu patches %llu "
      "unpatchable %llu doorbells %llu spun %llu kicks %llu\n",
      host_threads, zygotes_.size(), by_cookie.size(), (unsigned long long)sum.tier0, (unsigned long long)sum.traps,
      (unsigned long long)sum.patched_calls, (unsigned long long)sum.patches, (unsigned long long)sum.unpatchable,
      (unsigned long long)sum.doorbells, (unsigned long long)sum.spun, (unsigned long long)sum.kicks);
}

}  // namespace sbx::platform
