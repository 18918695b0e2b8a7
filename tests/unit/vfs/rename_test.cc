// The table of rename(2) and the rules of link, unlink and rmdir.
#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

class Rename : public VfsTest {
 protected:
  void SetUp() override {
    VfsTest::SetUp();
    for (const char* d : {"/d", "/d/sub", "/full", "/full/x", "/empty"}) ASSERT_OK(mkdir(d));
    ASSERT_OK(put("/f", "one"));
    ASSERT_OK(put("/g", "two"));
  }
};

struct Case {
  const char* from;
  const char* to;
  u32 flags;
  Errno want;
};

class RenameTable : public Rename, public ::testing::WithParamInterface<Case> {};

TEST_P(RenameTable, Answers) {
  const Case& c = GetParam();
  EXPECT_EQ(err(rename(c.from, c.to, c.flags)), c.want) << c.from << " -> " << c.to;
}

INSTANTIATE_TEST_SUITE_P(
    Linux, RenameTable,
    ::testing::Values(
        Case{"/f", "/new", 0, Errno::kNone}, Case{"/f", "/g", 0, Errno::kNone}, Case{"/f", "/f", 0, Errno::kNone},
        Case{"/none", "/g", 0, Errno::kNoent}, Case{"/f", "/none/x", 0, Errno::kNoent},
        Case{"/f", "/g/x", 0, Errno::kNotdir}, Case{"/f", "/d", 0, Errno::kIsdir}, Case{"/d", "/f", 0, Errno::kNotdir},
        Case{"/d", "/empty", 0, Errno::kNone}, Case{"/d", "/full", 0, Errno::kNotempty},
        Case{"/d", "/d/sub/x", 0, Errno::kInval}, Case{"/d", "/d/x", 0, Errno::kInval},
        Case{"/d/sub", "/d", 0, Errno::kNotempty}, Case{"/f", "/new/", 0, Errno::kNotdir},
        Case{"/d", "/new/", 0, Errno::kNone}, Case{"/f/", "/new", 0, Errno::kNotdir},
        Case{"/d/.", "/new", 0, Errno::kBusy}, Case{"/f", "/d/..", 0, Errno::kBusy},
        Case{"/f", "/d/.", RENAME_NOREPLACE, Errno::kExist}, Case{"/f", "/g", RENAME_NOREPLACE, Errno::kExist},
        Case{"/f", "/f", RENAME_NOREPLACE, Errno::kExist}, Case{"/f", "/new", RENAME_NOREPLACE, Errno::kNone},
        Case{"/f", "/new", RENAME_EXCHANGE, Errno::kNoent}, Case{"/f", "/full", RENAME_EXCHANGE, Errno::kNone},
        Case{"/d/sub", "/full", RENAME_EXCHANGE, Errno::kNone}, Case{"/d", "/d/sub", RENAME_EXCHANGE, Errno::kInval},
        Case{"/d/sub", "/d", RENAME_EXCHANGE, Errno::kInval},
        Case{"/f", "/g", RENAME_EXCHANGE | RENAME_NOREPLACE, Errno::kInval}, Case{"/f", "/g", 64, Errno::kInval}));

TEST_F(Rename, MovesContentAndCounts) {
  ASSERT_OK(rename("/f", "/d/f2"));
  EXPECT_EQ(get("/d/f2"), "one");
  EXPECT_EQ(stat("/").nlink, 5u);
  ASSERT_OK(rename("/d/sub", "/top"));
  EXPECT_EQ(stat("/").nlink, 6u);
  EXPECT_EQ(stat("/d").nlink, 2u);
  EXPECT_EQ(list("/"), "d empty full g top");
  ASSERT_OK(rename("/top", "/d/f2", RENAME_EXCHANGE));
  EXPECT_EQ(get("/top"), "one");
  EXPECT_EQ(stat("/d").nlink, 3u);
  EXPECT_EQ(stat("/").nlink, 5u);
}

TEST_F(Rename, OpenFileSurvivesReplacement) {
  auto file = open("/g", O_RDONLY);
  ASSERT_OK(rename("/f", "/g"));
  EXPECT_EQ(read_all(**file), "two");
  EXPECT_EQ((*file)->attr()->nlink, 0u);
  EXPECT_EQ(path_text((*file)->path(), ns_->root()), "/g (deleted)");
  EXPECT_EQ(get("/g"), "one");
}

TEST_F(Rename, HardLinksToOneObject) {
  ASSERT_OK(link("/f", "/h"));
  EXPECT_EQ(stat("/f").nlink, 2u);
  EXPECT_OK(rename("/f", "/h"));  // nothing happens
  EXPECT_OK(find("/f"));
  EXPECT_OK(remove("/f"));
  EXPECT_EQ(stat("/h").nlink, 1u);
}

TEST_F(Rename, Link) {
  EXPECT_ERR(link("/d", "/d2"), kPerm);
  EXPECT_ERR(link("/f", "/g"), kExist);
  EXPECT_ERR(link("/f", "/new/"), kNoent);
  EXPECT_ERR(link("/none", "/x"), kNoent);
  ASSERT_OK(symlink("/f", "/s"));
  ASSERT_OK(link("/s", "/s2"));
  EXPECT_TRUE(lfind("/s2")->dentry->is_link());
}

TEST_F(Rename, UnlinkAndRmdir) {
  EXPECT_ERR(remove("/d"), kIsdir);
  EXPECT_ERR(remove("/f/"), kNotdir);
  EXPECT_ERR(remove("/d/"), kIsdir);
  EXPECT_ERR(remove("/d/.."), kIsdir);
  EXPECT_ERR(remove("/none"), kNoent);
  EXPECT_ERR(rmdir("/f"), kNotdir);
  EXPECT_ERR(rmdir("/d"), kNotempty);
  EXPECT_ERR(rmdir("/d/sub/."), kInval);
  EXPECT_ERR(rmdir("/d/sub/.."), kNotempty);
  EXPECT_ERR(rmdir("/"), kBusy);
  EXPECT_OK(rmdir("/d/sub/"));
  EXPECT_OK(rmdir("/d"));
  EXPECT_ERR(mkdir("/f"), kExist);
  EXPECT_ERR(mkdir("/full/."), kExist);
  EXPECT_ERR(mkdir("/"), kExist);
  EXPECT_OK(mkdir("/fresh/"));
  EXPECT_ERR(node("/file/", S_IFREG | 0644), kNoent);
  EXPECT_ERR(node("/f/", S_IFREG | 0644), kExist);
}

}  // namespace
}  // namespace sbx::vfs
