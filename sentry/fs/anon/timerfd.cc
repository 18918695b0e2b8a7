#include "sentry/fs/anon/timerfd.h"

#include <sys/ioctl.h>
#include <sys/timerfd.h>

#include "sentry/base/log.h"
#include "sentry/fs/anon/node.h"

namespace sbx::fs::anon {
namespace {

constexpr u64 kSecond = 1'000'000'000;
constexpr u64 kFarAway = kSecond * 86400 * 365 * 100;
constexpr u32 kIocSetTicks = 0x40085400;  // TFD_IOC_SET_TICKS

u64 now_on(int clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<u64>(t.tv_sec) * kSecond + static_cast<u64>(t.tv_nsec);
}
bool valid(const timespec& t) { return t.tv_sec >= 0 && t.tv_nsec >= 0 && t.tv_nsec < 1'000'000'000; }
u64 to_ns(const timespec& t) {
  if (static_cast<u64>(t.tv_sec) > kFarAway / kSecond) return kFarAway;
  return static_cast<u64>(t.tv_sec) * kSecond + static_cast<u64>(t.tv_nsec);
}
timespec to_spec(u64 ns) { return {static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)}; }
int plain(int clock) {
  if (clock == CLOCK_REALTIME_ALARM) return CLOCK_REALTIME;
  if (clock == CLOCK_BOOTTIME_ALARM) return CLOCK_BOOTTIME;
  return clock;
}

}  // namespace

TimerFd::TimerFd(int clock, u32 flags)
    : File(anon_path("[timerfd]"), O_RDWR | flags), clock_(clock), timer_([this] { expired(); }) {}

// The sentry's timers run on CLOCK_MONOTONIC; other clocks are translated when armed, and the realtime clock may have
// been set meanwhile: then it is armed again for the rest.
void TimerFd::arm() {
  if (next_ == 0 || timer_.armed()) return;
  u64 now = now_on(plain(clock_));
  timer_.arm(fiber::now_ns() + (next_ > now ? next_ - now : 0));
}

// A periodic timer is armed again by the next read, not here: until then it only counts, so that no interval however
// short keeps the reactor busy.
void TimerFd::expired() {
  catch_up();
  if (expirations_ == 0) {
    arm();
    return;
  }
  queue_.wake_all();
}

void TimerFd::catch_up() {
  if (next_ == 0) return;
  u64 now = now_on(plain(clock_));
  if (now < next_) return;
  timer_.cancel();
  if (interval_ == 0) {
    ++expirations_;
    next_ = 0;
    return;
  }
  u64 times = (now - next_) / interval_ + 1;
  expirations_ += times;
  next_ += times * interval_;
}

Result<size_t> TimerFd::read(vfs::Sink& sink, u64*) {
  if (sink.left() < sizeof(u64)) return Errno::kInval;
  catch_up();
  if (expirations_ == 0) return Errno::kAgain;
  u64 value = expirations_;
  expirations_ = 0;
  arm();
  return sink.put(&value, sizeof(value));
}

u32 TimerFd::readiness() {
  catch_up();
  return expirations_ > 0 ? POLLIN | POLLRDNORM : 0;
}

Result<i64> TimerFd::ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) {
  if (cmd != kIocSetTicks) return Errno::kNotty;
  u64 ticks = 0;
  TRY(caller.read(arg, &ticks, sizeof(ticks)));
  if (ticks == 0) return Errno::kInval;
  expirations_ = ticks;
  queue_.wake_all();
  return i64{0};
}

itimerspec TimerFd::get() {
  catch_up();
  itimerspec out{};
  out.it_interval = to_spec(interval_);
  if (next_ != 0) {
    u64 now = now_on(plain(clock_));
    // An armed timer never reads as disarmed.
    out.it_value = to_spec(next_ > now ? next_ - now : 1);
  }
  return out;
}

Result<void> TimerFd::set(u32 flags, const itimerspec& spec, itimerspec* old) {
  if (flags & ~u32{TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET}) return Errno::kInval;
  if (!valid(spec.it_value) || !valid(spec.it_interval)) return Errno::kInval;
  if (old != nullptr) *old = get();
  timer_.cancel();
  next_ = 0;
  expirations_ = 0;
  set_flags_ = flags;
  interval_ = to_ns(spec.it_interval);
  u64 value = to_ns(spec.it_value);
  if (value == 0) return {};
  next_ = flags & TFD_TIMER_ABSTIME ? value : now_on(plain(clock_)) + value;
  arm();
  return {};
}

std::string TimerFd::fdinfo() {
  itimerspec t = get();
  return str_printf("clockid: %d\nticks: %llu\nsettime flags: 0%o\nit_value: (%lld, %ld)\nit_interval: (%lld, %ld)\n",
                    clock_, static_cast<unsigned long long>(expirations_), set_flags_,
                    static_cast<long long>(t.it_value.tv_sec), t.it_value.tv_nsec,
                    static_cast<long long>(t.it_interval.tv_sec), t.it_interval.tv_nsec);
}

Result<RefPtr<vfs::File>> make_timerfd(int clock, u32 flags) {
  if (flags & ~u32{TFD_CLOEXEC | TFD_NONBLOCK}) return Errno::kInval;
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM: break;
    default: return Errno::kInval;
  }
  return RefPtr<vfs::File>(make_ref<TimerFd>(clock, flags & TFD_NONBLOCK ? O_NONBLOCK : 0));
}

}  // namespace sbx::fs::anon
