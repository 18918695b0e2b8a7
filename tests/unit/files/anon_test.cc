#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>

#include "sentry/fs/anon/epoll.h"
#include "sentry/fs/anon/eventfd.h"
#include "sentry/fs/anon/memfd.h"
#include "sentry/fs/anon/timerfd.h"
#include "sentry/fs/pipe/pipe.h"
#include "tests/unit/files/fixture.h"

namespace sbx {
namespace {
using namespace fs::anon;
using namespace test;

u64 number(const std::string& bytes) {
  u64 v = 0;
  std::memcpy(&v, bytes.data(), sizeof(v));
  return v;
}
std::string bytes_of(u64 v) { return {reinterpret_cast<char*>(&v), sizeof(v)}; }
epoll_event want(u32 events, u64 data) {
  epoll_event e{};
  e.events = events;
  e.data.u64 = data;
  return e;
}

TEST(EventFd, CountsAndBlocks) {
  on_fiber([] {
    auto e = make_eventfd(3, EFD_NONBLOCK).value();
    EXPECT_EQ(number(read_some(*e, 8).value()), 3u);
    EXPECT_EQ(read_some(*e, 8).error(), Errno::kAgain);
    EXPECT_EQ(read_some(*e, 7).error(), Errno::kInval);
    EXPECT_EQ(write_some(*e, bytes_of(~0ull)).error(), Errno::kInval);
    EXPECT_EQ(write_some(*e, bytes_of(~0ull - 1)).value(), 8u);
    EXPECT_EQ(e->readiness(), u32{POLLIN | POLLRDNORM});
    EXPECT_EQ(write_some(*e, bytes_of(1)).error(), Errno::kAgain);
    auto s = make_eventfd(2, EFD_SEMAPHORE).value();
    EXPECT_EQ(number(read_some(*s, 8).value()), 1u);
    EXPECT_EQ(number(read_some(*s, 8).value()), 1u);
    fiber::spawn([&] { write_some(*s, bytes_of(1)).value(); });
    EXPECT_EQ(number(read_wait(*s, 8).value()), 1u);
    EXPECT_EQ(make_eventfd(0, 0x100).error(), Errno::kInval);
  });
}

TEST(TimerFd, OnceAndPeriodic) {
  on_fiber([] {
    auto file = make_timerfd(CLOCK_MONOTONIC, 0).value();
    auto& t = static_cast<TimerFd&>(*file);
    EXPECT_EQ(t.readiness(), 0u);
    itimerspec spec{{0, 0}, {0, 2'000'000}};
    EXPECT_TRUE(t.set(0, spec, nullptr));
    EXPECT_GT(t.get().it_value.tv_nsec, 0);
    EXPECT_EQ(number(read_wait(t, 8).value()), 1u);
    spec.it_interval.tv_nsec = 1'000'000;
    EXPECT_TRUE(t.set(0, spec, nullptr));
    usleep(5000);
    EXPECT_GE(number(read_wait(t, 8).value()), 3u);
    EXPECT_GE(number(read_wait(t, 8).value()), 1u);
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    auto wall = make_timerfd(CLOCK_REALTIME, TFD_NONBLOCK).value();
    auto& w = static_cast<TimerFd&>(*wall);
    spec = {{0, 0}, now};
    EXPECT_TRUE(w.set(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, spec, nullptr));
    EXPECT_EQ(number(read_some(w, 8).value()), 1u);
    spec.it_value.tv_nsec = -1;
    EXPECT_EQ(w.set(0, spec, nullptr).error(), Errno::kInval);
    EXPECT_EQ(make_timerfd(CLOCK_PROCESS_CPUTIME_ID, 0).error(), Errno::kInval);
  });
}

TEST(Epoll, LevelEdgeOneShot) {
  on_fiber([] {
    auto file = make_epoll(0).value();
    auto& ep = static_cast<Epoll&>(*file);
    auto level = make_eventfd(0, EFD_NONBLOCK).value();
    auto edge = make_eventfd(0, EFD_NONBLOCK).value();
    auto once = make_eventfd(0, EFD_NONBLOCK).value();
    EXPECT_TRUE(ep.control(EPOLL_CTL_ADD, 1, level, want(EPOLLIN, 1)));
    EXPECT_TRUE(ep.control(EPOLL_CTL_ADD, 2, edge, want(EPOLLIN | EPOLLET, 2)));
    EXPECT_TRUE(ep.control(EPOLL_CTL_ADD, 3, once, want(EPOLLIN | EPOLLONESHOT, 3)));
    EXPECT_EQ(ep.control(EPOLL_CTL_ADD, 3, once, want(EPOLLIN, 3)).error(), Errno::kExist);
    EXPECT_EQ(ep.control(EPOLL_CTL_DEL, 4, once, want(0, 0)).error(), Errno::kNoent);
    epoll_event out[8];
    EXPECT_EQ(ep.wait(out, 8, 0).value(), 0u);
    for (auto* e : {&level, &edge, &once}) write_some(**e, bytes_of(1)).value();
    EXPECT_EQ(ep.readiness(), u32{POLLIN | POLLRDNORM});
    EXPECT_EQ(ep.wait(out, 8, 0).value(), 3u);
    EXPECT_EQ(ep.wait(out, 8, 0).value(), 1u);
    EXPECT_EQ(out[0].data.u64, 1u);
    write_some(*edge, bytes_of(1)).value();
    write_some(*once, bytes_of(1)).value();
    EXPECT_EQ(ep.wait(out, 8, 0).value(), 2u);
    EXPECT_TRUE(ep.control(EPOLL_CTL_MOD, 3, once, want(EPOLLIN | EPOLLONESHOT, 33)));
    read_some(*level, 8).value();
    EXPECT_EQ(ep.wait(out, 8, 0).value(), 1u);
    EXPECT_EQ(out[0].data.u64, 33u);
    EXPECT_EQ(ep.wait(out, 8, 0).value(), 0u);
    EXPECT_EQ(ep.readiness(), 0u);
  });
}

TEST(Epoll, WaitsAndEnds) {
  on_fiber([] {
    auto file = make_epoll(0).value();
    auto& ep = static_cast<Epoll&>(*file);
    auto pair = fs::pipe::make_pipe(0, 0, 0).value();
    EXPECT_TRUE(ep.control(EPOLL_CTL_ADD, 5, pair.reader, want(EPOLLIN, 5)));
    epoll_event out[2];
    fiber::spawn([&] { write_some(*pair.writer, "x").value(); });
    EXPECT_EQ(ep.wait(out, 2, fiber::kNever).value(), 1u);
    EXPECT_EQ(out[0].events, u32{EPOLLIN});
    pair.writer.reset();
    EXPECT_EQ(ep.wait(out, 2, 0).value(), 1u);
    EXPECT_EQ(out[0].events, u32{EPOLLIN | EPOLLHUP});
    // The file ends: so does the interest, although nobody said DEL.
    pair.reader.reset();
    EXPECT_EQ(ep.wait(out, 2, fiber::now_ns() + 1'000'000).value(), 0u);
    fiber::Fiber* self = fiber::current();
    fiber::spawn([&] { self->interrupt(); });
    EXPECT_EQ(ep.wait(out, 2, fiber::kNever).error(), Errno::kIntr);
    self->clear_interrupt();
  });
}

TEST(Epoll, NestsWithoutLoops) {
  on_fiber([] {
    std::vector<RefPtr<vfs::File>> eps;
    for (int i = 0; i < 7; ++i) eps.push_back(make_epoll(0).value());
    auto at = [&](int i) -> Epoll& { return static_cast<Epoll&>(*eps[static_cast<size_t>(i)]); };
    EXPECT_EQ(at(0).control(EPOLL_CTL_ADD, 0, eps[0], want(EPOLLIN, 0)).error(), Errno::kInval);
    for (int i = 0; i < 4; ++i)
      EXPECT_TRUE(at(i).control(EPOLL_CTL_ADD, 9, eps[static_cast<size_t>(i) + 1], want(EPOLLIN, 7)));
    EXPECT_EQ(at(4).control(EPOLL_CTL_ADD, 9, eps[5], want(EPOLLIN, 0)).error(), Errno::kLoop);
    EXPECT_EQ(at(4).control(EPOLL_CTL_ADD, 9, eps[0], want(EPOLLIN, 0)).error(), Errno::kLoop);
    auto e = make_eventfd(0, 0).value();
    EXPECT_TRUE(at(4).control(EPOLL_CTL_ADD, 3, e, want(EPOLLIN, 3)));
    epoll_event out[1];
    EXPECT_EQ(at(0).wait(out, 1, 0).value(), 0u);
    fiber::spawn([&] { write_some(*e, bytes_of(1)).value(); });
    EXPECT_EQ(at(0).wait(out, 1, fiber::kNever).value(), 1u);
    eps.clear();
  });
}

TEST(Memfd, SealsAndData) {
  on_fiber([] {
    auto file = make_memfd("name", MFD_ALLOW_SEALING, 1, 2).value();
    vfs::KernelSource source("hello", 5);
    EXPECT_EQ(file->write(source, &file->position).value(), 5u);
    EXPECT_EQ(file->attr()->size, 5u);
    EXPECT_EQ(file->path().dentry->name(), "/memfd:name (deleted)");
    EXPECT_EQ(get_seals(*file).value(), 0u);
    EXPECT_TRUE(add_seals(*file, F_SEAL_WRITE | F_SEAL_SHRINK));
    u64 offset = 0;
    vfs::KernelSource again("x", 1);
    EXPECT_EQ(file->write(again, &offset).error(), Errno::kPerm);
    EXPECT_EQ(file->map_handle(true).error(), Errno::kPerm);
    EXPECT_TRUE(file->map_handle(false));
    auto unsealable = make_memfd("x", 0, 0, 0).value();
    EXPECT_EQ(add_seals(*unsealable, F_SEAL_WRITE).error(), Errno::kPerm);
    EXPECT_EQ(make_memfd(std::string(250, 'a'), 0, 0, 0).error(), Errno::kInval);
  });
}

}  // namespace
}  // namespace sbx
