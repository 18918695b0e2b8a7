#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/xattr.h>

#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

class TmpfsTest : public VfsTest {
 protected:
  void use(std::string_view options) {
    fs_ = new_tmpfs(options);
    setup_namespace(fs_);
  }
  static Result<size_t> pwrite(File& f, std::string_view data, u64 at) {
    KernelSource source(data.data(), data.size());
    return f.write(source, &at);
  }
  static std::string pread(File& f, size_t n, u64 at) {
    std::string out(n, 0);
    KernelSink sink(out.data(), n);
    auto got = f.read(sink, &at);
    out.resize(got ? *got : 0);
    return out;
  }
};

TEST_F(TmpfsTest, ReadWriteSeek) {
  auto f = open("/f", O_CREAT | O_RDWR);
  ASSERT_OK(f);
  EXPECT_EQ(*write(**f, "hello world"), 11u);
  EXPECT_EQ(*(*f)->seek(6, SEEK_SET), 6u);
  EXPECT_EQ(read_all(**f), "world");
  EXPECT_EQ(*(*f)->seek(-5, SEEK_END), 6u);
  EXPECT_ERR((*f)->seek(-50, SEEK_END), kInval);
  EXPECT_OK(pwrite(**f, "end", 100));
  EXPECT_EQ(pread(**f, 20, 95), std::string(5, 0) + "end");
  EXPECT_EQ(pread(**f, 20, 500), "");
  auto append = open("/f", O_WRONLY | O_APPEND);
  EXPECT_OK(write(**append, "!"));
  EXPECT_EQ(stat("/f").size, 104u);
  EXPECT_EQ((*append)->position, 104u);
}

TEST_F(TmpfsTest, LargeFilesAndHoles) {
  auto f = open("/f", O_CREAT | O_RDWR);
  std::string block(100'000, 'x');
  EXPECT_EQ(*pwrite(**f, block, 0), block.size());
  EXPECT_EQ(*pwrite(**f, block, 1 << 20), block.size());
  EXPECT_EQ(pread(**f, 10, (1 << 20) - 5), std::string(5, 0) + "xxxxx");
  EXPECT_EQ(stat("/f").blocks, (25u + 25u) * 8);
  EXPECT_EQ(*(*f)->seek(0, SEEK_HOLE), 102'400u);
  EXPECT_EQ(*(*f)->seek(102'400, SEEK_DATA), u64{1 << 20});
  EXPECT_ERR((*f)->seek(1 << 21, SEEK_DATA), kNxio);
  EXPECT_OK((*f)->allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192));
  EXPECT_EQ(stat("/f").blocks, 48u * 8);
  EXPECT_EQ(pread(**f, 2, 4095), std::string("x\0", 2));
  EXPECT_ERR((*f)->allocate(FALLOC_FL_COLLAPSE_RANGE, 0, 4096), kOpnotsupp);
  EXPECT_OK(truncate(*creds_, **f, 10));
  EXPECT_EQ(stat("/f").blocks, 8u);
  EXPECT_OK(truncate(*creds_, **f, 5000));
  EXPECT_EQ(pread(**f, 6000, 9), "x" + std::string(4990, 0));
  EXPECT_OK(truncate(*creds_, **f, 1ull << 40));
  EXPECT_EQ(stat("/f").size, 1ull << 40);
  EXPECT_ERR(pwrite(**f, "x", ~0ull >> 1), kFbig);
}

TEST_F(TmpfsTest, Map) {
  auto f = open("/f", O_CREAT | O_RDWR);
  ASSERT_OK(write(**f, "small"));
  auto handle = (*f)->map_handle(true);
  ASSERT_OK(handle);
  auto* p = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, handle->host_fd, 0));
  ASSERT_NE(p, MAP_FAILED);
  EXPECT_EQ(std::string(p, 5), "small");
  p[0] = 'S';
  EXPECT_EQ(pread(**f, 5, 0), "Small");
  EXPECT_OK(pwrite(**f, "ALL", 2));
  EXPECT_EQ(std::string(p, 5), "SmALL");
  munmap(p, 4096);
  EXPECT_EQ((*f)->map_handle(false)->host_fd, handle->host_fd);
  EXPECT_OK(truncate(*creds_, **f, 0));
  EXPECT_EQ((*f)->map_handle(false)->host_fd, handle->host_fd);
}

TEST_F(TmpfsTest, NoSpace) {
  use("size=64k,mode=755");
  auto f = open("/f", O_CREAT | O_RDWR);
  std::string block(40'960, 'x');
  EXPECT_EQ(*pwrite(**f, block, 0), block.size());
  EXPECT_EQ(*pwrite(**f, block, 40'960), 24'576u);
  EXPECT_ERR(pwrite(**f, "x", 65'536), kNospc);
  EXPECT_OK(pwrite(**f, "y", 0));
  EXPECT_EQ(fs_->statfs()->bfree, 0u);
  auto g = open("/g", O_CREAT | O_RDWR);
  EXPECT_ERR(pwrite(**g, "x", 0), kNospc);
  EXPECT_EQ(stat("/g").size, 0u);
  EXPECT_ERR((*g)->allocate(0, 0, 4096), kNospc);
  EXPECT_OK(truncate(*creds_, **f, 4096));
  EXPECT_EQ(fs_->statfs()->bfree, 15u);
  EXPECT_OK((*g)->allocate(0, 0, 4096));
  f->reset();
  g->reset();
  EXPECT_OK(remove("/f"));
  EXPECT_OK(remove("/g"));
  EXPECT_EQ(fs_->statfs()->bfree, 16u);
}

TEST_F(TmpfsTest, HeapFileMeetsTheLimit) {
  use("size=8k");
  auto f = open("/f", O_CREAT | O_RDWR);
  EXPECT_EQ(*pwrite(**f, std::string(20'000, 'x'), 0), 8192u);
  EXPECT_EQ(stat("/f").size, 8192u);
}

TEST_F(TmpfsTest, WorksWithoutDescriptors) {
  rlimit saved{};
  getrlimit(RLIMIT_NOFILE, &saved);
  rlimit none{3, saved.rlim_max};
  setrlimit(RLIMIT_NOFILE, &none);
  auto f = open("/f", O_CREAT | O_RDWR);
  std::string data(200'000, 'd');
  EXPECT_EQ(*pwrite(**f, data, 0), data.size());
  EXPECT_EQ(pread(**f, data.size(), 0), data);
  EXPECT_ERR((*f)->map_handle(false), kNfile);
  EXPECT_ERR(truncate(*creds_, **f, 1ull << 40), kNfile);
  setrlimit(RLIMIT_NOFILE, &saved);
  EXPECT_OK((*f)->map_handle(false));
  EXPECT_EQ(pread(**f, data.size(), 0), data);
}

TEST_F(TmpfsTest, NoInodes) {
  use("nr_inodes=3,mode=755");
  EXPECT_OK(touch("/a"));
  EXPECT_OK(touch("/b"));
  EXPECT_ERR(touch("/c"), kNospc);
  EXPECT_ERR(mkdir("/c"), kNospc);
  EXPECT_OK(remove("/a"));
  EXPECT_OK(touch("/c"));
}

TEST_F(TmpfsTest, Options) {
  auto o = tmpfs::parse_options("size=65536k,mode=1777,uid=5,gid=6,nr_inodes=1k");
  ASSERT_OK(o);
  EXPECT_EQ(o->size, 64u << 20);
  EXPECT_EQ(o->nr_inodes, 1024u);
  EXPECT_EQ(tmpfs::Tmpfs::create(*o)->options(), "size=65536k,nr_inodes=1024,uid=5,gid=6");
  EXPECT_ERR(tmpfs::parse_options("size=abc"), kInval);
  EXPECT_ERR(tmpfs::parse_options("bogus"), kInval);
  EXPECT_OK(tmpfs::parse_options(""));
  EXPECT_OK(tmpfs::parse_options("size=50%"));
}

TEST_F(TmpfsTest, ReadDirPositionsStay) {
  for (int i = 0; i < 10; ++i) ASSERT_OK(touch("/f" + std::to_string(i)));
  auto dir = open("/", O_RDONLY | O_DIRECTORY);
  std::string seen;
  int budget = 5;
  auto emit = [&](const DirEntry& e) {
    if (budget-- == 0) return false;
    seen += e.name + " ";
    return true;
  };
  ASSERT_OK((*dir)->read_dir(emit));
  EXPECT_EQ(seen, ". .. f0 f1 f2 ");
  ASSERT_OK(remove("/f0"));
  ASSERT_OK(remove("/f3"));
  ASSERT_OK(touch("/new"));
  budget = 100;
  ASSERT_OK((*dir)->read_dir(emit));
  EXPECT_EQ(seen, ". .. f0 f1 f2 f4 f5 f6 f7 f8 f9 new ");
}

TEST_F(TmpfsTest, Xattrs) {
  ASSERT_OK(touch("/f"));
  RefPtr<Inode> i(find("/f")->inode());
  EXPECT_ERR(i->get_xattr("user.a"), kNodata);
  EXPECT_ERR(i->set_xattr("user.a", "1", XATTR_REPLACE), kNodata);
  EXPECT_OK(i->set_xattr("user.a", "1", XATTR_CREATE));
  EXPECT_ERR(i->set_xattr("user.a", "1", XATTR_CREATE), kExist);
  EXPECT_EQ(*i->get_xattr("user.a"), "1");
  EXPECT_EQ(i->list_xattr()->size(), 1u);
  EXPECT_OK(i->remove_xattr("user.a"));
  EXPECT_ERR(i->remove_xattr("user.a"), kNodata);
  EXPECT_ERR(i->set_xattr("system.posix_acl_access", "1", 0), kOpnotsupp);
}

}  // namespace
}  // namespace sbx::vfs
