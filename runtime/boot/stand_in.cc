#include "runtime/boot/stand_in.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>

#include "sentry/control/messages.h"

namespace sbx::boot {
namespace {

void send(int control_fd, const control::Request& request) {
  // Fails when the sandbox has ended: that is seen where its answer is read.
  (void)control::send_packet(control_fd, control::encode_request(request), {});
}

void pass_signals(int control_fd, int signals_fd, int tty, u32 exec_id) {
  signalfd_siginfo info{};
  while (::read(signals_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    if (info.ssi_signo != SIGWINCH) {
      control::SignalRequest signal;
      signal.target = exec_id == 0 ? control::SignalTarget::kInit : control::SignalTarget::kExec;
      signal.signo = static_cast<i32>(info.ssi_signo);
      signal.exec_id = exec_id;
      send(control_fd, signal);
      continue;
    }
    winsize size{};
    if (tty >= 0 && ::ioctl(tty, TIOCGWINSZ, &size) == 0)
      send(control_fd, control::ResizeRequest{exec_id, size.ws_row, size.ws_col});
  }
}

}  // namespace

UniqueFd block_passed_signals() {
  sigset_t all;
  sigfillset(&all);
  for (int signo : {SIGCHLD, SIGPIPE, SIGURG, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTSTP, SIGTTIN, SIGTTOU}) {
    sigdelset(&all, signo);
  }
  ::sigprocmask(SIG_BLOCK, &all, nullptr);
  return UniqueFd(::signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
}

int stand_in(int control_fd, int signals_fd, int tty, u32 exec_id) {
  constexpr int kGone = 128 + SIGKILL;  // the process has died with its sandbox
  send(control_fd, control::WaitRequest{exec_id});
  for (;;) {
    pollfd fds[2] = {{control_fd, POLLIN, 0}, {signals_fd, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents != 0) pass_signals(control_fd, signals_fd, tty, exec_id);
    if (fds[0].revents == 0) continue;
    auto packet = control::receive_packet(control_fd, MSG_DONTWAIT);
    if (!packet) {
      if (packet.error().code == Errno::kAgain || packet.error().code == Errno::kIntr) continue;
      return kGone;
    }
    if (packet->bytes.empty()) return kGone;
    // Acknowledgements of signals and sizes come in between, and may be errors when it has just ended.
    auto reply = control::decode_reply(packet->bytes);
    if (!reply) return kGone;
    if (auto* end = std::get_if<control::WaitReply>(&*reply)) return end->status & 0xff;
  }
}

}  // namespace sbx::boot
