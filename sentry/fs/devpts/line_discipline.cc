// The line discipline of Tty: what typing does (drivers/tty/n_tty.c is the specification).
#include <sys/ioctl.h>

#include <cctype>

#include "sentry/fs/devpts/tty.h"

namespace sbx::fs::devpts {
namespace {

constexpr size_t kMaxLine = 4095;
constexpr u8 kBell = 7;
constexpr size_t kTab = 8;

bool continuation(u8 c) { return (c & 0xc0) == 0x80; }
bool control(u8 c) { return c < 0x20 || c == 0x7f; }

}  // namespace

bool Tty::input_full() const {
  if (hung_up_) return false;
  // A line that was not ended yet may always be added to: its overflow is dropped with a bell.
  if (canonical() && lines_.empty()) return false;
  return readable_ + edit_.size() >= kMaxLine;
}

// ---- output ----

void Tty::put_char(u8 c) {
  if (!(termios_.oflag & OPOST)) {
    put_raw(c);
    return;
  }
  switch (c) {
    case '\n':
      if (termios_.oflag & (ONLRET | ONLCR)) column_ = 0;
      if (termios_.oflag & ONLCR) put_raw('\r');
      put_raw('\n');
      return;
    case '\r':
      if ((termios_.oflag & ONOCR) && column_ == 0) return;
      if (termios_.oflag & OCRNL) {
        if (termios_.oflag & ONLRET) column_ = 0;
        put_raw('\n');
        return;
      }
      column_ = 0;
      put_raw('\r');
      return;
    case '\t': {
      size_t spaces = kTab - column_ % kTab;
      column_ += spaces;
      if ((termios_.oflag & TABDLY) == TAB3)
        out_.append(spaces, ' ');
      else
        put_raw('\t');
      return;
    }
    case '\b':
      if (column_ > 0) --column_;
      put_raw('\b');
      return;
    default:
      if (!control(c)) {
        if (termios_.oflag & OLCUC) c = static_cast<u8>(std::toupper(c));
        if (!((termios_.iflag & IUTF8) && continuation(c))) ++column_;
      }
      put_raw(c);
  }
}

void Tty::put_output(const char* bytes, size_t n) {
  if (!(termios_.oflag & OPOST)) {
    out_.append(bytes, n);
    return;
  }
  size_t done = 0;
  while (done < n) {
    // Plain text in one piece.
    size_t run = done;
    if (!(termios_.oflag & OLCUC)) {
      while (run < n && static_cast<u8>(bytes[run]) >= 0x20 && static_cast<u8>(bytes[run]) < 0x7f) ++run;
    }
    if (run > done) {
      out_.append(bytes + done, run - done);
      column_ += run - done;
      done = run;
      continue;
    }
    put_char(static_cast<u8>(bytes[done++]));
  }
}

void Tty::stop_output() {
  if (stopped_) return;
  stopped_ = true;
  packet_status_ &= static_cast<u8>(~TIOCPKT_START);
  set_packet_status(TIOCPKT_STOP);
}

void Tty::start_output() {
  if (!stopped_) return;
  stopped_ = false;
  packet_status_ &= static_cast<u8>(~TIOCPKT_STOP);
  set_packet_status(TIOCPKT_START);
  slave_queue.wake_all();
  master_queue.wake_all();
}

// ---- echo ----

void Tty::echo(u8 c) {
  if ((termios_.lflag & ECHOCTL) && control(c) && c != '\t' && c != '\n') {
    put_raw('^');
    put_raw(c ^ 0100);
    column_ += 2;
    return;
  }
  put_char(c);
}

// Echo of what becomes part of the line: the first one marks where the line begins.
void Tty::echo_typed(u8 c) {
  if (!(termios_.lflag & ECHO)) return;
  if (edit_.empty()) edit_column_ = column_;
  if (c == '\n')
    put_char(c);
  else
    echo(c);
}

// Columns that edit_[index] takes on the screen.
size_t Tty::width_of(size_t index) const {
  auto c = static_cast<u8>(edit_[index]);
  if (c == '\t') {
    size_t column = edit_column_;
    for (size_t i = 0; i < index; ++i) {
      column += edit_[i] == '\t' ? kTab - column % kTab : width_of(i);
    }
    return kTab - column % kTab;
  }
  if (control(c)) return termios_.lflag & ECHOCTL ? 2 : 0;
  if ((termios_.iflag & IUTF8) && continuation(c)) return 0;
  return 1;
}

void Tty::erase(u8 which) {
  if (edit_.empty()) return;
  bool show = termios_.lflag & ECHO;
  bool word = is(which, VWERASE) && !is(which, VERASE) && !is(which, VKILL);
  bool kill = is(which, VKILL) && !is(which, VERASE);
  if (kill && show && (termios_.lflag & (ECHOK | ECHOKE | ECHOE)) != (ECHOK | ECHOKE | ECHOE)) {
    edit_.clear();
    echo(which);
    if (termios_.lflag & ECHOK) put_char('\n');
    return;
  }
  if (kill && !show) {
    edit_.clear();
    return;
  }
  bool seen_word = false;
  while (!edit_.empty()) {
    size_t at = edit_.size() - 1;
    if (termios_.iflag & IUTF8) {
      while (at > 0 && continuation(static_cast<u8>(edit_[at]))) --at;
    }
    auto c = static_cast<u8>(edit_[at]);
    if (word) {
      bool letter = std::isalnum(c) || c == '_' || c >= 0x80;
      if (letter)
        seen_word = true;
      else if (seen_word)
        break;
    }
    if (show && (termios_.lflag & ECHOE)) {
      for (size_t w = width_of(at); w > 0; --w) {
        put_char('\b');
        // A tab's blanks are passed over, everything else is wiped out.
        if (c != '\t') {
          put_char(' ');
          put_char('\b');
        }
      }
    } else if (show) {
      echo(which);
    }
    edit_.resize(at);
    if (!kill && !word) break;
  }
}

// ---- input ----

void Tty::add_input(u8 c) {
  if (canonical()) {
    if (readable_ + edit_.size() >= kMaxLine) {
      if (termios_.iflag & IMAXBEL) put_raw(kBell);
      return;
    }
    edit_.push_back(static_cast<char>(c));
    return;
  }
  if (lines_.empty() || lines_.back().complete) lines_.push_back({});
  lines_.back().bytes.push_back(static_cast<char>(c));
  ++readable_;
}

void Tty::commit_line() {
  readable_ += edit_.size();
  lines_.push_back({std::move(edit_), 0, true});
  edit_.clear();
}

bool Tty::receive_signal(u8 c) {
  int signo = is(c, VINTR) ? SIGINT : is(c, VQUIT) ? SIGQUIT : is(c, VSUSP) ? SIGTSTP : 0;
  if (signo == 0) return false;
  if (!(termios_.lflag & NOFLSH)) {
    flush_input();
    flush_output();
    set_packet_status(TIOCPKT_FLUSHWRITE);
    slave_queue.wake_all();
  }
  if (termios_.iflag & IXON) start_output();
  if (termios_.lflag & ECHO) echo(c);
  signal_foreground(signo);
  return true;
}

void Tty::receive_canonical(u8 c) {
  bool extended = termios_.lflag & IEXTEN, show = termios_.lflag & ECHO;
  if (is(c, VERASE) || is(c, VKILL) || (extended && is(c, VWERASE))) {
    erase(c);
    return;
  }
  if (extended && is(c, VLNEXT)) {
    literal_next_ = true;
    if (show && (termios_.lflag & ECHOCTL)) {
      put_raw('^');
      put_raw('\b');
    }
    return;
  }
  if (extended && show && is(c, VREPRINT)) {
    echo(c);
    put_char('\n');
    edit_column_ = 0;
    for (char typed : edit_) echo(static_cast<u8>(typed));
    return;
  }
  if (c == '\n') {
    if (show || (termios_.lflag & ECHONL)) put_char('\n');
    edit_.push_back('\n');
    commit_line();
    return;
  }
  if (is(c, VEOF)) {
    commit_line();
    return;
  }
  echo_typed(c);
  if (is(c, VEOL) || (extended && is(c, VEOL2))) {
    edit_.push_back(static_cast<char>(c));
    commit_line();
    return;
  }
  add_input(c);
}

void Tty::receive(u8 c) {
  if (literal_next_) {
    literal_next_ = false;
    echo_typed(c);
    add_input(c);
    return;
  }
  if (termios_.iflag & ISTRIP) c &= 0x7f;
  if ((termios_.iflag & IUCLC) && (termios_.lflag & IEXTEN)) c = static_cast<u8>(std::tolower(c));
  if (termios_.iflag & IXON) {
    if (is(c, VSTART)) {
      start_output();
      return;
    }
    if (is(c, VSTOP)) {
      stop_output();
      return;
    }
  }
  if ((termios_.lflag & ISIG) && receive_signal(c)) return;
  if (stopped_ && (termios_.iflag & IXON) && (termios_.iflag & IXANY)) start_output();
  if (c == '\r') {
    if (termios_.iflag & IGNCR) return;
    if (termios_.iflag & ICRNL) c = '\n';
  } else if (c == '\n' && (termios_.iflag & INLCR)) {
    c = '\r';
  }
  if (canonical()) {
    receive_canonical(c);
    return;
  }
  echo_typed(c);
  if ((termios_.iflag & PARMRK) && c == 0xff) add_input(c);
  add_input(c);
}

}  // namespace sbx::fs::devpts
