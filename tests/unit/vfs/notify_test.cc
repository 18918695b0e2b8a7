#include "sentry/vfs/notify.h"

#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

struct Watch : NotifyWatch {
  using NotifyWatch::NotifyWatch;
  std::string log;
  void on_event(u32 events, u32, std::string_view name) override {
    static constexpr std::pair<u32, const char*> kNames[] = {
        {IN_ACCESS, "access"},       {IN_MODIFY, "modify"}, {IN_ATTRIB, "attrib"},    {IN_CLOSE_WRITE, "closew"},
        {IN_CLOSE_NOWRITE, "close"}, {IN_OPEN, "open"},     {IN_MOVED_FROM, "from"},  {IN_MOVED_TO, "to"},
        {IN_CREATE, "create"},       {IN_DELETE, "delete"}, {IN_DELETE_SELF, "gone"}, {IN_MOVE_SELF, "moved"},
        {IN_IGNORED, "ignored"}};
    if (!log.empty()) log += ' ';
    for (auto [bit, word] : kNames)
      if ((events & bit) != 0) log += word;
    if ((events & IN_ISDIR) != 0) log += '/';
    if (!name.empty()) log += ":" + std::string(name);
  }
};

class Notify : public VfsTest {};

TEST_F(Notify, DirectoryHearsOfItsNames) {
  ASSERT_OK(mkdir("/d"));
  Watch w(RefPtr<Inode>(find("/d")->inode()), IN_ALL_EVENTS);
  ASSERT_OK(touch("/d/f"));
  EXPECT_EQ(w.log, "create:f open:f closew:f");
  w.log.clear();
  ASSERT_OK(mkdir("/d/s"));
  ASSERT_OK(chmod("/d/f", 0600));
  ASSERT_OK(rename("/d/f", "/d/g"));
  ASSERT_OK(rmdir("/d/s"));
  ASSERT_OK(remove("/d/g"));
  EXPECT_EQ(w.log, "create/:s attrib:f from:f to:g delete/:s delete:g");
}

TEST_F(Notify, ObjectHearsOfItself) {
  ASSERT_OK(touch("/f"));
  Watch w(RefPtr<Inode>(find("/f")->inode()), IN_ALL_EVENTS);
  {
    auto file = open("/f", O_RDWR);
    ASSERT_OK(write(**file, "x"));
    after_write(*creds_, **file);
    after_read(**file);
  }
  ASSERT_OK(rename("/f", "/g"));
  ASSERT_OK(remove("/g"));
  EXPECT_EQ(w.log, "open modify access closew moved attrib gone ignored");
}

TEST_F(Notify, NobodyWatches) { EXPECT_FALSE(notify_active()); }

}  // namespace
}  // namespace sbx::vfs
