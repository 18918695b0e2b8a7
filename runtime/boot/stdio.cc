#include "runtime/boot/stdio.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "sentry/control/messages.h"

namespace sbx::boot {

Stream prepare_stream(int fd) {
  Stream out;
  struct stat st {};
  int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fstat(fd, &st) < 0) return out;  // closed
  out.fd = fd;
  bool reopen = S_ISFIFO(st.st_mode) || (S_ISCHR(st.st_mode) && ::isatty(fd) == 1);
  if (!reopen) return out;
  std::string path = "/proc/self/fd/" + std::to_string(fd);
  out.owned = UniqueFd(::open(path.c_str(), (flags & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  // A terminal's path may by now name another one (its mount namespace is gone): the device must be the same.
  struct stat got {};
  if (out.owned && ::fstat(out.owned.get(), &got) == 0 && got.st_dev == st.st_dev && got.st_ino == st.st_ino) {
    out.fd = out.owned.get();
    out.nonblocking = true;
  } else {
    out.owned.reset();
  }
  return out;
}

HostResult<Pty> open_pty(u16 rows, u16 columns) {
  Pty pty;
  pty.master = UniqueFd(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!pty.master) return Failure::from_errno("opening /dev/ptmx");
  int unlock = 0, number = 0;
  if (::ioctl(pty.master.get(), TIOCSPTLCK, &unlock) < 0 || ::ioctl(pty.master.get(), TIOCGPTN, &number) < 0) {
    return Failure::from_errno("unlocking the pty");
  }
  pty.name = "/dev/pts/" + std::to_string(number);
  pty.slave = UniqueFd(::ioctl(pty.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  if (!pty.slave) return Failure::from_errno("opening " + pty.name);
  termios raw{};
  if (::tcgetattr(pty.slave.get(), &raw) < 0) return Failure::from_errno(pty.name);
  ::cfmakeraw(&raw);
  ::tcsetattr(pty.slave.get(), TCSANOW, &raw);
  if (rows != 0 || columns != 0) {
    winsize size{rows, columns, 0, 0};
    ::ioctl(pty.master.get(), TIOCSWINSZ, &size);
  }
  return pty;
}

HostResult<void> send_console(const std::string& path, const Pty& pty) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return Failure::from_errno("socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string target = path;
  UniqueFd direct;
  if (target.size() >= sizeof(address.sun_path)) {
    direct = UniqueFd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!direct) return Failure::from_errno("console socket " + path);
    target = "/proc/self/fd/" + std::to_string(direct.get());
  }
  std::memcpy(address.sun_path, target.c_str(), target.size() + 1);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) {
    return Failure::from_errno("console socket " + path);
  }
  return control::send_packet(socket.get(), pty.name, {pty.master.get()}).context("console socket " + path);
}

RawTerminal::RawTerminal(int fd) {
  termios now{};
  if (::tcgetattr(fd, &now) < 0) return;
  saved_.assign(reinterpret_cast<const char*>(&now), sizeof(now));
  ::cfmakeraw(&now);
  if (::tcsetattr(fd, TCSANOW, &now) == 0) fd_ = fd;
}

RawTerminal::RawTerminal(RawTerminal&& o) noexcept : fd_(o.fd_), saved_(std::move(o.saved_)) { o.fd_ = -1; }

void RawTerminal::restore() {
  if (fd_ < 0) return;
  termios before{};
  std::memcpy(&before, saved_.data(), sizeof(before));
  ::tcsetattr(fd_, TCSADRAIN, &before);
  fd_ = -1;
}

}  // namespace sbx::boot
