// Clean stubs made ahead, for exec; and the thread that makes them while the guest runs.
#include <sys/mman.h>

#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

constexpr u32 kZygoteTarget = 2;

thread_local bool is_maker = false;

}  // namespace

void PlatformImpl::on_template_request(RequestKind kind) {
  if (kind == RequestKind::kBind) {  // the filter is loaded, the descriptor tables are apart
    template_->reply(Command::kContinue);
    return;
  }
  template_ready_ = true;
  i64 result = static_cast<i64>(template_->slot().args[0]);
  if (making_ && template_->slot().nr == 0 && result < 0) {
    making_.reset();
    ++zygotes_failed_;
    zygote_queue_.wake_all();
    return;
  }
  if (zygotes_.size() < kZygoteTarget) want_zygotes();
}

void PlatformImpl::on_zygote_request(HostThread& thread, RequestKind kind) {
  if (kind == RequestKind::kBind && making_.get() == &thread) {
    allow_all_cpus(thread);
    zygotes_.push_back(std::move(making_));
    zygotes_failed_ = 0;
    zygote_queue_.wake_one();
    if (zygotes_.size() < kZygoteTarget) want_zygotes();
    return;
  }
  thread.answered = true;
  if (thread.waiter != nullptr) thread.waiter->wake();
}

// What the sentry itself has to do for a zygote takes 100 µs, and the exec it follows has a program to start on this
// CPU.
void PlatformImpl::want_zygotes() {
  if (making_ || !template_ready_ || !template_ || template_->where != Where::kSentry) return;
  if (took_zygote_ && cpus_ >= 2 && cpus_are_free()) {
    ask_maker();
    return;
  }
  SlotArea::unmap_dead(SlotArea::take_dead());
  if (RefPtr<SlotArea> area = SlotArea::make()) make_zygote(std::move(area));
}

void PlatformImpl::make_zygote(RefPtr<SlotArea> area) {
  if (making_ || !template_ready_ || !template_ || template_->where != Where::kSentry) return;
  auto process = make_ref<Process>(*this);
  area->take(0);
  int fd = -1;
  {
    KeptHere kept(*template_);
    fd = add_fd(template_->notif, area->memfd());
    if (fd < 0) return;  // interrupted: it rings again, and the next exec asks again
    shelf_.stock([this](int ours, int number) { return add_fd(template_->notif, ours, number); });
  }
  process->area = std::move(area);
  process->shelf = shelf_.view();
  making_ = std::make_unique<HostThread>(*this, process, 0, Role::kZygote);
  making_->parent_area = template_->process->area;
  making_->parent_index = 0;
  making_->parent_pid = template_->process->host_pid_;
  Slot& slot = template_->slot();
  slot.clone.fd = fd;
  slot.native_child_tid = 0;
  template_ready_ = false;
  template_->reply(Command::kMakeZygote);
}

// ---- the maker ----

void PlatformImpl::ask_maker() {
  std::lock_guard guard(maker_lock_);
  if (!maker_.joinable()) maker_ = std::thread([this] { make_on_demand(); });
  if (maker_does_ != MakerDoes::kNothing) return;
  maker_does_ = MakerDoes::kWake;
  dead_areas_ = SlotArea::take_dead();
  // The scheduler would wake it here as a rule.
  if (const int cpu = sched_getcpu(); cpu >= 0 && cpu != maker_avoids_ && maker_tid_ != 0) {
    cpu_set_t others = cpu_set_;
    CPU_CLR(cpu, &others);
    if (sched_setaffinity(maker_tid_, sizeof(others), &others) == 0) maker_avoids_ = cpu;
  }
  maker_wakes_.notify_one();
}

void PlatformImpl::end_maker() {
  {
    std::lock_guard guard(maker_lock_);
    maker_does_ = MakerDoes::kEnd;
    maker_wakes_.notify_one();
  }
  if (maker_.joinable()) maker_.join();
  SlotArea::unmap_dead(std::move(dead_areas_));
}

// It was asked, and the CPU that was free then is no more.
bool PlatformImpl::maker_is_late() {
  std::lock_guard guard(maker_lock_);
  if (maker_does_ != MakerDoes::kWake) return false;
  maker_does_ = MakerDoes::kNothing;
  return true;
}

void PlatformImpl::make_on_demand() {
  is_maker = true;
  std::unique_lock guard(maker_lock_);
  maker_tid_ = gettid();
  for (;;) {
    maker_wakes_.wait(guard, [this] { return maker_does_ == MakerDoes::kWake || maker_does_ == MakerDoes::kEnd; });
    if (maker_does_ == MakerDoes::kEnd) return;
    maker_does_ = MakerDoes::kWork;
    auto dead = std::move(dead_areas_);
    dead_areas_.clear();
    guard.unlock();
    SlotArea::unmap_dead(std::move(dead));
    RefPtr<SlotArea> area = SlotArea::make();
    if (area) area->touch(0);
    {
      fiber::KernelLock lock;
      if (area) make_zygote(std::move(area));
      area = nullptr;
      fiber::run_ready();
    }
    guard.lock();
    if (maker_does_ == MakerDoes::kWork) maker_does_ = MakerDoes::kNothing;
  }
}

bool PlatformImpl::makes_zygote_apart(Command command) const {
  return command == Command::kMakeZygote && !is_maker && cpus_ >= 2 && cpus_are_free();
}

Result<std::unique_ptr<HostThread>> PlatformImpl::take_zygote() {
  u64 deadline = fiber::now_ns() + 10'000'000'000ull;
  u32 failures = zygotes_failed_;
  while (zygotes_.empty()) {
    if (maker_is_late()) {
      if (RefPtr<SlotArea> area = SlotArea::make()) make_zygote(std::move(area));
    } else {
      want_zygotes();
    }
    fiber::Waiter waiter(fiber::current());
    waiter.join(zygote_queue_);
    fiber::current()->set_wait_reason("new stub");
    // The short wait covers a template whose doorbell was interrupted while it was asked.
    fiber::park_until(fiber::now_ns() + 50'000'000);
    if (zygotes_.empty() && (fiber::now_ns() > deadline || zygotes_failed_ > failures)) return Errno::kAgain;
  }
  auto out = std::move(zygotes_.front());
  zygotes_.pop_front();
  took_zygote_ = true;
  return out;
}

void PlatformImpl::return_zygote(std::unique_ptr<HostThread> zygote) { zygotes_.push_back(std::move(zygote)); }

}  // namespace sbx::platform
