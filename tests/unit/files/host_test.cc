#include <sys/socket.h>
#include <sys/stat.h>

#include "sentry/fs/host/host_file.h"
#include "tests/unit/files/fixture.h"

namespace sbx {
namespace {
using namespace test;

struct ReactorReady {
  ReactorReady() { EXPECT_TRUE(fiber::reactor_init()); }
};
void need_reactor() { static ReactorReady once; }

TEST(HostFile, Pipe) {
  need_reactor();
  signal(SIGPIPE, SIG_IGN);
  on_fiber([] {
    for (int flags : {O_NONBLOCK, 0}) {
      int p[2];
      ASSERT_EQ(pipe2(p, O_CLOEXEC | flags), 0);
      auto in = fs::host::make_host_file(UniqueFd(p[0]), false, 5, 6).value();
      auto out = fs::host::make_host_file(UniqueFd(p[1]), false, 5, 6).value();
      EXPECT_FALSE(in->writable());
      EXPECT_FALSE(out->readable());
      EXPECT_EQ(read_some(*in, 10).error(), Errno::kAgain);
      EXPECT_EQ(out->readiness(), u32{POLLOUT | POLLWRNORM});
      EXPECT_EQ(write_some(*out, "hello").value(), 5u);
      EXPECT_EQ(in->readiness(), u32{POLLIN | POLLRDNORM});
      EXPECT_EQ(read_some(*in, 10).value(), "hello");
      EXPECT_NE(in->wait_queue(), nullptr);
      EXPECT_EQ(in->attr()->mode & S_IFMT, u32{S_IFIFO});
      EXPECT_EQ(in->attr()->uid, 5u);
      EXPECT_EQ(ioctl_value(*in, 0x5401, 1).error(), Errno::kNotty);
      // More than the host takes: accepted, and delivered as the reader makes room.
      std::string big(100000, 'x'), got;
      EXPECT_EQ(write_some(*out, big).value(), 65536u);
      auto more = write_some(*out, big.substr(65536));
      EXPECT_TRUE(more || more.error() == Errno::kAgain);
      while (auto part = read_some(*in, 4096)) {
        got += *part;
        write_some(*out, "").value();
        fs::host::drain(0);
        if (part->empty()) break;
      }
      EXPECT_GE(got.size(), 65536u);
      in.reset();
      EXPECT_EQ(write_some(*out, "x").error(), Errno::kPipe);
    }
  });
}

TEST(HostFile, RegularSharesTheOffset) {
  on_fiber([] {
    FILE* f = tmpfile();
    fputs("0123456789", f);
    fflush(f);
    int fd = dup(fileno(f));
    lseek(fd, 3, SEEK_SET);
    auto file = fs::host::make_host_file(UniqueFd(fd), false, 0, 0).value();
    char buffer[4];
    vfs::KernelSink sink(buffer, 4);
    EXPECT_EQ(file->read(sink, &file->position).value(), 4u);
    EXPECT_EQ(std::string(buffer, 4), "3456");
    EXPECT_EQ(lseek(fileno(f), 0, SEEK_CUR), 7);
    EXPECT_EQ(file->seek(0, SEEK_END).value(), 10u);
    EXPECT_EQ(file->wait_queue(), nullptr);
    EXPECT_EQ(file->attr()->size, 10u);
    fclose(f);
  });
}

TEST(HostFile, NullAndSocket) {
  need_reactor();
  on_fiber([] {
    auto null = fs::host::make_host_file(UniqueFd(open("/dev/null", O_RDWR)), false, 0, 0).value();
    EXPECT_EQ(read_some(*null, 5).value(), "");
    EXPECT_EQ(write_some(*null, "abc").value(), 3u);
    EXPECT_EQ(null->wait_queue(), nullptr);
    int s[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    auto a = fs::host::make_host_file(UniqueFd(s[0]), false, 0, 0).value();
    auto b = fs::host::make_host_file(UniqueFd(s[1]), false, 0, 0).value();
    EXPECT_EQ(read_some(*a, 5).error(), Errno::kAgain);
    EXPECT_EQ(write_some(*b, "abc").value(), 3u);
    EXPECT_EQ(read_some(*a, 5).value(), "abc");
    b.reset();
    EXPECT_EQ(read_some(*a, 5).value(), "");
  });
}

}  // namespace
}  // namespace sbx
