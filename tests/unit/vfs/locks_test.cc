#include "sentry/vfs/file_locks.h"
#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

class Locks : public VfsTest {
 protected:
  FileLocks locks;
  int a_ = 0, b_ = 0, c_ = 0;
  static RecordLock rec(LockType type, u64 start, u64 end, const int& owner) {
    return {type, start, end, &owner, 1, false};
  }
};
constexpr auto kRead = LockType::kRead, kWrite = LockType::kWrite, kUnlock = LockType::kUnlock;

TEST_F(Locks, Flock) {
  EXPECT_OK(locks.flock(&a_, kRead, LockWait::kNo));
  EXPECT_OK(locks.flock(&b_, kRead, LockWait::kNo));
  EXPECT_ERR(locks.flock(&b_, kWrite, LockWait::kNo), kAgain);
  EXPECT_OK(locks.flock(&a_, kWrite, LockWait::kNo));  // b lost its lock by asking
  EXPECT_ERR(locks.flock(&b_, kRead, LockWait::kNo), kAgain);
  locks.release_file(&a_);
  EXPECT_OK(locks.flock(&b_, kWrite, LockWait::kNo));
}

TEST_F(Locks, RangesSplitAndMerge) {
  EXPECT_OK(locks.set(rec(kWrite, 0, 99, a_), LockWait::kNo));
  EXPECT_OK(locks.set(rec(kUnlock, 40, 59, a_), LockWait::kNo));
  EXPECT_EQ(locks.records().size(), 2u);
  EXPECT_OK(locks.set(rec(kWrite, 45, 50, b_), LockWait::kNo));
  EXPECT_ERR(locks.set(rec(kWrite, 39, 45, b_), LockWait::kNo), kAgain);
  EXPECT_EQ(locks.test(rec(kRead, 60, ~0ull, b_)).start, 60u);
  EXPECT_EQ(locks.test(rec(kRead, 100, ~0ull, b_)).type, kUnlock);
  EXPECT_OK(locks.set(rec(kUnlock, 0, ~0ull, b_), LockWait::kNo));
  EXPECT_OK(locks.set(rec(kRead, 20, 70, a_), LockWait::kNo));
  EXPECT_EQ(locks.records().size(), 3u);
  EXPECT_OK(locks.set(rec(kWrite, 0, ~0ull, a_), LockWait::kNo));
  EXPECT_EQ(locks.records().size(), 1u);
  locks.release_posix(&a_);
  EXPECT_TRUE(locks.empty());
}

TEST_F(Locks, WaitAndDeadlock) {
  in_fiber([&] {
    std::string order;
    EXPECT_OK(locks.set(rec(kWrite, 0, 0, a_), LockWait::kNo));
    EXPECT_OK(locks.set(rec(kWrite, 1, 1, b_), LockWait::kNo));
    bool done = false;
    fiber::spawn([&] {
      EXPECT_OK(locks.set(rec(kWrite, 1, 1, a_), LockWait::kYes));
      order += "a";
      done = true;
    });
    fiber::yield();
    EXPECT_ERR(locks.set(rec(kWrite, 0, 0, b_), LockWait::kYes), kDeadlk);
    order += "b";
    EXPECT_OK(locks.set(rec(kUnlock, 1, 1, b_), LockWait::kNo));
    while (!done) fiber::yield();
    EXPECT_EQ(order, "ba");
    EXPECT_OK(locks.set(rec(kWrite, 5, 5, c_), LockWait::kYes));
  });
}

TEST_F(Locks, ClosingAFileDropsItsLocks) {
  ASSERT_OK(touch("/f"));
  auto first = open("/f", O_RDWR), second = open("/f", O_RDWR);
  FileLocks& own = (*first)->inode()->locks();
  EXPECT_OK(own.flock(first->get(), kWrite, LockWait::kNo));
  EXPECT_OK(own.set({kWrite, 0, 9, first->get(), -1, true}, LockWait::kNo));
  EXPECT_ERR(own.flock(second->get(), kRead, LockWait::kNo), kAgain);
  first->reset();
  EXPECT_OK(own.flock(second->get(), kRead, LockWait::kNo));
  EXPECT_TRUE(own.records().empty());
}

}  // namespace
}  // namespace sbx::vfs
