// The same random calls to the host's tmpfs and to ours: errors, attributes and the resulting tree must agree. The seed
// is fixed, so a difference can be found again; SBX_NATIVE_STEPS and SBX_NATIVE_SEED make the walk longer or another.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>

#include "sentry/fs/overlay/overlay.h"
#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

Errno native(i64 result) { return result < 0 ? last_errno() : Errno::kNone; }

class Native : public VfsTest {
 protected:
  void SetUp() override {
    VfsTest::SetUp();
    begin();
  }

  void begin() {
    if (geteuid() != 0) GTEST_SKIP() << "needs root for chown and setfsuid";
    char base[] = "/dev/shm/sbx-vfs-XXXXXX";
    if (mkdtemp(base) == nullptr) GTEST_SKIP() << "no tmpfs at /dev/shm";
    base_ = base;
    ::chmod(base, 0755);
    if (setgroups(0, nullptr) != 0) GTEST_SKIP() << "cannot drop groups";
    umask(0);
    // ".." in links may climb a little; both sides have the same empty directories above.
    std::string path;
    for (int i = 0; i < 6; ++i) {
      path += "/p";
      ASSERT_EQ(::mkdir((base_ + path).c_str(), 0755), 0);
      ASSERT_OK(mkdir(path));
    }
    ASSERT_EQ(chdir((base_ + path).c_str()), 0);
    cwd_ = *find(path);
    auto sysctl = [](const char* name, int fallback) {
      std::ifstream in(std::string("/proc/sys/fs/protected_") + name);
      int value = fallback;
      in >> value;
      return value;
    };
    saved_ = protections();
    protections() = {sysctl("symlinks", 1), sysctl("hardlinks", 1), sysctl("fifos", 1), sysctl("regular", 2)};
  }

  void TearDown() override {
    be_user(false);
    if (base_.empty()) return;
    protections() = saved_;
    (void)!chdir("/");
    (void)!system(("rm -rf " + base_).c_str());
  }

  void be_user(bool user) {
    setfsgid(user ? 1000 : 0);
    setfsuid(user ? 1000 : 0);
    if (user)
      as_user();
    else
      as_root();
  }

  u32 pick(u32 n) { return static_cast<u32>(random_() % n); }
  std::string name() {
    static const char* const kNames[] = {"a", "b", "c", "d", "e"};
    return kNames[pick(5)];
  }
  std::string path() {
    std::string p;
    for (u32 depth = 1 + pick(3); depth > 0; --depth) {
      p += pick(12) == 0 ? ".." : pick(15) == 0 ? "." : name();
      if (depth > 1) p += pick(10) == 0 ? "//" : "/";
    }
    if (pick(8) == 0) p += '/';
    return p;
  }

  // Calls until a difference; `before_each` runs as root.
  void walk(int n, const std::function<void(int)>& before_each) {
    std::vector<std::string> log;
    for (int i = 0; i < n; ++i) {
      before_each(i);
      bool user = pick(3) == 0;
      be_user(user);
      log.push_back((user ? "user: " : "root: ") + step());
      be_user(false);
      for (int k = 0; k < 2; ++k) compare(path());
      if (!HasFailure()) continue;
      for (size_t k = log.size() > 25 ? log.size() - 25 : 0; k < log.size(); ++k) printf("%s\n", log[k].c_str());
      FAIL() << "after " << i << " calls";
    }
  }

  // One call on both sides; its text for the report.
  std::string step() {
    std::string p = path(), q = path();
    Errno host = Errno::kNone, ours = Errno::kNone;
    std::string what;
    u32 mode = pick(4) == 0 ? pick(010000) : (pick(2) == 0 ? 0755u : 0777u);
    switch (pick(13)) {
      case 0:
      case 1:
        what = "mkdir " + p;
        host = native(::mkdir(p.c_str(), mode & 01777));
        ours = err(mkdir(p, mode & 01777));
        break;
      case 2:
        what = "rmdir " + p;
        host = native(::rmdir(p.c_str()));
        ours = err(rmdir(p));
        break;
      case 3:
        what = "unlink " + p;
        host = native(::unlink(p.c_str()));
        ours = err(remove(p));
        break;
      case 4:
        what = "symlink " + q + " <- " + p;
        host = native(::symlink(q.c_str(), p.c_str()));
        ours = err(symlink(q, p));
        break;
      case 5:
        what = "link " + p + " " + q;
        host = native(::link(p.c_str(), q.c_str()));
        ours = err(link(p, q));
        break;
      case 6:
      case 7: {
        u32 flags = pick(4);
        what = "rename " + p + " " + q + " " + std::to_string(flags);
        host = native(syscall(SYS_renameat2, AT_FDCWD, p.c_str(), AT_FDCWD, q.c_str(), flags));
        ours = err(rename(p, q, flags));
        break;
      }
      case 8:
      case 9:
      case 10: {
        static const u32 kFlags[] = {O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY, O_NOFOLLOW, O_APPEND, O_PATH};
        u32 flags = pick(3);
        if (pick(2) == 0) flags |= O_CREAT;
        for (u32 f : kFlags)
          if (pick(5) == 0) flags |= f;
        if ((flags & O_CREAT) != 0) flags &= ~u32{O_DIRECTORY};  // EINVAL since Linux 6.4 only
        what = "open " + p + " " + std::to_string(flags) + " mode " + std::to_string(mode);
        int fd = ::open(p.c_str(), static_cast<int>(flags | O_NONBLOCK), mode);
        host = native(fd);
        auto file = open(p, flags | O_NONBLOCK, mode & 07777);
        ours = err(file);
        if (fd >= 0 && file && (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_RDONLY) {
          EXPECT_EQ(::write(fd, "data", 4), 4);
          EXPECT_OK(write(**file, "data"));
          after_write(*creds_, **file);
        }
        if (fd >= 0) close(fd);
        break;
      }
      case 11:
        what = "chmod " + p + " " + std::to_string(mode);
        host = native(::chmod(p.c_str(), mode));
        ours = err(chmod(p, mode));
        break;
      default: {
        u32 uid = pick(2) * 1000, gid = pick(2) * 1000;
        what = "chown " + p + " " + std::to_string(uid) + ":" + std::to_string(gid);
        host = native(::chown(p.c_str(), uid, gid));
        ours = err(chown(p, uid, gid));
        break;
      }
    }
    EXPECT_EQ(ours, host) << what;
    return what + " = " + errno_name(host);
  }

  void compare(const std::string& p) {
    struct stat st {};
    Errno host = native(::lstat(p.c_str(), &st));
    auto found = lfind(p);
    ASSERT_EQ(err(found), host) << "lstat " << p;
    if (host != Errno::kNone) return;
    Attr a = *found->inode()->attr();
    EXPECT_EQ(a.mode, st.st_mode) << p;
    if (compare_nlink_) {
      EXPECT_EQ(a.nlink, st.st_nlink) << p;
    }
    EXPECT_EQ(a.uid, st.st_uid) << p;
    EXPECT_EQ(a.gid, st.st_gid) << p;
    if (!a.is_dir()) {
      EXPECT_EQ(a.size, static_cast<u64>(st.st_size)) << p;
    }
  }

  // rm -rf of everything in the current directory.
  void clear() {
    std::vector<std::string> work{""};
    std::vector<std::string> dirs;
    while (!work.empty()) {
      std::string dir = work.back();
      work.pop_back();
      auto file = open(dir.empty() ? "." : dir, O_RDONLY | O_DIRECTORY);
      ASSERT_OK(file);
      std::vector<DirEntry> entries;
      ASSERT_OK((*file)->read_dir([&](const DirEntry& e) {
        if (e.name != "." && e.name != "..") entries.push_back(e);
        return true;
      }));
      for (const DirEntry& e : entries) {
        std::string p = dir + e.name;
        if (e.type != DT_DIR) {
          ASSERT_OK(remove(p)) << p;
          continue;
        }
        dirs.push_back(p);
        work.push_back(p + "/");
      }
    }
    for (; !dirs.empty(); dirs.pop_back()) ASSERT_OK(rmdir(dirs.back()));
    ASSERT_OK(chown(".", 0, 0));
    ASSERT_OK(chmod(".", 0755));
  }

  std::string base_;
  Protections saved_;
  bool compare_nlink_ = true;
  std::mt19937 random_{1};
};

int steps(int fallback) {
  const char* given = getenv("SBX_NATIVE_STEPS");
  return given != nullptr ? atoi(given) : fallback;
}
u32 seed() {
  const char* given = getenv("SBX_NATIVE_SEED");
  return given != nullptr ? static_cast<u32>(atoi(given)) : 1;
}

TEST_F(Native, TmpfsAgrees) {
  random_.seed(seed());
  walk(steps(20'000), [&](int i) {
    // Now and then from nothing, else the small vocabulary fills up with odd permissions and loops.
    if (i % 400 != 399) return;
    (void)!system("rm -rf ./*");
    ASSERT_EQ(::chown(".", 0, 0), 0);
    ASSERT_EQ(::chmod(".", 0755), 0);
    clear();
    Dentry::shrink(0);
  });
}

// A random tree becomes the lower half of the host's overlayfs and of ours; then random calls again.
class NativeOverlay : public Native {
 protected:
  void round() {
    compare_nlink_ = false;  // merged directories and broken hard links: overlayfs itself promises nothing
    walk(150, [](int) {});
    if (HasFailure()) return;
    ASSERT_EQ(chdir("/"), 0);
    std::string lower = base_ + "/p", upper = base_ + "/u", work = base_ + "/w", top = base_ + "/m";
    for (const std::string& dir : {upper, work, top}) ASSERT_EQ(::mkdir(dir.c_str(), 0755), 0);
    std::string options =
        "index=off,redirect_dir=off,metacopy=off,lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work;
    if (::mount("overlay", top.c_str(), "overlay", 0, options.c_str()) != 0) GTEST_SKIP() << "no overlayfs here";
    ASSERT_EQ(chdir((top + "/p/p/p/p/p").c_str()), 0);
    // The lower half is the subtree below the first directory; ".." may still climb four.
    Path below = *find("/p");
    cwd_ = {};
    setup_namespace(*overlay::OverlayFs::create(new_tmpfs(), RefPtr<FileSystem>(new Subtree(below.dentry))));
    cwd_ = *find("/p/p/p/p/p");
    walk(400, [&](int i) {
      if (i % 20 == 0) Dentry::shrink(0);
    });
    cwd_ = {};
    ASSERT_EQ(chdir("/"), 0);
    umount2(top.c_str(), MNT_DETACH);
  }

  // A filesystem whose root is some directory of another.
  struct Subtree : FileSystem {
    explicit Subtree(RefPtr<Dentry> top) : top_(std::move(top)) {}
    const char* type_name() const override { return "subtree"; }
    RefPtr<Inode> root() override { return RefPtr<Inode>(top_->inode()); }
    Result<StatFs> statfs() override { return top_->fs().statfs(); }
    RefPtr<Dentry> top_;
  };
};

TEST_F(NativeOverlay, OverlayAgrees) {
  if (IsSkipped()) return;
  for (int i = 0; i < steps(20) && !HasFailure() && !IsSkipped(); ++i) {
    random_.seed(seed() * 1000 + static_cast<u32>(i));
    round();
    if (HasFailure()) printf("round %d\n", i);
    TearDown();
    base_.clear();
    VfsTest::SetUp();
    begin();
  }
}

}  // namespace
}  // namespace sbx::vfs
