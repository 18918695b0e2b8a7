// Inside the platform room: the sentry's side of stub threads. Kernel lock for everything.
#pragma once
#include <sched.h>
#include <sys/uio.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/fiber/fiber.h"
#include "sentry/platform/arg_table.h"
#include "sentry/platform/layout.h"
#include "sentry/platform/outbox.h"
#include "sentry/platform/patched_text.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/shelf.h"

namespace sbx::platform {

class PlatformImpl;
class GuestThreadImpl;
struct HostThread;

// The shared slots of one guest memory: a memfd mapped here and, at kSlotsBase, in the stub processes.
// Cookies of threads that were told to exit. The bell of one whose spin ran out just before may still be on its way: it
// is answered, once, and not taken for a stranger's. An entry goes when its slot is used again, or with the area.
std::unordered_set<u64>& left_cookies();

// What is left of an area: the mapping to take down, and the memory.
struct DeadArea {
  u8* base;
  UniqueFd memfd;
};

class SlotArea : public RefCounted {
 public:
  // Of any thread, as touch() of an area that nobody else has yet.
  static RefPtr<SlotArea> make();
  // Has the host make the pages that a slot's first call needs.
  void touch(u32 index);
  // To take an area down costs 25 µs: those of the last few processes wait until there is time.
  static std::vector<DeadArea> take_dead();
  static void unmap_dead(std::vector<DeadArea> dead);
  ~SlotArea() override;
  int memfd() const { return memfd_.get(); }
  Slot& slot(u32 index) const { return *reinterpret_cast<Slot*>(base_ + index * kSlotBytes); }
  u8* window(u32 index) const { return base_ + index * kSlotBytes + kSlotHeaderBytes; }
  // A slot whose stack nobody uses any more; -1 if all are taken.
  int take();
  void take(u32 index) { next_ = next_ <= index ? index + 1 : next_; }
  void give_back(u32 index, u64 cookie) { used_.push_back({index, cookie}); }
  // Slots from here on were never used.
  u32 used_slots() const { return next_; }

  FileWindows windows;

  SlotLease& lease(u32 fd) const { return reinterpret_cast<SlotLease*>(base_ + kLeasesOffset)[fd]; }
  u64 lease_table = 0;  // FdTable::id() of the one whose positions may be lent; 0: none yet
  u64 lease_generation = 0;
  u64* closes() const { return reinterpret_cast<u64*>(base_ + kClosesOffset); }
  u8* stream(u32 place) const { return base_ + kStreamsOffset + place * kStreamBytes; }
  u32 free_streams = ~0u;  // bit n: place n is
  SlotRing& ring(u32 place) const { return reinterpret_cast<SlotRing*>(base_ + kRingHeadsOffset)[place]; }
  u8* ring_bytes(u32 place) const { return base_ + kRingsOffset + place * kRingBytes; }
  u32 free_rings = ~0u;
  // StreamPlace; own records lie in a ring that is taken already.
  void take_stream(u32 place) {
    if (place < kOwnPlaces) places_of(place) &= ~(1u << place % 32);
  }
  void free_stream(u32 place) {
    if (place < kOwnPlaces) places_of(place) |= 1u << place % 32;
  }
  Posts& posts() const { return *reinterpret_cast<Posts*>(base_ + kPostsOffset); }
  BulkHead& bulk_head() const { return *reinterpret_cast<BulkHead*>(base_ + kBulkHeadOffset); }
  u8* bulk() const { return base_ + kBulkOffset; }
  OutboxHead& outbox_head() const { return *reinterpret_cast<OutboxHead*>(base_ + kOutboxOffset); }
  PostBox* post_box = nullptr;     // the one that is open
  std::unique_ptr<Outbox> outbox;  // null: nothing was posted yet
  u32 closable = 0;                // descriptors that the stub may close, or has
  u32 luck = 4;                    // how often bytes read ahead were used lately
  u32 passed_by = 0;               // opens without, since there was none

 private:
  struct Left {
    u32 index;
    u64 cookie;
  };
  static_assert(kStreams == 32 && kRings == 32);
  u32& places_of(u32 place) { return place < kRingPlaces ? free_streams : free_rings; }
  UniqueFd memfd_;
  u8* base_ = nullptr;
  u32 next_ = 0;
  std::deque<Left> used_;  // left; free once the stub marked them gone
};

// While it lives, a stub thread that sleeps in a doorbell is allowed on this CPU only. A descriptor is put into its
// table by itself, woken for that: here this costs two switches, on another CPU, which may be idle, up to 100 µs each.
class KeptHere {
 public:
  explicit KeptHere(const HostThread& thread);
  // Without the kernel lock: of so many CPUs, thread `tid`.
  KeptHere(u32 cpus, i32 tid);
  ~KeptHere();
  KeptHere(const KeptHere&) = delete;
  KeptHere& operator=(const KeptHere&) = delete;

 private:
  i32 tid_ = 0;  // 0: left alone
  cpu_set_t before_{};
};

// What most programs are run by, mapped ahead of the exec. Addresses are relative to its bias.
struct Preload {
  std::vector<ImageSegment> segments;
  u64 area_begin = 0, places = 0;
  u64 low = 0, high = 0;
};

// One host process.
class Process : public AddressSpace {
 public:
  explicit Process(PlatformImpl& platform) : platform(platform) {}
  ~Process() override;
  i32 host_pid() const override { return host_pid_; }
  void kill() override;
  u64 brk_start() const override;
  u64 brk_end() const override;

  PlatformImpl& platform;
  RefPtr<SlotArea> area;
  i32 host_pid_ = 0;
  bool dead = false;  // killed or reaped: no thread of it will ever answer
  bool reaped = false;
  Shelf::View shelf{};  // what it inherited
  // Zygotes: an interpreter mapped ahead, and where.
  std::shared_ptr<const Preload> preload;
  u64 preload_bias = 0;
  u32 last_index = 0;  // slot whose break mirror is looked at
  std::vector<struct HostThread*> threads;
};

// This host thread is the one that receives requests.
bool i_receive();

enum class Where : u8 {
  kUnbound,  // not yet heard of
  kNative,   // runs guest code or a native call
  kSentry,   // waits for our reply
  kGone,
};
enum class Role : u8 { kGuest, kTemplate, kZygote };

struct HostThread {
  HostThread(PlatformImpl& platform, RefPtr<Process> process, u32 index, Role role);
  ~HostThread();
  HostThread(const HostThread&) = delete;
  HostThread& operator=(const HostThread&) = delete;

  Slot& slot() const { return process->area->slot(index); }
  u8* window() const { return process->area->window(index); }
  // Publishes the reply in the slot and wakes the stub if it sleeps in a doorbell. `out_count`: entries of Slot::out.
  void reply(Command command, i64 ret = 0, u32 out_count = 0);
  // The first half: the notification is still to be answered.
  void publish(Command command, i64 ret, u32 out_count);

  PlatformImpl& platform;
  RefPtr<Process> process;
  u32 index;
  Role role;
  Where where = Where::kUnbound;
  i32 tid = 0;
  u64 cookie = 0;
  u64 notif = 0;  // 0: none, the stub spins
  GuestThreadImpl* guest = nullptr;
  // While unbound: where the native clone leaves the child's tid, and the host process that clones.
  RefPtr<SlotArea> parent_area;
  u32 parent_index = 0;
  i32 parent_pid = 0;
  i32 native_tid = 0;  // 0: still in the parent's slot, which the parent's next clone overwrites
  bool left = false;   // told to end: the slot comes free once the stub marks it
  // Tier 1 (spin.cc): when the last request came and its reply went out, in cycles, and how many requests in a row were
  // short and followed soon.
  u64 requested_at = 0;
  u64 replied_at = 0;
  u64 soon = 0;
  u32 streak = 0;
  i32 kept_off = -1;  // the CPU the host thread was kept off, for its first steps beside a receiver that polls
  // Zygotes: who waits for the image.
  fiber::Fiber* waiter = nullptr;
  bool answered = false;
};

// Descriptors of ours that a request of mappings names, each once, and what they are in the stub's table.
struct LentSources {
  static constexpr size_t kMost = 1 + kMostMapNext;
  struct One {
    const MapSource* source;
    int number;  // -1: not there yet
  };
  void add(const MapSource& source);
  int number(const MapSource& source) const;
  std::array<One, kMost> all;
  size_t count = 0;
};

// Maps the segment, moved by `bias`; without the descriptor.
MapOp map_op(const ImageSegment& segment, u64 bias);

class GuestThreadImpl final : public GuestThread {
 public:
  explicit GuestThreadImpl(PlatformImpl& platform) : platform_(platform) {}
  ~GuestThreadImpl() override;

  Entry wait_entry() override;
  void resume(i64 ret) override;
  void resume_continue() override;
  void resume_signal(i64 ret, bool restart, const SignalDelivery& delivery) override;
  Result<void> prepare_clone(CloneRequest::Kind kind) override;
  void resume_clone(const CloneRequest& request, GuestThread& child) override;
  void resume_exit() override;
  bool answers_calls() const override;
  void resume_mmap(const MmapRequest& request) override;
  Result<void> exec(ExecImage& image) override;
  void resume_exec() override;
  void kill_host_process() override;
  Result<void> read(u64 addr, void* to, size_t n) override;
  Result<void> write(u64 addr, const void* from, size_t n) override;
  Result<size_t> read_some(u64 addr, void* to, size_t n) override;
  Result<size_t> write_some(u64 addr, const void* from, size_t n) override;
  Result<std::string> read_string(u64 addr, size_t max) override;
  bool copy_from_file(u64 addr, const FileBytes& bytes) override;
  void name_is_steady() override { steady_name_ = true; }
  bool rang_for_call() const override { return host_ != nullptr && host_->notif != 0; }
  bool opens_file() const override { return entry_.nr == SYS_open || entry_.nr == SYS_openat; }
  RefPtr<PostBox> open_posts(int epoll) override;
  void lend_position(RefPtr<FileLease>& lease, int fd, u64 table, u64 position, const LeaseTerms& terms) override;
  void lend_close(RefPtr<FileLease>& lease, int fd, u64 table) override;
  bool lend_stream(RefPtr<FileLease>& lease, int fd, u64 table, int host_fd) override;
  bool lend_bytes(RefPtr<FileLease>& lease, int fd, u64 table, size_t there,
                  const std::function<size_t(u8* to, size_t most)>& fill) override;
  RefPtr<WriteRing> lend_room(int fd, u64 table) override;
  RefPtr<PostRight> give_post_right(int fd, u64 table, Poster& poster) override;
  void send_posted() override {
    if (host_ && host_->process->area->outbox) host_->process->area->outbox->call_begins();
  }
  bool lend_own(RefPtr<FileLease>& lease, int fd, u64 table, const WriteRing& ring) override;
  void lend_stream_bytes(RefPtr<FileLease>& lease, RefPtr<SlotArea> area, int fd, u32 place, size_t n, bool all,
                         u64 position = 0);
  // Null: nothing is lent to this thread now.
  RefPtr<SlotArea> area_to_lend(int fd, u64 table);
  void lend(FileLease& lease, RefPtr<SlotArea> area, int fd, u64 position);
  bool take_closes(u64 table, Closes& closes) override;
  Result<size_t> peek(u64 addr, void* to, size_t n) override;
  Result<size_t> poke(u64 addr, const void* from, size_t n) override;
  bool has_memory() const override { return host_ && !lost_ && host_->where != Where::kUnbound; }
  void settle_memory() override;
  Result<Registers> registers() override;
  Result<void> set_registers(const Registers& r) override;
  void watch_calls(const Watch& watch) override;
  Result<void> poke_protected(u64 addr, std::string bytes, u32 prot) override;
  Result<std::string> fp_state() override;
  Result<void> set_fp_state(std::string state) override;
  void step() override {
    if (host_ && !lost_) host_->slot().step = 1;
  }
  void kick() override;
  bool in_sentry() const override;
  void set_pending(u64 pending_set) override;
  u64 robust_list() const override;
  u64 signal_mask() const override;
  void set_signal_mask(u64 mask) override;
  void set_identity(const Identity& id) override;
  u64 take_defaulted(u64* restorer) override;
  void set_childless(bool childless) override {
    if (host_) __atomic_store_n(&host_->slot().childless, u32{childless}, __ATOMIC_SEQ_CST);
  }
  void limit_memory(u64 address_space, u64 data) override;
  i32 host_tid() const override { return host_ ? host_->tid : 0; }
  RefPtr<AddressSpace> address_space() const override;
  const void* memory() const override { return host_ != nullptr ? host_->process->area.get() : nullptr; }
  StubUsage usage() const override;
  u64 last_ip() const override { return host_ ? __atomic_load_n(&host_->slot().ip, __ATOMIC_RELAXED) : 0; }
  u64 last_sp() const override { return host_ ? __atomic_load_n(&host_->slot().sp, __ATOMIC_RELAXED) : 0; }

  // From the receiver: a request of the host thread.
  void on_request();
  // It rings although it is in the sentry already: its spin ran out.
  void rang();
  void lost();
  void take_host(std::unique_ptr<HostThread> host);
  HostThread* host() { return host_.get(); }
  const Identity& identity() const { return identity_; }

 private:
  friend class PlatformImpl;
  void finish(Command command, i64 ret);
  void rekick();
  // Flushes what write() left in the window, for readers of the same memory.
  void flush_writes();
  const u8* copied(u64 addr, size_t n) const;
  const u8* at_hand(u64 addr, size_t n) const override {
    return n > kMaxBufferCopy && host_ && !lost_ ? copied(addr, n) : nullptr;
  }
  // What the slot says of bytes it has copied: the length, 0 if it is not true.
  static u32 sane_length(u32 offset, u32 length);
  const u8* copied_at(u32 offset) const {
    return offset < kWindowBytes ? host_->window() + offset : host_->process->area->bulk() + (offset - kWindowBytes);
  }
  void send_identity();
  // A descriptor of ours in the table of the stub; -errno. Parks until the stub sleeps in its doorbell.
  // 0 or -errno; the numbers are the stub's then.
  int lend_when_rung(std::span<int> fds);
  int lend_sources(LentSources& sources);
  int lend_when_rung(int fd) {
    const int error = lend_when_rung({&fd, 1});
    return error < 0 ? error : fd;
  }
  u32 file_orders();
  u32 read_ahead(const LeaseTerms& terms);
  void note_windows(RequestKind kind);
  // A command to a stub that waits for its reply. It outlives the thread, as who asks may.
  struct Inspection {
    fiber::Fiber* asks;
    bool done = false;
    i64 result = 0;
    std::string window;  // kFpGet: what it holds then
  };
  std::shared_ptr<Inspection> inspect(Command command);
  void inspected(i64 result);
  // By process_vm_readv or writev: bytes moved.
  size_t move_memory(u64 addr, void* local, size_t n, bool to_guest);

  PlatformImpl& platform_;
  std::unique_ptr<HostThread> host_;
  Entry entry_{};
  bool entry_ready_ = false;
  bool lost_ = false;
  bool awaits_start_ = false;  // between exec() and resume_exec()
  Watch watch_;
  std::shared_ptr<Inspection> inspection_;
  fiber::Fiber* fiber_ = nullptr;
  fiber::Fiber* ringing_for_ = nullptr;  // waits for the doorbell
  // The window's part of the running request, checked once.
  u32 in_offset_[6]{}, in_length_[6]{};
  u64 piece_addr_[kMostPieces]{};
  u32 piece_offset_[kMostPieces]{}, piece_length_[kMostPieces]{}, pieces_ = 0;
  u64 probed_begin_[kMostProbes]{}, probed_end_[kMostProbes]{};  // the stub can write there
  u32 out_used_ = 0, out_count_ = 0;
  CopyOp out_[kMaxCopyOut]{};
  SlotFileCopy file_copy_{};   // length 0: none
  bool steady_name_ = false;   // with the next reply: kSteadyName
  bool window_moves_ = false;  // told the stub to map or unmap file windows
  // For the next fork: the child's slots, and their descriptor in the stub's table.
  RefPtr<SlotArea> next_area_;
  int next_fd_ = -1;
  Identity identity_{};
  u64 mask_ = 0, pending_ = 0;
  StubUsage usage_{};
  std::unique_ptr<fiber::Timer> kick_timer_;
  u32 kick_tries_ = 0;
  bool kicked_ = false;
};

class PlatformImpl final : public Platform {
 public:
  explicit PlatformImpl(const PlatformOptions& options) : options(options) {}
  ~PlatformImpl() override;
  // Guest threads that run, or would if they were let, take all processors.
  bool is_crowded() const;
  HostResult<void> start();

  std::unique_ptr<GuestThread> new_thread() override { return std::make_unique<GuestThreadImpl>(*this); }
  MapSource text(MapSource source, u64 length) override {
    return options.patch ? patched_text_.replace(source, length) : source;
  }
  void run() override;
  void stop() override;
  void host_child_exited(i32 pid, i32 wait_status) override;
  void names_changed() override;
  void name_touched(std::string_view name) override;
  u64 name_changes() const override { return name_changes_; }
  void tell_all(u32 nr, const u64* args, std::string_view path, i64 error) override;
  void tell_nobody(Differ what) override;
  void views_differ() override { __atomic_store_n(&board_->views_differ, 1, __ATOMIC_SEQ_CST); }
  std::string debug_state() const override;

  // Answers the notification (0 in rax); false if the stub left its doorbell: it will ring again.
  bool answer(u64 notif);
  // A descriptor of ours in the table of the stub that waits in `notif`; -errno.
  // number: where in its table; -1: the lowest that is free.
  int add_fd(u64 notif, int fd, int number = -1);
  u64 random_cookie();
  void collect_counters(Slot& slot);
  void forget(HostThread& thread);
  void bury(Process& process);
  // robust.cc: if threads of the process hold robust locks, has its stub release them before it ends, and kills it if
  // that takes long. False: there are none, kill it.
  bool release_robust_locks(Process& process);
  // The number under which a stub has the source already; -1. With `put`, the next ones may inherit it.
  int on_shelf(const Process& process, const MapSource& source) {
    return shelf_.find(process.shelf, source.item.get());
  }
  void want_on_shelf(const MapSource& source) { shelf_.want(source.item, source.fd, source.everybodys); }
  // The slots of a new process: the spare ones, if there are.
  RefPtr<SlotArea> take_area() { return spare_area_ ? std::move(spare_area_) : SlotArea::make(); }
  // Made when there is time; slot `index` is likely to be the first used.
  void make_spare_area(u32 index);
  // Parks until a clean stub is there. Afterwards, when there is time: want_zygotes().
  Result<std::unique_ptr<HostThread>> take_zygote();
  void return_zygote(std::unique_ptr<HostThread> zygote);
  void want_zygotes();
  // Whether the interpreter of `image` is what the zygote has mapped. Then the image's is moved there; else it is what
  // the next zygotes are to map, if they inherit its files.
  bool use_preload(Process& zygote, ExecImage& image);
  // Before a clone: the tids of earlier children of this thread that have not bound yet, saved from its slot.
  void keep_child_tids(HostThread& parent);
  void child_failed(HostThread& parent);
  // Records host thread `tid` (and host process, if it is a new one) for an unbound thread.
  void bind(HostThread& thread, i32 tid);

  // Tier 1 (spin.cc). Called before a reply is published: whether this thread will look for the next request itself,
  // so that the stub may spin for it.
  bool will_poll(HostThread& thread, Command command);
  // How the next answer wakes its stub: on another CPU than this one, or on this one, which is about to be free.
  void wake_apart(HostThread& thread);
  void wake_here();
  // Answers a stub that is not polled. The first of those that one event wakes gets this CPU, if we leave it then; the
  // others one that is idle, if there is any.
  void answer_unpolled(u64 notif);
  bool another_rings() const;
  // Whoever ends the wait that begins now hands over to us on his CPU.
  void end_round();
  // A zygote has its template's affinity, which is narrow while that is kept off a CPU.
  void allow_all_cpus(const HostThread& thread);
  // exec: the CPUs the guest chose for the thread.
  void keep_affinity(const HostThread& from, const HostThread& to) const;
  friend class KeptHere;
  // Before host process `pid` is killed.
  void die_apart(i32 pid);
  void stop_polling(const HostThread& thread);

  const PlatformOptions options;
  std::unordered_map<i32, HostThread*> by_tid;
  std::unordered_map<u64, HostThread*> by_cookie;  // unbound
  std::unordered_map<i32, Process*> by_pid;
  u32 host_threads = 0;

 private:
  struct Notification {
    u64 id;
    i32 pid;
    u64 kind, cookie;
  };
  bool receive(Notification& out);
  void handle(const Notification& n);
  void dispatch(HostThread& thread);
  // Tier 1 (spin.cc): with the kernel lock held, by the receiver; drops it while it looks.
  void note_request(HostThread& thread);
  void poll_slots();
  bool somebody_rings(bool* event) const;
  void answer_bell();
  // A polled slot with a request.
  Slot* look() const;
  void serve_polled(Slot& slot);
  void end_polling();
  void end_apart(HostThread& thread);
  void set_sync_wake(bool sync);
  bool cpus_are_free() const;
  void count_cpus();
  // Board::roomy, after a thread came or went.
  void tell_of_room();
  u32 skips(u64 now) const;
  bool takes_chance(HostThread& thread, u64 now);
  void on_zygote_request(HostThread& thread, RequestKind kind);
  void on_template_request(RequestKind kind);
  // Zygotes (zygotes.cc).
  bool template_waits() const;
  // To answer the notification that is returned is the caller's. view: what the template has.
  u64 order_zygote(RefPtr<SlotArea> area, int fd, const Shelf::View& view);
  void make_zygote(RefPtr<SlotArea> area);
  void make_zygote_apart();
  // Has the next one map the interpreter, if it can.
  void order_preload(Process& process);
  // False: it cannot be had.
  bool ask_maker();
  bool maker_is_late();
  void end_maker();
  void make_on_demand();
  void host_block(bool entering);
  HostResult<UniqueFd> make_board();
  HostResult<void> make_template();
  Board* board_ = nullptr;  // for good
  u64 name_changes_ = 0;

  UniqueFd listener_;
  PatchedText patched_text_;
  Shelf shelf_;
  RefPtr<SlotArea> spare_area_;
  // Processes that release their robust locks: alive on the host, gone for the guest. Their other threads may ring.
  struct Leaving {
    RefPtr<Process> process;
    std::unique_ptr<fiber::Timer> deadline;
    i32 walker = 0;
  };
  std::unordered_map<i32, Leaving> leaving_;  // by host pid
  std::vector<i32> strangers_;                // unknown stubs that rang meanwhile
  void left(i32 host_pid);
  std::unique_ptr<HostThread> template_;
  bool template_ready_ = false;
  std::deque<std::unique_ptr<HostThread>> zygotes_;  // ready
  std::unique_ptr<HostThread> making_;               // unbound zygote
  fiber::WaitQueue zygote_queue_;
  // The thread that makes them where a CPU is free for it. Its own lock, taken after the kernel lock.
  enum class MakerDoes : u8 { kNothing, kWake, kWork, kEnd };
  std::thread maker_;
  std::mutex maker_lock_;
  std::condition_variable maker_wakes_;
  MakerDoes maker_does_ = MakerDoes::kNothing;
  i32 maker_tid_ = 0;
  int maker_avoids_ = -1;  // the CPU that it may not use
  std::vector<DeadArea> dead_areas_;
  u32 zygotes_failed_ = 0;
  std::shared_ptr<const Preload> preload_;
  bool took_zygote_ = false;  // somebody has; until then he waits for the first
  std::atomic<bool> stopping_{false};

  // Threads the receiver polls. Only the receiver adds and removes, with the kernel lock; others may clear `thread`.
  struct Polled {
    RefPtr<SlotArea> area;
    Slot* slot;
    HostThread* thread;  // null: gone
    u64 since;           // cycles: the last reply
    u64 window;          // cycles to look for the next request
  };
  std::vector<Polled> polled_;
  cpu_set_t cpu_set_{};
  u32 cpus_ = 0;  // in cpu_set_; 0: not counted yet. Counted again with each new stub: `update` may change the cpuset
  u32 skips_ = 0, skipped_ = 0;
  u64 missed_at_ = 0;
  u64 bell_at_ = 0;  // cycles: when to ask for doorbells although polled threads call all the time
  u32 session_hits_ = 0;
  u64 no_polling_before_ = 0;
  u64 back_off_ = 0;
  bool sync_wake_ = true;
  u32 woken_ = 0;       // stubs that were answered since the last event
  bool rings_ = false;  // somebody does who was not received yet

  // One worker receives; the others wait for their turn.
  void work();
  bool await_bell();
  // The receiver's: it serves the reactor too; doorbells since the last event of that.
  bool holds_reactor_ = false;
  u32 bells_alone_ = 0, most_bells_alone_ = 0;
  std::mutex turn_lock_;
  std::condition_variable turn_;
  bool turn_taken_ = false;
  u32 spares_ = 0;
  u32 working_ = 0;
  std::vector<std::thread> threads_;
  std::vector<pthread_t> handles_;
};

}  // namespace sbx::platform
