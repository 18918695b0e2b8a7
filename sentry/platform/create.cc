// Making the template stub, and probing the host for what the platform needs.
#include <elf.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstring>
#include <iterator>

#include "sentry/base/log.h"
#include "sentry/platform/filter.h"
#include "sentry/platform/internal.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, __u64)
#endif

extern "C" {
extern const char sbx_stub_blob[];
extern const char sbx_stub_blob_end[];
}

namespace sbx::platform {
namespace {

#include "sentry/platform/stub_filter.inc"

struct VdsoRange {
  u64 begin = 0, end = 0;
};

// [vvar], [vvar_vclock] and [vdso] lie together; the vDSO reads its data relative to itself. There is no /proc in the
// sentry's empty root: the vDSO's size is in its own ELF header, and the data pages below it are told from any other
// neighbour by being VM_PFNMAP mappings, for which MADV_COLD answers EINVAL (mm/madvise.c can_madv_lru_vma).
HostResult<VdsoRange> find_vdso() {
  VdsoRange range;
  u64 base = getauxval(AT_SYSINFO_EHDR);
  if (base == 0) return range;
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  const auto* segments = reinterpret_cast<const Elf64_Phdr*>(base + header->e_phoff);
  for (u32 i = 0; i < header->e_phnum; ++i) {
    if (segments[i].p_type == PT_LOAD) range.end = std::max(range.end, page_up(base + segments[i].p_memsz));
  }
  range.begin = base;
  constexpr int kMostDataPages = 32;
  for (int i = 0; i < kMostDataPages; ++i) {
    void* below = reinterpret_cast<void*>(range.begin - kPageSize);
    unsigned char resident;
    if (mincore(below, kPageSize, &resident) != 0) break;
    if (madvise(below, kPageSize, MADV_COLD) == 0 || errno != EINVAL) break;
    range.begin -= kPageSize;
  }
  return range;
}

// What the child of make_template() needs; plain data, because the child must not touch the heap.
struct ChildPlan {
  int memfd, board;
  u32 uid, gid;
  bool set_id;
  TemplateArgs args;
};

[[noreturn]] void child_fail(Slot& slot, int step) {
  slot.listener = 0;
  slot.ret = -errno;
  slot.nr = static_cast<u32>(step);
  __atomic_store_n(&slot.native_blocked, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &slot.native_blocked, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  _exit(1);
}

bool map_fixed(u64 at, u64 bytes, int prot, int flags, int fd) {
  return mmap(reinterpret_cast<void*>(at), bytes, prot, flags | MAP_FIXED_NOREPLACE, fd, 0) ==
         reinterpret_cast<void*>(at);
}

bool drop_privileges(const ChildPlan& plan) {
  if (plan.set_id) {
    if (syscall(SYS_setgroups, 0, nullptr) != 0 && errno != EPERM) return false;
    if (syscall(SYS_setresgid, plan.gid, plan.gid, plan.gid) != 0) return false;
    if (syscall(SYS_setresuid, plan.uid, plan.uid, plan.uid) != 0) return false;
  }
  for (int cap = 0; cap < 64; ++cap) {
    if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno == EINVAL) break;
  }
  struct {
    u32 version;
    int pid;
  } header{0x20080522, 0};
  u32 sets[6]{};
  if (syscall(SYS_capset, &header, sets) != 0) return false;
  return true;
}

[[noreturn]] void template_child(const ChildPlan& plan, Slot& shared) {
  if (!drop_privileges(plan)) child_fail(shared, 1);
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) child_fail(shared, 2);
  // The sentry reads and writes guest memory by process_vm_*, which asks for this.
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  // The C library's per-thread registrations lie in memory that is about to go; an rseq area that is unmapped means a
  // SIGSEGV at the next return to user space. ENOSYS, EINVAL: there was none.
  syscall(SYS_rseq, static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
  syscall(SYS_set_robust_list, nullptr, 24);
  syscall(SYS_set_tid_address, nullptr);
  rlimit none{0, 0};
  if (setrlimit(RLIMIT_CORE, &none) != 0) child_fail(shared, 3);
  size_t blob = static_cast<size_t>(sbx_stub_blob_end - sbx_stub_blob);
  if (!map_fixed(kStubBase, kStubSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)) child_fail(shared, 4);
  memcpy(reinterpret_cast<void*>(kStubBase), sbx_stub_blob, blob);
  if (mprotect(reinterpret_cast<void*>(kStubBase), kStubSize, PROT_READ | PROT_EXEC) != 0) child_fail(shared, 5);
  if (!map_fixed(kStubData, kStubDataBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1) ||
      !map_fixed(kNamesBase, kNamesBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1) ||
      !map_fixed(kBoard, kBoardBytes, PROT_READ, MAP_SHARED, plan.board) ||
      !map_fixed(kStacksBase, kStacksBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1) ||
      !map_fixed(kSlotsBase, kSlotsBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, plan.memfd)) {
    child_fail(shared, 6);
  }
  // No core-sized huge pages for 32 KiB stacks: each thread would cost 2 MiB.
  madvise(reinterpret_cast<void*>(kStacksBase), kStacksBytes, MADV_NOHUGEPAGE);
  auto* header = reinterpret_cast<const BlobHeader*>(kStubBase);
  auto start = reinterpret_cast<void (*)(const TemplateArgs*)>(header->template_start);
  start(&plan.args);
  _exit(1);
}

}  // namespace

// Sealed: nobody else can map it to be written, whatever a stub does with its mapping.
HostResult<UniqueFd> PlatformImpl::make_board() {
  UniqueFd fd(memfd_create("board", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ftruncate(fd.get(), kBoardBytes) != 0) return Failure::from_errno("making the board");
  void* at = mmap(nullptr, kBoardBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return Failure::from_errno("mapping the board");
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Failure::from_errno("sealing the board");
  }
  board_ = static_cast<Board*>(at);
  return fd;
}

HostResult<void> PlatformImpl::make_template() {
  const auto* header = reinterpret_cast<const BlobHeader*>(sbx_stub_blob);
  CHECK(header->magic == kBlobMagic);
  VdsoRange vdso = TRY(find_vdso());
  if (vdso.begin == 0) {
    vdso.begin = vdso.end = kUserEnd;
  }
  auto area = SlotArea::make();
  if (!area) return Failure::from_errno("making the template's slots");
  area->take(0);
  auto process = make_ref<Process>(*this);
  process->area = area;
  template_ = std::make_unique<HostThread>(*this, process, 0, Role::kTemplate);
  Slot& slot = template_->slot();

  sock_fprog program{static_cast<unsigned short>(std::size(kStubFilter)), const_cast<sock_filter*>(kStubFilter)};
  ChildPlan plan{};
  plan.memfd = area->memfd();
  UniqueFd board = TRY(make_board());
  plan.board = board.get();
  plan.set_id = options.uid != ~0u;
  plan.uid = options.uid;
  plan.gid = options.gid;
  plan.args.filter = &program;
  plan.args.vdso_begin = vdso.begin;
  plan.args.vdso_end = vdso.end;
  plan.args.listener_flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
  plan.args.minsigstksz = getauxval(AT_MINSIGSTKSZ);
  // The child shares the descriptor table until the listener has arrived in it.
  long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (pid < 0) return Failure::from_errno("making the template process");
  if (pid == 0) template_child(plan, slot);
  for (;;) {
    if (__atomic_load_n(&slot.native_blocked, __ATOMIC_SEQ_CST) != 0) break;
    timespec pause{0, 20'000'000};
    syscall(SYS_futex, &slot.native_blocked, FUTEX_WAIT, 0, &pause, nullptr, 0);
    if (waitpid(static_cast<pid_t>(pid), nullptr, WNOHANG) == pid)
      return Failure("the template stub died at its start");
  }
  if (slot.listener == 0) {
    int error = static_cast<int>(-slot.ret);
    waitpid(static_cast<pid_t>(pid), nullptr, 0);
    return Failure(
        str_printf("the template stub failed (step %u, errno %d); a host container with a seccomp listener "
                   "of its own gives EBUSY",
                   slot.nr, error));
  }
  int shared_listener = static_cast<int>(slot.listener) - 1;
  // From here the template closes descriptors: the table must be ours alone.
  if (unshare(CLONE_FILES) != 0) return Failure::from_errno("unsharing the descriptor table");
  fcntl(shared_listener, F_SETFD, FD_CLOEXEC);
  listener_.reset(shared_listener);
  // Hands over on the same CPU: a wake-up of the other CPU costs 15 times as much. Older kernels work without.
  if (ioctl(shared_listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1) != 0) {
    LOG_DEBUG("no synchronous wake-up of seccomp listeners on this kernel");
  }
  return {};
}

HostResult<void> PlatformImpl::start() {
  if ((getauxval(AT_HWCAP2) & 2) == 0) return Failure("the kernel does not allow wrgsbase in user space (fsgsbase)");
  if (getauxval(AT_MINSIGSTKSZ) * 2 + 4096 > kStackBytes) return Failure("signal frames of this CPU are too large");
  return make_template();
}

HostResult<std::unique_ptr<Platform>> Platform::create(const PlatformOptions& options) {
  auto impl = std::make_unique<PlatformImpl>(options);
  TRY(impl->start());
  return std::unique_ptr<Platform>(std::move(impl));
}

std::vector<HostFeature> probe_host_features() {
  std::vector<HostFeature> out;
  u32 action = SECCOMP_RET_USER_NOTIF;
  bool notif = syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
  out.push_back({"seccomp-user-notif", notif, "the sandbox cannot run"});
  out.push_back({"fsgsbase", (getauxval(AT_HWCAP2) & 2) != 0, "the sandbox cannot run"});
  // 6.6; the only sign without a listener is the kernel's version.
  FILE* release = fopen("/proc/sys/kernel/osrelease", "re");
  int major = 0, minor = 0;
  if (release != nullptr) {
    if (fscanf(release, "%d.%d", &major, &minor) != 2) major = 0;
    fclose(release);
  }
  out.push_back({"seccomp-sync-wake-up", major > 6 || (major == 6 && minor >= 6),
                 "system calls that reach the sentry are slower"});
  iovec nothing{};
  bool vm = process_vm_readv(getpid(), &nothing, 0, &nothing, 0, 0) == 0;
  out.push_back({"process_vm_readv", vm, "the sandbox cannot run"});
  return out;
}

}  // namespace sbx::platform
