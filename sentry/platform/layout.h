// What the sentry and the stub agree on: where the stub's areas lie, and the shape of a slot. Compiled into both, so
// freestanding. Every field of a slot can be written by hostile guest code at any time.
#pragma once
#include "sentry/base/types.h"

namespace sbx::platform {

constexpr u64 kSlotsBase = 0x68000000;
constexpr u64 kSlotBytes = 64 * 1024;
constexpr u64 kSlotHeaderBytes = 4096;
constexpr u64 kWindowBytes = kSlotBytes - kSlotHeaderBytes;
constexpr u32 kMaxSlots = 2048;
// Arguments are copied into the first part of a window, results into the rest.
constexpr u64 kCopyInBytes = 32 * 1024;
constexpr u64 kSlotsBytes = kSlotBytes * kMaxSlots;
// The last slots are no thread's: in the first of them are the bytes of one big buffer that a call writes from
// (dispatch.cc in stub/), in the next rings of bytes that the process has written or may take
// (stream_lease.h), in the next bytes of the host's streams that it may take (file_lease.h), in the last the positions
// of files that it may move.
constexpr u64 kRingBytes = 64 * 1024;
constexpr u32 kRings = 32;
constexpr u64 kBulkBytes = 5 * kSlotBytes, kMostBulk = 4 * kSlotBytes;
constexpr u32 kThreadSlots = kMaxSlots - 2 - (kRings * kRingBytes + kBulkBytes) / kSlotBytes;
constexpr u64 kBulkOffset = kThreadSlots * kSlotBytes;
constexpr u64 kRingsOffset = kBulkOffset + kBulkBytes;
constexpr u64 kStreamsOffset = kRingsOffset + kRings * kRingBytes;
constexpr u64 kStreamBytes = 2048;
constexpr u32 kStreams = kSlotBytes / kStreamBytes;
// Where bytes lie that a process may take: in a stream's place, in a ring, or in a ring as the records that it has put
// there itself.
enum StreamPlace : u32 {
  kStreamPlaces = 0,
  kRingPlaces = kStreams,
  kOwnPlaces = kRingPlaces + kRings,
  kPlacesEnd = kOwnPlaces + kRings
};
constexpr u64 kLeasesOffset = kStreamsOffset + kSlotBytes;
constexpr u32 kMaxLeases = 192;
// Behind them a bit for each that the stub has closed.
constexpr u64 kClosesOffset = kLeasesOffset + kMaxLeases * 256;
// And behind these what one thread of the process has posted (post_box.h).
constexpr u64 kPostsOffset = kLeasesOffset + 52 * 1024;
// And behind that what is said of the rings.
constexpr u64 kRingHeadsOffset = kLeasesOffset + 60 * 1024;

constexpr u64 kStubBase = 0x70000000;
constexpr u64 kStubSize = 0x20000;  // the filter's range; the blob is at most this long
constexpr u64 kStubData = 0x70040000;
constexpr u64 kStubDataBytes = 0x10000;

// What the process has learned about names (stub/names.cc): its own memory.
constexpr u64 kNamesBase = 0x70060000;
constexpr u64 kNamesBytes = 0x18000;
// What the sentry writes and all stubs read.
constexpr u64 kBoard = 0x70080000;
constexpr u64 kBoardBytes = 0x33000;
// Many: a path has ten components, and none is to meet a compiler's temporary files.
constexpr u32 kNameBuckets = 2048;
struct Board {
  // Grows with every call that may change what a path leads to, or who may go there, before the call returns. An error
  // that a path gave, where all directories on its way change by our calls only (kSteadyName), is so as long as this is
  // the same, and for a tenth of a second: the host may do something, too.
  unsigned long long names;
  // Not 0: two that share a memory see different trees of files. Nothing of the kind is believed any more.
  unsigned long long views_differ;
  // Not 0: about as many threads as processors, or fewer: who waits for another may as well keep his processor for a
  // while.
  unsigned long long roomy;
  // Instead of `names`, where a call only makes or removes a name: of those that hash to it.
  unsigned touched[kNameBuckets];
  unsigned spare;
  // Not 0: the table of errors that follows (name_table.h) is nobody's any more. All who read it are one user and see
  // one tree, or there is none.
  unsigned no_table;
};

constexpr u64 kStacksBase = 0x71000000;
constexpr u64 kStackBytes = 32 * 1024;
constexpr u64 kStacksBytes = kStackBytes * kMaxSlots;
constexpr u64 kPrivateBytes = 512;  // the thread's private area at the top of its stack

// Mappings of host files to copy from (file_window.h).
constexpr u64 kFileWindowsBase = kStacksBase + kStacksBytes;
constexpr u64 kFileWindowBytes = 8 * 1024 * 1024;
constexpr u32 kFileWindows = 16;
constexpr u64 kFileWindowsBytes = kFileWindowBytes * kFileWindows;

// Descriptors that a stub inherits (shelf.h). Below and above is what is put into it for a moment.
constexpr int kShelfBase = 32;
constexpr u32 kShelfPlaces = 24;
constexpr bool is_on_shelf(int fd) { return fd >= kShelfBase && fd < kShelfBase + static_cast<int>(kShelfPlaces); }

// Nothing of the guest may be mapped in [kReservedBegin, kReservedEnd).
constexpr u64 kReservedBegin = kSlotsBase;
constexpr u64 kReservedEnd = kFileWindowsBase + kFileWindowsBytes;
// The guest's user address space ends here (x86-64, 4-level).
constexpr u64 kUserEnd = 0x7ffffffff000;

constexpr int kDoorbell = 1000;  // the syscall number that rings the sentry
constexpr int kKickSignal = 10;  // host signal that makes a thread look at Slot::kick
// HUP INT QUIT USR2 ALRM TERM TSTP TTIN TTOU from outside (a service manager's stop goes to every process of a control
// group): blocked in stubs, as they are for the sentry alone, which hands what it gets to the guest's init.
constexpr unsigned long long kOutsideSignals =
    1ull << 0 | 1ull << 1 | 1ull << 2 | 1ull << 11 | 1ull << 13 | 1ull << 14 | 1ull << 19 | 1ull << 20 | 1ull << 21;

// Slot::state. The stub writes kRequest and, at its end, kGone, the sentry kReply; a new slot has kNew. Two stores a
// call and no more: each takes the line from the other side, which looks at it all the time, and that takes it back.
enum SlotState : u32 { kStateNew = 0, kStateRequest = 1, kStateReply = 2, kStateGone = 3 };

enum class RequestKind : u8 {
  kBind = 0,  // first request of a host thread: args[0] of the doorbell is the cookie
  kSyscall = 1,
  kSignalCheck = 2,
  kFault = 3,
  kCloneFailed = 4,  // args[0]: -errno
  kMapped = 5,     // a zygote finished its image, or a MapOp with `report` was done: args[0]: the address, 0 or -errno
  kTemplate = 6,   // template or zygote: ready for a command
  kCloned = 7,     // the vfork child exists, or any with report_clone
  kFileShort = 8,  // of a SlotFileCopy only args[0] bytes could be copied
  kInspected = 9,  // a command of inspection is done: args[0]: 0 or -errno
  // With see_native, around a call that the stub answers: nr, args; then args[0]: the result, args[1]: a kick
  // interrupted it, args[2]: SA_RESTART begins it again.
  kNativeCall = 10,
  kNativeDone = 11,
};

enum class Command : u8 {
  kNone = 0,
  kReturn = 1,  // ret
  kContinue = 2,
  kDeliver = 3,  // delivery, ret, restart
  kClone = 4,    // clone
  kExit = 5,
  kMmap = 6,        // window: one MapOp
  kMakeZygote = 7,  // clone.fd, clone.cookie
  kLoadImage = 8,   // image
  kStartImage = 9,  // image.entry, image.sp
  kDie = 10,        // exit_group
  // Inspection: done at once, then the stub waits for the reply to its request again.
  kPoke = 11,   // window: PokeOp, bytes
  kFpGet = 12,  // window: the guest's floating point state, as XSAVE writes it
  kFpSet = 13,
};

struct SlotDelivery {
  i32 signo;
  u32 restart;
  u8 siginfo[128];
  u64 handler, restorer, sa_flags, frame_mask, new_mask;
};

enum class CloneKind : u32 { kThread = 0, kFork = 1, kVfork = 2 };

struct SlotClone {
  CloneKind kind;
  u32 index;  // slot of the child: a new one for threads and vfork, unused for fork
  i32 fd;     // slot memfd of the child (fork, zygote)
  u32 set_tls;
  u64 cookie;
  u64 child_sp, tls, parent_tid_ptr, child_tid_ptr, clear_tid_ptr;
  i32 guest_tid, child_tid_value;
};

struct MapOp {
  u64 addr, length, offset, zero_from;
  u32 prot, flags;
  i32 fd;  // in the stub's table; -1 anonymous
  u32 close_fd;
  u32 unmap;   // munmap instead
  u32 report;  // kMapped before the call returns
  u32 next;    // so many MapNextOp follow
};

// A mapping at `op.addr` bytes from the start of the one before them; `offset`: of the call that will ask for it.
struct MapNextOp {
  MapOp op;
  u64 offset;
};
constexpr u32 kMostMapNext = 6;

struct CopyOp {
  u64 addr;
  u32 offset;  // in the window
  u32 length;
};

// Bytes into a page of the guest that may not be writable; prot: what it is.
struct PokeOp {
  u64 addr;
  u32 length, prot;
};
// The parts of the floating point state that a tracer sees: all but AMX's tiles, which the host gives to no program
// that has not asked. An XSAVE image of them is smaller than this.
constexpr u64 kFpParts = ~(3ull << 17);
constexpr u64 kMaxFpBytes = 4096;

struct SlotImage {
  u32 maps, copies;  // MapOp[maps] then CopyOp[copies] at the window's start
  u64 entry, sp, brk_start, mmap_top;
  char name[16];  // the host's name of the process (comm)
};

struct SlotIdentity {
  i32 pid, tid, ppid;
  u32 uid, euid, gid, egid;
};

struct SlotCounters {
  u64 tier0, traps, patched_calls, patches, unpatchable, doorbells, spun, kicks, spin_timeouts;
};

struct SlotUsage {
  u64 utime_us, stime_us, maxrss_kb, minflt, majflt, nvcsw, nivcsw;
};

constexpr u32 kMaxCopyOut = 8;

// Bytes of a file window to the guest. With a descriptor the window is mapped first, and the descriptor closed.
struct SlotFileCopy {
  u64 to, from, length;
  u64 map_offset;
  i32 fd;      // in the stub's table; -1
  u32 window;  // its number
};
// Besides a count of `out` entries in Slot::out_count.
constexpr u32 kSteadyName = 0x20, kCopyFile = 0x40, kDropWindows = 0x80, kOutCountMask = 0x1f;

// The position of the file behind one descriptor, in one cache line, and what fstat says of it behind that. Or, of a
// stream, how many of the bytes that lie ready in streams()[stream - 1] were taken.
struct alignas(64) SlotLease {
  // `word`: kLent, a number that tells one time it is lent from the next, the position.
  // Closed by the stub, it is kClosed in place of kLent.
  static constexpr u64 kLent = 1ull << 63, kGeneration = 1ull << 48, kGenerations = 0x7fffull << 48,
                       kClosed = 1ull << 47, kPosition = kClosed - 1, kMostLent = 1ull << 46;
  static constexpr u16 kOnlyCloses = 0xffff, kOutbox = 0x8000;
  static constexpr u32 kAllThereIs = 1u << 31;
  u64 word;     // 0: the sentry has it
  u64 size;     // of the file
  u64 lent_at;  // time stamp counter: size and stat are only sure for a while (kIsSure)
  u64 begin;    // the file's offset at the start of the window, or of the bytes at hand
  u32 window;   // its number plus one; 0: none
  u32 has_stat;
  // Bytes of the file at hand in the window of the slot that has the same turn: what is there until its next request.
  // Of a stream, kAllThereIs: no others come before it is taken back.
  u32 turn, at_hand, bytes_at_hand;
  u16 used;       // the stub's: some were read from there
  u16 may_close;  // the stub may close the descriptor by itself
  u16 stream;     // its place plus one (StreamPlace); 0: it is a file; kOnlyCloses: one that is written to
  u16 ring;       // what is written goes to that ring, its number plus one, kOutbox: with others'; 0: to the sentry
  u32 may_post;   // kOutbox: one write of so many bytes
  alignas(64) u64 stat[18];  // struct stat
};
static_assert(sizeof(SlotLease) == 256 && kMaxLeases * sizeof(SlotLease) + kMaxLeases / 8 <= kSlotBytes &&
              kMaxLeases % 64 == 0);
// A ring that takes what the process writes, as records: who writes claims it (kClosed, for a moment), puts one there
// and gives it back with the position behind it.
struct alignas(64) SlotRing {
  u64 word;      // as SlotLease::word
  u64 end;       // sentry: the position may be moved as far as this
  u32 fd;        // the descriptor it is for, or kAnyFd
  u32 posts;     // sentry: somebody waits for what is written: it goes by the rules of an outbox (outbox.h)
  u32 discards;  // sentry: nothing is put here, as nobody will ever read it
  static constexpr u32 kAnyFd = ~0u;
};
// An outbox (outbox.h): so many bytes are posted at once, and nothing when the first has waited for so many cycles (a
// tenth of a millisecond, about).
constexpr u32 kMostPosted = 16 * 1024;
constexpr u64 kLongPosted = 1 << 18;
struct alignas(64) OutboxHead {
  u32 posted;  // stub: there is something that the sentry has not seen
};
constexpr u64 kOutboxOffset = kRingHeadsOffset + kRings * sizeof(SlotRing);
struct alignas(64) BulkHead {
  u32 owner;  // stub: index of the slot whose call has the big buffer, plus one; 0: none
};
constexpr u64 kBulkHeadOffset = kOutboxOffset + sizeof(OutboxHead);
// Each begins at a multiple of its size; the bytes follow, around the end of the ring.
struct RingRecord {
  u64 time;  // stamp counter: what was written earlier is in front, whoever wrote it
  u32 length, fd;
};
constexpr u64 ring_record_bytes(u64 length) {
  return (sizeof(RingRecord) + length + sizeof(RingRecord) - 1) / sizeof(RingRecord) * sizeof(RingRecord);
}
static_assert(kBulkHeadOffset + sizeof(BulkHead) <= kLeasesOffset + kSlotBytes);
// A tenth of a second, about. Others may write the file from outside.
constexpr u64 kIsSure = 1ull << 28;

// Calls of epoll_ctl(2) that a stub has answered and the sentry has yet to carry out.
struct PostedControl {
  u64 data;
  u32 op, fd, events, spare;
};
constexpr u32 kMostPosts = 32, kMostPostFds = 1024;
struct alignas(64) Posts {
  // The sentry's.
  u32 open;                      // 0: nobody may post
  u32 owner;                     // index of the slot whose thread may, plus one
  u32 epoll;                     // the descriptor of the epoll
  u32 head;                      // so many were taken
  u64 known[kMostPostFds / 64];  // bit n: descriptor n may be added and removed
  // Written by both: it is in the set.
  alignas(64) u64 registered[kMostPostFds / 64];
  // The stub's.
  alignas(64) u32 tail;  // so many were posted
  alignas(64) PostedControl ring[kMostPosts];
};
static_assert(kClosesOffset + kMaxLeases / 8 <= kPostsOffset && kPostsOffset + sizeof(Posts) <= kRingHeadsOffset);

struct RobustList {
  u64 head;
  u32 guest_tid;
  u32 spare;
};
static_assert(kMaxSlots * sizeof(RobustList) <= kWindowBytes);

constexpr u16 kSeen = 0x8000, kPieces = 0x40, kProbed = 0x80;
constexpr u32 kMostPieces = 6, kMostProbes = 2;

// Slot::see_native: before a call of kNativeCalls is answered in the stub, and after one of kNativeSeen too.
constexpr u32 kSeeBefore = 1, kSeeAfter = 2;
// Calls that stub/native.cc answers: all of them; and those that a tracer is shown, as the others come in with
// report_all or deliver signals in their course.
constexpr u32 kNativeSeen[] = {9, 10, 11, 12, 24, 25, 27, 28, 35, 131, 158, 202, 218, 228, 229, 230, 273, 274, 334};
constexpr u32 kNativeOthers[] = {13, 14, 39, 98, 102, 104, 107, 108, 110, 186};

struct alignas(64) Slot {
  // One cache line holds a call without buffers, both ways: with a spinning stub the time of a call is the time that
  // lines take between two CPUs, 40 to 350 ns each. Nothing else that either side writes in the course of it lies here,
  // and each side writes all of its part right before `state`.
  u32 state;
  RequestKind kind;
  Command command;  // reply
  u8 out_count;     // reply: entries of `out`, kCopyFile, kDropWindows
  u8 spare;
  u32 nr;
  u16 in_mask;  // bit i: argument i was copied into the window; kProbed: there are `probe_addr`;
                // kSeen: kNativeCall was asked; kPieces: there are `pieces`
  u16 spare2;
  union {
    u64 args[6];
    i64 ret;  // reply
  };

  // The stub's; the sentry looks here seldom.
  u64 ip, sp;
  u32 native_blocked;    // inside a native call that may sleep
  u32 native_child_tid;  // the kernel stores the child's host tid here (CLONE_PARENT_SETTID)
  u64 cookie;            // sentry
  u32 listener;          // template only: listener descriptor plus one
  u64 regs;              // where the stub keeps the guest's registers
  u64 fs_base;           // with report_all
  u32 turn;              // sentry: not 0: bytes of lent files in the window; the stub's next request clears it

  // Read by both with each call, written seldom.
  alignas(64) u32 polled;  // sentry: a thread looks at `state` right now, spinning is worth while
  u32 kick;                // sentry: come in
  u32 spin_budget;         // sentry: how many polls of `state` a spinning stub may make

  // Request, the rest.
  u32 interrupted_native;
  i32 fault_signo, fault_code;
  u64 fault_addr;
  u32 fault_fatal;  // no handler may run: the frame of a SIGSEGV did not fit
  // For the arguments of in_mask: their bytes are [in_offset, in_offset + in_length) of the window, or, from
  // kWindowBytes on, of the big buffer.
  u32 in_offset[6];
  u32 in_length[6];
  u32 spare3;

  // Reply, the rest.
  CopyOp out[kMaxCopyOut];  // copied from the window to the guest before the return
  SlotDelivery delivery;
  SlotClone clone;
  SlotImage image;

  // Owned by the guest thread, read by the sentry while it is in the sentry.
  u64 sigmask;
  u64 altstack_sp, altstack_size;
  u32 altstack_flags;
  u32 report_all;  // sentry: do not answer identity calls in the stub
  u64 pending;     // sentry: mirror of the pending signals
  SlotIdentity identity;
  u32 patch_off;  // sentry: never patch
  SlotUsage usage;
  SlotCounters counters;
  u64 brk_start, brk_end;  // stub: mirror of the process's break
  u64 robust_head;         // stub: set_robust_list
  u64 unset_actions;       // sentry: signals of which the stub may say that they have the default action, all zero
  u32 leave;               // sentry: not 0: walk the `leave` - 1 robust lists in the window, then end the process

  alignas(64) SlotFileCopy file_copy;  // reply, with kCopyFile
  u32 file_window;                     // its number plus one: the stub clears it when it has copied
  u32 drop_windows;                    // reply, with kDropWindows: bit i: file window i is to be unmapped
  u32 step;                            // reply, with report_all: SIGTRAP after one instruction
  u32 report_clone;                    // with Command::kClone: kCloned for any kind of it
  u32 see_native;                      // sentry: kSeeBefore, kSeeAfter
  u32 no_names;                        // sentry: known errors of paths are not for this thread
  u32 positions;                       // sentry: the leases of the process are of this thread's descriptors
  u32 futex_luck, futex_passed;        // stub: how often looking at a futex word paid lately; waits without a look
  u32 has_stack_limit;                 // sentry
  u64 stack_limit[2];                  // sentry: RLIMIT_STACK, soft and hard
  u32 childless;                       // sentry: wait4 has nobody to wait for
  u32 may_default;       // sentry: the stub may give signals of `unset_actions` their default action, and say so below
  u64 defaulted;         // stub: which it gave it, with flags SA_RESTORER and no mask; the sentry takes them
  u64 default_restorer;  // stub: of all these
  // Stub: more of the guest's memory that it has copied into the window, with kPieces: what arguments point to.
  u64 piece_addr[kMostPieces];
  u32 piece_offset[kMostPieces], piece_length[kMostPieces];
  u32 pieces;
  // Stub: with kProbed: memory of the guest that can be written.
  u32 probed[kMostProbes];  // bytes
  u64 probe_addr[kMostProbes];
};
static_assert(sizeof(Slot) <= kSlotHeaderBytes);
static_assert(__builtin_offsetof(Slot, args) == 16 && __builtin_offsetof(Slot, ip) == 64);
static_assert(__builtin_offsetof(Slot, cookie) == 88);  // tests/robust/hostile_guest.c
static_assert(__builtin_offsetof(Slot, kick) == 132);   // KICK in stub/entry.S, and what follows
static_assert(kStateGone == 3);                         // STATE_GONE there
static_assert(__builtin_offsetof(Slot, report_all) == 676 && __builtin_offsetof(Slot, identity) == 688 &&
              __builtin_offsetof(Slot, counters) == 776);

// First bytes of the blob.
struct BlobHeader {
  u64 magic;
  u64 template_start;  // entry of the template process: void(TemplateArgs*)
  u64 entry;           // where patched sites jump to: rcx the address to return to, eax the number
};
constexpr u64 kBlobMagic = 0x62757473'78627301;

// Code in text that the sentry has patched before it was mapped (patched_text.h), found again by the stub when a signal
// interrupts it. A site's own: [the instruction that stood before the `syscall`;] lea ret(%rip),%rcx; jmp common. One
// for many, behind them: mov $entry,%r11d; jmp *%r11.
constexpr u64 kLeaBytes = 7, kMovBytes = 5, kJmpBytes = 5, kHopBytes = 2, kCommonBytes = 9;
constexpr u64 kLeaRcxRip = 0x0d8d48, kMovEax = 0xb8, kJmp = 0xe9, kHop = 0xeb, kMovR11d = 0xbb41, kJmpR11 = 0xe3ff41;

// What the template process is told when it enters the blob (in the sentry's copied memory).
struct TemplateArgs {
  const void* filter;        // struct sock_fprog
  u64 vdso_begin, vdso_end;  // [vvar], [vvar_vclock] and [vdso] together
  u64 listener_flags;        // of seccomp(SECCOMP_SET_MODE_FILTER)
  u64 minsigstksz;
};

}  // namespace sbx::platform
