#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

COUNTER(entries, "platform.entries", "requests of guest threads to the sentry");
COUNTER(kicks_sent, "platform.kicks", "host signals sent to make guest threads come in");

constexpr u32 kMaxKickDelayMs = 128;
constexpr u64 kMs = 1'000'000;

i64 clamp_errno(u64 value) {
  i64 v = static_cast<i64>(value);
  return v >= -4095 && v < 0 ? v : -EAGAIN;
}

}  // namespace

GuestThreadImpl::~GuestThreadImpl() { inspected(-ESRCH); }

void GuestThreadImpl::take_host(std::unique_ptr<HostThread> host) {
  host_ = std::move(host);
  host_->guest = this;
  watch_calls(watch_);
}

// ---- entries ----

void GuestThreadImpl::on_request() {
  const Slot& s = host_->slot();
  entries.add();
  if (s.kind == RequestKind::kInspected) {
    inspected(static_cast<i64>(s.args[0]));
    return;
  }
  // One read of each field: the guest may change them meanwhile.
  auto kind = static_cast<RequestKind>(__atomic_load_n(reinterpret_cast<const u8*>(&s.kind), __ATOMIC_RELAXED));
  // Before the reply, which is all the order it needs.
  if (__atomic_load_n(&s.kick, __ATOMIC_RELAXED) != 0) __atomic_store_n(&host_->slot().kick, 0, __ATOMIC_RELAXED);
  kicked_ = false;
  if (kick_timer_) kick_timer_->cancel();
  Entry e{};
  e.nr = s.nr;
  u32 copied = kind == RequestKind::kSyscall ? __atomic_load_n(&s.in_mask, __ATOMIC_RELAXED) : 0;
  e.seen = (copied & kSeen) != 0;
  for (u32 i = 0; i < 6; ++i) {
    e.args[i] = s.args[i];
    in_length_[i] = 0;
    if ((copied >> i & 1) == 0) continue;
    in_offset_[i] = s.in_offset[i];
    in_length_[i] = sane_length(in_offset_[i], s.in_length[i]);
  }
  for (u32 i = 0; i < kMostProbes; ++i) {
    probed_begin_[i] = (copied & kProbed) != 0 ? s.probe_addr[i] : 0;
    probed_end_[i] = (copied & kProbed) != 0 ? probed_begin_[i] + std::min<u64>(s.probed[i], kMaxProbe) : 0;
  }
  pieces_ = (copied & kPieces) != 0 ? std::min(__atomic_load_n(&s.pieces, __ATOMIC_RELAXED), kMostPieces) : 0;
  for (u32 i = 0; i < pieces_; ++i) {
    piece_addr_[i] = s.piece_addr[i];
    piece_offset_[i] = s.piece_offset[i];
    piece_length_[i] = sane_length(piece_offset_[i], s.piece_length[i]);
  }
  out_count_ = out_used_ = 0;
  if (window_moves_ || kind == RequestKind::kFileShort) note_windows(kind);
  file_copy_.length = 0;
  switch (kind) {
    case RequestKind::kBind: e.kind = EntryKind::kStarted; break;
    case RequestKind::kSyscall: e.kind = EntryKind::kSyscall; break;
    case RequestKind::kCloned: e.kind = EntryKind::kCloned; break;
    case RequestKind::kFileShort: e.kind = EntryKind::kFileShort; break;
    case RequestKind::kNativeCall: e.kind = EntryKind::kNativeCall; break;
    case RequestKind::kNativeDone: e.kind = EntryKind::kNativeDone; break;
    case RequestKind::kMapped: e.kind = EntryKind::kMapped; break;
    case RequestKind::kFault:
      e.kind = EntryKind::kFault;
      e.ip = s.ip;
      e.fault = {s.fault_signo, s.fault_code, s.fault_addr, s.fault_fatal != 0};
      switch (e.fault.signo) {
        case SIGILL:
        case SIGTRAP:
        case SIGBUS:
        case SIGFPE:
        case SIGSEGV: break;
        default: e.fault.signo = SIGSEGV;
      }
      break;
    case RequestKind::kCloneFailed:
      platform_.child_failed(*host_);
      entry_ = e;
      finish(Command::kReturn, clamp_errno(e.args[0]));
      return;
    default:
      e.kind = EntryKind::kSignalCheck;
      e.interrupted_native = s.interrupted_native != 0;
      break;
  }
  if (kind == RequestKind::kSyscall && (e.nr == SYS_exit || e.nr == SYS_exit_group || e.nr == SYS_getrusage)) {
    const SlotUsage& u = s.usage;
    usage_ = {u.utime_us, u.stime_us, u.maxrss_kb, u.minflt, u.majflt, u.nvcsw, u.nivcsw};
  }
  host_->process->last_index = host_->index;
  entry_ = e;
  entry_ready_ = true;
  if (fiber_ != nullptr) fiber_->wake();
}

u32 GuestThreadImpl::sane_length(u32 offset, u32 length) {
  constexpr u32 kEnd = kWindowBytes + kBulkBytes;
  const u32 end = offset < kWindowBytes ? u32{kWindowBytes} : kEnd;
  return offset < kEnd && length <= end - offset ? length : 0;
}

void GuestThreadImpl::lost() {
  if (lost_) return;
  lost_ = true;
  inspected(-ESRCH);
  kicked_ = false;
  if (kick_timer_) kick_timer_->cancel();
  if (host_) host_->where = Where::kGone;
  if (fiber_ != nullptr) fiber_->wake();
}

Entry GuestThreadImpl::wait_entry() {
  fiber_ = fiber::current();
  while (!lost_ && !entry_ready_) {
    fiber_->set_wait_reason("guest");
    fiber::park();
  }
  fiber_ = nullptr;
  if (lost_) {
    Entry e{};
    e.kind = EntryKind::kLost;
    return e;
  }
  entry_ready_ = false;
  return entry_;
}

// ---- resumes ----

void GuestThreadImpl::finish(Command command, i64 ret) {
  if (lost_ || !host_ || host_->where != Where::kSentry) return;
  Slot& s = host_->slot();
  bool returns = command == Command::kReturn || command == Command::kDeliver;
  if (out_count_ != 0 && !(returns && entry_.kind == EntryKind::kSyscall)) flush_writes();
  u32 count = std::exchange(out_count_, 0);
  for (u32 i = 0; i < count; ++i) s.out[i] = out_[i];
  out_used_ = 0;
  if (returns && entry_.kind == EntryKind::kSyscall) count |= file_orders();
  if (host_->process->area->outbox) host_->process->area->outbox->call_ends();
  host_->reply(command, ret, count);
}

void GuestThreadImpl::resume(i64 ret) { finish(Command::kReturn, ret); }

void GuestThreadImpl::resume_continue() { finish(Command::kContinue, 0); }

void GuestThreadImpl::resume_signal(i64 ret, bool restart, const SignalDelivery& delivery) {
  if (lost_ || !host_) return;
  SlotDelivery& d = host_->slot().delivery;
  d.signo = delivery.signo;
  d.restart = restart;
  memcpy(d.siginfo, delivery.siginfo, sizeof(d.siginfo));
  d.handler = delivery.handler;
  d.restorer = delivery.restorer;
  d.sa_flags = delivery.sa_flags;
  d.frame_mask = delivery.frame_mask;
  d.new_mask = delivery.new_mask;
  if (restart && out_count_ != 0) flush_writes();
  finish(Command::kDeliver, ret);
}

void GuestThreadImpl::resume_exit() {
  if (lost_ || !host_ || host_->where != Where::kSentry) return;
  platform_.collect_counters(host_->slot());
  finish(Command::kExit, 0);
  host_->left = true;
  left_cookies().insert(host_->cookie);
  host_->where = Where::kGone;
  platform_.forget(*host_);
}

Result<void> GuestThreadImpl::prepare_clone(CloneRequest::Kind kind) {
  if (kind != CloneRequest::Kind::kFork || next_fd_ >= 0) return {};
  RefPtr<SlotArea> area = platform_.take_area();
  if (!area) return Errno::kAgain;
  // The stub may have been interrupted in its doorbell; it rings again at once.
  int fd = lend_when_rung(area->memfd());
  if (fd < 0) return Errno::kAgain;
  next_area_ = area;
  next_fd_ = fd;
  return {};
}

// A stub that spins for the answer rings when nobody polls for it any more, which is so once this fiber parks; one that
// was interrupted in its doorbell rings again.
int GuestThreadImpl::lend_when_rung(std::span<int> fds) {
  size_t done = 0;
  for (int tries = 0; tries < 1000; ++tries) {
    if (lost_ || !host_ || host_->where != Where::kSentry || host_->process->dead) return -ESRCH;
    {
      KeptHere kept(*host_);
      int theirs = 0;
      for (; done < fds.size(); ++done) {
        theirs = platform_.add_fd(host_->notif, fds[done]);
        if (theirs < 0) break;
        fds[done] = theirs;
      }
      if (theirs >= 0) return 0;
      if (theirs != -ENOENT) return theirs;
    }
    ringing_for_ = fiber::current();
    fiber::park_until(fiber::now_ns() + kMs);
    ringing_for_ = nullptr;
  }
  return -ENOENT;
}

void GuestThreadImpl::rang() {
  if (ringing_for_ != nullptr) ringing_for_->wake();
}

void GuestThreadImpl::resume_clone(const CloneRequest& request, GuestThread& child_thread) {
  auto& child = static_cast<GuestThreadImpl&>(child_thread);
  auto fail = [&](Errno e) {
    child.lost();
    finish(Command::kReturn, -static_cast<i64>(e));
  };
  if (lost_ || !host_ || host_->where != Where::kSentry || host_->process->dead) {
    child.lost();
    return;
  }
  if (platform_.host_threads >= platform_.options.max_threads) return fail(Errno::kAgain);
  bool fork = request.kind == CloneRequest::Kind::kFork;
  RefPtr<Process> process = host_->process;
  u32 index = host_->index;
  if (fork) {
    if (next_fd_ < 0) return fail(Errno::kAgain);
    next_area_->take(index);
    process = make_ref<Process>(platform_);
    process->area = std::move(next_area_);
    process->shelf = host_->process->shelf;
  } else {
    int slot = process->area->take();
    if (slot < 0) return fail(Errno::kAgain);
    index = static_cast<u32>(slot);
    if (request.kind == CloneRequest::Kind::kVfork) {
      RefPtr<SlotArea> area = process->area;
      process = make_ref<Process>(platform_);
      process->area = area;
      process->shelf = host_->process->shelf;
    }
  }
  // Before the child is known: the word still names this thread's last child, whose exit must not count as the new
  // one's.
  platform_.keep_child_tids(*host_);
  Slot& mine = host_->slot();
  mine.native_child_tid = 0;
  auto host = std::make_unique<HostThread>(platform_, process, index, Role::kGuest);
  host->parent_area = host_->process->area;
  host->parent_index = host_->index;
  host->parent_pid = host_->process->host_pid_;
  Slot& fresh = host->slot();
  fresh.sigmask = mine.sigmask;
  fresh.brk_start = mine.brk_start;
  fresh.brk_end = mine.brk_end;
  fresh.altstack_flags = 2;
  if (request.kind != CloneRequest::Kind::kThread) {
    fresh.altstack_sp = mine.altstack_sp;
    fresh.altstack_size = mine.altstack_size;
    fresh.altstack_flags = mine.altstack_flags;
  }
  u64 cookie = host->cookie;
  child.take_host(std::move(host));
  child.mask_ = mine.sigmask;
  child.send_identity();
  SlotClone& c = mine.clone;
  c.fd = -1;
  if (fork) {
    c.fd = next_fd_;  // the stub closes it when it has forked
    next_fd_ = -1;
  }
  c.kind =
      fork ? CloneKind::kFork : (request.kind == CloneRequest::Kind::kVfork ? CloneKind::kVfork : CloneKind::kThread);
  c.index = index;
  c.cookie = cookie;
  c.child_sp = request.child_sp;
  c.set_tls = request.set_tls;
  c.tls = request.tls;
  c.parent_tid_ptr = request.parent_tid_ptr;
  c.child_tid_ptr = request.child_tid_ptr;
  c.clear_tid_ptr = request.clear_tid_ptr;
  c.guest_tid = request.guest_tid;
  c.child_tid_value = request.child_tid_value;
  mine.report_clone = request.report;
  finish(Command::kClone, 0);
  // While the host copies the process: who forks once forks again.
  if (fork) platform_.make_spare_area(index);
}

bool GuestThreadImpl::answers_calls() const {
  return !platform_.options.report_all_syscalls && !watch_.before && !watch_.after && !watch_.text;
}

void LentSources::add(const MapSource& source) {
  for (size_t i = 0; i < count; ++i) {
    if (all[i].source->fd == source.fd) return;
  }
  all[count++] = {&source, -1};
}

int LentSources::number(const MapSource& source) const {
  for (size_t i = 0; i < count; ++i) {
    if (all[i].source->fd == source.fd) return all[i].number;
  }
  return -1;
}

// Those that the stub has not inherited are put into it. 0 or -errno.
int GuestThreadImpl::lend_sources(LentSources& sources) {
  std::array<int, LentSources::kMost> fds;
  size_t missing = 0;
  for (size_t i = 0; i < sources.count; ++i) {
    LentSources::One& one = sources.all[i];
    one.number = platform_.on_shelf(*host_->process, *one.source);
    if (one.number < 0) fds[missing++] = one.source->fd;
  }
  if (missing == 0) return 0;
  const int error = lend_when_rung({fds.data(), missing});
  if (error < 0 || lost_) return error;
  for (size_t i = 0, next = 0; i < sources.count; ++i) {
    LentSources::One& one = sources.all[i];
    if (one.number >= 0) continue;
    one.number = fds[next++];
    platform_.want_on_shelf(*one.source);
  }
  return 0;
}

void GuestThreadImpl::resume_mmap(const MmapRequest& request) {
  if (lost_ || !host_) return;
  LentSources lent;
  if (request.source.fd >= 0) {
    lent.add(request.source);
    for (const MapNext& next : request.next) lent.add(next.source);
    const int error = lend_sources(lent);
    if (lost_) return;
    if (error < 0) {
      finish(Command::kReturn, error);
      return;
    }
  }
  auto& op = *reinterpret_cast<MapOp*>(host_->window());
  auto* next_op = reinterpret_cast<MapNextOp*>(host_->window() + sizeof(MapOp));
  op = {};
  op.next = static_cast<u32>(request.next.size());
  for (size_t i = 0; i < request.next.size(); ++i) {
    const MapNext& next = request.next[i];
    next_op[i] = {};
    next_op[i].op.addr = next.at;
    next_op[i].op.length = next.length;
    next_op[i].op.prot = next.prot;
    next_op[i].op.flags = MAP_PRIVATE | MAP_FIXED;
    next_op[i].op.offset = next.source.offset;
    next_op[i].op.fd = lent.number(next.source);
    next_op[i].offset = next.offset;
    auto again = [&](const MapNext& later) { return later.source.fd == next.source.fd; };
    const bool last = std::none_of(request.next.begin() + static_cast<ptrdiff_t>(i) + 1, request.next.end(), again);
    next_op[i].op.close_fd = last && !is_on_shelf(next_op[i].op.fd);
  }
  op.addr = request.addr;
  op.length = request.length;
  op.prot = request.prot;
  op.flags = request.flags;
  op.offset = request.source.offset;
  op.fd = request.source.fd < 0 ? -1 : lent.number(request.source);
  op.close_fd = op.fd >= 0 && !is_on_shelf(op.fd) &&
                std::none_of(request.next.begin(), request.next.end(),
                             [&](const MapNext& next) { return next.source.fd == request.source.fd; });
  op.unmap = request.unmap;
  op.report = request.report;
  finish(Command::kMmap, 0);
}

void GuestThreadImpl::kill_host_process() {
  if (!host_) {
    lost();
    return;
  }
  RefPtr<Process> process = host_->process;
  if (!process->dead && platform_.release_robust_locks(*process)) return;
  platform_.bury(*process);
}

// ---- signals ----

void GuestThreadImpl::kick() {
  if (!host_ || lost_ || kicked_ || host_->where != Where::kNative) return;
  kicked_ = true;
  kick_tries_ = 0;
  __atomic_store_n(&host_->slot().kick, 1, __ATOMIC_SEQ_CST);
  rekick();
}

void GuestThreadImpl::rekick() {
  if (!kicked_ || !host_ || host_->where != Where::kNative) return;
  kicks_sent.add();
  // The flag may have been cleared by hostile or racing guest code.
  __atomic_store_n(&host_->slot().kick, 1, __ATOMIC_SEQ_CST);
  if (syscall(SYS_tgkill, host_->process->host_pid_, host_->tid, kKickSignal) != 0 && errno == ESRCH) {
    lost();
    return;
  }
  if (!kick_timer_) kick_timer_ = std::make_unique<fiber::Timer>([this] { rekick(); });
  u64 delay = std::min<u64>(1ull << std::min<u32>(kick_tries_++, 7), kMaxKickDelayMs);
  kick_timer_->arm(fiber::now_ns() + delay * kMs);
}

bool GuestThreadImpl::in_sentry() const { return !host_ || host_->where == Where::kSentry; }

void GuestThreadImpl::set_pending(u64 pending_set) {
  pending_ = pending_set;
  if (host_) __atomic_store_n(&host_->slot().pending, pending_set, __ATOMIC_SEQ_CST);
}

u64 GuestThreadImpl::robust_list() const {
  return host_ && !lost_ ? __atomic_load_n(&host_->slot().robust_head, __ATOMIC_RELAXED) : 0;
}

u64 GuestThreadImpl::signal_mask() const {
  return host_ ? __atomic_load_n(&host_->slot().sigmask, __ATOMIC_SEQ_CST) : mask_;
}

void GuestThreadImpl::set_signal_mask(u64 mask) {
  mask_ = mask;
  if (host_) __atomic_store_n(&host_->slot().sigmask, mask, __ATOMIC_SEQ_CST);
}

void GuestThreadImpl::set_identity(const Identity& id) {
  identity_ = id;
  send_identity();
}

void GuestThreadImpl::send_identity() {
  if (!host_) return;
  SlotIdentity& s = host_->slot().identity;
  s = {identity_.pid, identity_.tid, identity_.ppid, identity_.uid, identity_.euid, identity_.gid, identity_.egid};
  __atomic_store_n(&host_->slot().unset_actions, identity_.unset_actions, __ATOMIC_RELAXED);
  host_->slot().stack_limit[0] = identity_.stack_limit;
  host_->slot().stack_limit[1] = identity_.stack_limit_max;
  host_->slot().has_stack_limit = identity_.has_stack_limit;
  host_->slot().may_default = identity_.may_default;
}

u64 GuestThreadImpl::take_defaulted(u64* restorer) {
  if (!host_) return 0;
  Slot& slot = host_->slot();
  const u64 set = __atomic_load_n(&slot.defaulted, __ATOMIC_RELAXED);
  if (set == 0) return 0;
  *restorer = slot.default_restorer;
  __atomic_store_n(&slot.defaulted, 0, __ATOMIC_RELAXED);
  return set;
}

RefPtr<AddressSpace> GuestThreadImpl::address_space() const {
  return host_ ? RefPtr<AddressSpace>(host_->process) : nullptr;
}

StubUsage GuestThreadImpl::usage() const { return usage_; }

}  // namespace sbx::platform
