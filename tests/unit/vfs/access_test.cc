#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

class Access : public VfsTest {
 protected:
  void SetUp() override {
    VfsTest::SetUp();
    ASSERT_OK(mkdir("/tmp", 01777));
    ASSERT_OK(mkdir("/home", 0755));
    ASSERT_OK(chown("/home", 1000, 1000));
    ASSERT_OK(touch("/root-file", 0600));
    ASSERT_OK(mkdir("/closed", 0700));
    ASSERT_OK(touch("/closed/f", 0666));
  }
};

TEST_F(Access, Bits) {
  as_user();
  EXPECT_ERR(open("/root-file", O_RDONLY), kAcces);
  EXPECT_ERR(find("/closed/f"), kAcces);
  EXPECT_ERR(find("/closed/none"), kAcces);
  EXPECT_ERR(touch("/x"), kAcces);
  EXPECT_ERR(mkdir("/x"), kAcces);
  EXPECT_ERR(remove("/root-file"), kAcces);
  EXPECT_OK(touch("/home/mine", 0400));
  EXPECT_EQ(stat("/home/mine").uid, 1000u);
  EXPECT_ERR(open("/home/mine", O_WRONLY), kAcces);
  EXPECT_ERR(open("/home/mine", O_RDONLY | O_TRUNC), kAcces);
  EXPECT_OK(open("/home/mine", O_RDONLY));
  // A new file is opened as asked whatever its mode says.
  EXPECT_OK(open("/home/new", O_CREAT | O_RDWR, 0));
  auto path = find("/root-file");
  EXPECT_ERR(check_access(*creds_, *path->inode(), kMayRead), kAcces);
}

TEST_F(Access, Capabilities) {
  ASSERT_OK(touch("/noexec", 0644));
  auto inode = find("/noexec")->inode();
  EXPECT_OK(check_access(*root_creds_, *inode, kMayRead | kMayWrite));
  EXPECT_ERR(check_access(*root_creds_, *inode, kMayExec), kAcces);
  security::Credentials reader(*user_creds_);
  reader.effective = 1ull << CAP_DAC_READ_SEARCH;
  Inode& secret = *find("/root-file")->inode();
  EXPECT_OK(check_access(reader, secret, kMayRead));
  EXPECT_ERR(check_access(reader, secret, kMayWrite), kAcces);
  EXPECT_OK(check_access(reader, *find("/closed")->inode(), kMayRead | kMayExec));
}

TEST_F(Access, Sticky) {
  ASSERT_OK(touch("/tmp/roots", 0666));
  as_user();
  EXPECT_ERR(remove("/tmp/roots"), kPerm);
  EXPECT_ERR(rename("/tmp/roots", "/tmp/other"), kPerm);
  EXPECT_OK(touch("/tmp/mine"));
  EXPECT_ERR(rename("/tmp/mine", "/tmp/roots"), kPerm);
  EXPECT_OK(rename("/tmp/mine", "/tmp/mine2"));
  EXPECT_OK(remove("/tmp/mine2"));
}

TEST_F(Access, ProtectedLinks) {
  ASSERT_OK(chmod("/root-file", 0644));
  as_user();
  ASSERT_OK(symlink("/home", "/tmp/planted"));
  EXPECT_ERR(link("/root-file", "/tmp/hard"), kPerm);
  EXPECT_OK(find("/tmp/planted"));
  as_root();
  EXPECT_ERR(find("/tmp/planted"), kAcces);
  EXPECT_OK(find("/tmp/planted/."));  // only the last component is protected
  EXPECT_OK(link("/root-file", "/tmp/hard"));
  protections().symlinks = 0;
  EXPECT_OK(find("/tmp/planted"));
  protections().symlinks = 1;
}

TEST_F(Access, ProtectedRegular) {
  as_user();
  ASSERT_OK(touch("/tmp/planted", 0666));
  as_root();
  EXPECT_ERR(open("/tmp/planted", O_CREAT | O_WRONLY), kAcces);
  EXPECT_OK(open("/tmp/planted", O_WRONLY));
}

TEST_F(Access, SetGidDirectory) {
  ASSERT_OK(mkdir("/shared", 02777));
  ASSERT_OK(chown("/shared", 0, 77));
  ASSERT_OK(chmod("/shared", 02777));
  as_user();
  ASSERT_OK(mkdir("/shared/d"));
  ASSERT_OK(touch("/shared/f", 02755));
  EXPECT_EQ(stat("/shared/d").gid, 77u);
  EXPECT_EQ(stat("/shared/d").mode, u32{S_IFDIR | 02755});
  EXPECT_EQ(stat("/shared/f").mode, u32{S_IFREG | 0755});
}

TEST_F(Access, Chmod) {
  ASSERT_OK(touch("/home/f", 0755));
  as_user();
  EXPECT_ERR(chmod("/home/f", 0777), kPerm);
  as_root();
  ASSERT_OK(chown("/home/f", 1000, 1000));
  as_user();
  EXPECT_OK(chmod("/home/f", 06755));
  EXPECT_EQ(stat("/home/f").mode & 07777, 06755u);
  EXPECT_ERR(chown("/home/f", 0, 1000), kPerm);
  EXPECT_ERR(chown("/home/f", 1000, 5), kPerm);
  EXPECT_OK(chown("/home/f", 1000, 1000));
  EXPECT_EQ(stat("/home/f").mode & 07777, 0755u);
  as_root();
  ASSERT_OK(chmod("/home/f", 06755));
  ASSERT_OK(chown("/home/f", 1000, 5));
  EXPECT_EQ(stat("/home/f").mode & 07777, 0755u);
  as_user();
  EXPECT_OK(chmod("/home/f", 02755));
  EXPECT_EQ(stat("/home/f").mode & 07777, 0755u);  // not of the file's group: no set-group-id
}

TEST_F(Access, WritesClearSetId) {
  ASSERT_OK(touch("/home/f", 0777));
  ASSERT_OK(chmod("/home/f", 06777));
  {
    auto file = open("/home/f", O_WRONLY);
    ASSERT_OK(write(**file, "x"));
    after_write(*creds_, **file);
    EXPECT_EQ(stat("/home/f").mode & 07777, 06777u);
  }
  as_user();
  {
    auto file = open("/home/f", O_WRONLY);
    ASSERT_OK(write(**file, "x"));
    after_write(*creds_, **file);
    EXPECT_EQ(stat("/home/f").mode & 07777, 0777u);
    as_root();
    ASSERT_OK(chmod("/home/f", 04777));
    as_user();
    EXPECT_OK(truncate(*creds_, **file, 10));
    EXPECT_EQ(stat("/home/f").mode & 07777, 0777u);
    EXPECT_EQ(stat("/home/f").size, 10u);
  }
}

TEST_F(Access, Times) {
  ASSERT_OK(touch("/world", 0666));
  as_user();
  Path p = *find("/world");
  EXPECT_OK(set_attr(*creds_, p, {.mask = SetAttr::kAtimeNow | SetAttr::kMtimeNow}));
  EXPECT_ERR(set_attr(*creds_, p, {.mask = SetAttr::kMtime, .mtime = {5, 0}}), kPerm);
  EXPECT_ERR(set_attr(*creds_, *find("/closed"), {.mask = SetAttr::kAtimeNow | SetAttr::kMtimeNow}), kAcces);
  as_root();
  EXPECT_OK(set_attr(*creds_, p, {.mask = SetAttr::kMtime, .mtime = {5, 7}}));
  EXPECT_EQ(stat("/world").mtime, (Time{5, 7}));
}

TEST_F(Access, ReadOnlyMount) {
  ASSERT_OK(mkdir("/mnt"));
  auto m = ns_->mount(new_tmpfs(), *find("/mnt"), 0, "none");
  ASSERT_OK(m);
  ASSERT_OK(touch("/mnt/f"));
  (*m)->flags = MS_RDONLY;
  EXPECT_ERR(open("/mnt/f", O_WRONLY), kRofs);
  EXPECT_ERR(open("/mnt/f", O_RDONLY | O_TRUNC), kRofs);
  EXPECT_OK(open("/mnt/f", O_RDONLY));
  EXPECT_OK(open("/mnt/f", O_RDONLY | O_CREAT));
  EXPECT_ERR(touch("/mnt/new"), kRofs);
  EXPECT_ERR(mkdir("/mnt/d"), kRofs);
  EXPECT_ERR(mkdir("/mnt/f"), kExist);
  EXPECT_ERR(remove("/mnt/none"), kRofs);
  EXPECT_ERR(rename("/mnt/f", "/mnt/g"), kRofs);
  EXPECT_ERR(chmod("/mnt/f", 0600), kRofs);
}

TEST_F(Access, Mknod) {
  as_user();
  cwd_ = *find("/home");
  NewNode dev;
  dev.mode = S_IFCHR | 0666;
  dev.rdev = 0x103;
  EXPECT_ERR(make_node(ctx(), "null", dev), kPerm);
  EXPECT_OK(node("fifo", S_IFIFO | 0644));
  EXPECT_OK(node("sock", S_IFSOCK | 0644));
  EXPECT_ERR(open("sock", O_RDWR), kNxio);
  as_root();
  ASSERT_OK(make_node(ctx(), "null", dev));
  EXPECT_EQ(stat("null").rdev, 0x103u);
  ns_->root().mount->flags = MS_NODEV;
  EXPECT_ERR(open("null", O_RDWR), kAcces);
}

}  // namespace
}  // namespace sbx::vfs
