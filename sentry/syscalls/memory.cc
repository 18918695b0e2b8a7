// Memory calls. Anonymous memory is the stub's own business; what names a file comes here, is checked, and goes back to
// the stub as a mapping of a host descriptor.
#include <sys/mman.h>
#include <sys/mount.h>

#include "sentry/base/counters.h"
#include "sentry/loader/library.h"
#include "sentry/platform/file_window.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/user_io.h"
#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"

namespace sbx::syscalls {

namespace {
constexpr u64 kTypeMask = 0x0f;
constexpr u64 kIgnored = MAP_DENYWRITE | MAP_EXECUTABLE | MAP_GROWSDOWN | MAP_STACK | MAP_NONBLOCK | MAP_LOCKED |
                         MAP_POPULATE;  // hints, or rights a guest does not have over the host
constexpr u64 kPassed = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE;

// Whether a loader maps a shared library: then its next calls are known, too (loader/library.h).
void add_next(Task& task, vfs::File& file, const vfs::MapHandle& handle, u64 asked_flags, bool patched,
              platform::MmapRequest& request) {
  if (request.addr != 0 || asked_flags != (MAP_PRIVATE | MAP_DENYWRITE) || !handle.steady ||
      handle.known_as == nullptr || request.source.fd != handle.host_fd || request.source.offset != handle.offset ||
      task.trace)
    return;
  platform::Platform& platform = *task::kernel().platform;
  for (const loader::LibrarySegment& segment :
       loader::segments_behind(handle.host_fd, handle.offset, request.length, request.prot)) {
    platform::MapSource source = loader::map_source(file, handle, segment.offset);
    if (patched && segment.prot == (PROT_READ | PROT_EXEC)) source = platform.text(source, segment.length);
    request.next.push_back({segment.at, segment.length, segment.offset, segment.prot, source});
  }
  if (request.next.size() > platform::kMostMapNext) request.next.clear();
  if (!request.next.empty()) handle.known_as->set_library();
}

// The stub does it and goes on by itself; to a tracer the call's end has to be shown first.
Result<i64> map(Task& task, platform::MmapRequest& request) {
  request.report = task.trace && task.trace->syscalls;
  task.thread->resume_mmap(request);
  if (request.report) {
    platform::Entry entry = task.thread->wait_entry();
    if (entry.kind == platform::EntryKind::kMapped) {
      i64 at = static_cast<i64>(entry.args[0]);
      if (at < 0 && at >= -133) return static_cast<Errno>(-at);
      return at;
    }
    if (entry.kind != platform::EntryKind::kLost) task.thread->kill_host_process();
  }
  task.resumed = true;
  return 0;
}
}  // namespace

Result<i64> sys_mmap(Task& task, UserAddr addr, Size length, Hex prot, Hex flags, Int fd, Off offset) {
  if ((offset & static_cast<i64>(kPageSize - 1)) != 0 || length == 0) return Errno::kInval;
  u64 type = flags.v & kTypeMask;
  if (type != MAP_SHARED && type != MAP_PRIVATE && type != MAP_SHARED_VALIDATE) return Errno::kInval;
  if ((prot.v & ~static_cast<u64>(PROT_READ | PROT_WRITE | PROT_EXEC)) != 0) return Errno::kInval;
  if ((flags.v & MAP_HUGETLB) != 0) {
    STUB("mmap MAP_HUGETLB", flags.v);
    return Errno::kNomem;  // no huge pages reserved, as on most hosts
  }
  if (type == MAP_SHARED_VALIDATE && (flags.v & ~(kTypeMask | kIgnored | kPassed | MAP_ANONYMOUS)) != 0) {
    return Errno::kOpnotsupp;
  }
  platform::MmapRequest request{};
  request.addr = addr.addr;
  request.length = length;
  request.prot = static_cast<u32>(prot.v);
  request.flags = static_cast<u32>((type == MAP_PRIVATE ? MAP_PRIVATE : MAP_SHARED) | (flags.v & kPassed));

  RefPtr<vfs::File> file;
  if ((flags.v & MAP_ANONYMOUS) != 0) {
    request.flags |= MAP_ANONYMOUS;
  } else {
    file = TRY(task.fds->get(fd));
    bool shared_write = type != MAP_PRIVATE && (prot.v & PROT_WRITE) != 0;
    if (!file->readable()) return Errno::kAcces;
    if (shared_write && (!file->writable() || (file->flags() & O_APPEND) != 0)) return Errno::kAcces;
    if ((prot.v & PROT_EXEC) != 0 && file->path().mount && (file->path().mount->flags & MS_NOEXEC) != 0) {
      return Errno::kPerm;
    }
    // A shared mapping of a file open for writing may be made writable later (mprotect): lend a writable descriptor.
    vfs::MapHandle handle = TRY(file->map_handle(type != MAP_PRIVATE && file->writable()));
    if (handle.host_fd < 0) {
      request.flags |= MAP_ANONYMOUS;  // /dev/zero
    } else {
      request.source = loader::map_source(*file, handle, static_cast<u64>(offset));
      // A program that needs no interpreter and maps text may be one: valgrind executes it instruction by instruction,
      // and knows nothing of the stub.
      const bool runs_it = task.group->image && task.group->image->interpreted;
      if (type == MAP_PRIVATE && prot.v == (PROT_READ | PROT_EXEC) && handle.steady && runs_it) {
        request.source = task::kernel().platform->text(request.source, page_up(length));
      }
      const bool may_run = !file->path().mount || (file->path().mount->flags & MS_NOEXEC) == 0;
      if (may_run && task.thread->answers_calls()) add_next(task, *file, handle, flags.v, runs_it, request);
    }
  }
  if (file) lend_position(task, fd, file);  // the loader closes it when it has mapped it
  return map(task, request);
}

// Natively answered calls in a form the stub does not know.
Result<i64> sys_mprotect(Task&, UserAddr, Size, Hex prot) {
  STUB("mprotect", prot.v);
  return Errno::kInval;
}
Result<i64> sys_munmap(Task&, UserAddr, Size) { return Errno::kInval; }
Result<i64> sys_mremap(Task&, UserAddr, Size, Size, Hex flags, UserAddr) {
  STUB("mremap", flags.v);
  return Errno::kInval;
}
Result<i64> sys_brk(Task& task, UserAddr) { return static_cast<i64>(task.thread->address_space()->brk_end()); }

Result<i64> sys_mincore(Task&, UserAddr, Size, OutBuf) { return Errno::kInval; }
Result<i64> sys_madvise(Task&, UserAddr addr, Size, Int advice) {
  if ((addr.addr & (kPageSize - 1)) != 0) return Errno::kInval;
  STUB("madvise", advice);
  return Errno::kInval;
}

// The host writes shared pages back by itself; MS_SYNC of a mapping is fsync of a file the guest still has open, or
// a weaker promise than Linux gives. Counted, so that a program that depends on it is seen.
Result<i64> sys_msync(Task&, UserAddr addr, Size, Hex flags) {
  if ((addr.addr & (kPageSize - 1)) != 0) return Errno::kInval;
  if ((flags.v & ~static_cast<u64>(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) != 0) return Errno::kInval;
  if ((flags.v & (MS_ASYNC | MS_SYNC)) == (MS_ASYNC | MS_SYNC)) return Errno::kInval;
  if ((flags.v & MS_SYNC) != 0) STUB("msync MS_SYNC", 0);
  return 0;
}

// Locking is a promise about the host's paging that a sandbox cannot give; RLIMIT_MEMLOCK rules who may ask.
Result<i64> sys_mlock(Task& task, UserAddr, Size length) {
  constexpr u32 kCapIpcLock = 14;
  if (task.creds->capable(kCapIpcLock)) return 0;
  u64 limit = task.group->limit(RLIMIT_MEMLOCK);
  if (limit == 0) return Errno::kPerm;
  return length <= limit ? Result<i64>(0) : Result<i64>(Errno::kNomem);
}
Result<i64> sys_munlock(Task&, UserAddr, Size) { return 0; }
Result<i64> sys_mlockall(Task& task, Hex flags) {
  if (flags.v == 0 || (flags.v & ~7ull) != 0) return Errno::kInval;
  constexpr u32 kCapIpcLock = 14;
  return task.creds->capable(kCapIpcLock) ? Result<i64>(0) : Result<i64>(Errno::kPerm);
}
Result<i64> sys_munlockall(Task&) { return 0; }

}  // namespace sbx::syscalls
