// Robust locks of processes that are killed. Linux's exit_robust_list (kernel/futex/core.c) compares with the host's
// tid, which is not the guest's, and a wake-up reaches waiters only from a process that has the memory mapped: so the
// stub does it, told by the sentry, which knows the lists' heads from the slots. What the stub does with it harms only
// the guest.
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

COUNTER(releases, "platform.robust_releases", "killed processes whose stub released robust locks");

constexpr u64 kDeadline = 500'000'000;

// struct robust_list_head.
struct ListHead {
  u64 next;
  i64 offset;
  u64 pending;
};

// Whether the thread's list names any lock.
bool holds_locks(const HostThread& thread, u64 head) {
  if (head == 0 || thread.tid == 0) return false;
  ListHead list{};
  iovec mine{&list, sizeof(list)}, theirs{reinterpret_cast<void*>(head), sizeof(list)};
  if (process_vm_readv(thread.tid, &mine, 1, &theirs, 1, 0) != static_cast<ssize_t>(sizeof(list))) return false;
  return (list.next & ~1ull) != head || list.pending != 0;
}

}  // namespace

bool PlatformImpl::release_robust_locks(Process& process) {
  std::vector<RobustList> lists;
  HostThread* walker = nullptr;
  for (HostThread* thread : process.threads) {
    if (thread->role != Role::kGuest || thread->guest == nullptr) continue;
    if (thread->where != Where::kSentry && thread->where != Where::kNative) continue;
    // One that waits in its doorbell needs no signal.
    if (walker == nullptr || (thread->where == Where::kSentry && walker->where != Where::kSentry)) walker = thread;
    u64 head = __atomic_load_n(&thread->slot().robust_head, __ATOMIC_RELAXED);
    if (!holds_locks(*thread, head)) continue;
    lists.push_back({head, static_cast<u32>(thread->guest->identity().tid), 0});
  }
  if (lists.empty() || walker == nullptr) return false;
  releases.add();
  memcpy(walker->window(), lists.data(), std::min<size_t>(lists.size(), kMaxSlots) * sizeof(RobustList));
  __atomic_store_n(&walker->slot().leave, static_cast<u32>(lists.size()) + 1, __ATOMIC_SEQ_CST);

  RefPtr<Process> keep(&process);
  i32 pid = process.host_pid_;
  auto timer = std::make_unique<fiber::Timer>([this, pid] {
    auto it = leaving_.find(pid);
    if (it == leaving_.end()) return;
    LOG_DEBUG("host process %d did not end by itself", pid);
    ::kill(pid, SIGKILL);  // not reaped yet, so the number is still its own
  });
  timer->arm(fiber::now_ns() + kDeadline);
  leaving_[pid] = {keep, std::move(timer), walker->tid};
  bool in_doorbell = walker->where == Where::kSentry && walker->notif != 0;
  u64 notif = walker->notif;
  i32 tid = walker->tid;
  if (!in_doorbell) __atomic_store_n(&walker->slot().kick, 1, __ATOMIC_SEQ_CST);
  process.dead = true;  // bury() below must not kill it
  bury(process);
  if (in_doorbell) {
    answer(notif);
  } else {
    syscall(SYS_tgkill, pid, tid, kKickSignal);
  }
  return true;
}

void PlatformImpl::left(i32 host_pid) {
  if (leaving_.erase(host_pid) == 0 || !leaving_.empty()) return;
  for (i32 tid : strangers_) {
    // Threads of processes that are gone are gone; a number that is used again belongs to a known thread.
    if (by_tid.count(tid) == 0 && by_pid.count(tid) == 0) ::kill(tid, SIGKILL);
  }
  strangers_.clear();
}

}  // namespace sbx::platform
