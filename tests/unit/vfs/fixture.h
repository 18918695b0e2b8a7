// A kernel without tasks: a mount namespace on a tmpfs, paths and credentials, and a fiber that holds the kernel lock.
#pragma once
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <sys/mount.h>

#include <ostream>

#include "sentry/fiber/kernel_lock.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/walk.h"

namespace sbx {

inline void PrintTo(Errno e, std::ostream* os) { *os << errno_name(e); }

// The error of a result, kNone if it succeeded: EXPECT_EQ(err(call), Errno::kNoent).
template <typename T>
Errno err(const Result<T>& r) {
  return r ? Errno::kNone : r.error();
}

#define EXPECT_OK(call) EXPECT_EQ(::sbx::err(call), ::sbx::Errno::kNone)
#define ASSERT_OK(call) ASSERT_EQ(::sbx::err(call), ::sbx::Errno::kNone)
#define EXPECT_ERR(call, e) EXPECT_EQ(::sbx::err(call), ::sbx::Errno::e)

namespace vfs {

inline RefPtr<tmpfs::Tmpfs> new_tmpfs(std::string_view options = "mode=755") {
  auto parsed = tmpfs::parse_options(options);
  return tmpfs::Tmpfs::create(*parsed);
}

class VfsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs_ = new_tmpfs();
    setup_namespace(fs_);
  }

  void setup_namespace(RefPtr<FileSystem> root_fs) {
    ns_ = MountNamespace::create(std::move(root_fs), 0, "none");
    root_creds_ = security::kernel_credentials();
    auto* user = new security::Credentials;
    user->uid = user->euid = user->suid = user->fsuid = 1000;
    user->gid = user->egid = user->sgid = user->fsgid = 1000;
    user_creds_ = security::CredPtr(user);
    creds_ = root_creds_;
  }

  // Runs the body in a fiber; the other fibers it starts run whenever it parks or yields.
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

  void as_user() { creds_ = user_creds_; }
  void as_root() { creds_ = root_creds_; }

  WalkContext ctx() const { return {ns_->root(), cwd_ ? cwd_ : ns_->root(), creds_.get(), ns_.get()}; }
  Result<Path> find(std::string_view p, WalkFlags flags = {}) { return resolve(ctx(), p, flags); }
  Result<Path> lfind(std::string_view p) { return resolve(ctx(), p, {.follow_last = false}); }
  Result<Path> node(std::string_view p, u32 mode, std::string target = {}) {
    NewNode n;
    n.mode = mode;
    n.target = std::move(target);
    return make_node(ctx(), p, n);
  }
  Result<Path> mkdir(std::string_view p, u32 mode = 0755) { return node(p, S_IFDIR | mode); }
  Result<Path> symlink(std::string target, std::string_view p) { return node(p, S_IFLNK | 0777, std::move(target)); }
  Result<RefPtr<File>> open(std::string_view p, u32 flags, u32 mode = 0644) {
    return vfs::open(ctx(), p, {.flags = flags, .mode = mode});
  }
  Result<void> touch(std::string_view p, u32 mode = 0644) {
    auto file = open(p, O_CREAT | O_WRONLY, mode);
    if (!file) return file.error();
    return {};
  }
  Result<void> remove(std::string_view p) { return vfs::unlink(ctx(), p); }
  Result<void> rmdir(std::string_view p) { return vfs::rmdir(ctx(), p); }
  Result<void> rename(std::string_view a, std::string_view b, u32 flags = 0) {
    return vfs::rename(ctx(), a, ctx(), b, flags);
  }
  Result<void> link(std::string_view a, std::string_view b) { return vfs::link(ctx(), a, false, ctx(), b); }
  Result<void> chmod(std::string_view p, u32 mode) {
    auto path = find(p);
    if (!path) return path.error();
    return set_attr(*creds_, *path, {.mask = SetAttr::kMode, .mode = mode});
  }
  Result<void> chown(std::string_view p, u32 uid, u32 gid) {
    auto path = find(p);
    if (!path) return path.error();
    return set_attr(*creds_, *path, {.mask = SetAttr::kUid | SetAttr::kGid, .uid = uid, .gid = gid});
  }
  Attr stat(std::string_view p) {
    auto path = find(p);
    if (!path) {
      ADD_FAILURE() << "stat " << p << ": " << errno_name(path.error());
      return {};
    }
    return *path->inode()->attr();
  }
  std::string text(std::string_view p) {
    auto path = find(p);
    return path ? path_text(*path, ns_->root()) : errno_name(path.error());
  }

  static Result<size_t> write(File& f, std::string_view data) {
    KernelSource source(data.data(), data.size());
    return f.write(source, &f.position);
  }
  static std::string read_all(File& f) {
    std::string out;
    char buffer[4096];
    for (;;) {
      KernelSink sink(buffer, sizeof(buffer));
      auto n = f.read(sink, &f.position);
      if (!n || *n == 0) return out;
      out.append(buffer, *n);
    }
  }
  Result<void> put(std::string_view p, std::string_view data, u32 flags = O_CREAT | O_WRONLY | O_TRUNC) {
    auto file = open(p, flags);
    if (!file) return file.error();
    auto n = write(**file, data);
    if (!n) return n.error();
    return {};
  }
  std::string get(std::string_view p) {
    auto file = open(p, O_RDONLY);
    return file ? read_all(**file) : errno_name(file.error());
  }
  // Names in a directory, sorted, without "." and "..".
  std::string list(std::string_view p) {
    auto file = open(p, O_RDONLY | O_DIRECTORY);
    if (!file) return errno_name(file.error());
    std::vector<std::string> names;
    auto done = (*file)->read_dir([&](const DirEntry& e) {
      if (e.name != "." && e.name != "..") names.push_back(e.name);
      return true;
    });
    if (!done) return errno_name(done.error());
    std::sort(names.begin(), names.end());
    std::string out;
    for (auto& name : names) out += (out.empty() ? "" : " ") + name;
    return out;
  }

  RefPtr<FileSystem> fs_;
  RefPtr<MountNamespace> ns_;
  security::CredPtr root_creds_, user_creds_, creds_;
  Path cwd_;
};

}  // namespace vfs
}  // namespace sbx
