// Tier 1: after a reply the receiver looks into the thread's slot for a while, so that a thread that calls again at
// once needs no doorbell. It costs a CPU while it looks, so it must pay: only threads that have called often in a row,
// only while a CPU is free, and less often each time it was in vain. Times are cycles of the time-stamp counter: the
// thresholds only have to be right to a factor of two.
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fiber/reactor.h"
#include "sentry/platform/internal.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, __u64)
#endif

namespace sbx::platform {
namespace {

COUNTER(polled_requests, "platform.polled", "requests seen by polling, without a doorbell");
COUNTER(sessions, "platform.poll_sessions", "times the sentry began to poll");
COUNTER(misses, "platform.poll_misses", "polling that saw too few requests to be worth while");
COUNTER(preemptions, "platform.poll_preempted", "polling that lost its CPU to others");

constexpr u64 kMicrosecond = 2500;
// Time from a reply to the next request that counts as soon; by doorbell it includes a switch each way.
constexpr u64 kSoon = 20 * kMicrosecond;
constexpr u64 kShortCall = 15 * kMicrosecond;
constexpr u64 kWindow = 20 * kMicrosecond;
constexpr u64 kEarned = 2 * kMicrosecond;  // by each request
constexpr u64 kLongestWindow = 100 * kMicrosecond;
// The first reply of a session has to start the stub on an idle CPU.
constexpr u64 kFirstWindow = 200 * kMicrosecond;
constexpr u32 kLooks = 16;       // between two readings of the clock
constexpr u32 kShortLooks = 24;  // with the lock held: up to 1 µs
constexpr u64 kBusyBellInterval = 15 * kMicrosecond;
constexpr u64 kBellInterval = 3 * kMicrosecond;
// Two looks are never that far apart, unless the host's scheduler stepped in between.
constexpr u64 kPreempted = 50 * kMicrosecond;
// After that time without a poor session half as many chances are passed by.
constexpr u64 kForgetMisses = 50'000 * kMicrosecond;
constexpr u64 kMinBackOff = 10'000 * kMicrosecond;
constexpr u64 kMaxBackOff = 320'000 * kMicrosecond;
constexpr u32 kStreak = 16;
constexpr u32 kMaxStreak = 4096;
constexpr u32 kMostSkips = 255;
// To move the stub to another CPU costs as much as this many doorbells; and what a good session spares is far more.
constexpr u32 kPoorSession = 32;
constexpr u32 kGoodSession = 400;
// The stub's part: PAUSE is 40 to 140 cycles; then it rings.
constexpr u32 kStubSpins = 8000;
constexpr size_t kMostPolled = 4;
constexpr size_t kManyThreads = 64;

u64 cycles() { return __rdtsc(); }

}  // namespace

void PlatformImpl::note_request(HostThread& thread) {
  if (thread.kept_off >= 0) end_apart(thread);
  u64 now = cycles();
  thread.streak = now - thread.replied_at < thread.soon ? std::min(thread.streak + 1, kMaxStreak) : 0;
  thread.requested_at = now;
}

// One for us and one for each guest thread that computes.
bool PlatformImpl::cpus_are_free() const {
  if (by_tid.size() > kManyThreads) return false;
  u32 running = 1;
  for (const auto& [tid, thread] : by_tid) {
    bool runs = thread->role == Role::kGuest && thread->where == Where::kNative;
    if (runs && __atomic_load_n(&thread->slot().native_blocked, __ATOMIC_RELAXED) == 0) ++running;
  }
  return running <= cpus_;
}

u32 PlatformImpl::skips(u64 now) const {
  u64 halvings = (now - missed_at_) / kForgetMisses;
  return halvings > 31 ? 0 : skips_ >> halvings;
}

// After poor sessions some of the chances are passed by, and not only taken late: where streaks are short, in a walk
// over directories say, a late session would be a poor one too.
bool PlatformImpl::takes_chance(HostThread& thread, u64 now) {
  if (thread.streak < kStreak) return false;
  if (skipped_ >= skips(now)) return true;
  ++skipped_;
  thread.streak = 0;
  return false;
}

bool PlatformImpl::will_poll(HostThread& thread, Command command) {
  Slot& slot = thread.slot();
  u64 now = cycles();
  thread.replied_at = now;
  thread.soon = kSoon;
  // Long calls gain little, and their data would go from one CPU's cache to another's.
  if (now - thread.requested_at > kShortCall) thread.streak /= 4;
  if (cpus_ == 0) count_cpus();
  if (!i_receive()) return false;
  auto known = std::find_if(polled_.begin(), polled_.end(), [&](const Polled& p) { return p.slot == &slot; });
  bool wanted = cpus_ >= 2 && thread.role == Role::kGuest && now >= no_polling_before_ &&
                (command == Command::kReturn || command == Command::kContinue || command == Command::kDeliver);
  if (known != polled_.end()) {
    if (!wanted || thread.streak == 0) {
      __atomic_store_n(&slot.polled, 0, __ATOMIC_SEQ_CST);
      polled_.erase(known);
      return false;
    }
    known->since = now;
    // What the session has spared so far pays for a longer look: to begin again costs 100 µs.
    u64 earned = std::clamp(session_hits_ * kEarned, kWindow, kLongestWindow);
    known->window = thread.soon = thread.notif == 0 ? earned : kFirstWindow;
    return true;
  }
  if (!wanted || polled_.size() >= std::min<size_t>(kMostPolled, cpus_ - 1) || !takes_chance(thread, now) ||
      !cpus_are_free()) {
    return false;
  }
  if (polled_.empty()) {
    sessions.add();
    session_hits_ = 0;
  }
  thread.soon = thread.notif == 0 ? kWindow : kFirstWindow;
  polled_.push_back({thread.process->area, &slot, &thread, now, thread.soon});
  slot.spin_budget = kStubSpins;
  __atomic_store_n(&slot.polled, 1, __ATOMIC_SEQ_CST);
  return true;
}

void PlatformImpl::stop_polling(const HostThread& thread) {
  for (Polled& p : polled_) {
    if (p.thread == &thread) p.thread = nullptr;
  }
}

void PlatformImpl::set_sync_wake(bool sync) {
  if (sync == sync_wake_) return;
  sync_wake_ = sync;
  // Refused by kernels before 6.6, which always do as for false.
  ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, sync ? 1ul : 0ul);
}

void PlatformImpl::keep_affinity(const HostThread& from, const HostThread& to) const {
  cpu_set_t set;
  if (sched_getaffinity(from.tid, sizeof(set), &set) != 0 || CPU_EQUAL(&set, &cpu_set_) != 0) return;
  if (sched_setaffinity(to.tid, sizeof(set), &set) != 0) LOG_DEBUG("exec: the affinity is not kept");
}

KeptHere::KeptHere(const HostThread& thread) : KeptHere(thread.notif != 0 ? thread.platform.cpus_ : 0, thread.tid) {}

KeptHere::KeptHere(u32 cpus, i32 tid) {
  if (cpus < 2) return;
  int cpu = sched_getcpu();
  if (cpu < 0 || sched_getaffinity(tid, sizeof(before_), &before_) != 0 || CPU_ISSET(cpu, &before_) == 0) return;
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(cpu, &here);
  if (sched_setaffinity(tid, sizeof(here), &here) == 0) tid_ = tid;
}

KeptHere::~KeptHere() {
  if (tid_ != 0) sched_setaffinity(tid_, sizeof(before_), &before_);
}

// Those of the sentry's own threads, which nothing but the container's cpuset changes.
void PlatformImpl::count_cpus() {
  bool known = sched_getaffinity(0, sizeof(cpu_set_), &cpu_set_) == 0;
  cpus_ = options.spin && known ? static_cast<u32>(CPU_COUNT(&cpu_set_)) : 1;
}

bool PlatformImpl::is_crowded() const {
  auto runs = [](const auto& one) {
    const HostThread& thread = *one.second;
    return thread.where == Where::kNative && __atomic_load_n(&thread.slot().native_blocked, __ATOMIC_RELAXED) == 0;
  };
  return std::count_if(by_tid.begin(), by_tid.end(), runs) >= static_cast<i64>(std::max(cpus_, 1u));
}

void PlatformImpl::tell_of_room() {
  constexpr u32 kNoGuests = 3;  // the template and a zygote; and of a program's threads often one waits for all others
  if (cpus_ == 0) count_cpus();
  const bool roomy = cpus_ >= 2 && by_tid.size() <= cpus_ + kNoGuests;
  if (board_ != nullptr) __atomic_store_n(&board_->roomy, roomy, __ATOMIC_RELAXED);
}

void PlatformImpl::allow_all_cpus(const HostThread& thread) {
  count_cpus();
  if (cpus_ >= 2) sched_setaffinity(thread.tid, sizeof(cpu_set_), &cpu_set_);
}

void PlatformImpl::wake_here() { set_sync_wake(true); }

// To hand over here is best where we wait afterwards.
void PlatformImpl::answer_unpolled(u64 notif) {
  if (cpus_ >= 2 && !rings_) rings_ = another_rings();
  set_sync_wake(cpus_ < 2 || (woken_++ == 0 && !rings_));
  answer(notif);
  if (!i_receive()) end_round();  // who waits is another of us
}

void PlatformImpl::end_round() {
  if (!rings_ && polled_.empty()) set_sync_wake(true);
  rings_ = false;
}

// Not asked where so few threads are that it would seldom be so.
bool PlatformImpl::another_rings() const {
  constexpr size_t kFewThreads = 5;
  pollfd waiting{listener_.get(), POLLIN, 0};
  return by_tid.size() > kFewThreads && ::poll(&waiting, 1, 0) > 0;
}

// Handing over on one CPU has put the stub onto ours, and on small machines the host's scheduler does not look for an
// idle one (SIS_UTIL in kernel/sched/fair.c): until the stub's next request, ours is not allowed to it. Threads whose
// guest chose its CPUs are left alone.
void PlatformImpl::wake_apart(HostThread& thread) {
  set_sync_wake(false);
  cpu_set_t set;
  int cpu = sched_getcpu();
  if (cpu < 0 || thread.kept_off >= 0 || sched_getaffinity(thread.tid, sizeof(set), &set) != 0) return;
  if (CPU_EQUAL(&set, &cpu_set_) == 0) return;
  CPU_CLR(cpu, &set);
  if (CPU_COUNT(&set) != 0 && sched_setaffinity(thread.tid, sizeof(set), &set) == 0) thread.kept_off = cpu;
}

// To take its memory down occupies a CPU for 40 µs and more. On ours, who waited for its end would wait for that too;
// and as it was just handed over to us on this CPU, here is where the scheduler would wake it.
void PlatformImpl::die_apart(i32 pid) {
  if (cpus_ < 2 || !cpus_are_free()) return;
  cpu_set_t others = cpu_set_;
  int cpu = sched_getcpu();
  if (cpu < 0) return;
  CPU_CLR(cpu, &others);
  // In vain: then it ends here.
  (void)sched_setaffinity(pid, sizeof(others), &others);
}

void PlatformImpl::end_apart(HostThread& thread) {
  cpu_set_t set;
  if (sched_getaffinity(thread.tid, sizeof(set), &set) == 0) {
    CPU_SET(thread.kept_off, &set);
    if (CPU_EQUAL(&set, &cpu_set_) != 0) sched_setaffinity(thread.tid, sizeof(set), &set);
  }
  thread.kept_off = -1;
}

void PlatformImpl::serve_polled(Slot& slot) {
  auto it = std::find_if(polled_.begin(), polled_.end(), [&](const Polled& p) { return p.slot == &slot; });
  if (it == polled_.end()) return;
  HostThread* thread = it->thread;
  // An honest stub that published a request leaves the state alone until the reply. One that does not is served by
  // doorbell: looked at further it could keep us here, with the lock.
  if (thread == nullptr || thread->where != Where::kNative ||
      __atomic_load_n(&slot.state, __ATOMIC_ACQUIRE) != kStateRequest) {
    __atomic_store_n(&slot.polled, 0, __ATOMIC_SEQ_CST);
    polled_.erase(it);
    return;
  }
  polled_requests.add();
  woken_ = 0;
  ++session_hits_;
  thread->where = Where::kSentry;
  thread->notif = 0;
  note_request(*thread);
  dispatch(*thread);
  fiber::run_ready();
  if (!i_receive()) return;
  // No reply yet: the call blocks, and the stub had better sleep.
  it = std::find_if(polled_.begin(), polled_.end(), [&](const Polled& p) { return p.slot == &slot; });
  if (it == polled_.end() || (it->thread != nullptr && it->thread->where == Where::kNative)) return;
  __atomic_store_n(&slot.polled, 0, __ATOMIC_SEQ_CST);
  polled_.erase(it);
}

void PlatformImpl::end_polling() {
  if (polled_.empty()) return;
  if (session_hits_ < kPoorSession) {
    misses.add();
    u64 now = cycles();
    skips_ = std::min(skips(now) * 2 + 1, kMostSkips);
    skipped_ = 0;
    missed_at_ = now;
  } else if (session_hits_ >= kGoodSession) {
    skips_ /= 2;
    back_off_ /= 2;
  }
  // A stub that saw the flag before it fell rings when its spin is over.
  for (Polled& p : polled_) {
    __atomic_store_n(&p.slot->polled, 0, __ATOMIC_SEQ_CST);
    if (p.thread != nullptr && p.thread->kept_off >= 0) end_apart(*p.thread);
  }
  polled_.clear();
  set_sync_wake(true);
}

// Or an event of the reactor, if that is ours.
bool PlatformImpl::somebody_rings(bool* event) const {
  pollfd waiting[2] = {{listener_.get(), POLLIN, 0}, {fiber::reactor_fd(), POLLIN, 0}};
  if (::poll(waiting, holds_reactor_ ? 2 : 1, 0) <= 0) return false;
  *event = waiting[1].revents != 0;
  return true;
}

void PlatformImpl::answer_bell() {
  bool event = false;
  if (!somebody_rings(&event)) return;
  if (event) {
    bells_alone_ = woken_ = 0;
    fiber::reactor_serve();
    return;
  }
  Notification n{};
  if (!receive(n)) return;
  handle(n);
  fiber::run_ready();
}

Slot* PlatformImpl::look() const {
  for (const Polled& p : polled_) {
    if (__atomic_load_n(&p.slot->state, __ATOMIC_ACQUIRE) == kStateRequest) return p.slot;
  }
  return nullptr;
}

void PlatformImpl::poll_slots() {
  if (polled_.empty() || !i_receive()) return;
  while (!polled_.empty() && !stopping_.load(std::memory_order_acquire)) {
    // Calls that follow each other at once must not keep the others out.
    u64 replied = 0;
    for (const Polled& p : polled_) replied = std::max(replied, p.since);
    if (replied >= bell_at_) {
      answer_bell();
      bell_at_ = replied + kBusyBellInterval;
      if (!i_receive()) return;
      continue;
    }
    Slot* found = nullptr;
    for (u32 looks = 0; looks < kShortLooks && !fiber::kernel_lock_wanted(); ++looks) {
      if ((found = look()) != nullptr) break;
      _mm_pause();
    }
    if (found != nullptr) {
      serve_polled(*found);
      if (!i_receive()) return;
      continue;
    }
    fiber::kernel_unlock();
    bool bell = false, expired = false, preempted = false;
    u64 last = cycles(), bell_at = last + kBellInterval;
    while (found == nullptr && !bell && !expired && !preempted) {
      for (u32 looks = 0; found == nullptr && looks < kLooks; ++looks) {
        found = look();
        _mm_pause();
      }
      if (found != nullptr) {
        // What the stub wrote comes from its CPU's cache: all of it at once, while we take the lock.
        const auto* at = reinterpret_cast<const u8*>(found);
        __builtin_prefetch(at + 64);
        __builtin_prefetch(at + 128);
        __builtin_prefetch(at + 192);
        __builtin_prefetch(at + kSlotHeaderBytes);
        break;
      }
      u64 now = cycles();
      preempted = now - last > kPreempted;
      last = now;
      for (const Polled& p : polled_) expired |= now - p.since > p.window;
      if (now >= bell_at) {
        bell_at = now + kBellInterval;
        bool event = false;
        bell = somebody_rings(&event);
      }
    }
    fiber::kernel_lock();
    if (preempted) {
      preemptions.add();
      back_off_ = std::clamp(back_off_ * 2, kMinBackOff, kMaxBackOff);
      no_polling_before_ = last + back_off_;
    }
    if (found != nullptr) {
      serve_polled(*found);
    } else if (bell) {
      answer_bell();
    }
    if (!i_receive()) return;  // a fiber blocked in the host: another worker receives now, and polls its own threads
    if (preempted) break;
    if (expired && found == nullptr) {
      for (auto it = polled_.begin(); it != polled_.end();) {
        if (last - it->since <= it->window) {
          ++it;
          continue;
        }
        if (polled_.size() == 1) break;  // ends the session, below
        __atomic_store_n(&it->slot->polled, 0, __ATOMIC_SEQ_CST);
        it = polled_.erase(it);
      }
      if (polled_.size() == 1 && last - polled_[0].since > polled_[0].window) break;
    }
  }
  if (i_receive()) end_polling();
}

}  // namespace sbx::platform
