// Guest bytes: the window where the stub copied them, process_vm_readv/writev elsewhere; and exec.
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

COUNTER(window_reads, "platform.window_reads", "guest reads answered from the slot's window");
COUNTER(vm_reads, "platform.vm_reads", "process_vm_readv calls");
COUNTER(window_writes, "platform.window_writes", "guest writes left to the stub");
COUNTER(vm_writes, "platform.vm_writes", "process_vm_writev calls");

constexpr u32 kOutOffset = kCopyInBytes;
constexpr size_t kMaxDeferred = 16 * 1024;

// Bytes moved. The kernel stops at iovec borders, so a fault is located by going page by page.
size_t move(i32 tid, u64 addr, void* local, size_t n, bool to_guest) {
  auto call = [&](iovec& mine, iovec* theirs, size_t count) {
    return to_guest ? process_vm_writev(tid, &mine, 1, theirs, count, 0)
                    : process_vm_readv(tid, &mine, 1, theirs, count, 0);
  };
  (to_guest ? vm_writes : vm_reads).add();
  if (addr + n < addr || addr + n > kUserEnd) {
    if (addr >= kUserEnd) return 0;
    n = kUserEnd - addr;
  }
  iovec mine{local, n};
  iovec theirs{reinterpret_cast<void*>(addr), n};
  ssize_t got = call(mine, &theirs, 1);
  if (got == static_cast<ssize_t>(n)) return n;
  if (got < 0 && errno != EFAULT) return 0;
  size_t done = 0;
  while (done < n) {
    iovec pages[64];
    size_t count = 0, batch = 0;
    for (; count < 64 && done + batch < n; ++count) {
      u64 at = addr + done + batch;
      size_t part = std::min<size_t>(n - done - batch, kPageSize - (at & (kPageSize - 1)));
      pages[count] = {reinterpret_cast<void*>(at), part};
      batch += part;
    }
    mine = {static_cast<char*>(local) + done, batch};
    got = call(mine, pages, count);
    if (got <= 0) break;
    done += static_cast<size_t>(got);
    if (static_cast<size_t>(got) < batch) break;
  }
  return done;
}

}  // namespace

size_t GuestThreadImpl::move_memory(u64 addr, void* local, size_t n, bool to_guest) {
  return move(host_->tid, addr, local, n, to_guest);
}

const u8* GuestThreadImpl::copied(u64 addr, size_t n) const {
  if (out_count_ != 0) return nullptr;  // what was written may be what is read
  for (int i = 0; i < 6; ++i) {
    if (in_length_[i] == 0 || addr < entry_.args[i]) continue;
    u64 skip = addr - entry_.args[i];
    if (skip <= in_length_[i] && n <= in_length_[i] - skip) return copied_at(in_offset_[i]) + skip;
  }
  for (u32 i = 0; i < pieces_; ++i) {
    if (addr < piece_addr_[i]) continue;
    u64 skip = addr - piece_addr_[i];
    if (skip <= piece_length_[i] && n <= piece_length_[i] - skip) return copied_at(piece_offset_[i]) + skip;
  }
  return nullptr;
}

void GuestThreadImpl::flush_writes() {
  u32 count = out_count_;
  out_count_ = out_used_ = 0;
  for (u32 i = 0; i < count; ++i) {
    move(host_->tid, out_[i].addr, host_->window() + out_[i].offset, out_[i].length, true);
  }
}

Result<void> GuestThreadImpl::read(u64 addr, void* to, size_t n) {
  if (n == 0) return {};
  if (TRY(read_some(addr, to, n)) != n) return Errno::kFault;
  return {};
}

Result<size_t> GuestThreadImpl::read_some(u64 addr, void* to, size_t n) {
  if (n == 0) return size_t{0};
  if (!host_ || lost_) return Errno::kFault;
  if (const u8* from = copied(addr, n); from != nullptr) {
    window_reads.add();
    memcpy(to, from, n);
    return n;
  }
  if (out_count_ != 0) flush_writes();
  size_t done = move(host_->tid, addr, to, n, false);
  if (done == 0) return Errno::kFault;
  return done;
}

Result<void> GuestThreadImpl::write(u64 addr, const void* from, size_t n) {
  if (n == 0) return {};
  if (TRY(write_some(addr, from, n)) != n) return Errno::kFault;
  return {};
}

Result<size_t> GuestThreadImpl::write_some(u64 addr, const void* from, size_t n) {
  if (n == 0) return size_t{0};
  if (!host_ || lost_) return Errno::kFault;
  if (addr + n < addr || addr + n > kUserEnd) return Errno::kFault;
  bool safe = !takes_what_it_gives(entry_.nr);
  for (u32 i = 0; i < kMostProbes; ++i) safe |= addr >= probed_begin_[i] && addr + n <= probed_end_[i];
  if (safe && n <= kMaxDeferred && out_count_ < kMaxCopyOut && entry_.kind == EntryKind::kSyscall &&
      host_->where == Where::kSentry && out_used_ + n <= kWindowBytes - kOutOffset) {
    u32 offset = kOutOffset + out_used_;
    memcpy(host_->window() + offset, from, n);
    out_[out_count_++] = {addr, offset, static_cast<u32>(n)};
    out_used_ += static_cast<u32>((n + 15) & ~15ull);
    window_writes.add();
    return n;
  }
  if (out_count_ != 0) flush_writes();
  size_t done = move(host_->tid, addr, const_cast<void*>(from), n, true);
  if (done == 0) return Errno::kFault;
  return done;
}

Result<std::string> GuestThreadImpl::read_string(u64 addr, size_t max) {
  if (!host_ || lost_) return Errno::kFault;
  for (int i = 0; i < 6 && out_count_ == 0; ++i) {
    if (in_length_[i] == 0 || entry_.args[i] != addr) continue;
    // Copied once, then searched: the guest may write the window meanwhile.
    std::string text(reinterpret_cast<const char*>(host_->window() + in_offset_[i]), in_length_[i]);
    size_t end = text.find('\0');
    if (end == std::string::npos) break;
    window_reads.add();
    if (end > max) return Errno::kNametoolong;
    text.resize(end);
    return text;
  }
  if (out_count_ != 0) flush_writes();
  std::string text;
  char chunk[kPageSize];
  while (text.size() <= max) {
    size_t want = std::min<size_t>(kPageSize - (addr & (kPageSize - 1)), max + 1 - text.size());
    if (move(host_->tid, addr, chunk, want, false) != want) return Errno::kFault;
    const void* end = memchr(chunk, 0, want);
    if (end != nullptr) {
      text.append(chunk, static_cast<size_t>(static_cast<const char*>(end) - chunk));
      return text;
    }
    text.append(chunk, want);
    addr += want;
  }
  return Errno::kNametoolong;
}

// ---- limits ----

namespace {
// The soft limit only: the hard one stays, so that the guest's next limit can be higher.
void limit(i32 pid, __rlimit_resource resource, u64 guest, u64 ours) {
  rlimit now{};
  if (prlimit(pid, resource, nullptr, &now) != 0) return;
  now.rlim_cur = std::min<u64>(guest > RLIM_INFINITY - ours ? RLIM_INFINITY : guest + ours, now.rlim_max);
  if (prlimit(pid, resource, &now, nullptr) != 0) LOG_WARNING("limit %d of a stub: %s", resource, strerror(errno));
}
}  // namespace

void GuestThreadImpl::limit_memory(u64 address_space, u64 data) {
  if (!host_ || host_->process->host_pid_ == 0 || host_->process->dead) return;
  constexpr u64 kTrampolines = 1 << 20;
  constexpr u64 kOurs = kSlotsBytes + kStacksBytes + kFileWindowsBytes + kStubSize + kStubDataBytes + kTrampolines;
  limit(host_->process->host_pid_, RLIMIT_AS, address_space, kOurs);
  limit(host_->process->host_pid_, RLIMIT_DATA, data, kStacksBytes + kStubDataBytes);
}

// ---- exec ----

MapOp map_op(const ImageSegment& segment, u64 bias) {
  MapOp op{};
  op.addr = segment.addr + bias;
  op.length = segment.length;
  op.prot = segment.prot;
  op.flags = MAP_PRIVATE | MAP_FIXED;
  op.offset = segment.source.offset;
  op.zero_from = segment.zero_from != 0 ? segment.zero_from + bias : 0;
  op.fd = -1;
  if (segment.source.fd < 0) op.flags |= MAP_ANONYMOUS;
  return op;
}

Result<void> GuestThreadImpl::exec(ExecImage& image) {
  std::unique_ptr<HostThread> fresh = TRY(platform_.take_zygote());
  auto discard = [&] {
    fresh->process->kill();
    platform_.want_zygotes();
  };
  Slot& s = fresh->slot();
  u8* window = fresh->window();
  size_t head = (image.segments.size() + 1) * sizeof(MapOp) + image.data.size() * sizeof(CopyOp);
  if (head > kWindowBytes) {
    platform_.return_zygote(std::move(fresh));
    return Errno::kTooBig;
  }
  auto* map = reinterpret_cast<MapOp*>(window);
  std::map<int, int> fds;
  std::optional<KeptHere> kept;
  const bool preloaded = platform_.use_preload(*fresh->process, image);
  if (const auto& other = fresh->process->preload; other && !preloaded) {
    MapOp op{};
    op.unmap = 1;
    op.addr = fresh->process->preload_bias + other->low;
    op.length = other->high - other->low;
    *map++ = op;
  }
  fresh->process->preload = nullptr;
  for (size_t i = 0; i < image.segments.size(); ++i) {
    const ImageSegment& segment = image.segments[i];
    if (preloaded && i - image.interpreter.first < image.interpreter.count) continue;
    MapOp op = map_op(segment, 0);
    if (segment.addr < kReservedEnd && segment.addr + segment.length > kReservedBegin) {
      discard();
      return Errno::kNomem;
    }
    if (segment.source.fd >= 0) {
      auto [it, added] = fds.try_emplace(segment.source.fd, -1);
      if (added) it->second = platform_.on_shelf(*fresh->process, segment.source);
      if (it->second < 0) {
        if (!kept) kept.emplace(*fresh);
        it->second = platform_.add_fd(fresh->notif, segment.source.fd);
        platform_.want_on_shelf(segment.source);
      }
      if (it->second < 0) {
        discard();
        return Errno::kIo;
      }
      op.fd = it->second;
    }
    *map++ = op;
  }
  kept.reset();
  const auto maps = static_cast<u32>(map - reinterpret_cast<MapOp*>(window));
  auto* copy = reinterpret_cast<CopyOp*>(map);
  size_t used = head;
  u32 copies = 0;
  std::vector<const ImageData*> large;
  for (const ImageData& data : image.data) {
    if (data.bytes.empty()) continue;
    if (data.bytes.size() > kWindowBytes - used) {
      large.push_back(&data);
      continue;
    }
    copy[copies++] = {data.addr, static_cast<u32>(used), static_cast<u32>(data.bytes.size())};
    memcpy(window + used, data.bytes.data(), data.bytes.size());
    used += data.bytes.size();
  }
  s.image = {maps, copies, image.entry, image.sp, image.brk_start, image.mmap_top, {}};
  image.name.copy(s.image.name, sizeof(s.image.name) - 1);
  fresh->waiter = fiber::current();
  fresh->answered = false;
  fresh->reply(Command::kLoadImage);
  while (!fresh->answered && !fresh->process->dead) {
    fiber::current()->set_wait_reason("exec");
    fiber::park();
  }
  fresh->waiter = nullptr;
  if (fresh->process->dead) return Errno::kNomem;
  i64 result = static_cast<i64>(s.args[0]);
  if (result != 0) {
    discard();
    return result < 0 && result >= -133 ? static_cast<Errno>(-result) : Errno::kNomem;
  }
  for (const ImageData* data : large) {
    if (move(fresh->tid, data->addr, const_cast<char*>(data->bytes.data()), data->bytes.size(), true) !=
        data->bytes.size()) {
      discard();
      return Errno::kFault;
    }
  }
  u64 mask = signal_mask();
  if (host_) {
    platform_.keep_affinity(*host_, *fresh);
    platform_.collect_counters(host_->slot());
    RefPtr<Process> old = host_->process;
    host_.reset();  // so that this thread is not among the lost
    platform_.bury(*old);
  }
  fresh->role = Role::kGuest;
  lost_ = false;
  next_area_ = nullptr;
  next_fd_ = -1;
  entry_ready_ = false;
  take_host(std::move(fresh));
  host_->process->last_index = host_->index;
  set_signal_mask(mask);
  set_pending(pending_);
  send_identity();
  entry_ = {};
  awaits_start_ = true;
  return {};
}

void GuestThreadImpl::resume_exec() {
  if (!awaits_start_) return;
  awaits_start_ = false;
  if (lost_ || !host_) return;
  host_->reply(Command::kStartImage);
  platform_.want_zygotes();
}

}  // namespace sbx::platform
