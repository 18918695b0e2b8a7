// The client filesystem through the generic operations, over a real gofer process.
#include <linux/fs.h>
#include <sys/sysmacros.h>

#include <thread>

#include "sentry/fiber/kernel_lock.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/vfs/walk.h"
#include "tests/unit/gofer/fixture.h"

namespace sbx::fs::gofer {
namespace {

using vfs::SetAttr;

class GoferFsTest : public wire::GoferTest {
 protected:
  void TearDown() override {
    ns_.reset();
    fs_.reset();
    vfs::Dentry::shrink(0);
    shared_.reset();
    GoferTest::TearDown();
  }
  void mount(u32 index = 0, bool share = false, u32 directory_fds = 0) {
    shared_rootfs_ = share;
    start(directory_fds);
    shared_ = std::shared_ptr<wire::Client>(std::move(client_));
    auto fs = GoferFs::create(shared_, index, "rootfs");
    ASSERT_TRUE(fs) << errno_name(fs.error());
    fs_ = *fs;
    ns_ = vfs::MountNamespace::create(fs_, 0, "rootfs");
  }
  static void in_fiber(std::function<void()> body) {
    fiber::KernelLock lock;
    bool done = false;
    fiber::spawn([&] {
      body();
      done = true;
    });
    fiber::run_ready();
    EXPECT_TRUE(done) << "the test body is still parked";
  }
  vfs::WalkContext ctx() { return {ns_->root(), ns_->root(), security::kernel_credentials().get(), ns_.get()}; }
  Result<RefPtr<vfs::File>> open(std::string_view p, u32 flags, u32 mode = 0644) {
    return vfs::open(ctx(), p, {.flags = flags, .mode = mode});
  }
  Result<vfs::Attr> stat(std::string_view p) {
    auto path = vfs::resolve(ctx(), p, {.follow_last = false});
    if (!path) return path.error();
    return path->inode()->attr();
  }
  Errno stat_error(std::string_view p) {
    auto a = stat(p);
    return a ? Errno::kNone : a.error();
  }
  static Result<size_t> write(vfs::File& f, std::string_view data) {
    vfs::KernelSource source(data.data(), data.size());
    return f.write(source, &f.position);
  }
  static std::string read_all(vfs::File& f) {
    std::string out;
    std::vector<char> buffer(100'000);
    for (;;) {
      vfs::KernelSink sink(buffer.data(), buffer.size());
      auto n = f.read(sink, &f.position);
      if (!n || *n == 0) return out;
      out.append(buffer.data(), *n);
    }
  }
  std::string get(std::string_view p) {
    auto f = open(p, O_RDONLY);
    return f ? read_all(**f) : errno_name(f.error());
  }
  Errno put(std::string_view p, std::string_view data) {
    auto f = open(p, O_CREAT | O_TRUNC | O_WRONLY);
    if (!f) return f.error();
    auto n = write(**f, data);
    return n ? Errno::kNone : n.error();
  }
  std::vector<std::string> list(std::string_view p) {
    std::vector<std::string> names;
    auto f = open(p, O_RDONLY | O_DIRECTORY);
    if (!f) return {errno_name(f.error())};
    // In small portions, as getdents with a small buffer.
    for (;;) {
      size_t before = names.size();
      int room = 7;
      auto done = (*f)->read_dir([&](const vfs::DirEntry& e) {
        if (room-- == 0) return false;
        names.push_back(e.name);
        return true;
      });
      if (!done || names.size() == before) break;
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  u64 trips() const { return shared_->round_trips(); }
  template <typename T>
  static Errno err(const Result<T>& r) {
    return r ? Errno::kNone : r.error();
  }

  RefPtr<GoferFs> fs_;
  RefPtr<vfs::MountNamespace> ns_;
  std::shared_ptr<wire::Client> shared_;
};

TEST_F(GoferFsTest, CachedStatAndOpenNeedNoRoundTrip) {
  std::filesystem::create_directories(tree_ + "/usr/lib");
  write_file(tree_ + "/usr/lib/f", "text");
  mount();
  in_fiber([&] {
    EXPECT_EQ(stat("/usr/lib/f")->size, 4u);
    EXPECT_EQ(get("/usr/lib/f"), "text");
    EXPECT_EQ(stat_error("/usr/lib/none"), Errno::kNoent);
    u64 before = trips();
    for (int i = 0; i < 100; ++i) {
      EXPECT_EQ(stat("/usr/lib/f")->size, 4u);
      EXPECT_EQ(get("/usr/lib/f"), "text");
      EXPECT_EQ(stat_error("/usr/lib/none"), Errno::kNoent);
    }
    EXPECT_EQ(trips(), before);
  });
}

TEST_F(GoferFsTest, ColdTreeCostsAboutOneRoundTripADirectory) {
  for (int d = 0; d < 20; ++d) {
    std::string dir = tree_ + "/d" + std::to_string(d);
    std::filesystem::create_directory(dir);
    for (int f = 0; f < 100; ++f) write_file(dir + "/f" + std::to_string(f), "");
  }
  mount();
  in_fiber([&] {
    u64 before = trips();
    size_t seen = 0;
    for (auto& d : list("/")) {
      if (d[0] != 'd') continue;
      for (auto& f : list("/" + d)) {
        if (f[0] != 'f') continue;
        EXPECT_EQ(stat_error("/" + d + "/" + f), Errno::kNone);
        ++seen;
      }
    }
    EXPECT_EQ(seen, 2000u);
    // The first directory is listed by name, then one of its files is asked for, then all.
    EXPECT_LE(trips() - before, 26u);
  });
}

// In the order of the directory, as programs get the names.
TEST_F(GoferFsTest, FilesOpenedInOrderComeInBatches) {
  for (const char* dir : {"a", "b", "c"}) {
    std::filesystem::create_directory(tree_ + "/" + dir);
    for (int f = 0; f < 100; ++f) {
      std::string name = "/" + std::string(dir) + "/f" + std::to_string(f);
      write_file(tree_ + name, "text of " + name);
    }
  }
  mount();
  in_fiber([&] {
    auto in_order = [&](const std::string& dir) {
      std::vector<std::string> names;
      auto f = open(dir, O_RDONLY | O_DIRECTORY);
      EXPECT_TRUE(f);
      EXPECT_TRUE((*f)->read_dir([&](const vfs::DirEntry& e) {
        if (e.name[0] == 'f') names.push_back(dir + "/" + e.name);
        return true;
      }));
      EXPECT_EQ(names.size(), 100u);
      return names;
    };
    auto a = in_order("/a");
    u64 before = trips();
    for (const auto& name : a) EXPECT_EQ(get(name), "text of " + name);
    EXPECT_LE(trips() - before, 16u);
    // The next directory begins with a batch. What changes meanwhile is seen.
    auto b = in_order("/b");
    EXPECT_EQ(get(b[0]), "text of " + b[0]);
    std::filesystem::rename(tree_ + b[4], tree_ + "/aside");  // not by us: seen later
    EXPECT_EQ(get(b[1]), "text of " + b[1]);
    EXPECT_EQ(put("/new", "new"), Errno::kNone);
    EXPECT_TRUE(vfs::rename(ctx(), "/new", ctx(), b[2], 0));
    EXPECT_EQ(get(b[2]), "new");
    EXPECT_EQ(get(b[3]), "text of " + b[3]);
    EXPECT_TRUE(vfs::unlink(ctx(), b[5]));
    EXPECT_EQ(get(b[5]), "ENOENT");
    EXPECT_EQ(put(b[6], "written"), Errno::kNone);
    EXPECT_EQ(get(b[6]), "written");
    for (size_t i = 7; i < 100; ++i) EXPECT_EQ(get(b[i]), "text of " + b[i]);
    // Opened out of order: one by one, and no more than that.
    auto c = in_order("/c");
    before = trips();
    for (size_t i = 99; i > 0; i -= 9) EXPECT_EQ(get(c[i]), "text of " + c[i]);
    EXPECT_LE(trips() - before, 13u);
  });
}

TEST_F(GoferFsTest, FilesOpenedInOrderAgainComeInBatchesAgain) {
  constexpr int kFiles = 1300;  // more than stay open
  std::filesystem::create_directory(tree_ + "/d");
  for (int f = 0; f < kFiles; ++f) write_file(tree_ + "/d/f" + std::to_string(f), std::to_string(f));
  mount();
  in_fiber([&] {
    std::vector<std::string> names;
    auto f = open("/d", O_RDONLY | O_DIRECTORY);
    ASSERT_TRUE(f);
    ASSERT_TRUE((*f)->read_dir([&](const vfs::DirEntry& e) {
      if (e.name[0] == 'f') names.emplace_back(e.name);
      return true;
    }));
    ASSERT_EQ(names.size(), size_t{kFiles});
    for (int walk = 0; walk < 3; ++walk) {
      const u64 before = trips();
      for (const auto& name : names) EXPECT_EQ(get("/d/" + name), name.substr(1));
      EXPECT_LE(trips() - before, u64{kFiles / 8});
    }
    // One that is opened often says nothing of the others.
    const u64 before = trips();
    for (int i = 0; i < 2000; ++i)
      EXPECT_EQ(get("/d/" + names[i % 2 == 0 ? 0 : 5]), names[i % 2 == 0 ? 0 : 5].substr(1));
    EXPECT_LE(trips() - before, 4u);
  });
}

TEST_F(GoferFsTest, WritesShowInSizeAndOnTheHost) {
  mount();
  in_fiber([&] {
    auto f = open("/new", O_CREAT | O_EXCL | O_RDWR, 0640);
    ASSERT_TRUE(f);
    EXPECT_EQ(*write(**f, "hello"), 5u);
    EXPECT_EQ(stat("/new")->size, 5u);
    EXPECT_EQ(stat("/new")->mode, u32(S_IFREG | 0640));
    EXPECT_EQ(err(open("/new", O_CREAT | O_EXCL | O_RDWR)), Errno::kExist);
    auto a = open("/new", O_WRONLY | O_APPEND);
    ASSERT_TRUE(a);
    EXPECT_EQ(*write(**a, " world"), 6u);
    EXPECT_EQ((*a)->position, 11u);
    EXPECT_EQ(get("/new"), "hello world");
    EXPECT_EQ(*(*f)->seek(-5, SEEK_END), 6u);
    EXPECT_EQ(read_all(**f), "world");
    EXPECT_EQ(err((*f)->sync(true)), Errno::kNone);
    EXPECT_EQ(err((*f)->allocate(0, 0, 100)), Errno::kNone);
    EXPECT_EQ(stat("/new")->size, 100u);
    EXPECT_EQ(err(vfs::truncate(*ctx().creds, **f, 3)), Errno::kNone);
    EXPECT_EQ(stat("/new")->size, 3u);
    u64 before = trips();
    EXPECT_EQ(put("/new", "x"), Errno::kNone);
    EXPECT_EQ(stat("/new")->size, 1u);
    EXPECT_EQ(trips(), before);
  });
  std::ifstream host(tree_ + "/new");
  std::string text;
  host >> text;
  EXPECT_EQ(text, "x");
}

TEST_F(GoferFsTest, BigFilesKeepTheirBytes) {
  mount();
  in_fiber([&] {
    std::string data(3'000'001, '\0');
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7 + i / 4096);
    EXPECT_EQ(put("/big", data), Errno::kNone);
    EXPECT_TRUE(get("/big") == data);
  });
}

TEST_F(GoferFsTest, TreeChangesAreSeenAtOnce) {
  mount();
  in_fiber([&] {
    vfs::NewNode dir;
    dir.mode = S_IFDIR | 0755;
    ASSERT_TRUE(vfs::make_node(ctx(), "/d", dir));
    EXPECT_EQ(list("/").size(), 3u);
    EXPECT_EQ(put("/d/a", "A"), Errno::kNone);
    EXPECT_EQ(list("/d"), (std::vector<std::string>{".", "..", "a"}));
    vfs::NewNode link;
    link.mode = S_IFLNK | 0777;
    link.target = "a";
    ASSERT_TRUE(vfs::make_node(ctx(), "/d/l", link));
    EXPECT_EQ(get("/d/l"), "A");
    EXPECT_EQ(err(vfs::link(ctx(), "/d/a", false, ctx(), "/d/hard")), Errno::kNone);
    EXPECT_EQ(stat("/d/a")->nlink, 2u);
    EXPECT_EQ(stat("/d/hard")->ino, stat("/d/a")->ino);
    EXPECT_EQ(put("/d/hard", "longer"), Errno::kNone);
    EXPECT_EQ(stat("/d/a")->size, 6u);
    EXPECT_EQ(list("/d").size(), 5u);
    EXPECT_EQ(err(vfs::rename(ctx(), "/d/a", ctx(), "/b", 0)), Errno::kNone);
    EXPECT_EQ(stat_error("/d/a"), Errno::kNoent);
    EXPECT_EQ(get("/b"), "longer");
    EXPECT_EQ(err(vfs::rename(ctx(), "/d", ctx(), "/e", 0)), Errno::kNone);
    EXPECT_EQ(get("/e/hard"), "longer");
    EXPECT_EQ(put("/e/more", "1"), Errno::kNone);
    EXPECT_EQ(err(vfs::rmdir(ctx(), "/e")), Errno::kNotempty);
    for (auto name : {"/e/hard", "/e/more", "/e/l"}) EXPECT_EQ(err(vfs::unlink(ctx(), name)), Errno::kNone);
    EXPECT_EQ(stat("/b")->nlink, 1u);
    EXPECT_EQ(err(vfs::rmdir(ctx(), "/e")), Errno::kNone);
    EXPECT_EQ(list("/"), (std::vector<std::string>{".", "..", "b"}));
    dir.mode = S_IFCHR | 0666;
    dir.rdev = makedev(1, 3);
    EXPECT_EQ(err(vfs::make_node(ctx(), "/null", dir)), Errno::kPerm);
  });
}

TEST_F(GoferFsTest, RenameExchangeAndReplace) {
  mount();
  in_fiber([&] {
    EXPECT_EQ(put("/a", "A"), Errno::kNone);
    EXPECT_EQ(put("/b", "BB"), Errno::kNone);
    list("/");
    EXPECT_EQ(err(vfs::rename(ctx(), "/a", ctx(), "/b", RENAME_EXCHANGE)), Errno::kNone);
    EXPECT_EQ(get("/a"), "BB");
    EXPECT_EQ(get("/b"), "A");
    auto old = open("/b", O_RDONLY);
    EXPECT_EQ(err(vfs::rename(ctx(), "/a", ctx(), "/b", 0)), Errno::kNone);
    EXPECT_EQ(get("/b"), "BB");
    EXPECT_EQ(read_all(**old), "A");
    EXPECT_EQ((*old)->attr()->nlink, 0u);
    EXPECT_EQ(list("/").size(), 3u);
  });
}

TEST_F(GoferFsTest, UnlinkedOpenFilesWork) {
  mount();
  in_fiber([&] {
    auto f = open("/f", O_CREAT | O_RDWR);
    ASSERT_TRUE(f);
    EXPECT_EQ(*write(**f, "data"), 4u);
    EXPECT_EQ(err(vfs::unlink(ctx(), "/f")), Errno::kNone);
    EXPECT_EQ(*write(**f, "more"), 4u);
    (*f)->position = 0;
    EXPECT_EQ(read_all(**f), "datamore");
    EXPECT_EQ((*f)->attr()->nlink, 0u);
    SetAttr change;
    change.mask = SetAttr::kMode;
    change.mode = 0600;
    EXPECT_EQ(err((*f)->inode()->set_attr(change)), Errno::kNone);
    EXPECT_EQ((*f)->attr()->mode & 07777, 0600u);
    EXPECT_TRUE((*f)->map_handle(false));
    EXPECT_EQ(put("/f", "other"), Errno::kNone);
    EXPECT_NE(stat("/f")->ino, (*f)->attr()->ino);
    auto t = open("/", O_TMPFILE | O_RDWR, 0600);
    ASSERT_TRUE(t) << errno_name(t.error());
    EXPECT_EQ(*write(**t, "unnamed"), 7u);
    EXPECT_EQ(err(vfs::link_path((*t)->path(), ctx(), "/named")), Errno::kNone);
    EXPECT_EQ(get("/named"), "unnamed");
  });
}

TEST_F(GoferFsTest, MapHandlesCannotWriteUnlessAsked) {
  mount();
  in_fiber([&] {
    EXPECT_EQ(put("/f", "data"), Errno::kNone);
    auto r = open("/f", O_RDONLY);
    auto h = (*r)->map_handle(false);
    ASSERT_TRUE(h);
    EXPECT_EQ(fcntl(h->host_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    EXPECT_EQ(err((*r)->map_handle(true)), Errno::kAcces);
    auto w = open("/f", O_RDWR);
    h = (*w)->map_handle(true);
    ASSERT_TRUE(h);
    EXPECT_EQ(fcntl(h->host_fd, F_GETFL) & O_ACCMODE, O_RDWR);
  });
}

TEST_F(GoferFsTest, AttributesOwnersTimesXattrs) {
  write_file(tree_ + "/f", "");
  mount();
  in_fiber([&] {
    auto path = vfs::resolve(ctx(), "/f");
    ASSERT_TRUE(path);
    SetAttr c;
    c.mask = SetAttr::kUid | SetAttr::kGid | SetAttr::kMode | SetAttr::kMtime;
    c.uid = 7;
    c.gid = 8;
    c.mode = 0604;
    c.mtime = {5, 6};
    EXPECT_EQ(err(vfs::set_attr(*ctx().creds, *path, c)), Errno::kNone);
    auto a = stat("/f");
    EXPECT_EQ(a->uid, 7u);
    EXPECT_EQ(a->gid, 8u);
    EXPECT_EQ(a->mode & 07777, 0604u);
    EXPECT_EQ(a->mtime, (vfs::Time{5, 6}));
    Errno e = err(path->inode()->set_xattr("user.x", "1", 0));
    if (e != Errno::kOpnotsupp) {
      EXPECT_EQ(e, Errno::kNone);
      EXPECT_EQ(*path->inode()->get_xattr("user.x"), "1");
      EXPECT_EQ(path->inode()->list_xattr()->size(), 1u);
      EXPECT_EQ(err(path->inode()->remove_xattr("user.x")), Errno::kNone);
    }
    EXPECT_EQ(err(path->inode()->get_xattr("trusted.x")), Errno::kOpnotsupp);
  });
}

TEST_F(GoferFsTest, ReadOnlyMount) {
  write_file(tree_ + "/f", "text");
  mount(1);
  in_fiber([&] {
    EXPECT_EQ(get("/f"), "text");
    EXPECT_EQ(put("/f", "x"), Errno::kRofs);
    EXPECT_EQ(put("/g", "x"), Errno::kRofs);
    EXPECT_EQ(err(vfs::unlink(ctx(), "/f")), Errno::kRofs);
  });
}

TEST_F(GoferFsTest, FileAsRoot) {
  mount(2);
  in_fiber([&] {
    vfs::Path root = ns_->root();
    EXPECT_EQ(root.inode()->type(), u32(S_IFREG));
    auto f = vfs::open_path(*ctx().creds, root, O_RDWR);
    ASSERT_TRUE(f) << errno_name(f.error());
    EXPECT_EQ(read_all(**f), "file root");
    EXPECT_EQ(*write(**f, "!"), 1u);
    EXPECT_EQ(root.inode()->attr()->size, 10u);
  });
}

TEST_F(GoferFsTest, SharedMountsSeeTheHost) {
  write_file(tree_ + "/f", "text");
  std::filesystem::create_directory(tree_ + "/d");
  mount(0, true);
  in_fiber([&] {
    EXPECT_EQ(stat("/f")->size, 4u);
    EXPECT_EQ(stat_error("/d/later"), Errno::kNoent);
    list("/");
    write_file(tree_ + "/f", "longer text");
    write_file(tree_ + "/d/later", "x");
    usleep(40'000);
    EXPECT_EQ(stat("/f")->size, 11u);
    EXPECT_EQ(stat_error("/d/later"), Errno::kNone);
    EXPECT_EQ(get("/f"), "longer text");
    std::filesystem::rename(tree_ + "/d/later", tree_ + "/f");
    usleep(40'000);
    EXPECT_EQ(get("/f"), "x");
    EXPECT_EQ(list("/d").size(), 2u);
    std::filesystem::remove_all(tree_ + "/d");
    usleep(40'000);
    EXPECT_EQ(stat_error("/d"), Errno::kNoent);
  });
}

TEST_F(GoferFsTest, DeepTreesWithFewDescriptors) {
  mount(0, false, 4);
  in_fiber([&] {
    vfs::NewNode dir;
    dir.mode = S_IFDIR | 0755;
    std::string path;
    for (int i = 0; i < 60; ++i) {
      path += "/d" + std::to_string(i);
      ASSERT_TRUE(vfs::make_node(ctx(), path, dir)) << i;
      for (int k = 0; k < 6; ++k) {
        ASSERT_EQ(put(path + "/f" + std::to_string(k), path), Errno::kNone);
      }
    }
    vfs::Dentry::shrink(0);
    EXPECT_EQ(get(path + "/f3"), path);
    EXPECT_EQ(err(vfs::rename(ctx(), "/d0/d1", ctx(), "/moved", 0)), Errno::kNone);
    vfs::Dentry::shrink(0);
    EXPECT_EQ(get("/moved" + path.substr(6) + "/f5"), path);
  });
}

// Small operations against a model of the tree, with caches dropped now and then.
TEST_F(GoferFsTest, RandomOperationsMatchTheHost) {
  mount(0, false, 6);
  in_fiber([&] {
    u32 seed = 12345;
    auto random = [&](u32 n) {
      seed = seed * 1664525 + 1013904223;
      return (seed >> 8) % n;
    };
    vfs::NewNode dir;
    dir.mode = S_IFDIR | 0755;
    auto pick = [&] {
      std::string p;
      for (u32 i = 0, n = 1 + random(3); i < n; ++i) p += "/" + std::string(1, static_cast<char>('a' + random(4)));
      return p;
    };
    for (int i = 0; i < 4000; ++i) {
      std::string a = pick(), b = pick();
      switch (random(9)) {
        case 0: (void)vfs::make_node(ctx(), a, dir); break;
        case 1: (void)put(a, b); break;
        case 2: (void)vfs::unlink(ctx(), a); break;
        case 3: (void)vfs::rmdir(ctx(), a); break;
        case 4: (void)vfs::rename(ctx(), a, ctx(), b, 0); break;
        case 5: (void)vfs::rename(ctx(), a, ctx(), b, RENAME_EXCHANGE); break;
        case 6: (void)vfs::link(ctx(), a, false, ctx(), b); break;
        case 7: (void)list(a); break;
        default: vfs::Dentry::shrink(random(3)); break;
      }
      struct stat host;
      bool there = lstat((tree_ + a).c_str(), &host) == 0;
      auto ours = stat(a);
      ASSERT_EQ(there, ours.has_value()) << a << " step " << i << " "
                                         << errno_name(there ? ours.error() : Errno::kNone);
      if (!there) continue;
      ASSERT_EQ(ours->ino, host.st_ino) << a;
      ASSERT_EQ(ours->mode, host.st_mode);
      ASSERT_EQ(ours->nlink, host.st_nlink) << a << " step " << i;
      ASSERT_EQ(ours->size, u64(host.st_size));
      ASSERT_EQ(ours->mtime.nsec, u32(host.st_mtim.tv_nsec)) << a << " step " << i;
      if (S_ISDIR(host.st_mode)) {
        size_t entries = 2;
        for ([[maybe_unused]] auto& e : std::filesystem::directory_iterator(tree_ + a)) ++entries;
        ASSERT_EQ(list(a).size(), entries) << a << " step " << i;
      }
    }
  });
}

}  // namespace
}  // namespace sbx::fs::gofer
