#include "sentry/platform/shelf.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <map>

namespace sbx::platform {
namespace {

class ShelfTest : public testing::Test {
 protected:
  RefPtr<ShelfItem> item(bool everybodys = true) {
    auto made = make_ref<ShelfItem>();
    everybodys_[made.get()] = everybodys;
    return made;
  }
  // A mapping of it by a stub with that view: the number it has there, or -1 if it had to be put there.
  int map(const Shelf::View& view, const RefPtr<ShelfItem>& item) {
    const int number = shelf_.find(view, item.get());
    if (number < 0) shelf_.want(item, memfd_, [this, key = item.get()] { return everybodys_[key]; });
    return number;
  }
  Shelf::View stocked() {
    shelf_.stock([this](int fd, int number) {
      if (refuses_) return -1;
      struct stat st;
      EXPECT_EQ(fstat(fd, &st), 0);
      table_[number] = st.st_ino;
      return number;
    });
    return shelf_.view();
  }
  ino_t own() const {
    struct stat st;
    EXPECT_EQ(fstat(memfd_, &st), 0);
    return st.st_ino;
  }

  int memfd_ = memfd_create("file", MFD_CLOEXEC);
  std::map<const ShelfItem*, bool> everybodys_;
  std::map<int, ino_t> table_;  // the template's
  bool refuses_ = false;
  Shelf shelf_;
};

TEST_F(ShelfTest, SecondUseGetsAPlace) {
  auto file = item();
  EXPECT_EQ(map(stocked(), file), -1);
  EXPECT_EQ(map(stocked(), file), -1);
  const Shelf::View before{};
  const Shelf::View view = stocked();
  EXPECT_EQ(map(view, file), kShelfBase);
  EXPECT_EQ(table_[kShelfBase], own());
  EXPECT_EQ(map(before, file), -1);  // who was made earlier has nothing
}

TEST_F(ShelfTest, OnlyWhatEverybodyMayRead) {
  auto file = item(false);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(map(stocked(), file), -1);
  EXPECT_TRUE(table_.empty());
}

TEST_F(ShelfTest, GoneFilesAreTakenDown) {
  auto file = item();
  for (int i = 0; i < 2; ++i) map(stocked(), file);
  const Shelf::View view = stocked();
  file->gone = true;
  EXPECT_EQ(map(view, file), -1);
  stocked();
  EXPECT_NE(table_[kShelfBase], own());  // the template gave it up
  auto next = item();
  for (int i = 0; i < 2; ++i) map(stocked(), next);
  EXPECT_EQ(map(stocked(), next), kShelfBase);
  EXPECT_EQ(map(view, next), -1);  // another file lies there for who has the old view
}

TEST_F(ShelfTest, AskedAgain) {
  auto mine = item(), other = item();
  for (int i = 0; i < 2; ++i) map(stocked(), mine);
  for (int i = 0; i < 2; ++i) map(stocked(), other);
  const Shelf::View view = stocked();
  everybodys_[mine.get()] = false;  // a directory's mode changed
  shelf_.check_again();
  EXPECT_TRUE(shelf_.holds(view));
  shelf_.settle();
  EXPECT_FALSE(shelf_.holds(view));  // a stub that waits with it is not to be used
  EXPECT_EQ(map(view, mine), -1);
  const Shelf::View next = stocked();
  EXPECT_NE(table_[kShelfBase], own());
  EXPECT_EQ(map(next, mine), -1);
  EXPECT_EQ(map(next, other), kShelfBase + 1);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(map(stocked(), mine), -1);
  everybodys_[mine.get()] = true;
  for (int i = 0; i < 20; ++i) map(stocked(), mine);
  EXPECT_EQ(map(stocked(), mine), kShelfBase);
}

TEST_F(ShelfTest, ClosedForGood) {
  auto file = item();
  for (int i = 0; i < 2; ++i) map(stocked(), file);
  shelf_.close();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(map(stocked(), file), -1);
}

TEST_F(ShelfTest, ATemplateThatRefuses) {
  auto file = item();
  refuses_ = true;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(map(stocked(), file), -1);
  refuses_ = false;
  map(stocked(), file);
  EXPECT_EQ(map(stocked(), file), kShelfBase);
}

TEST_F(ShelfTest, IdlePlacesGoToOthers) {
  std::vector<RefPtr<ShelfItem>> files;
  for (u32 i = 0; i < kShelfPlaces; ++i) {
    files.push_back(item());
    for (int k = 0; k < 2; ++k) map(stocked(), files.back());
  }
  Shelf::View view = stocked();
  auto late = item();
  for (int k = 0; k < 4; ++k) EXPECT_EQ(map(stocked(), late), -1);  // all are in use
  for (int k = 0; k < 1000; ++k) EXPECT_GE(map(view, files[1]), 0);
  map(view, late);
  EXPECT_EQ(map(stocked(), late), kShelfBase);  // in place of the one that was used longest ago
  EXPECT_EQ(map(shelf_.view(), files[0]), -1);
  EXPECT_EQ(map(view, files[0]), -1);
}

}  // namespace
}  // namespace sbx::platform
