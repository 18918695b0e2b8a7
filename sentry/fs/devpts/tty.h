// Tty: an emulated terminal (tty(4), termios(3), pty(7)): the line discipline between a pty's master and its slave, and
// job control for the session it controls (credentials(7), setpgid(2)).
//
//   master write -> receive() -> [editing, echo, signals] -> lines_ -> slave read
//   slave write  -> put_output() -> out_ -> master read
//
// Attempts follow vfs::File. Two wait queues: slave readers and writers in one, the master in the other.
#pragma once
#include <termios.h>

#include <deque>
#include <string>

#include "sentry/task/session.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::devpts {

// struct termios2 of the kernel (asm-generic/termbits.h); struct termios is its first 36 bytes.
struct KernelTermios {
  u32 iflag, oflag, cflag, lflag;
  u8 line;
  u8 cc[19];
  u32 ispeed, ospeed;
};
static_assert(sizeof(KernelTermios) == 44);

struct WindowSize {
  u16 rows = 0, columns = 0, x_pixels = 0, y_pixels = 0;
  friend bool operator==(const WindowSize&, const WindowSize&) = default;
};

class Tty final : public task::ControllingTty {
 public:
  Tty(u32 index, u64 rdev);

  // --- task::ControllingTty ---
  void session_gained(task::Session& session, task::ProcessGroup& foreground) override;
  void session_lost() override;
  u64 rdev() const override { return rdev_; }
  i32 foreground_pgid() const override;

  // --- slave side ---
  Result<size_t> slave_read(vfs::Sink& sink, bool nonblocking);
  // May be short.
  Result<size_t> slave_write(vfs::Source& source);
  u32 slave_readiness();
  void slave_opened();
  void slave_closed();

  // --- master side ---
  Result<size_t> master_read(vfs::Sink& sink);
  Result<size_t> master_write(vfs::Source& source);
  u32 master_readiness();
  // The other end of the line is gone: SIGHUP, and the slave reads its end (tty_vhangup).
  void hang_up();
  // The slave was open and no longer is: the master reads EIO.
  bool slave_gone() const { return slave_was_open_ && slaves_ == 0; }

  // --- both: ioctl on the slave, or on the master (acting on the slave's state). kNotty: not a terminal ioctl. ---
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg, bool from_master);

  u32 index() const { return index_; }
  bool hung_up() const { return hung_up_; }
  const WindowSize& window() const { return window_; }
  // Tells the foreground group (SIGWINCH) if it is a change.
  void set_window(const WindowSize& size);
  const KernelTermios& settings() const { return termios_; }
  void set_settings(const KernelTermios& settings);
  // A session leader without a terminal opens it without O_NOCTTY.
  void opened_by_current_task();

  bool locked = false;     // TIOCSPTLCK: the slave cannot be opened
  bool exclusive = false;  // TIOCEXCL
  fiber::WaitQueue slave_queue, master_queue;

 private:
  ~Tty() override = default;
  // A piece of readable input; canonical mode reads at most one at a time.
  struct Line {
    std::string bytes;
    size_t read = 0;
    bool complete = false;  // ended by newline, EOL or EOF: nothing may be added
  };

  // tty.cc
  Result<size_t> take_input(vfs::Sink& sink);
  Result<void> check_job_control(int signo);
  void signal_foreground(int signo);
  void flush_input();
  void flush_output();
  void set_packet_status(u8 bits);
  size_t queued_output() const { return out_.size() - out_read_; }

  // line_discipline.cc
  bool canonical() const { return termios_.lflag & ICANON; }
  bool input_full() const;
  void receive(u8 c);
  void receive_canonical(u8 c);
  bool receive_signal(u8 c);
  void add_input(u8 c);
  void commit_line();
  void erase(u8 which);
  void echo_typed(u8 c);
  void echo(u8 c);
  size_t width_of(size_t index) const;
  void put_output(const char* bytes, size_t n);
  void put_char(u8 c);
  void put_raw(u8 c) { out_.push_back(static_cast<char>(c)); }
  bool is(u8 c, int which) const { return c != 0 && termios_.cc[which] == c; }
  void stop_output();
  void start_output();

  // tty_ioctl.cc
  Result<i64> termios_ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg, bool from_master);
  Result<i64> session_ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg, bool from_master);
  Result<i64> set_controlling(u64 arg);

  const u32 index_;
  const u64 rdev_;
  KernelTermios termios_;
  WindowSize window_;

  // Input.
  std::deque<Line> lines_;  // readable
  size_t readable_ = 0;     // bytes in lines_
  std::string edit_;        // canonical mode: the line being edited, invisible to readers
  size_t edit_column_ = 0;  // where it began on the screen
  bool literal_next_ = false;
  // Output.
  std::string out_;
  size_t out_read_ = 0;
  size_t column_ = 0;
  bool stopped_ = false;  // Ctrl-S or TCXONC

  bool packet_mode_ = false;
  u8 packet_status_ = 0;
  bool hung_up_ = false, slave_was_open_ = false;
  u32 slaves_ = 0;

  RefPtr<task::Session> session_;
  RefPtr<task::ProcessGroup> foreground_;
};

}  // namespace sbx::fs::devpts
