#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

class Mounts : public VfsTest {
 protected:
  void SetUp() override {
    VfsTest::SetUp();
    for (const char* d : {"/m", "/m/sub", "/n", "/src", "/src/in"}) ASSERT_OK(mkdir(d));
    ASSERT_OK(put("/src/file", "data"));
  }
  Result<RefPtr<Mount>> mount(std::string_view at, u64 flags = 0) {
    auto path = find(at);
    if (!path) return path.error();
    return ns_->mount(new_tmpfs(), *path, flags, "none");
  }
  Result<void> umount(std::string_view at, bool detach = false) {
    auto path = find(at);
    if (!path) return path.error();
    return ns_->unmount(*path, detach);
  }
  Result<RefPtr<Mount>> bind(std::string_view from, std::string_view at, bool recursive = false) {
    auto a = find(from), b = find(at);
    if (!a || !b) return Errno::kNoent;
    return ns_->bind(*a, *b, 0, recursive);
  }
};

TEST_F(Mounts, CoversAndUncovers) {
  ASSERT_OK(mount("/m"));
  EXPECT_ERR(find("/m/sub"), kNoent);
  EXPECT_OK(touch("/m/f"));
  EXPECT_EQ(text("/m/f"), "/m/f");
  EXPECT_EQ(text("/m/.."), "/");
  EXPECT_EQ(ns_->mounts().size(), 2u);
  ASSERT_OK(mount("/m"));  // stacked
  EXPECT_ERR(find("/m/f"), kNoent);
  EXPECT_EQ(text("/m/.."), "/");
  ASSERT_OK(umount("/m"));
  EXPECT_OK(find("/m/f"));
  ASSERT_OK(umount("/m"));
  EXPECT_OK(find("/m/sub"));
  EXPECT_ERR(umount("/m"), kInval);
  EXPECT_ERR(umount("/"), kInval);
}

TEST_F(Mounts, Busy) {
  ASSERT_OK(mount("/m"));
  ASSERT_OK(mkdir("/m/deep"));
  ASSERT_OK(mount("/m/deep"));
  EXPECT_ERR(umount("/m"), kBusy);
  auto file = open("/m/deep", O_RDONLY);
  EXPECT_ERR(umount("/m/deep"), kBusy);
  EXPECT_OK(umount("/m/deep", true));
  EXPECT_OK((*file)->attr());
  EXPECT_ERR(rmdir("/m"), kBusy);
  EXPECT_ERR(rename("/m", "/q"), kBusy);
  EXPECT_ERR(rename("/m/deep", "/deep"), kXdev);
  EXPECT_ERR(link("/src/file", "/m/l"), kXdev);
  EXPECT_OK(umount("/m"));
  EXPECT_OK(rename("/m", "/q"));
}

TEST_F(Mounts, DirAndFileMustMatch) {
  ASSERT_OK(touch("/file"));
  EXPECT_ERR(mount("/file"), kNotdir);
  EXPECT_ERR(bind("/src/file", "/m"), kNotdir);
  EXPECT_OK(bind("/src/file", "/file"));
  EXPECT_EQ(get("/file"), "data");
  EXPECT_ERR(remove("/file"), kBusy);
  EXPECT_OK(umount("/file"));
  EXPECT_EQ(get("/file"), "");
}

TEST_F(Mounts, Bind) {
  ASSERT_OK(mount("/src/in"));
  ASSERT_OK(touch("/src/in/inner"));
  ASSERT_OK(bind("/src", "/m"));
  EXPECT_EQ(get("/m/file"), "data");
  EXPECT_ERR(find("/m/in/inner"), kNoent);
  ASSERT_OK(bind("/src", "/n", true));
  EXPECT_OK(find("/n/in/inner"));
  ASSERT_OK(put("/n/file2", "x"));
  EXPECT_EQ(get("/src/file2"), "x");
  EXPECT_EQ(text("/m/.."), "/");
  EXPECT_ERR(rename("/m/file", "/n/file3"), kXdev);
  EXPECT_OK(umount("/n", true));
  EXPECT_ERR(find("/n/in"), kNoent);
}

TEST_F(Mounts, Move) {
  ASSERT_OK(mount("/m"));
  ASSERT_OK(mkdir("/m/x"));
  EXPECT_ERR(ns_->move(*find("/m"), *find("/m/x")), kLoop);
  EXPECT_ERR(ns_->move(*find("/src"), *find("/n")), kInval);
  ASSERT_OK(ns_->move(*find("/m"), *find("/n")));
  EXPECT_OK(find("/n/x"));
  EXPECT_OK(find("/m/sub"));
}

TEST_F(Mounts, PivotRoot) {
  ASSERT_OK(mount("/m"));
  ASSERT_OK(mkdir("/m/old"));
  EXPECT_ERR(ns_->pivot_root(*find("/m/old"), *find("/m/old")), kInval);
  EXPECT_ERR(ns_->pivot_root(*find("/m"), *find("/n")), kBusy);
  EXPECT_ERR(ns_->pivot_root(*find("/"), *find("/m/old")), kBusy);
  ASSERT_OK(ns_->pivot_root(*find("/m"), *find("/m/old")));
  EXPECT_EQ(list("/"), "old");
  EXPECT_EQ(get("/old/src/file"), "data");
  EXPECT_OK(umount("/old", true));
  EXPECT_ERR(find("/old/src"), kNoent);
}

TEST_F(Mounts, PivotRootOntoItself) {
  // What container runtimes do: pivot_root(".", "."), then detach the old root that now covers the new one.
  ASSERT_OK(mount("/m"));
  ASSERT_OK(touch("/m/mark"));
  Path fresh = *find("/m");
  ASSERT_OK(ns_->pivot_root(fresh, fresh));
  cwd_ = fresh;
  ASSERT_OK(ns_->unmount(fresh, true));
  EXPECT_EQ(list("/"), "mark");
  EXPECT_EQ(ns_->mounts().size(), 1u);
}

TEST_F(Mounts, Clone) {
  ASSERT_OK(mount("/m"));
  ASSERT_OK(touch("/m/f"));
  std::function<Path(const Path&)> translate;
  RefPtr<MountNamespace> copy = ns_->clone(&translate);
  Path there = translate(*find("/m/f"));
  ASSERT_OK(umount("/m"));
  EXPECT_ERR(find("/m/f"), kNoent);
  WalkContext c{copy->root(), copy->root(), creds_.get(), copy.get()};
  EXPECT_OK(resolve(c, "/m/f"));
  EXPECT_EQ(path_text(there, copy->root()), "/m/f");
}

TEST_F(Mounts, PathTextFromElsewhere) {
  Path sub = *find("/m/sub");
  EXPECT_EQ(path_text(sub, *find("/m")), "/sub");
  EXPECT_EQ(path_text(sub, *find("/n")), "(unreachable)/m/sub");
  RefPtr<Dentry> pipe = Dentry::make_root(fs_, fs_->root(), "pipe:[7]");
  EXPECT_EQ(path_text({ns_->root().mount, pipe}, ns_->root()), "pipe:[7]");
}

TEST_F(Mounts, ChrootHoldsDotDot) {
  WalkContext jail = ctx();
  jail.root = jail.cwd = *find("/m");
  EXPECT_EQ(path_text(*resolve(jail, "../../.."), ns_->root()), "/m");
  EXPECT_EQ(path_text(*resolve(jail, "/sub/../.."), ns_->root()), "/m");
}

TEST_F(Mounts, BindEscape) {
  // A directory moved out of a bound subtree: ".." must not reach what lies above the bind.
  ASSERT_OK(mkdir("/src/in/cwd"));
  ASSERT_OK(bind("/src/in", "/n"));
  WalkContext jail = ctx();
  jail.root = *find("/n");
  jail.cwd = *find("/n/cwd");
  EXPECT_EQ(path_text(*resolve(jail, ".."), ns_->root()), "/n");
  ASSERT_OK(rename("/src/in/cwd", "/cwd"));
  EXPECT_ERR(resolve(jail, ".."), kNoent);
}

TEST_F(Mounts, FilesystemGoesWithItsLastMount) {
  size_t before = Dentry::cached_total();
  ASSERT_OK(mount("/m"));
  for (int i = 0; i < 50; ++i) {
    ASSERT_OK(mkdir("/m/d" + std::to_string(i)));
    ASSERT_OK(touch("/m/d" + std::to_string(i) + "/f"));
  }
  ASSERT_OK(umount("/m"));
  EXPECT_LE(Dentry::cached_total(), before + 1);
}

}  // namespace
}  // namespace sbx::vfs
