#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/base/random.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {

// ---- slots ----

RefPtr<SlotArea> SlotArea::make() {
  auto area = make_ref<SlotArea>();
  area->memfd_.reset(memfd_create("slots", MFD_CLOEXEC));
  if (!area->memfd_ || ftruncate(area->memfd_.get(), kSlotsBytes) != 0) return nullptr;
  void* base = mmap(nullptr, kSlotsBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, area->memfd_.get(), 0);
  if (base == MAP_FAILED) return nullptr;
  area->base_ = static_cast<u8*>(base);
  return area;
}

void SlotArea::touch(u32 index) {
  __atomic_store_n(&slot(index).state, u32{kStateNew}, __ATOMIC_RELAXED);
  constexpr u64 kImage = 2 * kPageSize;  // about as much a program's arguments take
  for (u64 at = 0; at < kImage; at += kPageSize) __atomic_store_n(window(index) + at, u8{0}, __ATOMIC_RELAXED);
  __atomic_store_n(window(index) + kCopyInBytes, u8{0}, __ATOMIC_RELAXED);
  __atomic_store_n(&lease(0).word, u64{0}, __ATOMIC_RELAXED);
  __atomic_store_n(closes(), u64{0}, __ATOMIC_RELAXED);
}

namespace {
// Kernel lock.
std::vector<DeadArea>& dead_areas() {
  static auto* all = new std::vector<DeadArea>;
  return *all;
}
constexpr size_t kMostDead = 4;
constexpr u64 kDeadFor = 20'000'000;  // ns, at most

// Whoever makes the next stub takes them down; else this.
fiber::Timer& dead_timer() {
  static auto* timer = new fiber::Timer([] { SlotArea::unmap_dead(SlotArea::take_dead()); });
  return *timer;
}
}  // namespace

std::vector<DeadArea> SlotArea::take_dead() { return std::exchange(dead_areas(), {}); }

void SlotArea::unmap_dead(std::vector<DeadArea> dead) {
  for (const DeadArea& area : dead) munmap(area.base, kSlotsBytes);
}

void PlatformImpl::make_spare_area(u32 index) {
  if (spare_area_) return;
  spare_area_ = SlotArea::make();
  if (spare_area_) __atomic_store_n(&spare_area_->slot(index).state, u32{kStateNew}, __ATOMIC_RELAXED);  // its page
}

std::unordered_set<u64>& left_cookies() {
  static auto* all = new std::unordered_set<u64>;
  return *all;
}

SlotArea::~SlotArea() {
  for (const Left& left : used_) left_cookies().erase(left.cookie);
  outbox = nullptr;
  if (base_ == nullptr) return;
  auto& dead = dead_areas();
  if (dead.size() >= kMostDead) unmap_dead(take_dead());
  dead.push_back({base_, std::move(memfd_)});
  if (!dead_timer().armed()) dead_timer().arm(fiber::now_ns() + kDeadFor);
}

int SlotArea::take() {
  auto reuse = [this](std::deque<Left>::iterator it) {
    const Left left = *it;
    used_.erase(it);
    left_cookies().erase(left.cookie);
    return static_cast<int>(left.index);
  };
  // Left slots first, oldest first: their pages exist already.
  if (!used_.empty() && __atomic_load_n(&slot(used_.front().index).state, __ATOMIC_ACQUIRE) == kStateGone) {
    return reuse(used_.begin());
  }
  if (next_ < kThreadSlots) return static_cast<int>(next_++);
  for (auto it = used_.begin(); it != used_.end(); ++it) {
    if (__atomic_load_n(&slot(it->index).state, __ATOMIC_ACQUIRE) == kStateGone) return reuse(it);
  }
  return -1;
}

// ---- host processes ----

Process::~Process() {
  kill();
  if (area && area->outbox) area->outbox->ends(*this);
  if (host_pid_ != 0) {
    auto it = platform.by_pid.find(host_pid_);
    if (it != platform.by_pid.end() && it->second == this) platform.by_pid.erase(it);
  }
}

void Process::kill() {
  if (dead) return;
  dead = true;
  if (host_pid_ != 0 && !reaped && threads.size() <= 1) platform.die_apart(host_pid_);
  if (host_pid_ != 0 && !reaped && ::kill(host_pid_, SIGKILL) != 0 && errno != ESRCH) {
    LOG_WARNING("killing host process %d: %s", host_pid_, errno_text(last_errno()));
  }
}

u64 Process::brk_start() const { return area->slot(last_index).brk_start; }
u64 Process::brk_end() const { return area->slot(last_index).brk_end; }

// ---- host threads ----

HostThread::HostThread(PlatformImpl& platform, RefPtr<Process> owner, u32 index, Role role)
    : platform(platform), process(std::move(owner)), index(index), role(role), cookie(platform.random_cookie()) {
  Slot& s = slot();
  // A reused slot still holds its last thread's values.
  memset(static_cast<void*>(&s), 0, sizeof(s));
  s.cookie = cookie;
  s.patch_off = !platform.options.patch;
  s.report_all = platform.options.report_all_syscalls;
  platform.by_cookie[cookie] = this;
  process->threads.push_back(this);
  ++platform.host_threads;
}

HostThread::~HostThread() {
  platform.forget(*this);
  platform.stop_polling(*this);
  process->area->windows.settle(*this, false);
  u32 mine = index + 1;  // it may have ended in the middle of a write
  __atomic_compare_exchange_n(&process->area->bulk_head().owner, &mine, 0u, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  std::erase(process->threads, this);
  if (left) process->area->give_back(index, cookie);
  --platform.host_threads;
}

void HostThread::publish(Command command, i64 ret, u32 out_count) {
  Slot& s = slot();
  where = Where::kNative;
  s.command = command;
  s.out_count = static_cast<u8>(out_count);
  s.ret = ret;
  __atomic_store_n(&s.state, kStateReply, __ATOMIC_RELEASE);
}

void HostThread::reply(Command command, i64 ret, u32 out_count) {
  bool polls = platform.will_poll(*this, command);
  publish(command, ret, out_count);
  if (notif != 0) {
    u64 id = notif;
    notif = 0;
    if (polls) {
      platform.wake_apart(*this);
      platform.answer(id);
    } else {
      platform.answer_unpolled(id);
    }
  }
}

u64 PlatformImpl::random_cookie() {
  u64 value = 0;
  while (value == 0) value = random_u64();
  return value;
}

}  // namespace sbx::platform
