#include <linux/openat2.h>

#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

class Walk : public VfsTest {
 protected:
  void SetUp() override {
    VfsTest::SetUp();
    ASSERT_OK(mkdir("/a"));
    ASSERT_OK(mkdir("/a/b"));
    ASSERT_OK(mkdir("/a/b/c"));
    ASSERT_OK(put("/a/b/c/f", "hello"));
  }
};

TEST_F(Walk, PlainPaths) {
  EXPECT_EQ(text("/a/b/c/f"), "/a/b/c/f");
  EXPECT_EQ(text("//a/./b//c/../c/f"), "/a/b/c/f");
  EXPECT_EQ(text("/.."), "/");
  EXPECT_EQ(text("/../../a"), "/a");
  EXPECT_EQ(text("/a/b/"), "/a/b");
  EXPECT_ERR(find(""), kNoent);
  EXPECT_ERR(find("/a/x"), kNoent);
  EXPECT_ERR(find("/a/x/"), kNoent);
  EXPECT_ERR(find("/a/x/y"), kNoent);
  EXPECT_ERR(find("/a/b/c/f/"), kNotdir);
  EXPECT_ERR(find("/a/b/c/f/."), kNotdir);
  EXPECT_ERR(find("/a/b/c/f/.."), kNotdir);
  EXPECT_ERR(find("/a/b/c/f", {.need_dir = true}), kNotdir);
  cwd_ = *find("/a/b");
  EXPECT_EQ(text("c/f"), "/a/b/c/f");
  EXPECT_EQ(text("../b/."), "/a/b");
  EXPECT_EQ(text("."), "/a/b");
}

TEST_F(Walk, Lengths) {
  std::string name(255, 'n');
  EXPECT_OK(touch("/" + name));
  EXPECT_OK(find("/" + name));
  EXPECT_ERR(find("/" + name + "n"), kNametoolong);
  EXPECT_ERR(touch("/" + name + "n"), kNametoolong);
  EXPECT_ERR(mkdir("/" + name + "n"), kNametoolong);
  std::string longest;
  while (longest.size() < 4094) longest += '/';
  EXPECT_OK(find(longest + "a"));
  EXPECT_ERR(find(longest + "/a"), kNametoolong);
}

TEST_F(Walk, Symlinks) {
  ASSERT_OK(symlink("/a/b", "/abs"));
  ASSERT_OK(symlink("b/c", "/a/rel"));
  ASSERT_OK(symlink("nowhere", "/dangling"));
  ASSERT_OK(symlink("loop", "/loop"));
  EXPECT_EQ(text("/abs/c/f"), "/a/b/c/f");
  EXPECT_EQ(text("/a/rel/f"), "/a/b/c/f");
  EXPECT_EQ(text("/a/rel/.."), "/a/b");
  EXPECT_ERR(find("/dangling"), kNoent);
  EXPECT_ERR(find("/loop"), kLoop);
  EXPECT_TRUE(lfind("/loop")->dentry->is_link());
  EXPECT_TRUE(lfind("/abs")->dentry->is_link());
  EXPECT_TRUE(lfind("/abs/")->dentry->is_dir());
  EXPECT_ERR(open("/abs", O_RDONLY | O_NOFOLLOW), kLoop);
  EXPECT_OK(open("/abs", O_PATH | O_NOFOLLOW));
  EXPECT_ERR(open("/abs", O_PATH | O_NOFOLLOW | O_DIRECTORY), kNotdir);
  EXPECT_ERR(node("/empty", S_IFLNK | 0777).value().dentry->inode()->open({}, 0), kLoop);
  EXPECT_ERR(find("/empty"), kNoent);
}

TEST_F(Walk, FortyLinks) {
  std::string target = "/a";
  for (int i = 1; i <= 41; ++i) {
    std::string name = "/l" + std::to_string(i);
    ASSERT_OK(symlink(target, name));
    target = name;
  }
  EXPECT_OK(find("/l40"));
  EXPECT_ERR(find("/l41"), kLoop);
}

TEST_F(Walk, ResolveFlags) {
  ASSERT_OK(symlink("/a/b", "/a/abs"));
  ASSERT_OK(symlink("../..", "/a/b/up"));
  cwd_ = *find("/a");
  EXPECT_ERR(find("abs", {.resolve = RESOLVE_BENEATH}), kXdev);
  EXPECT_ERR(find("/a", {.resolve = RESOLVE_BENEATH}), kXdev);
  EXPECT_ERR(find("..", {.resolve = RESOLVE_BENEATH}), kXdev);
  EXPECT_ERR(find("b/up", {.resolve = RESOLVE_BENEATH}), kXdev);
  EXPECT_OK(find("b/..", {.resolve = RESOLVE_BENEATH}));
  EXPECT_ERR(find("b/up/x", {.resolve = RESOLVE_NO_SYMLINKS}), kLoop);
  EXPECT_EQ(path_text(*find("/b/../..", {.resolve = RESOLVE_IN_ROOT}), ns_->root()), "/a");
  EXPECT_EQ(path_text(*find("/b", {.resolve = RESOLVE_IN_ROOT}), ns_->root()), "/a/b");
  EXPECT_ERR(find("zz", {.resolve = RESOLVE_CACHED}), kAgain);
}

TEST_F(Walk, NegativeDentriesFollowChanges) {
  EXPECT_ERR(find("/a/new"), kNoent);
  EXPECT_ERR(find("/a/new"), kNoent);
  EXPECT_OK(touch("/a/new"));
  EXPECT_OK(find("/a/new"));
  EXPECT_OK(remove("/a/new"));
  EXPECT_ERR(find("/a/new"), kNoent);
  EXPECT_OK(rename("/a/b/c/f", "/a/new"));
  EXPECT_OK(find("/a/new"));
  EXPECT_ERR(find("/a/b/c/f"), kNoent);
}

TEST_F(Walk, CacheIsBounded) {
  Dentry::set_unused_bound(100);
  for (int i = 0; i < 1000; ++i) EXPECT_ERR(find("/a/none" + std::to_string(i)), kNoent);
  EXPECT_LT(Dentry::cached_total(), 250u);
  Dentry::set_unused_bound(32768);
  EXPECT_EQ(get("/a/b/c/f"), "hello");
  Dentry::shrink(0);
  Dentry::shrink(0);
  Dentry::shrink(0);
  EXPECT_EQ(get("/a/b/c/f"), "hello");
}

TEST_F(Walk, DeletedDirectory) {
  ASSERT_OK(mkdir("/d"));
  cwd_ = *find("/d");
  ASSERT_OK(rmdir("/d"));
  EXPECT_ERR(touch("x"), kNoent);
  EXPECT_ERR(mkdir("x"), kNoent);
  EXPECT_ERR(find("x"), kNoent);
  EXPECT_OK(find("."));
  EXPECT_EQ(text(".."), "/");
  EXPECT_EQ(path_text(cwd_, ns_->root()), "/d (deleted)");
}

TEST_F(Walk, DeepTreeDoesNotRecurse) {
  in_fiber([&] {
    cwd_ = ns_->root();
    for (int i = 0; i < 20000; ++i) {
      auto dir = mkdir("d");
      ASSERT_OK(dir);
      cwd_ = *dir;
    }
    Path top = *find("/d");
    EXPECT_EQ(path_text(cwd_, ns_->root()).size(), 40000u);
    cwd_ = {};
    ASSERT_OK(rename("/d", "/a/d"));
    ns_.reset();
    top = {};
    fs_.reset();
  });
}

TEST_F(Walk, OpenFlags) {
  EXPECT_ERR(open("/a", O_WRONLY), kIsdir);
  EXPECT_ERR(open("/a", O_RDWR), kIsdir);
  EXPECT_ERR(open("/a", O_CREAT | O_RDONLY), kIsdir);
  EXPECT_ERR(open("/new/", O_CREAT | O_RDONLY), kIsdir);
  EXPECT_ERR(open("/a/b/c/f", O_DIRECTORY), kNotdir);
  EXPECT_ERR(open("/a/b/c/f", O_CREAT | O_EXCL), kExist);
  EXPECT_ERR(open("/a", O_CREAT | O_DIRECTORY), kInval);
  EXPECT_ERR(open("/none/x", O_CREAT), kNoent);
  EXPECT_ERR(open("/a/b/c/f/x", O_CREAT | O_WRONLY), kNotdir);
  ASSERT_OK(symlink("target", "/a/to"));
  EXPECT_ERR(open("/a/to", O_CREAT | O_EXCL | O_WRONLY), kExist);
  EXPECT_ERR(open("/a/to", O_CREAT | O_NOFOLLOW | O_WRONLY), kLoop);
  EXPECT_OK(open("/a/to", O_CREAT | O_WRONLY));
  EXPECT_OK(find("/a/target"));
  EXPECT_OK(put("/a/target", "abc"));
  EXPECT_OK(open("/a/target", O_RDONLY | O_TRUNC));
  EXPECT_EQ(stat("/a/target").size, 0u);
  auto file = open("/a", O_TMPFILE | O_RDWR, 0600);
  ASSERT_OK(file);
  EXPECT_OK(write(**file, "temp"));
  EXPECT_EQ((*file)->attr()->nlink, 0u);
  EXPECT_OK(link_path((*file)->path(), ctx(), "/a/named"));
  EXPECT_EQ(get("/a/named"), "temp");
  EXPECT_ERR(open("/a", O_TMPFILE | O_RDONLY), kInval);
  auto path_only = open("/a/named", O_PATH);
  ASSERT_OK(path_only);
  EXPECT_ERR(write(**path_only, "x"), kBadf);
  EXPECT_EQ((*file)->flags() & O_ACCMODE, u32{O_RDWR});
}

TEST_F(Walk, TextBusy) {
  auto denial = WriteDenial::take(RefPtr<Inode>(find("/a/b/c/f")->inode()));
  ASSERT_OK(denial);
  EXPECT_ERR(open("/a/b/c/f", O_WRONLY), kTxtbsy);
  EXPECT_OK(open("/a/b/c/f", O_RDONLY));
  denial->reset();
  auto writer = open("/a/b/c/f", O_WRONLY);
  ASSERT_OK(writer);
  EXPECT_ERR(WriteDenial::take(RefPtr<Inode>(find("/a/b/c/f")->inode())), kTxtbsy);
}

}  // namespace
}  // namespace sbx::vfs
