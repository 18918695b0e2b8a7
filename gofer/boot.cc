#include "gofer/boot.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "sentry/base/codec.h"

namespace sbx::gofer {
namespace {
constexpr u32 kMagic = 0x33677873;  // "sxg3"
constexpr size_t kMostMounts = 4096;
constexpr off_t kMostBytes = 1 << 20;
}  // namespace

HostResult<UniqueFd> write_gofer_boot(const GoferBoot& boot) {
  Encoder e;
  e.u32v(kMagic);
  e.i64v(boot.request_socket);
  e.i64v(boot.notify_socket);
  e.i64v(boot.log_fd);
  e.u8v(boot.log_format);
  e.u8v(boot.log_level);
  e.i64v(boot.proc_fd);
  e.u32v(boot.directory_fds);
  e.boolean(boot.raw_sockets);
  e.boolean(boot.sockets);
  e.u32v(static_cast<u32>(boot.mounts.size()));
  for (const GoferMount& m : boot.mounts) {
    e.i64v(m.root_fd);
    e.boolean(m.read_only);
    e.boolean(m.recursive);
    e.boolean(m.exclusive);
    e.boolean(m.sockets);
  }
  UniqueFd fd(memfd_create("gofer-boot", MFD_ALLOW_SEALING));
  if (!fd) return Failure::from_errno("memfd for the gofer's boot data");
  const std::string& bytes = e.bytes();
  if (pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return Failure::from_errno("writing the gofer's boot data");
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return Failure::from_errno("sealing the gofer's boot data");
  return fd;
}

HostResult<GoferBoot> read_gofer_boot(int memfd) {
  struct stat st;
  if (fstat(memfd, &st) != 0) return Failure::from_errno("gofer boot data");
  if (st.st_size > kMostBytes) return Failure(Errno::kInval, "gofer boot data: too large");
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  if (pread(memfd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return Failure::from_errno("reading the gofer's boot data");
  Decoder d(bytes);
  GoferBoot boot;
  if (d.u32v() != kMagic) return Failure(Errno::kInval, "gofer boot data: wrong magic number");
  boot.request_socket = static_cast<int>(d.i64v());
  boot.notify_socket = static_cast<int>(d.i64v());
  boot.log_fd = static_cast<int>(d.i64v());
  boot.log_format = d.u8v();
  boot.log_level = d.u8v();
  boot.proc_fd = static_cast<int>(d.i64v());
  boot.directory_fds = d.u32v();
  boot.raw_sockets = d.boolean();
  boot.sockets = d.boolean();
  u32 count = d.u32v();
  if (count > kMostMounts) return Failure(Errno::kInval, "gofer boot data: too many mounts");
  for (u32 i = 0; i < count && d.ok(); ++i) {
    GoferMount m;
    m.root_fd = static_cast<int>(d.i64v());
    m.read_only = d.boolean();
    m.recursive = d.boolean();
    m.exclusive = d.boolean();
    m.sockets = d.boolean();
    boot.mounts.push_back(m);
  }
  if (!d.at_end()) return Failure(Errno::kInval, "gofer boot data: malformed");
  return boot;
}

}  // namespace sbx::gofer
