// Sockets: making, naming, connecting, options. The data calls are in socket_msg.cc.
#include <linux/filter.h>
#include <linux/if_packet.h>

#include <algorithm>

#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/socket_args.h"

namespace sbx::syscalls {

namespace {

constexpr u32 kMaxAddress = sizeof(sockaddr_storage);
constexpr size_t kMaxOption = 4096;  // no option is longer

Result<i64> add_socket(Task& task, RefPtr<net::Socket> socket, bool cloexec) {
  return TRY(task.fds->add(RefPtr<vfs::File>(std::move(socket)), cloexec, task.nofile_limit()));
}

}  // namespace

Result<RefPtr<net::Socket>> get_socket(Task& task, i32 fd) {
  auto file = TRY(task.fds->get(fd));
  auto socket = ref_cast<net::Socket>(file);
  if (!socket) return Errno::kNotsock;
  return socket;
}

Result<std::string> read_address(Task& task, u64 addr, u32 length) {
  if (length > kMaxAddress) return Errno::kInval;
  std::string address(length, '\0');
  if (length > 0) TRY(task.memory().read(addr, address.data(), length));
  return address;
}

Result<void> write_address(Task& task, std::string_view address, u64 addr, u64 length_addr) {
  if (addr == 0) return {};
  const i32 room = TRY(In<i32>{length_addr}.read(task));
  if (room < 0) return Errno::kInval;
  const size_t n = std::min(address.size(), static_cast<size_t>(room));
  if (n > 0) TRY(task.memory().write(addr, address.data(), n));
  return Out<i32>{length_addr}.write(task, static_cast<i32>(address.size()));
}

Result<i64> sys_socket(Task& task, Int family, Int type, Int protocol) {
  auto socket = TRY(net::make_socket(family, type, protocol));
  return add_socket(task, std::move(socket), type & SOCK_CLOEXEC);
}

Result<i64> sys_socketpair(Task& task, Int family, Int type, Int protocol, OutBuf to) {
  auto [first, second] = TRY(net::make_socket_pair(family, type, protocol));
  const bool cloexec = type & SOCK_CLOEXEC;
  i32 fds[2];
  fds[0] = static_cast<i32>(TRY(add_socket(task, std::move(first), cloexec)));
  auto added = add_socket(task, std::move(second), cloexec);
  if (!added) {
    (void)task.fds->close(fds[0]);
    return added;
  }
  fds[1] = static_cast<i32>(*added);
  auto written = task.memory().write(to.addr, fds, sizeof(fds));
  if (written) return 0;
  for (i32 fd : fds) (void)task.fds->close(fd);
  return written.error();
}

Result<i64> sys_bind(Task& task, Fd fd, InBuf addr, UInt length) {
  auto socket = TRY(get_socket(task, fd.n));
  auto address = TRY(read_address(task, addr.addr, length));
  TRY(socket->bind(task.walk_context(), task.fs->umask, address));
  return 0;
}

Result<i64> sys_listen(Task& task, Fd fd, Int backlog) {
  auto socket = TRY(get_socket(task, fd.n));
  TRY(socket->listen(backlog));
  return 0;
}

Result<i64> sys_accept4(Task& task, Fd fd, OutBuf addr, UserAddr length_addr, Hex flags) {
  if (flags.v & ~u64{SOCK_CLOEXEC | SOCK_NONBLOCK}) return Errno::kInval;
  auto listener = TRY(get_socket(task, fd.n));
  // Before a connection is taken that could not be given a number.
  if (task.fds->open_count() >= task.nofile_limit()) return Errno::kMfile;
  const u32 status = flags.v & SOCK_NONBLOCK ? O_NONBLOCK : 0;
  auto socket = TRY(wait_for_socket(*listener, Wait::kYes, listener->receive_timeout, "accept",
                                    [&] { return listener->accept(status); }));
  if (addr.addr != 0) {
    if (socket->accepted_from.empty()) {
      auto peer = socket->peer_address();
      if (!peer) return Errno::kConnaborted;
      socket->accepted_from = std::move(*peer);
    }
    TRY(write_address(task, socket->accepted_from, addr.addr, length_addr.addr));
  }
  socket->accepted_from = {};
  return add_socket(task, std::move(socket), flags.v & SOCK_CLOEXEC);
}

Result<i64> sys_accept(Task& task, Fd fd, OutBuf addr, UserAddr length_addr) {
  return sys_accept4(task, fd, addr, length_addr, Hex{0});
}

Result<i64> sys_connect(Task& task, Fd fd, InBuf addr, UInt length) {
  auto socket = TRY(get_socket(task, fd.n));
  auto address = TRY(read_address(task, addr.addr, length));
  const vfs::WalkContext ctx = task.walk_context();
  TRY(wait_for_socket(*socket, Wait::kYes, socket->send_timeout, "connect",
                      [&] { return socket->connect(ctx, address); }));
  return 0;
}

Result<i64> sys_shutdown(Task& task, Fd fd, Int how) {
  auto socket = TRY(get_socket(task, fd.n));
  TRY(socket->shutdown(how));
  return 0;
}

Result<i64> sys_getsockname(Task& task, Fd fd, OutBuf addr, UserAddr length_addr) {
  auto socket = TRY(get_socket(task, fd.n));
  auto address = TRY(socket->local_address());
  if (addr.addr == 0) return Errno::kFault;
  TRY(write_address(task, address, addr.addr, length_addr.addr));
  return 0;
}

Result<i64> sys_getpeername(Task& task, Fd fd, OutBuf addr, UserAddr length_addr) {
  auto socket = TRY(get_socket(task, fd.n));
  auto address = TRY(socket->peer_address());
  if (addr.addr == 0) return Errno::kFault;
  TRY(write_address(task, address, addr.addr, length_addr.addr));
  return 0;
}

Result<i64> sys_setsockopt(Task& task, Fd fd, Int level, Int name, InBuf value_addr, UInt length) {
  if (static_cast<i32>(length) < 0) return Errno::kInval;
  auto socket = TRY(get_socket(task, fd.n));
  std::string value(std::min<size_t>(length, kMaxOption), '\0');
  if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
    if (length != sizeof(sock_fprog)) return Errno::kInval;
    const auto program = TRY(In<sock_fprog>{value_addr.addr}.read(task));
    if (program.len == 0 || program.len > BPF_MAXINSNS) return Errno::kInval;
    value.resize(program.len * sizeof(sock_filter));
    TRY(task.memory().read(reinterpret_cast<u64>(program.filter), value.data(), value.size()));
    TRY(socket->set_option(level, name, value));
    return 0;
  }
  if (!value.empty()) TRY(task.memory().read(value_addr.addr, value.data(), value.size()));
  TRY(socket->set_option(level, name, value));
  return 0;
}

Result<i64> sys_getsockopt(Task& task, Fd fd, Int level, Int name, OutBuf value_addr, UserAddr length_addr) {
  auto socket = TRY(get_socket(task, fd.n));
  const i32 room = TRY(In<i32>{length_addr.addr}.read(task));
  if (room < 0) return Errno::kInval;
  std::string value;
  if (level == SOL_PACKET && name == PACKET_HDRLEN) {
    value.resize(std::min<size_t>(static_cast<size_t>(room), sizeof(i32)));
    if (!value.empty()) TRY(task.memory().read(value_addr.addr, value.data(), value.size()));
    value = TRY(socket->ask_option(level, name, value));
  } else {
    value = TRY(socket->get_option(level, name, std::min(static_cast<size_t>(room), kMaxOption)));
  }
  if (!value.empty()) TRY(task.memory().write(value_addr.addr, value.data(), value.size()));
  TRY(Out<i32>{length_addr.addr}.write(task, static_cast<i32>(value.size())));
  return 0;
}

}  // namespace sbx::syscalls
