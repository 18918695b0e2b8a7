// For the programs that assemble seccomp filters while the product is built.
#pragma once
#include <linux/filter.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "sentry/base/log.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"

namespace sbx {

inline HostResult<std::vector<sock_filter>> export_bpf(scmp_filter_ctx ctx) {
  UniqueFd file(memfd_create("filter", MFD_CLOEXEC));
  if (!file) return Failure::from_errno("memfd for the filter");
  if (int ret = seccomp_export_bpf(ctx, file.get()); ret != 0) {
    return Failure(str_printf("seccomp_export_bpf: error %d", ret));
  }
  const off_t bytes = lseek(file.get(), 0, SEEK_END);
  std::vector<sock_filter> program(static_cast<size_t>(bytes) / sizeof(sock_filter));
  if (pread(file.get(), program.data(), static_cast<size_t>(bytes), 0) != bytes) {
    return Failure::from_errno("reading the filter back");
  }
  return program;
}

// As a constant of C++. False, and why on the standard error, if it could not be assembled.
inline bool print_bpf(const char* name, const HostResult<std::vector<sock_filter>>& program) {
  if (!program) {
    std::fprintf(stderr, "%s: %s\n", name, program.error().message.c_str());
    return false;
  }
  std::printf("constexpr sock_filter %s[] = {\n", name);
  for (const sock_filter& f : *program) std::printf("{%#x, %u, %u, %#x},\n", f.code, f.jt, f.jf, f.k);
  std::printf("};\n");
  return true;
}

}  // namespace sbx
