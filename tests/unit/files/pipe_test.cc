#include "sentry/fs/pipe/pipe.h"

#include <sys/ioctl.h>

#include "sentry/fs/anon/node.h"
#include "sentry/fs/pipe/splice.h"
#include "tests/unit/files/fixture.h"

namespace sbx {
namespace {
using namespace fs::pipe;
using namespace test;

TEST(Pipe, MovesBytesAndEnds) {
  on_fiber([] {
    auto pair = make_pipe(O_NONBLOCK, 0, 0).value();
    EXPECT_EQ(read_some(*pair.reader, 10).error(), Errno::kAgain);
    EXPECT_EQ(write_some(*pair.writer, "hello").value(), 5u);
    EXPECT_EQ(pair.reader->readiness(), u32{POLLIN | POLLRDNORM});
    int n = 0;
    EXPECT_TRUE(ioctl(*pair.reader, FIONREAD, &n));
    EXPECT_EQ(n, 5);
    EXPECT_EQ(read_some(*pair.reader, 3).value(), "hel");
    pair.writer.reset();
    EXPECT_EQ(pair.reader->readiness(), u32{POLLIN | POLLRDNORM | POLLHUP});
    EXPECT_EQ(read_some(*pair.reader, 10).value(), "lo");
    EXPECT_EQ(read_some(*pair.reader, 10).value(), "");
    EXPECT_EQ(pair.reader->readiness(), u32{POLLHUP});
    EXPECT_TRUE(pair.reader->path().dentry->name().starts_with("pipe:["));
  });
}

TEST(Pipe, BrokenPipe) {
  on_fiber([] {
    auto pair = make_pipe(0, 0, 0).value();
    pair.reader.reset();
    EXPECT_EQ(write_some(*pair.writer, "x").error(), Errno::kPipe);
    EXPECT_EQ(pair.writer->readiness(), u32{POLLOUT | POLLWRNORM | POLLERR});
  });
}

TEST(Pipe, CapacityAndAtomicity) {
  on_fiber([] {
    auto pair = make_pipe(O_NONBLOCK, 0, 0).value();
    EXPECT_EQ(write_some(*pair.writer, std::string(100000, 'a')).value(), 65536u);
    EXPECT_EQ(pair.writer->readiness(), 0u);
    EXPECT_EQ(read_some(*pair.reader, 100).value().size(), 100u);
    EXPECT_EQ(pair.writer->readiness(), 0u);
    EXPECT_EQ(write_some(*pair.writer, std::string(4096, 'b')).error(), Errno::kAgain);
    EXPECT_EQ(write_some(*pair.writer, std::string(5000, 'b')).value(), 100u);
    EXPECT_EQ(read_some(*pair.reader, 65436).value(), std::string(65436, 'a'));
    EXPECT_EQ(read_some(*pair.reader, 65436).value(), std::string(100, 'b'));
    Pipe& p = *PipeFile::pipe_of(*pair.reader);
    EXPECT_EQ(p.resize(5000, false).value(), 8192u);
    EXPECT_EQ(write_some(*pair.writer, std::string(10000, 'c')).value(), 8192u);
    EXPECT_EQ(p.resize(100, false).error(), Errno::kBusy);
    EXPECT_EQ(p.resize(2 << 20, false).error(), Errno::kPerm);
    EXPECT_EQ(p.resize(2 << 20, true).value(), 2u << 20);
  });
}

TEST(Pipe, BlockedEndsWakeEachOther) {
  on_fiber([] {
    auto pair = make_pipe(0, 0, 0).value();
    std::string sent, got;
    for (int i = 0; i < 300000; ++i) sent.push_back(static_cast<char>(i * 7));
    bool writer_done = false;
    fiber::spawn([&] {
      EXPECT_EQ(write_wait(*pair.writer, sent).value(), sent.size());
      pair.writer.reset();
      writer_done = true;
    });
    for (;;) {
      std::string part = read_wait(*pair.reader, 7001).value();
      if (part.empty()) break;
      got += part;
    }
    EXPECT_TRUE(writer_done);
    EXPECT_EQ(got, sent);
  });
}

TEST(Pipe, Packets) {
  on_fiber([] {
    auto pair = make_pipe(O_DIRECT | O_NONBLOCK, 0, 0).value();
    EXPECT_EQ(write_some(*pair.writer, "one").value(), 3u);
    EXPECT_EQ(write_some(*pair.writer, "three").value(), 5u);
    EXPECT_EQ(read_some(*pair.reader, 100).value(), "one");
    EXPECT_EQ(read_some(*pair.reader, 2).value(), "th");
    EXPECT_EQ(read_some(*pair.reader, 2).error(), Errno::kAgain);
    for (int i = 0; i < 16; ++i) EXPECT_TRUE(write_some(*pair.writer, "x"));
    EXPECT_EQ(write_some(*pair.writer, "x").error(), Errno::kAgain);
  });
}

TEST(Pipe, Interrupted) {
  on_fiber([] {
    auto pair = make_pipe(0, 0, 0).value();
    fiber::Fiber* self = fiber::current();
    fiber::spawn([&] { self->interrupt(); });
    EXPECT_EQ(read_wait(*pair.reader, 1).error(), Errno::kRestartSys);
    self->clear_interrupt();
  });
}

TEST(Fifo, OpenWaitsForTheOtherEnd) {
  on_fiber([] {
    fs::anon::NamelessFs fs("test", 0);
    fs.ref();
    auto inode = make_ref<fs::anon::NamelessInode>(fs, S_IFIFO | 0600, 0, 0);
    vfs::Path path = nameless_path(fs, "fifo", inode);
    EXPECT_EQ(open_fifo(*inode, path, O_WRONLY | O_NONBLOCK).error(), Errno::kNxio);
    auto early = open_fifo(*inode, path, O_RDONLY | O_NONBLOCK).value();
    EXPECT_EQ(early->readiness(), 0u);
    EXPECT_EQ(read_some(*early, 1).value(), "");
    early.reset();
    RefPtr<vfs::File> reader;
    fiber::spawn([&] { reader = open_fifo(*inode, path, O_RDONLY).value(); });
    fiber::yield();
    EXPECT_FALSE(reader);
    auto writer = open_fifo(*inode, path, O_WRONLY).value();
    fiber::yield();
    ASSERT_TRUE(reader);
    EXPECT_EQ(write_some(*writer, "hi").value(), 2u);
    EXPECT_EQ(read_wait(*reader, 10).value(), "hi");
    writer.reset();
    EXPECT_EQ(read_wait(*reader, 10).value(), "");
    EXPECT_EQ(reader->readiness(), u32{POLLHUP});
  });
}

TEST(Splice, BetweenPipes) {
  on_fiber([] {
    auto a = make_pipe(O_NONBLOCK, 0, 0).value();
    auto b = make_pipe(O_NONBLOCK, 0, 0).value();
    Stuck stuck;
    EXPECT_EQ(splice(*a.reader, nullptr, *b.writer, nullptr, 100, &stuck).error(), Errno::kAgain);
    EXPECT_EQ(stuck.file, a.reader.get());
    write_some(*a.writer, "abcdef").value();
    EXPECT_EQ(tee(*a.reader, *b.writer, 4, &stuck).value(), 4u);
    EXPECT_EQ(read_some(*b.reader, 10).value(), "abcd");
    EXPECT_EQ(splice(*a.reader, nullptr, *b.writer, nullptr, 3, &stuck).value(), 3u);
    EXPECT_EQ(read_some(*b.reader, 10).value(), "abc");
    EXPECT_EQ(read_some(*a.reader, 10).value(), "def");
  });
}

}  // namespace
}  // namespace sbx
