// Waiting for readiness: poll, select and epoll.
#include <sys/epoll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "sentry/abi/file.h"
#include "sentry/fs/anon/epoll.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/user_io.h"
#include "sentry/syscalls/wait_mask.h"
#include "sentry/time/clock.h"

namespace sbx::syscalls {
namespace {

// The files of one poll or select: held open while the call waits.
class PollSet {
 public:
  explicit PollSet(size_t count) { items_.reserve(count); }
  // A null file never becomes ready.
  void add(RefPtr<vfs::File> file, u32 wanted) { items_.push_back({std::move(file), wanted, 0}); }
  vfs::File* file(size_t i) const { return items_[i].file.get(); }
  // What of the wanted events the i-th file shows since the last scan.
  u32 got(size_t i) const { return items_[i].got; }

  // How many files are ready: at least one, or 0 at the deadline. kIntr if a signal arrived first.
  Result<size_t> wait(fiber::Deadline deadline) {
    size_t ready = scan();
    if (ready > 0 || deadline <= fiber::now_ns()) return ready;
    // Joined before the next look, so that nothing that happens after it is missed.
    std::deque<fiber::Waiter> waiters;
    for (const Item& item : items_) {
      fiber::WaitQueue* queue = item.file ? item.file->wait_queue() : nullptr;
      if (queue != nullptr) waiters.emplace_back(fiber::current()).join(*queue);
    }
    for (;;) {
      ready = scan();
      if (ready > 0) return ready;
      if (fiber::current()->interrupted()) return Errno::kIntr;
      fiber::current()->set_wait_reason("poll");
      if (!fiber::park_until(deadline)) return scan();
    }
  }

 private:
  struct Item {
    RefPtr<vfs::File> file;
    u32 wanted, got;
  };
  size_t scan() {
    size_t ready = 0;
    for (Item& item : items_) {
      item.got = item.file ? item.file->readiness() & item.wanted : 0;
      if (item.got != 0) ++ready;
    }
    return ready;
  }
  std::vector<Item> items_;
};

// --- poll ---

constexpr u32 kAlways = POLLERR | POLLHUP;

// kIntr means: interrupted; the callers choose the restart code.
Result<i64> do_poll(Task& task, u64 addr, u32 count, fiber::Deadline deadline) {
  if (count > task.nofile_limit()) return Errno::kInval;
  std::vector<abi::PollFd> fds(count);
  const size_t bytes = count * sizeof(abi::PollFd);
  if (count > 0) TRY(task.memory().read(addr, fds.data(), bytes));
  PollSet set(count);
  size_t invalid = 0;
  for (const abi::PollFd& entry : fds) {
    auto file = task.fds->get(entry.fd);
    if (entry.fd >= 0 && !file) ++invalid;
    set.add(file ? std::move(*file) : nullptr, static_cast<u16>(entry.events) | kAlways);
  }
  auto waited = set.wait(invalid > 0 ? 0 : deadline);
  if (!waited) return waited.error();
  i64 ready = 0;
  for (u32 i = 0; i < count; ++i) {
    abi::PollFd& entry = fds[i];
    entry.revents = static_cast<i16>(set.got(i));
    if (invalid > 0 && entry.fd >= 0 && !task.fds->get(entry.fd)) entry.revents = POLLNVAL;
    if (entry.revents != 0) ++ready;
  }
  if (count > 0) TRY(task.memory().write(addr, fds.data(), bytes));
  if (ready > 0 && lends_to(task)) {
    for (u32 i = 0; i < count; ++i) {
      if ((fds[i].revents & (POLLIN | POLLERR)) == POLLIN)
        task.fds->lend_arrived(fds[i].fd, *set.file(i), *task.thread);
    }
  }
  return ready;
}

Result<i64> restart_as(Result<i64> result, Errno code) {
  if (!result && result.error() == Errno::kIntr) return code;
  return result;
}

// --- select ---

constexpr u32 kReadEvents = POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR;
constexpr u32 kWriteEvents = POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR;
constexpr u32 kExceptEvents = POLLPRI;

// One fd_set in guest memory, n bits of it.
class FdSet {
 public:
  static Result<FdSet> read(Task& task, u64 addr, u32 n) {
    FdSet set;
    set.addr_ = addr;
    set.words_.resize((n + 63) / 64);
    if (addr != 0 && n > 0) TRY(task.memory().read(addr, set.words_.data(), set.words_.size() * 8));
    return set;
  }
  Result<void> write(Task& task) const {
    if (addr_ == 0 || words_.empty()) return {};
    return task.memory().write(addr_, words_.data(), words_.size() * 8);
  }
  bool has(u32 fd) const { return (words_[fd / 64] >> (fd % 64)) & 1; }
  void set(u32 fd, bool on) {
    const u64 bit = 1ull << (fd % 64);
    words_[fd / 64] = on ? words_[fd / 64] | bit : words_[fd / 64] & ~bit;
  }

 private:
  u64 addr_ = 0;
  std::vector<u64> words_;
};

Result<i64> do_select(Task& task, i32 count, u64 read_addr, u64 write_addr, u64 except_addr, fiber::Deadline deadline) {
  if (count < 0) return Errno::kInval;
  constexpr u32 kMost = 1 << 20;  // no descriptor is larger
  const u32 n = std::min(static_cast<u32>(count), kMost);
  const u64 addrs[3] = {read_addr, write_addr, except_addr};
  FdSet sets[3];
  for (int i = 0; i < 3; ++i) sets[i] = TRY(FdSet::read(task, addrs[i], n));
  constexpr u32 kEvents[3] = {kReadEvents, kWriteEvents, kExceptEvents};
  PollSet files(0);
  std::vector<u32> numbers;
  for (u32 fd = 0; fd < n; ++fd) {
    u32 wanted = 0;
    for (int i = 0; i < 3; ++i) wanted |= sets[i].has(fd) ? kEvents[i] : 0;
    if (wanted == 0) continue;
    files.add(TRY(task.fds->get(static_cast<i32>(fd))), wanted);
    numbers.push_back(fd);
  }
  auto waited = files.wait(deadline);
  if (!waited) return waited.error();
  i64 bits = 0;
  for (size_t at = 0; at < numbers.size(); ++at) {
    for (int i = 0; i < 3; ++i) {
      const bool on = sets[i].has(numbers[at]) && (files.got(at) & kEvents[i]) != 0;
      sets[i].set(numbers[at], on);
      bits += on;
    }
  }
  for (const FdSet& set : sets) TRY(set.write(task));
  return bits;
}

}  // namespace

Result<i64> sys_poll(Task& task, Array<pollfd> fds, UInt count, Int timeout_ms) {
  const u64 ns = timeout_ms < 0 ? time::kForever : static_cast<u64>(timeout_ms) * time::kNsPerMs;
  fiber::Deadline deadline = deadline_after(task, ns);
  return restart_as(do_poll(task, fds.addr, count, deadline), Errno::kRestartRestartBlock);
}

Result<i64> sys_ppoll(Task& task, Array<pollfd> fds, UInt count, InOut<timespec> timeout, InBuf mask, Size mask_size) {
  fiber::Deadline deadline = TRY(deadline_from(task, timeout.addr));
  TRY(install_mask(task, mask.addr, mask_size));
  auto result = do_poll(task, fds.addr, count, deadline);
  write_remaining(task, timeout.addr, deadline);
  return restart_as(result, Errno::kRestartNoHand);
}

Result<i64> sys_select(Task& task, Int count, UserAddr read, UserAddr write, UserAddr except, InOut<timeval> timeout) {
  u64 ns = time::kForever;
  if (!timeout.null()) {
    auto value = TRY(timeout.read(task));
    // Microseconds may be more than a second's worth here, unlike anywhere else.
    if (value.tv_usec >= 1'000'000 && value.tv_sec < (1ll << 40)) {
      value.tv_sec += value.tv_usec / 1'000'000;
      value.tv_usec %= 1'000'000;
    }
    ns = TRY(time::to_ns(value));
  }
  fiber::Deadline deadline = deadline_after(task, ns);
  auto result = do_select(task, count, read.addr, write.addr, except.addr, deadline);
  if (!timeout.null()) {
    const u64 now = fiber::now_ns();
    (void)timeout.write(task, time::to_timeval(deadline > now ? deadline - now : 0));
  }
  return restart_as(result, Errno::kRestartNoHand);
}

Result<i64> sys_pselect6(Task& task, Int count, UserAddr read, UserAddr write, UserAddr except, InOut<timespec> timeout,
                         UserAddr mask_arg) {
  fiber::Deadline deadline = TRY(deadline_from(task, timeout.addr));
  if (mask_arg.addr != 0) {
    auto mask = TRY(In<abi::SigSetArg>{mask_arg.addr}.read(task));
    TRY(install_mask(task, mask.set, mask.size));
  }
  auto result = do_select(task, count, read.addr, write.addr, except.addr, deadline);
  write_remaining(task, timeout.addr, deadline);
  return restart_as(result, Errno::kRestartNoHand);
}

// --- epoll ---

namespace {

Result<RefPtr<fs::anon::Epoll>> get_epoll(Task& task, Fd fd) {
  auto file = TRY(task.fds->get(fd.n));
  auto epoll = ref_cast<fs::anon::Epoll>(file);
  if (!epoll) return Errno::kInval;
  return epoll;
}

// Who is told that there is something to be read reads it next: it comes along (platform/file_lease.h).
void lend_streams(Task& task, const epoll_event* events, const fs::anon::Epoll::Source* sources, size_t count) {
  if (!lends_to(task)) return;
  for (size_t i = 0; i < count; ++i) {
    if ((events[i].events & (EPOLLIN | EPOLLERR)) != EPOLLIN) continue;
    task.fds->lend_stream(sources[i].fd, *sources[i].file, *task.thread);
    task.fds->lend_arrived(sources[i].fd, *sources[i].file, *task.thread);
  }
}

Result<i64> do_epoll_wait(Task& task, Fd fd, OutBuf to, i32 most, fiber::Deadline deadline) {
  static_assert(sizeof(epoll_event) == sizeof(abi::EpollEvent));
  if (most <= 0 || static_cast<u32>(most) > INT32_MAX / sizeof(epoll_event)) return Errno::kInval;
  auto epoll = TRY(get_epoll(task, fd));
  // What does not fit one answer is there for the next call.
  constexpr size_t kMost = 256;
  epoll_event events[kMost];
  task.fds->take_lent_streams();
  fs::anon::Epoll::Source sources[kMost];
  size_t got = TRY(epoll->wait(events, std::min<size_t>(static_cast<size_t>(most), kMost), deadline, sources));
  lend_streams(task, events, sources, got);
  if (got > 0) TRY(task.memory().write(to.addr, events, got * sizeof(epoll_event)));
  return static_cast<i64>(got);
}

fiber::Deadline deadline_ms(Task& task, i32 timeout_ms) {
  if (timeout_ms == 0) return 0;
  return deadline_after(task, timeout_ms < 0 ? time::kForever : static_cast<u64>(timeout_ms) * time::kNsPerMs);
}

}  // namespace

Result<i64> sys_epoll_create1(Task& task, Hex flags) {
  if (flags.v & ~u64{EPOLL_CLOEXEC}) return Errno::kInval;
  auto file = TRY(fs::anon::make_epoll(static_cast<u32>(flags.v)));
  return TRY(task.fds->add(std::move(file), flags.v & EPOLL_CLOEXEC, task.nofile_limit()));
}

Result<i64> sys_epoll_create(Task& task, Int size) {
  if (size <= 0) return Errno::kInval;
  return sys_epoll_create1(task, Hex{0});
}

Result<i64> sys_epoll_ctl(Task& task, Fd fd, Int op, Int target, InBuf event_addr) {
  epoll_event event{};
  if (op != EPOLL_CTL_DEL) event = TRY(In<epoll_event>{event_addr.addr}.read(task));
  auto at = TRY(task.fds->get(fd.n));
  auto file = TRY(task.fds->get(target));
  auto epoll = ref_cast<fs::anon::Epoll>(at);
  if (!epoll || at == file) return Errno::kInval;
  TRY(epoll->control(op, target, file, event));
  at = nullptr;
  epoll->controlled(fd.n, op, target, file, event);
  return 0;
}

Result<i64> sys_epoll_wait(Task& task, Fd fd, OutBuf to, Int most, Int timeout_ms) {
  return do_epoll_wait(task, fd, to, most, deadline_ms(task, timeout_ms));
}

Result<i64> sys_epoll_pwait(Task& task, Fd fd, OutBuf to, Int most, Int timeout_ms, InBuf mask, Size mask_size) {
  TRY(install_mask(task, mask.addr, mask_size));
  return do_epoll_wait(task, fd, to, most, deadline_ms(task, timeout_ms));
}

Result<i64> sys_epoll_pwait2(Task& task, Fd fd, OutBuf to, Int most, InBuf timeout, InBuf mask, Size mask_size) {
  fiber::Deadline deadline = TRY(deadline_from(task, timeout.addr));
  TRY(install_mask(task, mask.addr, mask_size));
  return do_epoll_wait(task, fd, to, most, deadline);
}

}  // namespace sbx::syscalls
