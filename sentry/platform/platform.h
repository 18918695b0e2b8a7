// The platform: how guest instructions run and how they reach the sentry. docs/platform.md explains the mechanism.
//
// GuestThread is one guest thread's hardware side: a host thread in a stub process, and the shared slot through which
// it talks. Its user (task/) is a fiber that loops: wait_entry() -> handle -> one of the resume calls.
// Everything is called on fibers with the kernel lock held. Every value that came from a slot is hostile.
#pragma once
#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"
#include "sentry/base/types.h"
#include "sentry/fiber/fiber.h"
#include "sentry/platform/file_lease.h"
#include "sentry/platform/file_window.h"
#include "sentry/platform/outbox.h"
#include "sentry/platform/post_box.h"
#include "sentry/platform/registers.h"
#include "sentry/platform/stream_lease.h"

namespace sbx::platform {

class GuestThread;
class AddressSpace;

enum class EntryKind : u8 {
  kStarted,      // the host thread exists and is bound; nothing of the guest has run yet
  kSyscall,      // nr, args valid
  kSignalCheck,  // a kick, or a mask change that unblocked a pending signal; resume with or without a delivery
  kFault,        // a synchronous host signal in guest code: fault valid
  kCloned,  // after resume_clone with kVfork or `report`: the child exists; the parent waits for resume(tid) until the
            // kernel lets it go on (child execed or exited).
  kMapped,  // after resume_mmap with `report`: args[0] is the address or -errno; the call still waits for its resume
  kNativeCall,  // watch_calls(): nr, args of a call that the stub is about to answer: resume_continue() lets it
  kNativeDone,  // args[0]: its result; args[1]: it was interrupted, resume_continue() begins it again; args[2]: and so
                // does SA_RESTART
  kFileShort,   // after copy_from_file and the resume: only args[0] bytes could be copied. The call still waits for its
                // resume, by resume()
  kLost,        // the host thread is gone (killed from outside, exited by itself): no resume is possible
};

struct Fault {
  i32 signo;   // SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP
  i32 code;    // si_code
  u64 addr;    // si_addr
  bool fatal;  // the frame of a SIGSEGV handler could not be built: kill, run no handler
};

// Native resource use of the thread's process, reported by the stub (getrusage) with exit and on request. Hostile.
struct StubUsage {
  u64 utime_us, stime_us, maxrss_kb, minflt, majflt, nvcsw, nivcsw;
};

struct Entry {
  EntryKind kind;
  u32 nr;  // syscall number (32 bits as the guest's eax gave it)
  u64 args[6];
  u64 ip;  // faults: where
  Fault fault;
  // kSignalCheck that interrupted a native blocking call (futex, nanosleep): the stub restarts the call if no handler
  // runs, and EINTR or restart (SA_RESTART) otherwise, as resume_signal says.
  bool interrupted_native;
  bool seen;  // kSyscall: was a kNativeCall
};

// One guest signal handler invocation, everything the stub needs to build the frame (arch/x86/kernel/signal_64.c).
struct SignalDelivery {
  i32 signo;
  u8 siginfo[128];  // struct siginfo as the guest sees it
  u64 handler;
  u64 restorer;
  u64 sa_flags;    // SA_SIGINFO, SA_ONSTACK, ... (the stub owns the alternate stack)
  u64 frame_mask;  // uc_sigmask: the mask that sigreturn restores
  u64 new_mask;    // the mask while the handler runs
};

// How a new guest thread is made. The parent's host thread does the native clone; see GuestThread::resume_clone.
struct CloneRequest {
  enum class Kind : u8 { kThread, kFork, kVfork } kind;  // kVfork: shares memory (CLONE_VM) without CLONE_THREAD
  u64 child_sp;                                          // 0: keep the parent's
  bool set_tls;
  u64 tls;
  u64 parent_tid_ptr;   // CLONE_PARENT_SETTID target or 0; written with guest_tid by the parent's stub
  u64 child_tid_ptr;    // CLONE_CHILD_SETTID target or 0; written by the child's stub with child_tid_value
  u64 clear_tid_ptr;    // CLONE_CHILD_CLEARTID target or 0; native
  i32 guest_tid;        // as the parent's pid namespace sees it: the parent's return value
  i32 child_tid_value;  // as the child's own pid namespace sees it
  bool report;          // the parent comes in with kCloned when the child exists
};

// A file descriptor of the sentry to be mapped by exec or mmap. Borrowed; must stay open until the call returns.
struct MapSource {
  int fd = -1;  // -1: anonymous
  u64 offset = 0;
  RefPtr<ShelfItem> item = {};  // if stubs may have it already
  Everybodys everybodys = {};   // with `item`
};

// One mapping of a new image, applied in order.
struct ImageSegment {
  u64 addr, length;   // page aligned
  u32 prot;           // PROT_*
  MapSource source;   // private mapping
  u64 zero_from = 0;  // zero [zero_from, addr+length) after mapping (bss tail), 0: nothing
};

// Bytes to store in the new image after its segments are mapped (stack contents). Any size.
struct ImageData {
  u64 addr;
  std::string bytes;
};

// Which segments of an image are its interpreter's. They may be anywhere in an area: a stub that has them mapped ahead
// keeps its place, and exec() corrects what names it.
struct InterpreterPart {
  size_t first = 0, count = 0;     // in `segments`; 0: it has none, or none that can be moved
  u64 bias = 0;                    // where they are: what AT_BASE says
  u64 area_begin = 0, places = 0;  // any page of so many from there would do for it
  u64 bias_word = 0;               // the guest's address of AT_BASE's value, in `data`
};

struct ExecImage {
  std::vector<ImageSegment> segments;
  InterpreterPart interpreter;
  std::vector<ImageData> data;
  u64 entry, sp;
  u64 brk_start;     // page aligned start of the heap
  std::string name;  // how the host's administrator sees the process (comm)
  u64 mmap_top;      // where the host is to look for free areas from (hint, may be 0)
};

// What comes next: see MmapRequest::next.
struct MapNext {
  u64 at, length;  // bytes from the start of the mapping before; page aligned
  u64 offset;      // in the guest's file, as its call will say
  u32 prot;
  MapSource source;
};

struct MmapRequest {
  u64 addr, length;
  u32 prot, flags;  // MAP_* already reduced to what the stub's filter knows
  MapSource source;
  bool unmap = false;   // munmap [addr, addr + length) instead
  bool report = false;  // the next entry is kMapped, which says where
  // What a loader's next calls will ask for, from the same descriptor, private and at fixed places in this mapping. It
  // is made along with it, and the stub answers these calls as long as they come one after the other and nothing else
  // comes between. At most kMostMapNext; not with `report`.
  std::vector<MapNext> next = {};
};

// One guest address space: a stub process (or several sharing memory) with its slots.
class AddressSpace : public RefCounted {
 public:
  // Host process id in the sentry's pid namespace; 0 before the first thread is bound.
  virtual i32 host_pid() const = 0;
  // Kills every host thread of it (SIGKILL); always works, whatever the stub does. Idempotent.
  virtual void kill() = 0;
  // The program break as the stub keeps it (hostile).
  virtual u64 brk_start() const = 0;
  virtual u64 brk_end() const = 0;
};

class GuestThread {
 public:
  virtual ~GuestThread() = default;

  // Parks until the guest thread has something for the sentry.
  virtual Entry wait_entry() = 0;

  // --- resumes: exactly one per entry (not after kLost) ---
  // Back to the guest with rax = ret.
  virtual void resume(i64 ret) = 0;
  // After kSignalCheck / kFault without delivery, or kStarted: continue where it was.
  virtual void resume_continue() = 0;
  // Build a frame and run the handler. After kSyscall: ret goes into the saved rax, or with restart the saved context
  // re-executes the syscall (rax = nr, rip at the syscall instruction). After kSignalCheck with interrupted_native:
  // restart says whether the native call is to be restarted after the handler or answers EINTR.
  virtual void resume_signal(i64 ret, bool restart, const SignalDelivery& delivery) = 0;
  // Before a clone, and before anybody can name the child: what resume_clone needs of the host. May park. kAgain.
  virtual Result<void> prepare_clone(CloneRequest::Kind kind) = 0;
  // The parent's stub makes `child` by a native clone; never parks. On success the parent's guest gets
  // request.guest_tid without entering the sentry again; on failure the child gets kLost and the parent's guest the
  // host's errno. Only after an entry with can_clone() (it came by doorbell); the platform arranges that for clone,
  // fork and vfork.
  virtual void resume_clone(const CloneRequest& request, GuestThread& child) = 0;
  // Ends this host thread only (exit of one thread of several).
  virtual void resume_exit() = 0;
  // mmap of host file descriptors: the stub maps and returns the address or -errno to the guest by itself.
  // Whether the stub answers calls of this thread that the sentry need not see: nobody looks on.
  virtual bool answers_calls() const = 0;
  virtual void resume_mmap(const MmapRequest& request) = 0;
  // Replaces the image: this GuestThread continues in a fresh stub process, whose next entry is the new program's first
  // syscall. The thread's old host process (as kill_host_process(): a vfork parent lives on) is killed. May park (a new
  // stub may have to be made). Mask and identity carry over; the alternate stack is reset. On error the old image is
  // intact and the caller resumes normally. Works on a thread of new_thread() that has no host thread yet.
  virtual Result<void> exec(ExecImage& image) = 0;
  // After exec(): the new program begins.
  virtual void resume_exec() = 0;

  // Kills the host process (thread group) of this thread with SIGKILL, whatever its stub does; other host processes
  // that share its memory (vfork parent) live on. All GuestThreads of that host process get kLost from wait_entry() at
  // once, without waiting for the host to reap it. Idempotent. The GuestThread may be destroyed right after.
  virtual void kill_host_process() = 0;

  // --- memory: one door to guest bytes ---
  // Copies n bytes; kFault if any is unmapped. Reads are answered from the slot's window when the stub copied the
  // range along with the request, else by process_vm_readv. Writes to a small range may be left to the stub.
  virtual Result<void> read(u64 addr, void* to, size_t n) = 0;
  virtual Result<void> write(u64 addr, const void* from, size_t n) = 0;
  // Scatter/gather forms for bulk data: bytes moved before a fault, or kFault if none.
  virtual Result<size_t> read_some(u64 addr, void* to, size_t n) = 0;
  virtual Result<size_t> write_some(u64 addr, const void* from, size_t n) = 0;
  // A big buffer that its call writes from, where it lies in memory that others may change: for the host's kernel to
  // read from. Null: read() it.
  virtual const u8* at_hand(u64 addr, size_t n) const = 0;
  // Promises the guest bytes of a host file: the stub copies them before the call returns. False: the caller has to
  // write them. All of a call's data at most; may park.
  virtual bool copy_from_file(u64 addr, const FileBytes& bytes) = 0;
  // The error that its call is about to return is so until Platform::names_changed().
  virtual void name_is_steady() = 0;
  // Its call came by doorbell: what spares it another one is worth some work.
  virtual bool rang_for_call() const = 0;
  // It opens a file: what fstat says will be asked next, and any call in between costs the bytes that were read ahead.
  virtual bool opens_file() const = 0;
  // Lends the position of the open file behind a descriptor of this thread, if that is possible and of use to it.
  // `lease` is made where there is none; table: what tells tables of descriptors apart, never used again for another.
  virtual void lend_position(RefPtr<FileLease>& lease, int fd, u64 table, u64 position, const LeaseTerms& terms) = 0;
  // Lends no more than that the thread may close the descriptor, if it rang for this call: else that costs little.
  virtual void lend_close(RefPtr<FileLease>& lease, int fd, u64 table) = 0;
  // Lends all that the host's stream socket behind a descriptor has to be read right now, if that can be done. True:
  // the bytes that are taken are to be taken from the socket when the lease comes back (FileLease::collect).
  virtual bool lend_stream(RefPtr<FileLease>& lease, int fd, u64 table, int host_fd) = 0;
  // Lends up to `most` bytes of a stream of ours that fill() puts at `to`, the next to be read from a descriptor.
  // If those are `there` bytes, no others come before they are taken back. False: not now, or there were none.
  virtual bool lend_bytes(RefPtr<FileLease>& lease, int fd, u64 table, size_t there,
                          const std::function<size_t(u8* to, size_t most)>& fill) = 0;
  // Lends what the process will have put into that ring itself (LentStream::own_ring). False: it is another's.
  virtual bool lend_own(RefPtr<FileLease>& lease, int fd, u64 table, const WriteRing& ring) = 0;
  // Lets the process write to a descriptor by itself, once it is allowed some room (stream_lease.h). Null: not now.
  virtual RefPtr<WriteRing> lend_room(int fd, u64 table) = 0;
  // Lets the process post its writes to a descriptor (outbox.h). Null: not now.
  virtual RefPtr<PostRight> give_post_right(int fd, u64 table, Poster& poster) = 0;
  // Sends what the process has posted. Before its request is looked at.
  virtual void send_posted() = 0;
  // Lets this thread post what it does to the epoll behind its descriptor (post_box.h). Null: not now.
  virtual RefPtr<PostBox> open_posts(int epoll) = 0;
  // Bit n: descriptor n may have been closed by its process since the last time. False: none was.
  using Closes = std::array<u64, kMaxLeases / 64>;
  virtual bool take_closes(u64 table, Closes& closes) = 0;
  // Of a thread that may be any, at any address; a stopped one's own writes first (settle_memory). Bytes moved, or
  // kFault; kSrch: it is gone.
  virtual Result<size_t> peek(u64 addr, void* to, size_t n) = 0;
  virtual Result<size_t> poke(u64 addr, const void* from, size_t n) = 0;
  // Its host thread exists: a new child's does a little later than its parent returns.
  virtual bool has_memory() const = 0;
  // What write() left to the stub is written now, and what the stub copied along with the request is read anew.
  virtual void settle_memory() = 0;
  // NUL-terminated string of at most max bytes without the NUL: kNametoolong beyond, kFault.
  virtual Result<std::string> read_string(u64 addr, size_t max) = 0;

  // --- signals ---
  // Asks the thread to come in: sets the kick flag, then signals the host thread; re-sent until it enters. No effect if
  // the thread is in the sentry already. Any entry acknowledges.
  virtual void kick() = 0;
  virtual bool in_sentry() const = 0;
  // Signals pending for this thread (thread and group), mirrored so that the stub enters when a mask change unblocks
  // one.
  virtual void set_pending(u64 pending_set) = 0;
  // The guest's signal mask: owned by the guest (tier 0), also settable while the thread is in the sentry.
  // The address given to set_robust_list(2), which the stub answers; 0: none.
  virtual u64 robust_list() const = 0;
  virtual u64 signal_mask() const = 0;
  virtual void set_signal_mask(u64 mask) = 0;

  // Constants the stub answers by itself (getpid, gettid, getuid...). Set when they change, while in the sentry.
  struct Identity {
    i32 pid, tid, ppid;
    u32 uid, euid, gid, egid;
    // Signals (bit: number less one) whose struct sigaction is all zero, for queries; may leave some out.
    u64 unset_actions;
    // RLIMIT_STACK, which each program asks for when it starts; not to be told by the stub: has_stack_limit is false.
    u64 stack_limit, stack_limit_max;
    bool has_stack_limit;
    bool may_default;  // take_defaulted() is asked before anybody looks at an action of these
  };
  virtual void set_identity(const Identity& id) = 0;

  // Signals of unset_actions to which the guest gave their default action since, with SA_RESTORER and that restorer,
  // where it may (as the stub says: to be checked).
  virtual u64 take_defaulted(u64* restorer) = 0;

  // The stub may answer wait4(2) with ECHILD by itself, until told otherwise. A new thread or image begins without.
  virtual void set_childless(bool childless) = 0;

  // RLIMIT_AS and RLIMIT_DATA of the guest process (bytes, RLIM_INFINITY for none): the host keeps them for its stub,
  // whose own areas are added. Children inherit them; exec() begins without.
  virtual void limit_memory(u64 address_space, u64 data) = 0;

  // --- tracing ---
  // While in_sentry(): the guest's registers when it came in (rax: the number, if it was a call). kSrch: it is not.
  // orig_rax and the segments are not filled in, and not looked at.
  virtual Result<Registers> registers() = 0;
  // kIo: an impossible rip.
  virtual Result<void> set_registers(const Registers& r) = 0;
  // Into memory that the guest may not be able to write, within one page; prot: PROT_*, as it is. Parks: afterwards
  // this object may be gone. kFault; kSrch: the thread is not in the sentry, or ended meanwhile.
  virtual Result<void> poke_protected(u64 addr, std::string bytes, u32 prot) = 0;
  // The floating point registers as XSAVE writes them, without the software's words. Park, as above. kInval: too large.
  virtual Result<std::string> fp_state() = 0;
  // state: from fp_state(), changed; anything that cannot be loaded is dropped.
  virtual Result<void> set_fp_state(std::string state) = 0;
  // With the next resume: SIGTRAP after one instruction.
  virtual void step() = 0;
  // What comes in of the calls that the stub answers by itself. Until it is changed, through exec().
  struct Watch {
    bool emulated = false;  // those with an emulated form are served here
    bool before = false;    // the others are announced: kNativeCall
    bool after = false;     // and their results: kNativeDone
    bool text = false;      // the guest's text stays as it is: nothing more is patched
    bool names = false;     // no known errors of paths: its filters want to see such calls
  };
  virtual void watch_calls(const Watch& watch) = 0;

  virtual i32 host_tid() const = 0;
  virtual RefPtr<AddressSpace> address_space() const = 0;
  // Equal for threads that share one memory, vfork children included; null: it has none.
  virtual const void* memory() const = 0;
  virtual StubUsage usage() const = 0;
  // Registers at the last entry, for /proc/PID/syscall and debug dumps: ip and sp.
  virtual u64 last_ip() const = 0;
  virtual u64 last_sp() const = 0;
};

struct PlatformOptions {
  // Which syscalls the stub may answer by itself is decided per number by this table (kTier0 numbers the platform
  // implements); strace and monitoring turn it off so that the sentry sees every call that has an emulated form.
  bool report_all_syscalls = false;
  bool spin = true;  // tier 1 allowed when CPUs are free
  bool patch = true;
  u32 max_threads = 4096;  // host threads in all stubs together
  // Called with the template's pid (in the sentry's pid namespace) before any other stub is forked from it: the caller
  // puts it into the guest's cgroup.
  std::function<void(i32 template_pid)> on_template;
  // uid/gid of the stubs (~0: keep the caller's); they must equal the sentry's own after it dropped its identity, which
  // must stay dumpable (PR_SET_DUMPABLE) and have no other threads while create() runs.
  u32 uid = ~0u;
  u32 gid = ~0u;
};

class Platform {
 public:
  // Makes the template stub and installs the filter. Before the sentry loads its own filter and drops privileges.
  static HostResult<std::unique_ptr<Platform>> create(const PlatformOptions& options);
  virtual ~Platform() = default;

  // A GuestThread without a host thread, to be the child of resume_clone or the first user of exec() (the container's
  // init and `sbx exec` processes begin with exec on a thread that has no old image).
  virtual std::unique_ptr<GuestThread> new_thread() = 0;

  // What to map instead of `source`, whose `length` bytes are about to be mapped private, readable and executable: the
  // same text with its calls patched, or `source`. The file must not be writable through some mapping. Borrowed as
  // MapSource says.
  virtual MapSource text(MapSource source, u64 length) = 0;

  // The receiver loop on the calling host thread; returns after stop(). The caller runs fiber::reactor_run() on
  // another.
  virtual void run() = 0;
  virtual void stop() = 0;

  // A host child was reaped (waitid in the reactor's SIGCHLD handler): pid in the sentry's pid namespace.
  virtual void host_child_exited(i32 pid, i32 wait_status) = 0;
  // Somebody changed what paths lead to, or may: what stubs know of it holds no longer (Board).
  virtual void names_changed() = 0;
  // The same where only a name was made or removed, in whatever directory.
  virtual void name_touched(std::string_view name) = 0;
  // How often either was said.
  virtual u64 name_changes() const = 0;
  // Call `nr` gives that error for that path, whoever asks, and nothing was said of a change since it began: stubs may
  // know. For calls of name_call() (name_table.h) and what stubs keep.
  virtual void tell_all(u32 nr, const u64* args, std::string_view path, i64 error) = 0;
  // For good: not everybody is to know what others were told, or would be told the same. Of the files there are.
  enum class Differ { kUsers, kTrees };
  virtual void tell_nobody(Differ what) = 0;
  // For good: tasks that share a memory, and so what stubs know, have different roots or mounts.
  virtual void views_differ() = 0;

  // Counters by tier, traps, patches, doorbells are COUNTERs. Human-readable extra state for `sbx debug`.
  virtual std::string debug_state() const = 0;
};

// What the kernel offers, probed once (sbx features). Each: name, available, what is lost without it.
struct HostFeature {
  const char* name;
  bool available;
  const char* without;
};
std::vector<HostFeature> probe_host_features();

// Whether a stub may answer a call of this number by itself.
bool may_be_native(u32 nr);

// The published surface: what a stub may reach of the host kernel, one line each ("futex: ops 0,1,3,..."). Used by
// docs, `sbx features` and the filter test.
std::vector<std::string> host_surface();

}  // namespace sbx::platform
