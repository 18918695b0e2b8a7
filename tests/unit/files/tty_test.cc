#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include "sentry/fs/anon/node.h"
#include "sentry/fs/dev/devices.h"
#include "sentry/fs/devpts/console.h"
#include "sentry/vfs/special.h"
#include "tests/unit/files/fixture.h"

namespace sbx {
namespace {
using namespace fs::devpts;
using namespace test;

struct Pty {
  RefPtr<DevptsFs> fs = make_ref<DevptsFs>(Options{});
  RefPtr<vfs::File> master = fs->open_ptmx({}, O_RDWR | O_NONBLOCK, 1000, 5).value();
  Tty& tty = *tty_of(*master);
  RefPtr<vfs::File> slave;
  Pty() {
    i32 zero = 0;
    EXPECT_EQ(open_slave(tty, {}, O_RDWR).error(), Errno::kIo);
    EXPECT_TRUE(ioctl(*master, TIOCSPTLCK, &zero));
    slave = open_slave(tty, {}, O_RDWR | O_NONBLOCK).value();
  }
  std::string type(std::string_view keys) {
    EXPECT_EQ(write_some(*master, keys).value_or(0), keys.size());
    auto echo = read_some(*master, 10000);
    return echo ? *echo : std::string();
  }
  std::string line() {
    auto got = read_some(*slave, 10000);
    return got ? *got : std::string("<") + errno_name(got.error()) + ">";
  }
  void change(std::function<void(KernelTermios&)> how) {
    KernelTermios t{};
    EXPECT_TRUE(ioctl(*slave, TCGETS, &t));
    how(t);
    EXPECT_TRUE(ioctl(*slave, TCSETS, &t));
  }
};

TEST(Tty, CanonicalEditing) {
  on_fiber([] {
    Pty p;
    EXPECT_EQ(p.type("ab"), "ab");
    EXPECT_EQ(p.line(), "<EAGAIN>");
    EXPECT_EQ(p.type("c\x7f"), "c\b \b");
    EXPECT_EQ(p.type("d\r"), "d\r\n");
    EXPECT_EQ(p.slave->readiness() & POLLIN, u32{POLLIN});
    EXPECT_EQ(p.line(), "abd\n");
    // Ctrl-W, Ctrl-U, control characters.
    EXPECT_EQ(p.type("one two\x17"), "one two\b \b\b \b\b \b");
    EXPECT_EQ(p.type("\x01"), "^A");
    EXPECT_EQ(p.type("\x7f"), "\b \b\b \b");
    EXPECT_EQ(p.type("\x15"), "\b \b\b \b\b \b\b \b");
    EXPECT_EQ(p.type("x\n"), "x\r\n");
    EXPECT_EQ(p.line(), "x\n");
    // Ctrl-D: ends a line without a newline; alone it is the end of file.
    p.type("half\x04");
    EXPECT_EQ(p.line(), "half");
    p.type("\x04");
    EXPECT_EQ(p.line(), "");
    EXPECT_EQ(p.line(), "<EAGAIN>");
    // Ctrl-V takes the next one as it is.
    EXPECT_EQ(p.type("\x16\x03\n"), "^\b^C\r\n");
    EXPECT_EQ(p.line(), "\x03\n");
    // Two lines are two reads; a short read leaves the rest.
    p.type("1\n2\n");
    EXPECT_EQ(read_some(*p.slave, 1).value(), "1");
    EXPECT_EQ(p.line(), "\n");
    EXPECT_EQ(p.line(), "2\n");
    EXPECT_EQ(p.type("a\tb\x7f\x7f"), "a\tb\b \b\b\b\b\b\b\b\b");
  });
}

TEST(Tty, LongLineIsCutWithABell) {
  on_fiber([] {
    Pty p;
    p.change([](KernelTermios& t) {
      t.lflag &= ~u32{ECHO};
      t.iflag |= IMAXBEL;
    });
    EXPECT_EQ(p.type(std::string(4100, 'x')), "\a\a\a\a\a");
    p.type("\n");
    EXPECT_EQ(p.line().size(), 4096u);
  });
}

TEST(Tty, RawMode) {
  on_fiber([] {
    Pty p;
    p.type("typed ahead");
    p.change([](KernelTermios& t) {
      t.lflag = 0;
      t.iflag = 0;
      t.oflag = 0;
    });
    EXPECT_EQ(p.line(), "typed ahead");
    EXPECT_EQ(p.type("\x03\r"), "");
    EXPECT_EQ(p.line(), "\x03\r");
    EXPECT_EQ(write_some(*p.slave, "a\nb").value(), 3u);
    EXPECT_EQ(read_some(*p.master, 10).value(), "a\nb");
    p.change([](KernelTermios& t) { t.cc[VMIN] = 3; });
    p.type("12");
    EXPECT_EQ(p.slave->readiness() & POLLIN, 0u);
    p.slave->set_flags(O_RDWR);
    EXPECT_EQ(p.line(), "<EAGAIN>");
    p.type("3");
    EXPECT_EQ(p.line(), "123");
    p.change([](KernelTermios& t) {
      t.cc[VMIN] = 0;
      t.cc[VTIME] = 1;
    });
    u64 before = fiber::now_ns();
    EXPECT_EQ(p.line(), "");
    EXPECT_GE(fiber::now_ns() - before, 90'000'000u);
  });
}

TEST(Tty, OutputAndFlow) {
  on_fiber([] {
    Pty p;
    write_some(*p.slave, "a\nb\n").value();
    EXPECT_EQ(read_some(*p.master, 10).value(), "a\r\nb\r\n");
    p.type("\x13");
    EXPECT_EQ(write_some(*p.slave, "x").error(), Errno::kAgain);
    p.type("\x11");
    EXPECT_EQ(write_some(*p.slave, "x").value(), 1u);
    EXPECT_EQ(read_some(*p.master, 10).value(), "x");
    std::string big(100000, 'y');
    size_t first = write_some(*p.slave, big).value();
    EXPECT_LT(first, big.size());
    EXPECT_EQ(write_some(*p.slave, big).error(), Errno::kAgain);
    EXPECT_EQ(p.slave->readiness() & POLLOUT, 0u);
  });
}

TEST(Tty, IoctlsAndHangUp) {
  on_fiber([] {
    Pty p;
    u32 n = 77;
    EXPECT_TRUE(ioctl(*p.master, TIOCGPTN, &n));
    EXPECT_EQ(n, 0u);
    winsize w{24, 80, 0, 0}, got{};
    EXPECT_TRUE(ioctl(*p.master, TIOCSWINSZ, &w));
    EXPECT_TRUE(ioctl(*p.slave, TIOCGWINSZ, &got));
    EXPECT_EQ(got.ws_col, 80);
    i32 bytes = 0;
    p.type("abc\n");
    EXPECT_TRUE(ioctl(*p.slave, FIONREAD, &bytes));
    EXPECT_EQ(bytes, 4);
    EXPECT_TRUE(ioctl_value(*p.slave, TCFLSH, TCIFLUSH));
    EXPECT_EQ(p.line(), "<EAGAIN>");
    EXPECT_EQ(ioctl(*p.slave, TIOCSPGRP, &bytes).error(), Errno::kNotty);
    EXPECT_EQ(ioctl(*p.slave, 0x4B33, &bytes).error(), Errno::kNotty);
    i32 on = 1;
    EXPECT_TRUE(ioctl(*p.master, TIOCPKT, &on));
    write_some(*p.slave, "hi").value();
    EXPECT_EQ(read_some(*p.master, 10).value(), std::string("\0hi", 3));
    p.type("\x13");
    EXPECT_EQ(p.fs->root()->lookup("0").value()->attr()->uid, 1000u);
    p.slave.reset();
    EXPECT_EQ(p.master->readiness() & POLLHUP, u32{POLLHUP});
    p.slave = open_slave(p.tty, {}, O_RDWR).value();
    EXPECT_EQ(p.master->readiness() & POLLHUP, 0u);
    p.master.reset();
    EXPECT_EQ(p.line(), "");
    EXPECT_EQ(write_some(*p.slave, "x").error(), Errno::kIo);
    EXPECT_TRUE(p.slave->readiness() & POLLHUP);
    EXPECT_EQ(p.fs->root()->lookup("0").error(), Errno::kNoent);
  });
}

TEST(Devpts, Options) {
  EXPECT_EQ(parse_options("newinstance,ptmxmode=0666,mode=0620,gid=5")->mode, 0620u);
  EXPECT_EQ(parse_options("bogus=1").error(), Errno::kInval);
  EXPECT_EQ(make_ref<DevptsFs>(*parse_options("gid=5,mode=620"))->options(), "gid=5,mode=620,ptmxmode=000");
}

TEST(HostConsole, RelaysBothWays) {
  static bool reactor = [] { return fiber::reactor_init().has_value(); }();
  ASSERT_TRUE(reactor);
  on_fiber([] {
    auto fs = make_ref<DevptsFs>(Options{});
    int s[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
    auto console = HostConsole::create(*fs, UniqueFd(s[0]), 0, 0).value();
    auto slave = open_slave(console->tty(), {}, O_RDWR | O_NONBLOCK).value();
    write_some(*slave, "prompt\n").value();
    fiber::yield();
    char buffer[100];
    EXPECT_EQ(std::string(buffer, static_cast<size_t>(recv(s[1], buffer, 100, 0))), "prompt\r\n");
    write_some(*slave, "last").value();
    console->drain(100);
    EXPECT_EQ(std::string(buffer, static_cast<size_t>(recv(s[1], buffer, 100, 0))), "last");
    console->tty().hang_up();
    close(s[1]);
    fiber::yield();
  });
}

TEST(Devices, Memory) {
  on_fiber([] {
    fs::dev::register_devices();
    auto* fs = make_ref<fs::anon::NamelessFs>("t", 0).leak();
    auto inode = make_ref<fs::anon::NamelessInode>(*fs, S_IFCHR | 0666, 0, 0);
    auto path = fs::anon::nameless_path(*fs, "dev", inode);
    auto open = [&](u64 rdev) { return vfs::open_special(*inode, S_IFCHR, rdev, path, O_RDWR); };
    auto null = open(makedev(1, 3)).value();
    EXPECT_EQ(read_some(*null, 5).value(), "");
    EXPECT_EQ(write_some(*null, "abc").value(), 3u);
    auto zero = open(makedev(1, 5)).value();
    EXPECT_EQ(read_some(*zero, 3).value(), std::string(3, '\0'));
    EXPECT_EQ(zero->map_handle(true)->host_fd, -1);
    EXPECT_EQ(write_some(*open(makedev(1, 7)).value(), "abc").error(), Errno::kNospc);
    auto random = open(makedev(1, 9)).value();
    EXPECT_NE(read_some(*random, 16).value(), read_some(*random, 16).value());
    EXPECT_EQ(open(makedev(5, 0)).error(), Errno::kNxio);
    EXPECT_EQ(open(makedev(8, 0)).error(), Errno::kNxio);
  });
}

}  // namespace
}  // namespace sbx
