// Clean stubs made ahead, for exec; and the thread that makes them while the guest runs.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <system_error>

#include "sentry/base/log.h"
#include "sentry/base/random.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

constexpr u32 kZygoteTarget = 2;
constexpr size_t kMostPreloaded = 16;  // segments

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
  if (took_zygote_ && cpus_ >= 2 && cpus_are_free() && ask_maker()) return;
  SlotArea::unmap_dead(SlotArea::take_dead());
  if (RefPtr<SlotArea> area = SlotArea::make()) make_zygote(std::move(area));
}

bool PlatformImpl::template_waits() const {
  return !making_ && template_ready_ && template_ && template_->where == Where::kSentry && template_->notif != 0;
}

u64 PlatformImpl::order_zygote(RefPtr<SlotArea> area, int fd, const Shelf::View& view) {
  auto process = make_ref<Process>(*this);
  area->take(0);
  process->area = std::move(area);
  process->shelf = view;
  order_preload(*process);
  making_ = std::make_unique<HostThread>(*this, process, 0, Role::kZygote);
  making_->parent_area = template_->process->area;
  making_->parent_index = 0;
  making_->parent_pid = template_->process->host_pid_;
  Slot& slot = template_->slot();
  slot.clone.fd = fd;
  slot.native_child_tid = 0;
  template_ready_ = false;
  template_->publish(Command::kMakeZygote, 0, 0);
  return std::exchange(template_->notif, 0);
}

void PlatformImpl::make_zygote(RefPtr<SlotArea> area) {
  if (!template_waits()) return;
  int fd = -1;
  {
    KeptHere kept(*template_);
    fd = add_fd(template_->notif, area->memfd());
    if (fd < 0) return;  // interrupted: it rings again, and the next exec asks again
    if (!shelf_.stock([this](int ours, int number) { return add_fd(template_->notif, ours, number); })) return;
  }
  const u64 notif = order_zygote(std::move(area), fd, shelf_.view());
  // The template's copying takes longer than to wake an idle CPU for it.
  if (cpus_ >= 2 && cpus_are_free())
    wake_apart(*template_);
  else
    wake_here();
  answer(notif);
}

// The kernel lock is let go wherever the template runs on this CPU: who needs it meanwhile would wait for that.
void PlatformImpl::make_zygote_apart() {
  RefPtr<SlotArea> area = SlotArea::make();
  if (!area) return;
  area->touch(0);
  u64 notif = 0;
  i32 tid = 0;
  Shelf::View view{};  // what the template has, whatever becomes of the shelf meanwhile
  {
    fiber::KernelLock lock;
    if (template_waits() &&
        shelf_.stock([this](int ours, int number) { return add_fd(template_->notif, ours, number); })) {
      view = shelf_.view();
      notif = template_->notif;
      tid = template_->tid;
      template_ready_ = false;
    }
  }
  if (notif == 0) {
    fiber::KernelLock lock;
    area = nullptr;
    return;
  }
  int fd = -1;
  {
    KeptHere kept(2, tid);
    fd = add_fd(notif, area->memfd());
  }
  {
    fiber::KernelLock lock;
    template_ready_ = template_ready_ || (template_ && template_->where == Where::kSentry);
    const bool same = template_waits() && template_->notif == notif;
    notif = same && fd >= 0 ? order_zygote(std::move(area), fd, view) : 0;
    area = nullptr;
    if (notif != 0) wake_here();
  }
  if (notif != 0) answer(notif);
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
  // One made before something left the shelf has that still.
  shelf_.settle();
  if (shelf_.holds(out->process->shelf)) return out;
  out->process->kill();
  out = nullptr;
  return take_zygote();
}

void PlatformImpl::return_zygote(std::unique_ptr<HostThread> zygote) { zygotes_.push_back(std::move(zygote)); }

// ---- the interpreter, ahead ----

void PlatformImpl::order_preload(Process& process) {
  Slot& slot = template_->slot();
  slot.image.maps = 0;
  if (!preload_) return;
  auto* op = reinterpret_cast<MapOp*>(template_->window());
  const u64 bias = preload_->area_begin + random_u64() % preload_->places * kPageSize;
  for (const ImageSegment& segment : preload_->segments) {
    *op = map_op(segment, bias);
    if (segment.source.fd < 0) {
      op->fd = -1;
    } else if ((op->fd = on_shelf(process, segment.source)) < 0) {
      preload_ = nullptr;
      return;
    }
    ++op;
  }
  slot.image.maps = static_cast<u32>(preload_->segments.size());
  process.preload = preload_;
  process.preload_bias = bias;
}

bool PlatformImpl::use_preload(Process& zygote, ExecImage& image) {
  InterpreterPart& part = image.interpreter;
  if (part.count == 0) return false;
  const ImageSegment* segments = image.segments.data() + part.first;
  auto same = [&](const ImageSegment& mine, const ImageSegment& its) {
    return mine.addr == its.addr - part.bias && mine.length == its.length && mine.prot == its.prot &&
           mine.source.item == its.source.item && mine.source.offset == its.source.offset &&
           mine.zero_from == (its.zero_from == 0 ? 0 : its.zero_from - part.bias);
  };
  auto is = [&](const Preload& preload) {
    return std::equal(preload.segments.begin(), preload.segments.end(), segments, segments + part.count, same);
  };
  if (zygote.preload && is(*zygote.preload)) {
    const u64 moved = zygote.preload_bias - part.bias;
    image.entry += moved;
    part.bias += moved;
    for (ImageData& data : image.data) {
      if (part.bias_word < data.addr || part.bias_word - data.addr > data.bytes.size() - sizeof(u64)) continue;
      memcpy(data.bytes.data() + (part.bias_word - data.addr), &part.bias, sizeof(u64));
    }
    return true;
  }
  if (part.count > kMostPreloaded || (preload_ && is(*preload_))) return false;
  auto next = std::make_shared<Preload>();
  next->area_begin = part.area_begin;
  next->places = part.places;
  next->low = ~0ull;
  for (size_t i = 0; i < part.count; ++i) {
    ImageSegment segment = segments[i];
    // An item stands for one file, whatever descriptor we have it by.
    if (segment.source.fd >= 0 && on_shelf(zygote, segment.source) < 0) return false;
    segment.source.everybodys = nullptr;
    segment.addr -= part.bias;
    if (segment.zero_from != 0) segment.zero_from -= part.bias;
    next->low = std::min(next->low, segment.addr);
    next->high = std::max(next->high, segment.addr + segment.length);
    next->segments.push_back(std::move(segment));
  }
  preload_ = std::move(next);
  return false;
}

// ---- the maker ----

bool PlatformImpl::ask_maker() {
  std::lock_guard guard(maker_lock_);
  if (!maker_.joinable()) {
    try {
      maker_ = std::thread([this] { make_on_demand(); });
    } catch (const std::system_error& e) {  // the control group has room for no other thread
      LOG_DEBUG("no thread to make stubs: %s", e.what());
      return false;
    }
  }
  if (maker_does_ != MakerDoes::kNothing) return true;
  maker_does_ = MakerDoes::kWake;
  dead_areas_ = SlotArea::take_dead();
  // The scheduler would wake it here as a rule.
  if (const int cpu = sched_getcpu(); cpu >= 0 && cpu != maker_avoids_ && maker_tid_ != 0) {
    cpu_set_t others = cpu_set_;
    CPU_CLR(cpu, &others);
    if (sched_setaffinity(maker_tid_, sizeof(others), &others) == 0) maker_avoids_ = cpu;
  }
  maker_wakes_.notify_one();
  return true;
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
    make_zygote_apart();
    guard.lock();
    if (maker_does_ == MakerDoes::kWork) maker_does_ = MakerDoes::kNothing;
  }
}

}  // namespace sbx::platform
