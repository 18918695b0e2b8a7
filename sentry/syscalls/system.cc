// The machine as the guest sees it: names, memory, randomness, barriers.
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/fiber/kernel_lock.h"
#include "sentry/fs/proc/host_facts.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"
#include "sentry/time/clock.h"

namespace sbx::syscalls {

namespace {
constexpr size_t kNameField = 65;  // struct new_utsname
}  // namespace

Result<i64> sys_uname(Task& task, OutBuf out) {
  char names[6][kNameField] = {};
  auto put = [&](int i, std::string_view text) {
    std::memcpy(names[i], text.data(), std::min(text.size(), kNameField - 1));
  };
  put(0, fs::proc::kKernelName);
  put(1, task.uts->hostname);
  put(2, fs::proc::kKernelRelease);
  put(3, fs::proc::kKernelVersion);
  put(4, (task.personality & 0xff) == PER_LINUX32 ? "i686" : fs::proc::kMachine);
  put(5, task.uts->domainname);
  TRY(task.memory().write(out.addr, names, sizeof(names)));
  return 0;
}

namespace {

Result<i64> set_name(Task& task, InBuf name, u64 length, std::string& slot) {
  if (!task.creds->capable(CAP_SYS_ADMIN)) return Errno::kPerm;
  if (length > kNameField - 1) return Errno::kInval;
  std::string text(length, '\0');
  if (length > 0) TRY(task.memory().read(name.addr, text.data(), length));
  slot = text.substr(0, text.find('\0'));
  return 0;
}

}  // namespace

Result<i64> sys_sethostname(Task& task, InBuf name, Size length) {
  return set_name(task, name, length, task.uts->hostname);
}

Result<i64> sys_setdomainname(Task& task, InBuf name, Size length) {
  return set_name(task, name, length, task.uts->domainname);
}

Result<i64> sys_sysinfo(Task& task, OutBuf out) {
  // struct sysinfo of x86-64.
  struct {
    i64 uptime;
    u64 loads[3];
    u64 total_ram, free_ram, shared_ram, buffer_ram, total_swap, free_swap;
    u16 procs, pad;
    u32 pad2;
    u64 total_high, free_high;
    u32 mem_unit;
    u32 pad3;
  } info{};
  static_assert(sizeof(info) == 112);
  const fs::proc::MemoryFigures m = fs::proc::memory_figures();
  info.uptime = static_cast<i64>(time::host_clock_ns(CLOCK_BOOTTIME) / time::kNsPerSec);
  info.total_ram = m.total;
  info.free_ram = m.free;
  info.shared_ram = m.shared;
  info.buffer_ram = m.buffers;
  info.total_swap = m.swap_total;
  info.free_swap = m.swap_free;
  info.procs = static_cast<u16>(std::min<size_t>(task::kernel().task_count(), 0xffff));
  info.mem_unit = 1;
  TRY(task.memory().write(out.addr, &info, sizeof(info)));
  return 0;
}

Result<i64> sys_getrandom(Task& task, OutBuf out, Size size, Hex flags) {
  constexpr u64 kKnown = GRND_NONBLOCK | GRND_RANDOM | 4 /* GRND_INSECURE */;
  if ((flags.v & ~kKnown) != 0 || (flags.v & (GRND_RANDOM | 4)) == (GRND_RANDOM | 4)) return Errno::kInval;
  size = std::min<u64>(size, INT32_MAX & ~(kPageSize - 1));
  u8 buffer[4096];
  u64 done = 0;
  while (done < size) {
    const size_t n = std::min<u64>(size - done, sizeof(buffer));
    ssize_t got = ::getrandom(buffer, n, 0);
    if (got <= 0) break;
    auto written = task.memory().write(out.addr + done, buffer, static_cast<size_t>(got));
    if (!written) {
      if (done == 0) return written.error();
      break;
    }
    done += static_cast<u64>(got);
    // A large request ends early for a signal, as Linux's does.
    if (done < size && done % (1 << 20) == 0) {
      fiber::yield();
      if (fiber::current()->interrupted()) break;
    }
  }
  return static_cast<i64>(done);
}

// Of the barriers the global one is served: the host's waits until every CPU has passed one, so it holds for guests'
// threads too. The expedited ones are bound to the calling process, which on the host is the sentry.
Result<i64> sys_membarrier(Task&, Int command, Hex flags, Int) {
  if (flags.v != 0) return Errno::kInval;
  if (command == MEMBARRIER_CMD_QUERY) {
    long host = ::syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    return host > 0 ? host & MEMBARRIER_CMD_GLOBAL : 0;
  }
  if (command != MEMBARRIER_CMD_GLOBAL) {
    STUB("membarrier", command);
    return Errno::kInval;
  }
  long result;
  {
    fiber::HostBlock blocked;
    result = ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
  }
  if (result != 0) return Errno::kInval;
  return 0;
}

}  // namespace sbx::syscalls
