#include "sentry/fs/devpts/console.h"

#include <sys/ioctl.h>

#include "sentry/base/log.h"

namespace sbx::fs::devpts {
namespace {

constexpr size_t kChunk = 4096;

void make_raw(int fd) {
  termios settings{};
  if (tcgetattr(fd, &settings) != 0) return;
  cfmakeraw(&settings);
  if (tcsetattr(fd, TCSANOW, &settings) != 0) LOG_WARNING("cannot put the console into raw mode");
}

}  // namespace

HostConsole::HostConsole(RefPtr<host::HostDescriptor> host, RefPtr<vfs::File> master, RefPtr<Tty> tty)
    : host_(std::move(host)), master_(std::move(master)), tty_(std::move(tty)) {}

Result<RefPtr<HostConsole>> HostConsole::create(DevptsFs& fs, UniqueFd host_fd, u32 uid, u32 gid) {
  make_raw(host_fd.get());
  auto master = TRY(fs.open_ptmx(vfs::Path{}, O_RDWR, uid, gid));
  RefPtr<Tty> tty(tty_of(*master));
  tty->locked = false;
  auto host = make_ref<host::HostDescriptor>(std::move(host_fd));
  RefPtr<HostConsole> console(new HostConsole(std::move(host), std::move(master), std::move(tty)));
  console->update_window();
  // The fibers keep it alive until the host side or the emulated one ends.
  fiber::spawn([console] { console->relay_input(); }, 64 * 1024);
  fiber::spawn([console] { console->relay_output(); }, 64 * 1024);
  return console;
}

void HostConsole::update_window() {
  winsize size{};
  if (::ioctl(host_->fd(), TIOCGWINSZ, &size) != 0) return;
  tty_->set_window({size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel});
}

void HostConsole::relay_input() {
  u8 chunk[kChunk];
  for (;;) {
    Result<size_t> got = Errno::kAgain;
    fiber::WaitQueue* queue = host_->queue();
    auto attempt = [&] {
      got = host_->read(chunk, sizeof(chunk));
      return got || got.error() != Errno::kAgain || tty_->hung_up();
    };
    if (queue == nullptr)
      attempt();
    else if (!queue->wait_until(attempt, "console input", fiber::kNever, fiber::Interruptible::kNo))
      return;
    if (!got || *got == 0) {
      tty_->hang_up();
      return;
    }
    // A resize shows at the next key at the latest, even if nobody told us.
    update_window();
    vfs::KernelSource source(chunk, *got);
    auto accepted = [&] {
      auto n = tty_->master_write(source);
      // EIO while no process has the terminal open: typed ahead for nobody, dropped.
      return source.left() == 0 || (!n && n.error() != Errno::kAgain) || tty_->hung_up();
    };
    auto done = tty_->master_queue.wait_until(accepted, "console input", fiber::kNever, fiber::Interruptible::kNo);
    if (!done || tty_->hung_up()) return;
  }
}

bool HostConsole::write_host(const u8* bytes, size_t n) {
  size_t done = 0;
  bool gone = false;
  auto attempt = [&] {
    while (done < n) {
      auto part = host_->write(bytes + done, n - done);
      if (!part) {
        gone = part.error() != Errno::kAgain;
        return gone;
      }
      done += *part;
    }
    return true;
  };
  fiber::WaitQueue* queue = host_->queue();
  if (queue == nullptr) return attempt() && !gone;
  auto waited = queue->wait_until(attempt, "console output", fiber::kNever, fiber::Interruptible::kNo);
  return waited && !gone;
}

void HostConsole::relay_output() {
  u8 chunk[kChunk];
  for (;;) {
    size_t got = 0;
    bool ended = false;
    auto attempt = [&] {
      vfs::KernelSink sink(chunk, sizeof(chunk));
      auto n = tty_->master_read(sink);
      if (n) got = *n;
      // The slave being closed by all is no end: `sbx exec` may open it again.
      else
        ended = tty_->hung_up();
      return n || ended;
    };
    if (!tty_->master_queue.wait_until(attempt, "console output", fiber::kNever, fiber::Interruptible::kNo)) return;
    if (ended) return;
    if (!write_host(chunk, got)) {
      tty_->hang_up();
      return;
    }
  }
}

void HostConsole::drain(u64 timeout_ms) {
  u64 give_up = fiber::now_ns() + timeout_ms * 1'000'000;
  u8 chunk[kChunk];
  for (;;) {
    vfs::KernelSink sink(chunk, sizeof(chunk));
    auto n = tty_->master_read(sink);
    if (!n || *n == 0) return;
    for (size_t done = 0; done < *n;) {
      auto part = host_->write(chunk + done, *n - done);
      if (part) {
        done += *part;
        continue;
      }
      u64 now = fiber::now_ns();
      if (part.error() != Errno::kAgain || now >= give_up) return;
      pollfd p{host_->fd(), POLLOUT, 0};
      ::poll(&p, 1, static_cast<int>((give_up - now) / 1'000'000) + 1);
    }
  }
}

}  // namespace sbx::fs::devpts
