#include "sentry/fs/overlay/overlay.h"

#include <sys/xattr.h>

#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

class Overlay : public VfsTest {
 protected:
  void SetUp() override {
    VfsTest::SetUp();
    for (const char* d : {"/etc", "/etc/sub", "/usr", "/usr/bin", "/empty"}) ASSERT_OK(mkdir(d));
    ASSERT_OK(put("/etc/passwd", "root:x:0:0"));
    ASSERT_OK(put("/etc/hosts", "localhost"));
    ASSERT_OK(put("/etc/sub/deep", "deep"));
    ASSERT_OK(put("/usr/bin/tool", std::string(100'000, 't')));
    ASSERT_OK(link("/etc/hosts", "/etc/hosts2"));
    ASSERT_OK(symlink("/etc/passwd", "/link"));
    lower_ns_ = ns_;
    lower_root_ = ns_->root();
    RefPtr<FileSystem> upper = new_tmpfs();
    upper_ = upper;
    fs_ = *overlay::OverlayFs::create(upper, RefPtr<FileSystem>(&lower_root_.dentry->fs()));
    setup_namespace(fs_);
  }
  // What the lower tree holds: it must never change.
  std::string below(std::string_view p) {
    WalkContext c{lower_root_, lower_root_, creds_.get(), lower_ns_.get()};
    auto file = vfs::open(c, p, {.flags = O_RDONLY});
    return file ? read_all(**file) : errno_name(file.error());
  }
  RefPtr<MountNamespace> lower_ns_;
  Path lower_root_;
  RefPtr<FileSystem> upper_;
};

TEST_F(Overlay, ReadsThrough) {
  EXPECT_EQ(get("/etc/passwd"), "root:x:0:0");
  EXPECT_EQ(get("/link"), "root:x:0:0");
  EXPECT_EQ(list("/"), "empty etc link usr");
  EXPECT_EQ(list("/etc"), "hosts hosts2 passwd sub");
  EXPECT_ERR(find("/etc/none"), kNoent);
  EXPECT_EQ(stat("/etc").dev, fs_->dev());
}

TEST_F(Overlay, CopyUpOnWrite) {
  Attr before = stat("/etc/passwd");
  auto reader = open("/etc/passwd", O_RDONLY);
  ASSERT_OK(put("/etc/passwd", "X", O_WRONLY));
  EXPECT_EQ(get("/etc/passwd"), "Xoot:x:0:0");
  EXPECT_EQ(below("/etc/passwd"), "root:x:0:0");
  EXPECT_EQ(stat("/etc/passwd").ino, before.ino);
  EXPECT_EQ(stat("/etc/passwd").dev, before.dev);
  EXPECT_EQ(read_all(**reader), "Xoot:x:0:0");
  Dentry::shrink(0);
  Dentry::shrink(0);
  reader->reset();
  Dentry::shrink(0);
  EXPECT_EQ(stat("/etc/passwd").ino, before.ino);
  EXPECT_EQ(get("/etc/passwd"), "Xoot:x:0:0");
  ASSERT_OK(put("/usr/bin/tool", "new"));
  EXPECT_EQ(get("/usr/bin/tool"), "new");
  EXPECT_EQ(below("/usr/bin/tool").size(), 100'000u);
}

TEST_F(Overlay, CopyUpOnAttributes) {
  Attr before = stat("/usr/bin/tool");
  ASSERT_OK(chmod("/usr/bin/tool", 0700));
  Attr after = stat("/usr/bin/tool");
  EXPECT_EQ(after.mode & 07777, 0700u);
  EXPECT_EQ(after.size, 100'000u);
  EXPECT_EQ(after.mtime, before.mtime);
  EXPECT_EQ(get("/usr/bin/tool"), std::string(100'000, 't'));
  ASSERT_OK(set_attr(*creds_, *find("/etc/hosts"), {.mask = SetAttr::kSize, .size = 5}));
  EXPECT_EQ(get("/etc/hosts"), "local");
  EXPECT_EQ(get("/etc/hosts2"), "localhost");  // the hard link broke
  EXPECT_EQ(stat("/etc/hosts").nlink, 1u);
  RefPtr<Inode> i(find("/etc/passwd")->inode());
  ASSERT_OK(i->set_xattr("user.k", "v", 0));
  EXPECT_EQ(*i->get_xattr("user.k"), "v");
  EXPECT_EQ(i->list_xattr()->size(), 1u);
  EXPECT_ERR(i->set_xattr("trusted.overlay.opaque", "y", 0), kPerm);
}

TEST_F(Overlay, RemoveAndCreateAgain) {
  auto file = open("/etc/passwd", O_RDONLY);
  ASSERT_OK(remove("/etc/passwd"));
  EXPECT_ERR(find("/etc/passwd"), kNoent);
  EXPECT_EQ((*file)->attr()->nlink, 0u);
  EXPECT_EQ(read_all(**file), "root:x:0:0");
  EXPECT_EQ(list("/etc"), "hosts hosts2 sub");
  EXPECT_EQ(below("/etc/passwd"), "root:x:0:0");
  file->reset();
  Dentry::shrink(0);
  Dentry::shrink(0);
  EXPECT_ERR(find("/etc/passwd"), kNoent);
  ASSERT_OK(put("/etc/passwd", "fresh"));
  EXPECT_EQ(get("/etc/passwd"), "fresh");
  EXPECT_EQ(list("/etc"), "hosts hosts2 passwd sub");
  ASSERT_OK(remove("/etc/passwd"));
  EXPECT_EQ(list("/etc"), "hosts hosts2 sub");
}

TEST_F(Overlay, RemoveDirectory) {
  EXPECT_ERR(rmdir("/etc/sub"), kNotempty);
  ASSERT_OK(remove("/etc/sub/deep"));
  EXPECT_EQ(list("/etc/sub"), "");
  ASSERT_OK(rmdir("/etc/sub"));
  EXPECT_ERR(find("/etc/sub"), kNoent);
  ASSERT_OK(mkdir("/etc/sub"));
  EXPECT_EQ(list("/etc/sub"), "");  // opaque: the old content stays hidden
  EXPECT_ERR(find("/etc/sub/deep"), kNoent);
  Dentry::shrink(0);
  Dentry::shrink(0);
  EXPECT_EQ(list("/etc/sub"), "");
  ASSERT_OK(touch("/etc/sub/deep"));
  EXPECT_EQ(get("/etc/sub/deep"), "");
  ASSERT_OK(remove("/etc/sub/deep"));
  ASSERT_OK(rmdir("/etc/sub"));
  EXPECT_EQ(list("/etc"), "hosts hosts2 passwd");
}

TEST_F(Overlay, RenameFiles) {
  Attr before = stat("/etc/passwd");
  ASSERT_OK(rename("/etc/passwd", "/usr/moved"));
  EXPECT_EQ(get("/usr/moved"), "root:x:0:0");
  EXPECT_EQ(stat("/usr/moved").ino, before.ino);
  EXPECT_ERR(find("/etc/passwd"), kNoent);
  ASSERT_OK(put("/etc/tmp", "replacement"));
  ASSERT_OK(rename("/etc/tmp", "/etc/hosts"));
  EXPECT_EQ(get("/etc/hosts"), "replacement");
  EXPECT_EQ(list("/etc"), "hosts hosts2 sub");
  ASSERT_OK(rename("/usr/moved", "/etc/passwd"));
  EXPECT_EQ(list("/etc"), "hosts hosts2 passwd sub");
  ASSERT_OK(rename("/etc/passwd", "/etc/hosts", RENAME_EXCHANGE));
  EXPECT_EQ(get("/etc/passwd"), "replacement");
  Dentry::shrink(0);
  Dentry::shrink(0);
  EXPECT_EQ(get("/etc/hosts"), "root:x:0:0");
  EXPECT_EQ(list("/usr"), "bin");
}

TEST_F(Overlay, RenameDirectories) {
  EXPECT_ERR(rename("/etc", "/etc2"), kXdev);
  ASSERT_OK(mkdir("/new"));
  ASSERT_OK(put("/new/f", "f"));
  EXPECT_ERR(rename("/new", "/etc"), kNotempty);
  ASSERT_OK(rename("/new", "/empty"));
  EXPECT_EQ(list("/"), "empty etc link usr");
  EXPECT_EQ(get("/empty/f"), "f");
  ASSERT_OK(remove("/etc/sub/deep"));
  ASSERT_OK(rename("/empty", "/etc/sub"));
  Dentry::shrink(0);
  Dentry::shrink(0);
  EXPECT_EQ(list("/etc/sub"), "f");
  EXPECT_ERR(find("/empty"), kNoent);
  ASSERT_OK(rename("/etc/sub", "/sub"));
  EXPECT_ERR(find("/etc/sub"), kNoent);
  EXPECT_EQ(list("/sub"), "f");
}

TEST_F(Overlay, HardLinks) {
  ASSERT_OK(link("/etc/passwd", "/usr/p2"));
  EXPECT_EQ(stat("/etc/passwd").ino, stat("/usr/p2").ino);
  EXPECT_EQ(stat("/usr/p2").nlink, 2u);
  ASSERT_OK(put("/usr/p2", "both"));
  EXPECT_EQ(get("/etc/passwd"), "both");
  Dentry::shrink(0);
  Dentry::shrink(0);
  ASSERT_OK(put("/etc/passwd", "again"));
  EXPECT_EQ(get("/usr/p2"), "again");
  ASSERT_OK(remove("/etc/passwd"));
  EXPECT_EQ(get("/usr/p2"), "again");
}

TEST_F(Overlay, TmpfileAndSpecial) {
  auto file = open("/usr/bin", O_TMPFILE | O_RDWR);
  ASSERT_OK(file);
  ASSERT_OK(write(**file, "t"));
  ASSERT_OK(link_path((*file)->path(), ctx(), "/usr/bin/t"));
  EXPECT_EQ(get("/usr/bin/t"), "t");
  EXPECT_ERR(node("/wh", S_IFCHR | 0666), kPerm);
  EXPECT_OK(node("/fifo", S_IFIFO | 0666));
  auto map = (*open("/usr/bin/tool", O_RDONLY))->map_handle(false);
  EXPECT_OK(map);
}

TEST_F(Overlay, EntryNumbersMatchStat) {
  ASSERT_OK(put("/etc/passwd", "changed"));
  ASSERT_OK(touch("/etc/new"));
  auto dir = open("/etc", O_RDONLY | O_DIRECTORY);
  ASSERT_OK((*dir)->read_dir([&](const DirEntry& e) {
    if (e.name == "." || e.name == "..") return true;
    EXPECT_EQ(stat("/etc/" + e.name).ino, e.ino) << e.name;
    return true;
  }));
}

TEST_F(Overlay, Permissions) {
  as_user();
  EXPECT_ERR(put("/etc/passwd", "x"), kAcces);
  EXPECT_ERR(remove("/etc/passwd"), kAcces);
  EXPECT_EQ(get("/etc/passwd"), "root:x:0:0");
}

}  // namespace
}  // namespace sbx::vfs
