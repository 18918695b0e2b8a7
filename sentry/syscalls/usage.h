// struct rusage from the kernel's own counts.
#pragma once
#include <sys/resource.h>

#include "sentry/task/thread_group.h"

namespace sbx::syscalls {

inline struct rusage to_rusage(const task::Usage& u) {
  struct rusage r {};
  r.ru_utime = {static_cast<time_t>(u.utime_us / 1'000'000), static_cast<suseconds_t>(u.utime_us % 1'000'000)};
  r.ru_stime = {static_cast<time_t>(u.stime_us / 1'000'000), static_cast<suseconds_t>(u.stime_us % 1'000'000)};
  r.ru_maxrss = static_cast<long>(u.maxrss_kb);
  r.ru_minflt = static_cast<long>(u.minflt);
  r.ru_majflt = static_cast<long>(u.majflt);
  r.ru_nvcsw = static_cast<long>(u.nvcsw);
  r.ru_nivcsw = static_cast<long>(u.nivcsw);
  return r;
}

}  // namespace sbx::syscalls
