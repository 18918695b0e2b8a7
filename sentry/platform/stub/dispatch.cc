// One guest call from entry to return: the stub's own answers first, then the sentry's.
#include "sentry/platform/arg_table.h"
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kMapFixed = 0x10, kMapFixedNoreplace = 0x100000;

// Touches the pages as a write does, without changing a byte. At most two pages.
bool can_write(u64 addr, u64 n) {
  if (addr + n < addr || addr + n > kUserEnd) return false;
  auto touch = [](u64 at) {
    u32 word = 0, seen = 0;
    return copy_in(&word, at, 4) && stub_cas4(reinterpret_cast<u32*>(at), word, word, &seen) != 2;
  };
  return touch(addr & ~3ull) && touch((addr + n - 1) & ~3ull);
}

// The memory for big buffers: one call of the process at a time has it.
u32& bulk_owner() { return reinterpret_cast<BulkHead*>(kSlotsBase + kBulkHeadOffset)->owner; }
void give_bulk_back() { __atomic_store_n(&bulk_owner(), 0u, __ATOMIC_RELEASE); }

// Fills the window from its start.
class Copier {
 public:
  explicit Copier(Slot& slot, u32 index) : slot_(slot), index_(index) {}
  u8* at() { return window(slot_) + used_; }
  u64 room() const { return kCopyInBytes - used_; }
  u32 used() const { return used_; }
  void advance(u64 n) { used_ += static_cast<u32>((n + 15) & ~15ull); }
  // False: it does not fit, or cannot be read.
  bool copy(u64 from, u64 n) { return n != 0 && n <= room() && n <= kMaxBufferCopy && copy_in(at(), from, n); }
  // As much of a big buffer as there is room for, and where. What a process_vm_readv of the sentry would cost more than
  // this is to look up its pages.
  bool copy_big(u64 from, u64 n, u32& offset, u32& length) {
    if (!has_bulk_) {
      u32 nobody = 0;
      if (!__atomic_compare_exchange_n(&bulk_owner(), &nobody, index_ + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return false;
      has_bulk_ = true;
    }
    // Where the kernel's copies from there are fast (vfs/bounce.h).
    const u64 at = bulk_used_ + kBulkLead + from % kBulkLine;
    if (bulk_used_ >= kMostBulk) return false;
    if (n > kMostBulk - bulk_used_) n = kMostBulk - bulk_used_;
    if (at + n > kBulkBytes || !copy_in(reinterpret_cast<void*>(kSlotsBase + kBulkOffset + at), from, n)) return false;
    offset = static_cast<u32>(kWindowBytes + at);
    length = static_cast<u32>(n);
    bulk_used_ += (n + kBulkLead + kBulkLine) / kBulkLine * kBulkLine;
    return true;
  }
  bool has_bulk() const { return has_bulk_; }

  // What an argument points to. Its address and length are not the guest's to change any more: they lie in the window,
  // but the guest's other threads can write there, as to the slot; the sentry sees what the slot says at the end.
  bool piece(u64 from, u64 n) {
    if (pieces_ == kMostPieces) return false;
    if (n > kMaxBufferCopy) {
      if (!copy_big(from, n, slot_.piece_offset[pieces_], slot_.piece_length[pieces_])) return false;
      slot_.piece_addr[pieces_++] = from;
      return true;
    }
    if (!copy(from, n)) return false;
    slot_.piece_addr[pieces_] = from;
    slot_.piece_offset[pieces_] = used_;
    slot_.piece_length[pieces_] = static_cast<u32>(n);
    ++pieces_;
    advance(n);
    return true;
  }
  // The first of `count` buffers, as many as fit: each of them is one call less to make for the sentry.
  void buffers(const u8* vecs, u64 count) {
    for (u64 i = 0; i < count && i < kMostPieces; ++i) {
      const IoVec vec = reinterpret_cast<const IoVec*>(vecs)[i];
      if (vec.length != 0 && !piece(vec.base, vec.length)) return;
    }
  }
  // Tests that the first of n bytes can be written.
  void probe(u64 addr, u64 n) {
    if (n > kMaxProbe) n = kMaxProbe;
    if (n == 0 || probes_ == kMostProbes || !can_write(addr, n)) return;
    slot_.probe_addr[probes_] = addr;
    slot_.probed[probes_] = static_cast<u32>(n);
    ++probes_;
  }
  void probe_first(const u8* vecs, u64 count) {
    const IoVec* vec = reinterpret_cast<const IoVec*>(vecs);
    if (count != 0) probe(vec->base, vec->length);
  }
  // kPieces and kProbed if there are any.
  u32 finish() {
    u32 mask = 0;
    if (pieces_ != 0) {
      slot_.pieces = pieces_;
      mask |= kPieces;
    }
    if (probes_ != 0) {
      for (u32 i = probes_; i < kMostProbes; ++i) slot_.probed[i] = 0;
      mask |= kProbed;
    }
    return mask;
  }

 private:
  static constexpr u64 kBulkLead = 128, kBulkLine = 64;
  Slot& slot_;
  const u32 index_;
  u32 used_ = 0, pieces_ = 0, probes_ = 0;
  bool has_bulk_ = false;
  u64 bulk_used_ = 0;
};

// How many bytes of the argument are to be copied.
u64 bytes_of(const ArgCopy& arg, const u64* args) {
  switch (arg.kind) {
    case ArgKind::kIn:
    case ArgKind::kInMsg:
    case ArgKind::kOutMsg: return arg.bytes;
    case ArgKind::kInLen: return args[arg.bytes];
    case ArgKind::kInTimes:
    case ArgKind::kInVec:
    case ArgKind::kOutVec: {
      const u64 count = args[arg.bytes & 7];
      return count <= kMaxBufferCopy ? count * (arg.bytes >> 3) : 0;
    }
    case ArgKind::kInFds: return args[0] <= kMaxBufferCopy ? (args[0] + 63) / 64 * 8 : 0;
    default: return 0;
  }
}

// Copies what the argument table names into the window, so that the sentry needs no process_vm_readv. A fault leaves
// the argument uncopied: the sentry then finds out by itself.
// Returns Slot::in_mask.
u16 copy_arguments(Context& ctx, u32 nr) {
  Slot& slot = *ctx.slot;
  const ArgRow* row = find_arg_row(nr);
  if (row == nullptr) return 0;
  Copier copier(slot, ctx.priv->index);
  u32 mask = 0;
  for (const ArgCopy& arg : row->args) {
    if (arg.kind == ArgKind::kNone) continue;
    u64 from = ctx.args[arg.index];
    if (arg.kind == ArgKind::kOutLen) {
      copier.probe(from, ctx.args[arg.bytes]);
      continue;
    }
    if (from == 0) continue;
    u8* to = copier.at();
    u64 n = 0;
    if (arg.kind == ArgKind::kPath) {
      n = copier.room() < kMaxPathCopy ? copier.room() : kMaxPathCopy;
      i64 got = stub_copy_string(to, reinterpret_cast<const void*>(from), n);
      if (got < 0 || static_cast<u64>(got) == n) continue;
      n = static_cast<u64>(got) + 1;
    } else {
      n = bytes_of(arg, ctx.args);
      if (arg.kind == ArgKind::kInLen && n > kMaxBufferCopy) {
        if (copier.copy_big(from, n, slot.in_offset[arg.index], slot.in_length[arg.index])) mask |= 1u << arg.index;
        continue;
      }
      if (!copier.copy(from, n)) continue;
    }
    mask |= 1u << arg.index;
    slot.in_offset[arg.index] = copier.used();
    slot.in_length[arg.index] = static_cast<u32>(n);
    copier.advance(n);
    if (arg.kind == ArgKind::kInVec) copier.buffers(to, n / sizeof(IoVec));
    if (arg.kind == ArgKind::kOutVec) copier.probe_first(to, n / sizeof(IoVec));
    if (arg.kind == ArgKind::kInMsg || arg.kind == ArgKind::kOutMsg) {
      const u64 vecs = reinterpret_cast<const u64*>(to)[2], count = reinterpret_cast<const u64*>(to)[3];
      u8* copied = copier.at();
      const bool out = arg.kind == ArgKind::kOutMsg;
      if (out) copier.probe(from, kMsgBytes);
      if (count > kMostPieces || !copier.piece(vecs, count * sizeof(IoVec))) continue;
      if (out)
        copier.probe_first(copied, count);
      else
        copier.buffers(copied, count);
    }
  }
  ctx.has_bulk = copier.has_bulk();
  return static_cast<u16>(mask | copier.finish());
}

// The window is mapped where none was. What cannot be copied, because the guest's buffer is bad or the file is shorter
// by now, the sentry finds out by itself.
void copy_from_file(Slot& slot) {
  const SlotFileCopy op = slot.file_copy;
  u64 done = 0;
  bool sane = op.window < kFileWindows && op.from >= kFileWindowsBase && op.length <= kFileWindowBytes &&
              op.from + op.length <= kFileWindowsBase + kFileWindowsBytes;
  bool mapped = sane;
  if (op.fd >= 0) {
    process().file_windows = 1;
    u64 at = kFileWindowsBase + op.window * kFileWindowBytes;
    if (sane) mapped = !failed(sys6(kNrMmap, at, kFileWindowBytes, 1, 0x11, static_cast<u64>(op.fd), op.map_offset));
    sys6(kNrClose, static_cast<u64>(op.fd));
  }
  if (mapped) done = op.length - stub_copy(reinterpret_cast<void*>(op.to), reinterpret_cast<void*>(op.from), op.length);
  __atomic_store_n(&slot.file_window, 0, __ATOMIC_RELEASE);
  if (done == op.length) return;
  slot.args[0] = done;
  submit(slot, RequestKind::kFileShort);
}

void drop_file_windows(u32 mask) {
  for (u32 i = 0; i < kFileWindows; ++i) {
    if ((mask >> i & 1) != 0) sys6(kNrMunmap, kFileWindowsBase + i * kFileWindowBytes, kFileWindowBytes);
  }
}

// Results the sentry left in the window. A fault makes the call answer EFAULT, as the kernel's copy_to_user would.
i64 copy_results(Slot& slot) {
  u32 flags = slot.out_count;
  u32 count = flags & kOutCountMask;
  if (count > kMaxCopyOut) die();
  if ((flags & kDropWindows) != 0) drop_file_windows(slot.drop_windows);
  if ((flags & kCopyFile) != 0) copy_from_file(slot);
  i64 ret = slot.ret;
  for (u32 i = 0; i < count; ++i) {
    const CopyOp& op = slot.out[i];
    if (!copy_out(op.addr, window(slot) + op.offset, op.length)) ret = -kEfault;
  }
  return ret;
}

// What the guest's next calls are expected to map (known_map in native.cc). Nobody else is here to see it early.
void map_next(const Context& ctx, const MapOp& first, i64 base) {
  ProcessData& p = process();
  auto* next = reinterpret_cast<const MapNextOp*>(window(*ctx.slot) + sizeof(MapOp));
  bool fits = !failed(base) && p.threaded == 0;
  u32 made = 0;
  for (u32 i = 0; i < first.next && i < kMostMapNext; ++i) {
    MapNextOp op = next[i];
    const u64 length = page_up(first.length);
    fits = fits && op.op.addr <= length && op.op.length <= length - op.op.addr;
    if (!fits) {
      if (op.op.close_fd != 0) sys6(kNrClose, static_cast<u64>(op.op.fd));
      continue;
    }
    op.op.addr += static_cast<u64>(base);
    fits = run_map_op(op.op) == static_cast<i64>(op.op.addr);
    if (fits) p.ready_map[made++] = {op.op.addr, op.op.length, op.offset, op.op.prot, ctx.args[4]};
  }
  p.next_map = 0;
  p.maps_left = made;
}

void mmap_by_sentry(Context& ctx) {
  const MapOp op = *reinterpret_cast<const MapOp*>(window(*ctx.slot));
  bool fixed = (op.flags & (kMapFixed | kMapFixedNoreplace)) != 0 || op.unmap != 0;
  i64 at = -kEnomem;
  if (fixed && touches_reserved(op.addr, op.length)) {
    if (op.close_fd != 0) sys6(kNrClose, static_cast<u64>(op.fd));
  } else {
    at = run_map_op(op);
  }
  if (!failed(at) && (op.flags & 1) != 0) note_shared(static_cast<u64>(at), op.length);
  if (op.next != 0) map_next(ctx, op, at);
  ctx.regs->rax = static_cast<u64>(at);
  if (op.report == 0) return;
  ctx.slot->args[0] = static_cast<u64>(at);
  ask_sentry(ctx, RequestKind::kMapped);
}

bool returns_a_result(RequestKind kind) {
  return kind == RequestKind::kSyscall || kind == RequestKind::kCloned || kind == RequestKind::kMapped ||
         kind == RequestKind::kNativeCall || kind == RequestKind::kNativeDone;
}

Command carry_out(Context& ctx, RequestKind kind) {
  Slot& slot = *ctx.slot;
  slot.ip = ctx.regs->rip;
  slot.sp = ctx.regs->rsp;
  note_registers(ctx);
  ctx.priv->posted_at = 0;
  submit(slot, kind);
  if (slot.command >= Command::kPoke) serve_inspection(slot, ctx.uc);
  const Command command = slot.command;
  switch (command) {
    case Command::kReturn:
      ctx.regs->rax = static_cast<u64>(slot.out_count == 0 ? slot.ret : copy_results(slot));
      return command;
    case Command::kContinue: return command;
    case Command::kDeliver:
      if (returns_a_result(kind)) {
        if (slot.delivery.restart != 0) {
          ctx.regs->rax = slot.nr;
          ctx.regs->rip -= 2;
        } else {
          ctx.regs->rax = static_cast<u64>(slot.out_count == 0 ? slot.ret : copy_results(slot));
        }
      }
      deliver(ctx);
      return command;
    case Command::kClone: perform_clone(ctx); return command;
    case Command::kMmap: mmap_by_sentry(ctx); return command;
    case Command::kExit: {
      u64 all = ~0ull;
      sys6(kNrSigprocmask, 0, reinterpret_cast<u64>(&all), 0, 8);
      release_robust_list(slot);
      take_usage(slot, false);
      stub_leave(&slot.state);
    }
    default: die();
  }
}

}  // namespace

Command ask_sentry(Context& ctx, RequestKind kind) {
  const Command command = carry_out(ctx, kind);
  if (ctx.slot->report_all != 0 && ctx.slot->step != 0) arm_step(ctx);
  return command;
}

namespace {

void read_arguments(Context& ctx) {
  const GuestRegs& regs = *ctx.regs;
  ctx.args[0] = regs.rdi;
  ctx.args[1] = regs.rsi;
  ctx.args[2] = regs.rdx;
  ctx.args[3] = regs.r10;
  ctx.args[4] = regs.r8;
  ctx.args[5] = regs.r9;
}

// For filters and tracers: the call is shown before it is answered here, and for these its result after. False: the
// sentry's after all.
bool seen_native(Context& ctx, u32& nr, u32 see) {
  Slot& slot = *ctx.slot;
  for (;;) {
    slot.nr = nr;
    slot.in_mask = 0;
    for (int i = 0; i < 6; ++i) slot.args[i] = ctx.args[i];
    if (ask_sentry(ctx, RequestKind::kNativeCall) != Command::kContinue) return true;  // not to be made
    nr = static_cast<u32>(ctx.regs->rax);
    read_arguments(ctx);
    ctx.seen = (see & kSeeAfter) != 0;
    ctx.interrupted = false;
    i64 ret = 0;
    if (!tier0(ctx, nr, ret)) return false;
    ++slot.counters.tier0;
    if (!ctx.seen) {
      ctx.regs->rax = static_cast<u64>(ret);
      return true;
    }
    slot.args[0] = static_cast<u64>(ret);
    slot.args[1] = ctx.interrupted;
    slot.args[2] = ctx.restartable;
    slot.nr = nr;
    if (ask_sentry(ctx, RequestKind::kNativeDone) != Command::kContinue) return true;
    ctx.seen = false;
  }
}

}  // namespace

void signal_check(Context& ctx, bool interrupted_native) {
  ctx.slot->interrupted_native = interrupted_native;
  ask_sentry(ctx, RequestKind::kSignalCheck);
}

void handle_syscall(Context& ctx) {
  GuestRegs& regs = *ctx.regs;
  Slot& slot = *ctx.slot;
  u32 nr = static_cast<u32>(regs.rax);
  i64 ret = 0;
  // Anything else than the calls that were expected.
  if (process().maps_left != 0 && nr != kNrMmap) process().maps_left = 0;
  if (nr == kNrSigreturn) {
    if (ctx.uc != nullptr)
      guest_sigreturn(ctx);
    else
      patched_sigreturn(ctx);
    return;
  }
  read_arguments(ctx);
  if (u32 see = slot.see_native; see != 0 && is_seen(nr, see)) {
    if (seen_native(ctx, nr, see)) return;
  } else if (tier0(ctx, nr, ret)) {
    ++slot.counters.tier0;
    regs.rax = static_cast<u64>(ret);
    return;
  }
  if (nr == kNrEpollCtl) {
    if (const Posted posted = post_control(ctx); posted != Posted::kNo) {
      ++slot.counters.tier0;
      regs.rax = 0;
      if (posted == Posted::kComeIn) signal_check(ctx, false);
      return;
    }
  }
  if (nr == kNrExitGroup) release_robust_list(slot);
  if (nr == kNrExit || nr == kNrExitGroup || nr == kNrGetrusage) take_usage(slot, true);
  NameQuery query;
  const bool named = is_name_query(ctx, nr, query);
  if (named && known_error(query, ret)) {
    ++slot.counters.tier0;
    regs.rax = static_cast<u64>(ret);
    return;
  }
  u16 in_mask = copy_arguments(ctx, nr);
  slot.nr = nr;
  slot.in_mask = static_cast<u16>(in_mask | (ctx.seen ? kSeen : 0));
  for (int i = 0; i < 6; ++i) slot.args[i] = ctx.args[i];
  const Command command = ask_sentry(ctx, RequestKind::kSyscall);
  if (ctx.has_bulk) give_bulk_back();
  if (named && command == Command::kReturn && (slot.out_count & kSteadyName) != 0) {
    learn_error(query, static_cast<i64>(regs.rax));
  }
}

extern "C" void stub_patched(GuestRegs* regs) {
  Private& priv = self();
  Context ctx{regs, nullptr, &priv, priv.slot};
  ++priv.slot->counters.patched_calls;
  priv.have_fp = 0;
  handle_syscall(ctx);
  if (priv.stepping != 0) report_step(ctx);
}

extern "C" void stub_patched_kick(GuestRegs* regs) {
  Private& priv = self();
  Context ctx{regs, nullptr, &priv, priv.slot};
  signal_check(ctx, false);
}

}  // namespace sbx::platform::stub
