#include "sentry/fs/devpts/tty.h"

#include <sys/ioctl.h>

#include <algorithm>

#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::fs::devpts {
namespace {

constexpr size_t kMaxOutput = 16384;
constexpr size_t kChunk = 4096;
constexpr u64 kTenth = 100'000'000;  // unit of VTIME, ns

KernelTermios default_settings() {
  KernelTermios t{};
  t.iflag = ICRNL | IXON;
  t.oflag = OPOST | ONLCR;
  t.cflag = B38400 | CS8 | CREAD;
  t.lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN;
  constexpr u8 kChars[19] = {3, 034, 0177, 025, 4, 0, 1, 0, 021, 023, 032, 0, 022, 017, 027, 026, 0};
  std::copy(std::begin(kChars), std::end(kChars), t.cc);
  t.ispeed = t.ospeed = 38400;
  return t;
}

signal::SigInfo from_kernel(int signo) {
  signal::SigInfo info;
  info.signo = signo;
  info.code = SI_KERNEL;
  return info;
}

}  // namespace

Tty::Tty(u32 index, u64 rdev) : index_(index), rdev_(rdev), termios_(default_settings()) {}

// ---- sessions ----

void Tty::session_gained(task::Session& session, task::ProcessGroup& foreground) {
  session_ = RefPtr<task::Session>(&session);
  foreground_ = RefPtr<task::ProcessGroup>(&foreground);
}

void Tty::session_lost() {
  session_ = nullptr;
  foreground_ = nullptr;
}

i32 Tty::foreground_pgid() const { return foreground_ ? foreground_->pgid : -1; }

void Tty::opened_by_current_task() {
  task::Task* task = task::current_task();
  if (task == nullptr || session_ || !task->group->group) return;
  task::Session& session = task->group->session();
  if (session.leader != task->group.get() || session.tty) return;
  session.tty = RefPtr<task::ControllingTty>(this);
  session_gained(session, *task->group->group);
}

void Tty::signal_foreground(int signo) {
  if (!foreground_) return;
  RefPtr<task::ProcessGroup> group = foreground_;
  group->send(from_kernel(signo));
}

// Background processes may not read, nor change the terminal, nor write under TOSTOP (drivers/tty/tty_jobctrl.c,
// __tty_check_change).
Result<void> Tty::check_job_control(int signo) {
  task::Task* task = task::current_task();
  if (task == nullptr || !task->group->group || !foreground_) return {};
  RefPtr<task::ProcessGroup> group = task->group->group;
  if (group->session->tty.get() != this || group == foreground_) return {};
  bool unaffected = task->group->actions->of[static_cast<size_t>(signo)].is_ignored() ||
                    (task->thread->signal_mask() & signal::bit(signo)) != 0;
  if (unaffected) {
    if (signo == SIGTTIN) return Errno::kIo;
    return {};
  }
  if (group->orphaned()) return Errno::kIo;
  group->send(from_kernel(signo));
  return Errno::kRestartSys;
}

void Tty::hang_up() {
  if (hung_up_) return;
  RefPtr<Tty> keep(this);
  hung_up_ = true;
  RefPtr<task::Session> session = session_;
  if (session && session->leader != nullptr) {
    RefPtr<task::ThreadGroup> leader(session->leader);
    task::send_to_group(*leader, from_kernel(SIGHUP));
    task::send_to_group(*leader, from_kernel(SIGCONT));
  }
  signal_foreground(SIGHUP);
  if (session && session->tty.get() == this) session->tty = nullptr;
  session_lost();
  flush_input();
  slave_queue.wake_all();
  master_queue.wake_all();
}

// ---- slave ----

void Tty::slave_opened() {
  ++slaves_;
  slave_was_open_ = true;
}

void Tty::slave_closed() {
  if (--slaves_ > 0) return;
  exclusive = false;
  master_queue.wake_all();
}

Result<size_t> Tty::take_input(vfs::Sink& sink) {
  size_t total = 0;
  while (sink.left() > 0 && !lines_.empty()) {
    Line& line = lines_.front();
    size_t n = std::min(sink.left(), line.bytes.size() - line.read);
    if (n > 0) {
      auto put = sink.put(line.bytes.data() + line.read, n);
      if (!put) return total > 0 ? Result<size_t>(total) : put;
      line.read += *put;
      readable_ -= *put;
      total += *put;
      if (*put < n) break;
    }
    if (line.read == line.bytes.size()) lines_.pop_front();
    if (canonical()) break;
  }
  // The master may have waited for room.
  if (!master_queue.empty()) master_queue.wake_all();
  return total;
}

Result<size_t> Tty::slave_read(vfs::Sink& sink, bool nonblocking) {
  if (hung_up_) return size_t{0};
  TRY(check_job_control(SIGTTIN));
  if (sink.left() == 0) return size_t{0};
  if (canonical()) {
    if (lines_.empty()) return Errno::kAgain;
    return take_input(sink);
  }
  // VMIN and VTIME (termios(3)). The waits that have a timer of their own happen here, not in the caller's loop.
  u64 time = termios_.cc[VTIME] * kTenth;
  size_t vmin = termios_.cc[VMIN];
  if (vmin == 0) {
    if (readable_ == 0 && time > 0) {
      if (nonblocking) return Errno::kAgain;
      auto waited = slave_queue.wait_until([&] { return readable_ > 0 || hung_up_ || canonical(); }, "tty read",
                                           fiber::now_ns() + time);
      if (!waited && waited.error() != Errno::kTimedout) return waited.error();
    }
    return take_input(sink);
  }
  size_t need = std::min(vmin, sink.left());
  if (readable_ == 0) return Errno::kAgain;
  if (readable_ < need && !nonblocking) {
    if (time == 0) return Errno::kAgain;
    // The inter-byte timer runs from the first byte on and anew with each.
    while (readable_ < need && !hung_up_) {
      size_t before = readable_;
      auto waited =
          slave_queue.wait_until([&] { return readable_ != before || hung_up_; }, "tty read", fiber::now_ns() + time);
      if (!waited) break;
    }
  }
  return take_input(sink);
}

Result<size_t> Tty::slave_write(vfs::Source& source) {
  if (hung_up_) return Errno::kIo;
  if (termios_.lflag & TOSTOP) TRY(check_job_control(SIGTTOU));
  if (source.left() == 0) return size_t{0};
  if (stopped_ || queued_output() >= kMaxOutput) return Errno::kAgain;
  char chunk[kChunk];
  size_t total = 0;
  while (source.left() > 0 && queued_output() < kMaxOutput) {
    auto got = source.get(chunk, std::min(source.left(), kChunk));
    if (!got) {
      if (total == 0) return got;
      break;
    }
    put_output(chunk, *got);
    total += *got;
  }
  if (!master_queue.empty()) master_queue.wake_all();
  return total;
}

u32 Tty::slave_readiness() {
  if (hung_up_) return POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM;
  u32 mask = 0;
  size_t need = termios_.cc[VTIME] != 0 ? 1 : std::max<size_t>(1, termios_.cc[VMIN]);
  if (canonical() ? !lines_.empty() : readable_ >= need) mask |= POLLIN | POLLRDNORM;
  if (!stopped_ && queued_output() < kMaxOutput) mask |= POLLOUT | POLLWRNORM;
  return mask;
}

// ---- master ----

Result<size_t> Tty::master_read(vfs::Sink& sink) {
  if (sink.left() == 0) return size_t{0};
  if (packet_mode_ && packet_status_ != 0) {
    u8 status = packet_status_;
    packet_status_ = 0;
    return sink.put(&status, 1);
  }
  size_t queued = stopped_ ? 0 : queued_output();
  if (queued == 0) {
    if (hung_up_ || slave_gone()) return Errno::kIo;
    return Errno::kAgain;
  }
  size_t prefix = 0;
  if (packet_mode_) {
    u8 data = TIOCPKT_DATA;
    TRY(sink.put(&data, 1));
    prefix = 1;
    if (sink.left() == 0) return prefix;
  }
  auto put = sink.put(out_.data() + out_read_, std::min(queued, sink.left()));
  if (!put) return prefix > 0 ? Result<size_t>(prefix) : put;
  out_read_ += *put;
  if (out_read_ == out_.size()) {
    flush_output();
  } else if (out_read_ >= kMaxOutput) {
    out_.erase(0, out_read_);
    out_read_ = 0;
  }
  if (!slave_queue.empty() && queued_output() < kMaxOutput) slave_queue.wake_all();
  return prefix + *put;
}

Result<size_t> Tty::master_write(vfs::Source& source) {
  if (hung_up_ || slave_gone()) return Errno::kIo;
  if (source.left() == 0) return size_t{0};
  size_t total = 0;
  u8 chunk[64];
  // A chunk may overshoot the bound a little: what was fetched cannot be given back.
  while (source.left() > 0 && !input_full()) {
    auto got = source.get(chunk, std::min(source.left(), sizeof(chunk)));
    if (!got) {
      if (total == 0) return got;
      break;
    }
    for (size_t i = 0; i < *got; ++i) receive(chunk[i]);
    total += *got;
  }
  if (total == 0) return Errno::kAgain;
  if (!slave_queue.empty()) slave_queue.wake_all();
  if (!master_queue.empty() && queued_output() > 0) master_queue.wake_all();  // echo
  return total;
}

u32 Tty::master_readiness() {
  u32 mask = 0;
  if (packet_mode_ && packet_status_ != 0) mask |= POLLPRI | POLLIN | POLLRDNORM;
  if (!stopped_ && queued_output() > 0) mask |= POLLIN | POLLRDNORM;
  if (!input_full()) mask |= POLLOUT | POLLWRNORM;
  if (hung_up_ || slave_gone()) mask |= POLLHUP;
  return mask;
}

// ---- common ----

void Tty::flush_input() {
  lines_.clear();
  readable_ = 0;
  edit_.clear();
  literal_next_ = false;
  set_packet_status(TIOCPKT_FLUSHREAD);
  if (!master_queue.empty()) master_queue.wake_all();
}

void Tty::flush_output() {
  // Small buffers are kept for the next write.
  if (out_.capacity() > kChunk)
    std::string().swap(out_);
  else
    out_.clear();
  out_read_ = 0;
}

void Tty::set_packet_status(u8 bits) {
  if (!packet_mode_) return;
  packet_status_ |= bits;
  if (!master_queue.empty()) master_queue.wake_all();
}

void Tty::set_window(const WindowSize& size) {
  if (size == window_) return;
  window_ = size;
  signal_foreground(SIGWINCH);
}

void Tty::set_settings(const KernelTermios& settings) {
  KernelTermios old = termios_;
  termios_ = settings;
  if ((old.lflag ^ termios_.lflag) & ICANON) {
    // What was typed so far becomes readable when line editing ends (n_tty_set_termios).
    if (!canonical() && !edit_.empty()) {
      readable_ += edit_.size();
      lines_.push_back({std::move(edit_), 0, false});
      edit_.clear();
    }
    if (canonical() && !lines_.empty()) lines_.back().complete = true;
    literal_next_ = false;
  }
  slave_queue.wake_all();
  if ((old.iflag & IXON) && !(termios_.iflag & IXON)) start_output();
  auto flow = [](const KernelTermios& t) { return (t.iflag & IXON) && t.cc[VSTOP] == 023 && t.cc[VSTART] == 021; };
  if (flow(old) != flow(termios_)) set_packet_status(flow(termios_) ? TIOCPKT_DOSTOP : TIOCPKT_NOSTOP);
  if ((old.lflag | termios_.lflag) & EXTPROC) set_packet_status(TIOCPKT_IOCTL);
}

}  // namespace sbx::fs::devpts
