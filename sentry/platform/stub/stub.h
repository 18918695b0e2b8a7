// Inside the stub: the thread's private area, system calls, and the parts' entry points. No libc, no FP registers.
#pragma once
#include "sentry/platform/name_table.h"

namespace sbx::platform::stub {

// ---- Linux ABI, as far as the stub needs it (asm/sigcontext.h, asm/ucontext.h; the stub has no libc headers) ----

// Also the layout that the patched entry saves (entry.S).
struct GuestRegs {
  u64 r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
};
struct SigContext {
  GuestRegs regs;
  u16 cs, gs, fs, ss;
  u64 err, trapno, oldmask, cr2, fpstate, reserved[8];
};
struct StackT {
  u64 sp;
  i32 flags;
  u64 size;
};
struct UContext {
  u64 flags, link;
  StackT stack;
  SigContext mc;
  u64 sigmask;
};
static_assert(sizeof(SigContext) == 256 && __builtin_offsetof(UContext, mc) == 40);
struct SigInfo {
  i32 signo, error, code, pad;
  u64 addr;  // faults; SIGSYS: call address
  u64 rest[13];
};
static_assert(sizeof(SigInfo) == 128);
struct TimeSpec {
  i64 sec, nsec;
};

// ---- the thread's private area: the last kPrivateBytes of its stack; %gs base points here ----
struct Private {
  u64 guest_rsp;   // 0: scratch of the patched entry
  u64 regs_base;   // 8: where the patched entry saves registers (fixed)
  Slot* slot;      // 16
  u64 deliver;     // 24: the exit path must end in int3, to get a host frame; which for: Awaited
  u64 resume_rip;  // 32: the guest's rip behind that int3
  u64 self;        // 40
  u64 ret;         // 48: of the quick answers of entry.S: where the guest goes on
  u32 index;
  u32 mxcsr;  // for the child of a clone that came by a trap
  u16 fpu_cw;
  u8 have_fp;
  u8 stepping;  // a single step is under way
  u64 clear_tid;
  u64 posted_at;  // cycles: the first write that was posted since the last request; 0: none was
};
static_assert(sizeof(Private) <= kPrivateBytes && __builtin_offsetof(Private, ret) == 48);  // P_RET in entry.S

enum Awaited : u64 { kNoFrame = 0, kDeliverFrame = 1, kSigreturnFrame = 2, kStepFrame = 3 };
constexpr u64 kTrapFlag = 0x100;

constexpr u64 private_address(u32 index) { return kStacksBase + (index + 1) * kStackBytes - kPrivateBytes; }
constexpr u64 regs_address(u32 index) { return private_address(index) - 256; }

// Signal handlers and the patched path both run on the stub stack: the stack pointer names the thread.
inline Private& self() {
  u64 sp;
  asm volatile("mov %%rsp,%0" : "=r"(sp));
  return *reinterpret_cast<Private*>((sp & ~(kStackBytes - 1)) + kStackBytes - kPrivateBytes);
}
inline Slot& slot_at(u32 index) { return *reinterpret_cast<Slot*>(kSlotsBase + index * kSlotBytes); }
inline u8* window(Slot& slot) { return reinterpret_cast<u8*>(&slot) + kSlotHeaderBytes; }

// ---- the process's private data ----
// The software-reserved words of the FXSAVE image (asm/sigcontext.h, struct _fpx_sw_bytes).
struct FpSoftware {
  u32 magic1, extended_size;
  u64 xfeatures;
  u32 xstate_size;
};
// What all host signal frames here have in common, as the first one showed it: frames of our own are made after it.
struct FrameModel {
  u64 flags;
  u64 fp_bytes;  // 0: none seen yet
  FpSoftware fp;
  u16 cs, gs, fs, ss;
};
struct SharedRange {
  u64 begin, end;
};
struct TrampolinePage {
  u64 addr;
  u32 used;
  u32 spare;
};
constexpr u32 kMaxTrampolinePages = 256;
constexpr u32 kMaxSharedRanges = 64;
constexpr u32 kFailedSites = 256;
constexpr u32 kSeenSites = 256;
struct ProcessData {
  u64 brk_start, brk_end;
  u64 mmap_top;
  u32 mm_lock;  // brk, protection changes and patches
  u32 shared_count;
  u64 minsigstksz;
  u64 vdso_begin, vdso_end;
  u32 trampolines;
  u32 threaded;      // other threads have run, or may run, in this memory
  u32 file_windows;  // some may be mapped
  u32 traps;         // so far, until there are many
  // Mappings that were made ahead of the guest's next calls (MmapRequest::next): so many are left, from that one on.
  u32 maps_left, next_map;
  struct ReadyMap {
    u64 at, length, offset, prot, fd;
  } ready_map[kMostMapNext];
  FrameModel frame;
  u32 seen[kSeenSites];                  // sites that have trapped, by hash: low half of the address
  SharedRange shared[kMaxSharedRanges];  // where text must not be patched: the bytes are not ours alone
  TrampolinePage trampoline[kMaxTrampolinePages];
  u64 failed[kFailedSites];  // sites that cannot be patched, by hash
};
static_assert(sizeof(ProcessData) <= kStubDataBytes);
inline ProcessData& process() { return *reinterpret_cast<ProcessData*>(kStubData); }

// The time stamp counter.
inline u64 cycles() {
  u32 low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return static_cast<u64>(high) << 32 | low;
}

// ---- system calls ----
inline i64 sys6(i64 nr, u64 a = 0, u64 b = 0, u64 c = 0, u64 d = 0, u64 e = 0, u64 f = 0) {
  i64 ret;
  register u64 r10 asm("r10") = d;
  register u64 r8 asm("r8") = e;
  register u64 r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(ret)
               : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return ret;
}

enum Nr : u32 {
  kNrRead = 0,
  kNrWrite = 1,
  kNrWritev = 20,
  kNrSendto = 44,
  kNrRecvfrom = 45,
  kNrSendmsg = 46,
  kNrOpen = 2,
  kNrStat = 4,
  kNrFstat = 5,
  kNrEpollCtl = 233,
  kNrLstat = 6,
  kNrLseek = 8,
  kNrMmap = 9,
  kNrMprotect = 10,
  kNrMunmap = 11,
  kNrBrk = 12,
  kNrSigaction = 13,
  kNrSigprocmask = 14,
  kNrSigreturn = 15,
  kNrIoctl = 16,
  kNrPread64 = 17,
  kNrAccess = 21,
  kNrSchedYield = 24,
  kNrMremap = 25,
  kNrMincore = 27,
  kNrMadvise = 28,
  kNrNanosleep = 35,
  kNrGetpid = 39,
  kNrClone = 56,
  kNrFork = 57,
  kNrVfork = 58,
  kNrExit = 60,
  kNrWait4 = 61,
  kNrReadlink = 89,
  kNrGetrusage = 98,
  kNrGetuid = 102,
  kNrGetgid = 104,
  kNrGeteuid = 107,
  kNrGetegid = 108,
  kNrGetppid = 110,
  kNrSigaltstack = 131,
  kNrArchPrctl = 158,
  kNrPrctl = 157,
  kNrPrlimit64 = 302,
  kNrGettid = 186,
  kNrFutex = 202,
  kNrOpenat = 257,
  kNrNewfstatat = 262,
  kNrReadlinkat = 267,
  kNrFaccessat = 269,
  kNrSetTidAddress = 218,
  kNrClockGettime = 228,
  kNrClockGetres = 229,
  kNrClockNanosleep = 230,
  kNrExitGroup = 231,
  kNrSetRobustList = 273,
  kNrGetRobustList = 274,
  kNrSeccomp = 317,
  kNrRseq = 334,
  kNrUretprobe = 335,
  kNrClone3 = 435,
  kNrCloseRange = 436,
  kNrClose = 3,
};

constexpr i64 kEperm = 1, kEintr = 4, kEagain = 11, kEnomem = 12, kEfault = 14, kEinval = 22, kEdeadlk = 35,
              kEnosys = 38, kEchild = 10;
constexpr bool failed(i64 ret) { return static_cast<u64>(ret) > static_cast<u64>(-4096); }

// Closes all descriptors but those that are inherited from the template on purpose.
inline void close_strays() {
  sys6(kNrCloseRange, 0, kShelfBase - 1, 0);
  sys6(kNrCloseRange, kShelfBase + kShelfPlaces, ~0u, 0);
}

// ---- entry.S ----
extern "C" {
// Copies n bytes; returns how many were not copied because of a fault.
u64 stub_copy(void* to, const void* from, u64 n);
// Copies up to n bytes or through the first NUL; returns the count copied without the NUL, -1 on a fault, n if no NUL.
i64 stub_copy_string(void* to, const void* from, u64 n);
// *at = value (8 or 1 bytes) unless it faults (returns 1).
u64 stub_store8(u64 at, u64 value);
// Compare and swap of a guest word: 0 done, 1 other value (in *seen), 2 fault.
u64 stub_cas4(u32* at, u32 expected, u32 desired, u32* seen);
// A system call that may sleep: -EINTR without doing it if the kick flag is set, whenever it was set.
i64 stub_blocking(u64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u32* kick);
// Rings the sentry.
i64 stub_doorbell(u64 kind, u64 cookie);
// Clone onto another stub stack: the child begins in stub_child(arg). Returns the native result in the parent.
i64 stub_clone_thread(u64 flags, u64 stack, u64 parent_tid, u64 child_tid, u64 arg);
// Leaves with the registers at regs_base.
[[noreturn]] void stub_exit_patched();
// Marks the slot gone and ends the thread, without touching the stack after the mark.
[[noreturn]] void stub_leave(u32* state);
void stub_restorer();
// rt_sigreturn to a frame of our own.
[[noreturn]] void stub_sigreturn(UContext* uc);
void stub_signal_entry();
extern const char stub_begin[], stub_end[], stub_copy_begin[], stub_copy_end[], stub_copy_fixup[],
    stub_blocking_begin[], stub_blocking_syscall[], stub_blocking_abort[], stub_exit_restart[], stub_exit_last[],
    stub_exit_break[], stub_entry_slow[], stub_getpid_tail[], stub_getpid_last[], stub_getpid_end[],
    stub_getppid_tail[], stub_getppid_last[], stub_getppid_end[], stub_gettid_tail[], stub_gettid_last[],
    stub_gettid_end[], stub_restorer_begin[], stub_restorer_syscall[], stub_string_begin[], stub_string_end[],
    stub_string_fixup[], stub_store_begin[], stub_store_end[], stub_store_fixup[], stub_cas_begin[], stub_cas_end[],
    stub_cas_fixup[], stub_words_begin[], stub_words_end[], stub_words_fixup[];
void stub_entry();
}

inline bool in_stub(u64 rip) { return rip - kStubBase < kStubSize; }
inline const Board& board() { return *reinterpret_cast<const Board*>(kBoard); }
inline bool copy_in(void* to, u64 from, u64 n) { return stub_copy(to, reinterpret_cast<const void*>(from), n) == 0; }
inline bool copy_out(u64 to, const void* from, u64 n) { return stub_copy(reinterpret_cast<void*>(to), from, n) == 0; }

// ---- a call in progress ----
// Where the guest's registers are: in a host signal frame (uc) or saved by the patched entry.
struct Context {
  GuestRegs* regs;
  UContext* uc;  // null on the patched path
  Private* priv;
  Slot* slot;
  u64 args[6]{};  // of the call
  // With see_native:
  bool seen = false;         // the sentry knows of it
  bool interrupted = false;  // a kick ended it
  bool restartable = false;  // also after a handler
  bool has_bulk = false;     // its big buffer lies in the memory for that
};

// dispatch.cc: the syscall in ctx.regs (rax = number, rip after it). On return the registers are the guest's next ones.
void handle_syscall(Context& ctx);
// Asks the sentry and carries its reply out; result in rax. Returns what the reply was.
Command ask_sentry(Context& ctx, RequestKind kind);
// After the kick flag or a newly unblocked pending signal.
void signal_check(Context& ctx, bool interrupted_native);

// request.cc: publishes the request, waits for the reply by spinning or the doorbell.
void submit(Slot& slot, RequestKind kind);
void take_usage(Slot& slot, bool process);

// signal.cc
void deliver(Context& ctx);            // the sentry's SlotDelivery onto the guest stack
void guest_sigreturn(Context& ctx);    // in a host signal handler
void patched_sigreturn(Context& ctx);  // on the patched path
void install_handlers();
u64 fp_bytes(u64 fpstate);
void set_altstack(u32 index);

// native.cc. True: answered, ret valid. False: the sentry's.
bool tier0(Context& ctx, u32 nr, i64& ret);
// epoll_ctl(2): kYes: it is done, the result is 0. kComeIn: the same, and the sentry must be told at once.
enum class Posted : u8 { kNo, kYes, kComeIn };
Posted post_control(const Context& ctx);
// Whether the sentry is to see such a call before tier0() may answer it; see: Slot::see_native.
bool is_seen(u32 nr, u32 see);
void walk_robust_list(u64 head, u32 guest_tid);
// The thread's own list, before it ends.
void release_robust_list(Slot& slot);
bool touches_reserved(u64 addr, u64 length);
// names.cc: calls that look for a path, and errors they had before.
struct NameQuery {
  u64 flags, place;
  NameStamp stamp;
  u32 nr, length;
  char text[kLongestName];
};
bool is_name_query(const Context& ctx, u32 nr, NameQuery& query);
bool known_error(const NameQuery& query, i64& ret);
void learn_error(const NameQuery& query, i64 ret);
// file.cc: calls on a descriptor whose position is lent, of these: read, pread64, lseek, fstat, newfstatat without a
// name, ioctl(TCGETS). False: the sentry's.
bool do_file(Context& ctx, u32 nr, i64& ret);
// write and sendto to a pipe or socket that has a ring. False: the sentry's.
bool do_write(Context& ctx, u32 nr, i64& ret);
// n bytes of the guest's to that position of a ring, around its end. False: the guest's are not there.
bool copy_into_ring(u32 place, u64 at, u64 from, u64 n);
inline SlotLease& lease_of(u64 fd) { return reinterpret_cast<SlotLease*>(kSlotsBase + kLeasesOffset)[fd]; }
inline SlotRing& ring_at(u32 place) { return reinterpret_cast<SlotRing*>(kSlotsBase + kRingHeadsOffset)[place]; }
inline u64 ring_base(u32 place) { return kSlotsBase + kRingsOffset + place * kRingBytes; }
constexpr u32 kMsgDontwait = 0x40, kMsgNosignal = 0x4000;
// outbox.cc: a write, and writev and sendmsg, to a socket that may post; `to`: SlotLease::ring. False: the sentry's.
struct IoVec {
  u64 base, length;
};
bool post_write(Context& ctx, SlotLease& lease, u16 to, const IoVec& bytes, i64& ret);
bool do_writev(Context& ctx, u32 nr, i64& ret);
// Whether a thread that has posted is to come in before it posts more; it has posted, at that time.
bool posted_long_ago(const Context& ctx, u64 time);
void note_posted(Context& ctx, u64 time);
// The thread is about to sleep while something that it has posted may not be sent yet.
inline bool has_posted(const Context& ctx) { return ctx.priv->posted_at != 0; }
void note_shared(u64 addr, u64 length);
void mm_lock();
void mm_unlock();

// inspect.cc
// Where the sentry finds the guest's registers while it has a request.
inline void note_registers(const Context& ctx) {
  ctx.slot->regs = reinterpret_cast<u64>(ctx.regs);
  if (ctx.slot->report_all != 0) asm volatile("rdfsbase %0" : "=r"(ctx.slot->fs_base));
}
// Carries out commands of inspection until there is another one.
void serve_inspection(Slot& slot, UContext* uc);
// After a reply that asks for it: the guest's next instruction is followed by a SIGTRAP.
void arm_step(Context& ctx);
// The step led through a call: it ends here.
void report_step(Context& ctx);

// clone.cc
void perform_clone(Context& ctx);
void start_thread_area(u32 index);

// image.cc
[[noreturn]] void serve_commands();  // template and zygotes
i64 run_map_op(const MapOp& op);

// patch.cc
void try_patch(Context& ctx);
// A guest interrupted inside a trampoline is put back to the site it came from: nothing has happened yet, and unwinders
// know that address.
void leave_trampoline(GuestRegs& regs);

// Never returns: the whole process ends.
[[noreturn]] void die();

}  // namespace sbx::platform::stub
