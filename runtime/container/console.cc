#include "runtime/container/console.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "runtime/boot/stand_in.h"
#include "runtime/host/files.h"

namespace sbx::container {
namespace {

// The caller's terminal is ours alone only until we exit: O_NONBLOCK goes on the pty master, never on 0 or 1.
struct Relay {
  int master;
  std::string to_master;
  bool input_open = true;
  bool output_open = true;

  // Master to stdout; false when there is nothing (left).
  bool pump_output() {
    char buffer[16384];
    ssize_t n = ::read(master, buffer, sizeof(buffer));
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) {  // EIO: no slave is open
      output_open = false;
      return false;
    }
    host::write_all(1, {buffer, static_cast<size_t>(n)});
    return true;
  }

  void pump_input() {
    char buffer[4096];
    ssize_t n = ::read(0, buffer, sizeof(buffer));
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
      input_open = false;
      return;
    }
    to_master.append(buffer, static_cast<size_t>(n));
  }

  void flush_input() {
    ssize_t n = ::write(master, to_master.data(), to_master.size());
    if (n > 0)
      to_master.erase(0, static_cast<size_t>(n));
    else if (errno != EAGAIN && errno != EINTR)
      to_master.clear();
  }
};

}  // namespace

ForegroundSignals::ForegroundSignals() : fd_(boot::block_passed_signals()) {}

void foreground(int done_fd, int pty_master, const ForegroundSignals& signals,
                const std::function<void(int)>& on_signal,
                const std::function<void(u16 rows, u16 columns)>& on_resize) {
  Relay relay{pty_master, {}};
  boot::RawTerminal raw = pty_master >= 0 ? boot::RawTerminal(0) : boot::RawTerminal();
  auto resize = [&] {
    winsize size{};
    if (pty_master < 0 || ::ioctl(0, TIOCGWINSZ, &size) < 0) return;
    ::ioctl(pty_master, TIOCSWINSZ, &size);
    on_resize(size.ws_row, size.ws_col);
  };
  if (pty_master >= 0) {
    ::fcntl(pty_master, F_SETFL, O_RDWR | O_NONBLOCK);
    resize();
  } else {
    relay.input_open = relay.output_open = false;
  }
  for (;;) {
    bool read_input = relay.input_open && relay.to_master.size() < 65536;
    pollfd fds[4] = {
        {done_fd, POLLIN, 0},
        {signals.fd(), POLLIN, 0},
        {relay.output_open ? pty_master : -1, static_cast<short>(POLLIN | (relay.to_master.empty() ? 0 : POLLOUT)), 0},
        {read_input ? 0 : -1, POLLIN, 0}};
    if (::poll(fds, 4, -1) < 0) continue;
    if (fds[2].revents & (POLLIN | POLLHUP)) relay.pump_output();
    if (fds[2].revents & POLLOUT) relay.flush_input();
    if (fds[3].revents != 0) relay.pump_input();
    if (fds[1].revents != 0) {
      signalfd_siginfo info{};
      while (::read(signals.fd(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
        if (info.ssi_signo == SIGWINCH)
          resize();
        else
          on_signal(static_cast<int>(info.ssi_signo));
      }
    }
    if (fds[0].revents != 0) {
      while (relay.output_open && relay.pump_output()) {
      }
      return;
    }
  }
}

}  // namespace sbx::container
