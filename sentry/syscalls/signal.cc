// Signal calls (kernel/signal.c is the specification): actions, masks, sending, waiting. Delivery is task/signals.cc.
#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/fs/anon/pidfd.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

using signal::SigInfo;
using signal::SigSet;
using task::kernel;
using task::ThreadGroup;

namespace {

// struct kernel_sigaction of x86-64.
struct GuestAction {
  u64 handler, flags, restorer, mask;
};
static_assert(sizeof(GuestAction) == 32);

constexpr u64 kSetSize = 8;
constexpr u64 kRestorerFlag = 0x04000000, kExposeTagBits = 0x00000800;
// What Linux keeps of sa_flags; the rest reads back as 0 so that programs can probe (sigaction(2), SA_UNSUPPORTED).
constexpr u64 kActionFlags = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER |
                             static_cast<u64>(static_cast<u32>(SA_RESETHAND)) | kExposeTagBits | kRestorerFlag;

void recalc_group(ThreadGroup& group) {
  for (Task* t : group.tasks) task::recalc_pending(*t);
}

// The group a pid names; a thread's id names its process too, as kill(2) allows in practice.
ThreadGroup* group_of(i32 pid) {
  if (ThreadGroup* group = kernel().find_group(pid)) return group;
  Task* t = kernel().find_task(pid);
  return t != nullptr ? t->group.get() : nullptr;
}

Result<void> send_checked(Task& task, ThreadGroup& target, const SigInfo& info) {
  if (info.signo != 0 && !signal::valid(info.signo)) return Errno::kInval;
  if (!task::may_signal(task, target, info.signo)) return Errno::kPerm;
  if (info.signo != 0 && target.alive()) task::send_to_group(target, info);
  return {};
}

Result<i64> kill_process_group(Task& task, task::ProcessGroup* group, const SigInfo& info) {
  if (group == nullptr) return Errno::kSrch;
  std::vector<RefPtr<ThreadGroup>> members(group->members.begin(), group->members.end());
  if (members.empty()) return Errno::kSrch;
  Errno error = Errno::kSrch;
  bool any = false;
  for (const auto& member : members) {
    auto sent = send_checked(task, *member, info);
    if (sent)
      any = true;
    else
      error = sent.error();
  }
  if (!any) return error;
  return 0;
}

Result<i64> kill_everyone(Task& task, const SigInfo& info) {
  std::vector<RefPtr<ThreadGroup>> all;
  for (const auto& [pid, group] : kernel().groups()) {
    if (group != kernel().reaper() && group != task.group.get()) all.emplace_back(group);
  }
  if (all.empty()) return Errno::kSrch;
  for (const auto& group : all) {
    auto sent = send_checked(task, *group, info);
    if (!sent && sent.error() != Errno::kPerm) return sent.error();
  }
  return 0;
}

// tgid <= 0: any process.
Result<i64> send_to_thread(Task& task, i32 tgid, i32 tid, const SigInfo& info) {
  Task* target = kernel().find_task(tid);
  if (target == nullptr || (tgid > 0 && target->pid() != tgid)) return Errno::kSrch;
  if (info.signo != 0 && !signal::valid(info.signo)) return Errno::kInval;
  if (!task::may_signal(task, *target->group, info.signo)) return Errno::kPerm;
  if (info.signo != 0) task::send_to_task(*target, info);
  return 0;
}

// The guest's siginfo for sigqueue: kept byte for byte, number replaced.
Result<SigInfo> read_siginfo(Task& task, u64 addr, i32 signo) {
  SigInfo info;
  info.raw.emplace();
  TRY(task.memory().read(addr, info.raw->data(), info.raw->size()));
  std::memcpy(info.raw->data(), &signo, 4);
  std::memcpy(&info.code, info.raw->data() + 8, 4);
  std::memcpy(&info.pid, info.raw->data() + 16, 4);
  std::memcpy(&info.uid, info.raw->data() + 20, 4);
  std::memcpy(&info.value, info.raw->data() + 24, 8);
  info.signo = signo;
  return info;
}

// Only the kernel and the sender itself may claim codes that look like the kernel's.
bool forged(const SigInfo& info) { return info.code >= 0 || info.code == SI_TKILL; }

Result<SigSet> read_set(Task& task, u64 addr) { return In<SigSet>{addr}.read(task); }

Result<i64> wait_for_handler(const char* reason) {
  fiber::WaitQueue nobody;
  auto waited = nobody.wait_until([] { return false; }, reason);
  (void)waited;
  return Errno::kRestartNoHand;
}

}  // namespace

Result<i64> sys_rt_sigaction(Task& task, Signo signo, InBuf act, OutBuf old_act, Size set_size) {
  if (set_size != kSetSize) return Errno::kInval;
  if (!signal::valid(signo.n)) return Errno::kInval;
  if (act.addr != 0 && (signal::bit(signo.n) & signal::kUnblockable) != 0) return Errno::kInval;
  GuestAction wanted{};
  if (act.addr != 0) wanted = TRY(In<GuestAction>{act.addr}.read(task));
  task::settle_actions(task);
  signal::Action& slot = task.group->actions->of[static_cast<size_t>(signo.n)];
  const GuestAction old{slot.handler, slot.flags, slot.restorer, slot.mask};
  if (act.addr != 0) {
    const bool was_unset = slot == signal::Action{};
    slot.handler = wanted.handler;
    slot.flags = wanted.flags & kActionFlags;
    slot.restorer = wanted.restorer;
    slot.mask = wanted.mask & ~signal::kUnblockable;
    if (was_unset && slot != signal::Action{}) task::actions_changed(task);
    // POSIX 3.3.1.3: what becomes ignored is no longer pending.
    if (slot.is_ignored() || (slot.is_default() && signal::default_action(signo.n) == signal::DefaultAction::kIgnore)) {
      task.group->pending.discard(signal::bit(signo.n));
      for (Task* t : task.group->tasks) t->pending.discard(signal::bit(signo.n));
    }
    recalc_group(*task.group);
  }
  if (old_act.addr != 0) TRY(Out<GuestAction>{old_act.addr}.write(task, old));
  return 0;
}

Result<i64> sys_rt_sigprocmask(Task& task, Int how, InBuf set, OutBuf old_set, Size set_size) {
  if (set_size != kSetSize) return Errno::kInval;
  const SigSet old = task.thread->signal_mask();
  if (set.addr != 0) {
    SigSet change = TRY(read_set(task, set.addr)) & ~signal::kUnblockable;
    SigSet mask = old;
    switch (how) {
      case SIG_BLOCK: mask |= change; break;
      case SIG_UNBLOCK: mask &= ~change; break;
      case SIG_SETMASK: mask = change; break;
      default: return Errno::kInval;
    }
    task.thread->set_signal_mask(mask);
    task::recalc_pending(task);
  }
  if (old_set.addr != 0) TRY(Out<SigSet>{old_set.addr}.write(task, old));
  return 0;
}

Result<i64> sys_rt_sigpending(Task& task, OutBuf set, Size set_size) {
  if (set_size > kSetSize) return Errno::kInval;
  SigSet pending = (task.pending.set() | task.group->pending.set()) & task.thread->signal_mask();
  TRY(task.memory().write(set.addr, &pending, set_size));
  return 0;
}

Result<i64> sys_rt_sigtimedwait(Task& task, InBuf set, OutBuf info_out, InBuf timeout, Size set_size) {
  if (set_size != kSetSize) return Errno::kInval;
  const SigSet wanted = TRY(read_set(task, set.addr)) & ~signal::kUnblockable;
  fiber::Deadline deadline = fiber::kNever;
  if (timeout.addr != 0) {
    timespec ts = TRY(In<timespec>{timeout.addr}.read(task));
    if (ts.tv_sec < 0 || ts.tv_nsec < 0 || ts.tv_nsec >= 1'000'000'000) return Errno::kInval;
    u64 span;
    if (!__builtin_mul_overflow(static_cast<u64>(ts.tv_sec), 1'000'000'000ull, &span) &&
        !__builtin_add_overflow(span, static_cast<u64>(ts.tv_nsec), &span) &&
        !__builtin_add_overflow(span, fiber::now_ns(), &span)) {
      deadline = span;
    }
  }
  auto pending = [&] { return ((task.pending.set() | task.group->pending.set()) & wanted) != 0; };
  task.waiting_for = wanted;
  auto waited = task.group->signal_queue.wait_until(pending, "sigtimedwait", deadline);
  task.waiting_for = 0;
  std::optional<SigInfo> info = task.pending.take(wanted);
  if (!info) info = task.group->pending.take(wanted);
  recalc_group(*task.group);
  if (!info) return !waited && waited.error() == Errno::kTimedout ? Errno::kAgain : Errno::kIntr;
  if (info_out.addr != 0) {
    u8 bytes[128];
    info->encode(bytes);
    TRY(task.memory().write(info_out.addr, bytes, sizeof(bytes)));
  }
  return info->signo;
}

Result<i64> sys_rt_sigsuspend(Task& task, InBuf set, Size set_size) {
  if (set_size != kSetSize) return Errno::kInval;
  SigSet mask = TRY(read_set(task, set.addr)) & ~signal::kUnblockable;
  task::set_temporary_mask(task, mask);
  return wait_for_handler("sigsuspend");
}

Result<i64> sys_pause(Task&) { return wait_for_handler("pause"); }

Result<i64> sys_kill(Task& task, Pid pid, Signo signo) {
  const SigInfo info = task::user_siginfo(task, signo.n);
  if (pid.n > 0) {
    RefPtr<ThreadGroup> group(group_of(pid.n));
    if (!group) return Errno::kSrch;
    TRY(send_checked(task, *group, info));
    return 0;
  }
  if (pid.n == 0) return kill_process_group(task, task.group->group.get(), info);
  if (pid.n == -1) return kill_everyone(task, info);
  if (pid.n == INT32_MIN) return Errno::kSrch;
  return kill_process_group(task, kernel().find_process_group(-pid.n), info);
}

Result<i64> sys_tkill(Task& task, Pid tid, Signo signo) {
  if (tid.n <= 0) return Errno::kInval;
  return send_to_thread(task, 0, tid.n, task::user_siginfo(task, signo.n, SI_TKILL));
}

Result<i64> sys_tgkill(Task& task, Pid tgid, Pid tid, Signo signo) {
  if (tgid.n <= 0 || tid.n <= 0) return Errno::kInval;
  return send_to_thread(task, tgid.n, tid.n, task::user_siginfo(task, signo.n, SI_TKILL));
}

Result<i64> sys_rt_sigqueueinfo(Task& task, Pid pid, Signo signo, InBuf info_in) {
  SigInfo info = TRY(read_siginfo(task, info_in.addr, signo.n));
  if (forged(info) && pid.n != task.pid()) return Errno::kPerm;
  RefPtr<ThreadGroup> group(pid.n > 0 ? group_of(pid.n) : nullptr);
  if (!group) return Errno::kSrch;
  TRY(send_checked(task, *group, info));
  return 0;
}

Result<i64> sys_rt_tgsigqueueinfo(Task& task, Pid tgid, Pid tid, Signo signo, InBuf info_in) {
  if (tgid.n <= 0 || tid.n <= 0) return Errno::kInval;
  SigInfo info = TRY(read_siginfo(task, info_in.addr, signo.n));
  if (forged(info) && tid.n != task.tid) return Errno::kPerm;
  return send_to_thread(task, tgid.n, tid.n, info);
}

Result<i64> sys_pidfd_send_signal(Task& task, Fd pidfd, Signo signo, InBuf info_in, Hex flags) {
  if (flags.v != 0) return Errno::kInval;
  auto file = TRY(task.fds->get(pidfd.n));
  auto reference = ref_cast<fs::anon::PidFd>(file);
  if (!reference) return Errno::kBadf;
  SigInfo info = task::user_siginfo(task, signo.n);
  if (info_in.addr != 0) {
    if (TRY(In<i32>{info_in.addr}.read(task)) != signo.n) return Errno::kInval;
    info = TRY(read_siginfo(task, info_in.addr, signo.n));
    if (forged(info) && reference->pid() != task.pid()) return Errno::kPerm;
  }
  RefPtr<ThreadGroup> group(reference->group());
  if (!group) return Errno::kSrch;
  TRY(send_checked(task, *group, info));
  return 0;
}

// The alternate stack belongs to the stub, which answers the call; it does not come here.
Result<i64> sys_sigaltstack(Task&, InBuf, OutBuf) {
  STUB("sigaltstack", 0);
  return Errno::kInval;
}

}  // namespace sbx::syscalls
