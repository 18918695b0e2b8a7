// The template process, and a zygote's way into a new image.
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u64 kPrSetName = 15;

void unmap(u64 begin, u64 end) {
  if (begin < end) sys6(kNrMunmap, begin, end - begin);
}

// 0 or -errno.
i64 run_map_ops(const MapOp* map, u32 count) {
  i64 result = 0;
  for (u32 i = 0; i < count && result == 0; ++i) {
    i64 at = run_map_op(map[i]);
    if (failed(at))
      result = at;
    else if (map[i].zero_from != 0) {
      u64 end = map[i].addr + map[i].length;
      static const u8 zeros[256] = {};
      for (u64 at_byte = map[i].zero_from; at_byte < end && result == 0;) {
        u64 n = end - at_byte < sizeof(zeros) ? end - at_byte : sizeof(zeros);
        if (!copy_out(at_byte, zeros, n)) result = -kEfault;
        at_byte += n;
      }
    }
  }
  return result;
}

void load_image(Slot& slot) {
  u32 maps = slot.image.maps, copies = slot.image.copies;
  if (maps * sizeof(MapOp) + copies * sizeof(CopyOp) > kWindowBytes) die();
  auto* map = reinterpret_cast<const MapOp*>(window(slot));
  auto* copy = reinterpret_cast<const CopyOp*>(map + maps);
  i64 result = run_map_ops(map, maps);
  for (u32 i = 0; i < copies && result == 0; ++i) {
    if (copy[i].offset > kWindowBytes || copy[i].length > kWindowBytes - copy[i].offset) die();
    if (!copy_out(copy[i].addr, window(slot) + copy[i].offset, copy[i].length)) result = -kEfault;
  }
  close_strays();
  sys6(kNrPrctl, kPrSetName, reinterpret_cast<u64>(slot.image.name));
  process().brk_start = process().brk_end = slot.image.brk_start;
  slot.brk_start = slot.brk_end = slot.image.brk_start;
  process().mmap_top = slot.image.mmap_top;
  slot.args[0] = static_cast<u64>(result);
}

[[noreturn]] void start_image(Slot& slot) {
  Private& priv = self();
  auto& regs = *reinterpret_cast<GuestRegs*>(priv.regs_base);
  regs = GuestRegs{};
  regs.rip = slot.image.entry;
  regs.rsp = slot.image.sp;
  regs.eflags = regs.r11 = 0x202;
  asm volatile("wrfsbase %0" ::"r"(0ull));
  slot.altstack_sp = slot.altstack_size = 0;
  slot.altstack_flags = 2;
  u32 mxcsr = 0x1f80;
  asm volatile("fninit; ldmxcsr %0" ::"m"(mxcsr));
  Context ctx{&regs, nullptr, &priv, &slot};
  if (slot.report_all != 0 && slot.step != 0) arm_step(ctx);
  stub_exit_patched();
}

// Has the host make the pages: those that can be written are copied, as whoever maps them writes them next.
void touch(const MapOp& op) {
  for (u64 at = op.addr; at < op.addr + op.length; at += kPageSize) {
    u32 word = 0, seen = 0;
    if (copy_in(&word, at, sizeof(word)) && (op.prot & 2) != 0) {
      stub_cas4(reinterpret_cast<u32*>(at), word, word, &seen);
    }
  }
}

// In the child of the template: what it is to map ahead, slots of its own, then wait for an image.
void make_zygote(Slot& slot) {
  i32 fd = slot.clone.fd;
  slot.native_child_tid = 0;
  i64 ret = sys6(kNrClone, 0x8000 | 0x100000 | 17, 0, reinterpret_cast<u64>(&slot.native_child_tid), 0, 0);
  if (ret == 0) {
    const u32 maps = slot.image.maps;
    const auto* map = reinterpret_cast<const MapOp*>(window(slot));
    if (maps * sizeof(MapOp) > kWindowBytes || run_map_ops(map, maps) != 0) die();
    for (u32 i = 0; i < maps; ++i) touch(map[i]);
    if (failed(sys6(kNrMmap, kSlotsBase, kSlotsBytes, 3, 0x11 | 0x4000, static_cast<u64>(fd), 0))) die();
    close_strays();
    submit(slot, RequestKind::kBind);
    return;
  }
  sys6(kNrClose, static_cast<u64>(fd));
  slot.args[0] = static_cast<u64>(ret);
  submit(slot, RequestKind::kTemplate);
}

}  // namespace

i64 run_map_op(const MapOp& op) {
  if (op.unmap != 0) return sys6(kNrMunmap, op.addr, op.length);
  i64 at = sys6(kNrMmap, op.addr, op.length, op.prot, op.flags, static_cast<u64>(static_cast<i64>(op.fd)), op.offset);
  if (op.close_fd != 0) sys6(kNrClose, static_cast<u64>(op.fd));
  return at;
}

void serve_commands() {
  Slot& slot = *self().slot;
  for (;;) {
    switch (slot.command) {
      case Command::kMakeZygote: make_zygote(slot); break;
      case Command::kLoadImage:
        load_image(slot);
        submit(slot, RequestKind::kMapped);
        break;
      case Command::kStartImage: start_image(slot);
      case Command::kPoke: serve_inspection(slot, nullptr); break;
      default: die();
    }
  }
}

extern "C" [[noreturn]] void template_main(const TemplateArgs* args) {
  start_thread_area(0);
  asm volatile("wrgsbase %0" ::"r"(private_address(0)) : "memory");
  Slot& slot = slot_at(0);
  set_altstack(0);
  install_handlers();
  u64 mask = kOutsideSignals;
  sys6(kNrSigprocmask, 2, reinterpret_cast<u64>(&mask), 0, 8);
  process().minsigstksz = args->minsigstksz;
  u64 vdso_begin = args->vdso_begin, vdso_end = args->vdso_end;
  process().vdso_begin = vdso_begin;
  process().vdso_end = vdso_end;
  i64 listener = sys6(kNrSeccomp, 1, args->listener_flags, reinterpret_cast<u64>(args->filter));
  slot.listener = static_cast<u32>(listener + 1);
  slot.ret = listener;
  __atomic_store_n(&slot.native_blocked, 1, __ATOMIC_SEQ_CST);
  sys6(kNrFutex, reinterpret_cast<u64>(&slot.native_blocked), 1, 1);
  if (failed(listener)) die();
  submit(slot, RequestKind::kBind);
  // The sentry has a descriptor table of its own by now; nothing of its memory or descriptors stays here.
  slot.native_blocked = 0;
  sys6(kNrCloseRange, 0, ~0u, 0);
  unmap(kPageSize, kReservedBegin);
  unmap(kReservedEnd, vdso_begin);
  unmap(vdso_end, kUserEnd);
  unmap(kStubBase + kStubSize, kStubData);
  unmap(kStubData + kStubDataBytes, kNamesBase);
  unmap(kNamesBase + kNamesBytes, kBoard);
  unmap(kBoard + kBoardBytes, kStacksBase);
  slot.nr = 0;
  submit(slot, RequestKind::kTemplate);
  serve_commands();
}

}  // namespace sbx::platform::stub
