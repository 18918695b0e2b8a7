#include "sentry/fs/anon/inotify.h"

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/walk.h"
#include "tests/unit/files/fixture.h"

namespace sbx {
namespace {
using namespace fs::anon;
using namespace test;

std::string describe(const std::string& bytes) {
  std::string out;
  for (size_t at = 0; at + sizeof(inotify_event) <= bytes.size();) {
    inotify_event e{};
    std::memcpy(&e, bytes.data() + at, sizeof(e));
    out += std::to_string(e.wd) + ":" + std::to_string(e.mask) + ":" +
           (e.len > 0 ? bytes.data() + at + sizeof(e) : "") + " ";
    at += sizeof(e) + e.len;
  }
  return out;
}

TEST(Inotify, EventsOfADirectory) {
  on_fiber([] {
    auto ns = vfs::MountNamespace::create(tmpfs::Tmpfs::create(*tmpfs::parse_options("mode=755")), 0, "tmpfs");
    vfs::WalkContext ctx{ns->root(), ns->root(), security::kernel_credentials().get(), ns.get()};
    auto file = make_inotify(IN_NONBLOCK).value();
    auto& inotify = static_cast<Inotify&>(*file);
    RefPtr<vfs::Inode> root(ns->root().inode());
    EXPECT_EQ(inotify.add_watch(root, 0).error(), Errno::kInval);
    EXPECT_EQ(inotify.add_watch(root, IN_CREATE).value(), 1);
    EXPECT_EQ(inotify.add_watch(root, IN_DELETE | IN_MASK_ADD).value(), 1);
    EXPECT_EQ(inotify.add_watch(root, IN_DELETE | IN_MASK_CREATE).error(), Errno::kExist);
    EXPECT_EQ(read_some(*file, 100).error(), Errno::kAgain);
    vfs::NewNode node;
    node.mode = S_IFREG | 0644;
    EXPECT_TRUE(vfs::make_node(ctx, "/a", node));
    EXPECT_TRUE(vfs::unlink(ctx, "/a"));
    EXPECT_EQ(file->readiness(), u32{POLLIN | POLLRDNORM});
    EXPECT_EQ(read_some(*file, 10).error(), Errno::kInval);
    EXPECT_EQ(describe(read_some(*file, 1000).value()), "1:256:a 1:512:a ");
    EXPECT_TRUE(inotify.remove_watch(1));
    EXPECT_EQ(inotify.remove_watch(1).error(), Errno::kInval);
    EXPECT_EQ(describe(read_some(*file, 1000).value()), "1:32768: ");
    // The watched object goes; a one-shot watch ends by itself.
    auto made = vfs::make_node(ctx, "/b", node).value();
    EXPECT_EQ(inotify.add_watch(RefPtr<vfs::Inode>(made.inode()), IN_DELETE_SELF).value(), 2);
    EXPECT_EQ(inotify.add_watch(root, IN_CREATE | IN_ONESHOT).value(), 3);
    made = {};
    EXPECT_TRUE(vfs::unlink(ctx, "/b"));
    EXPECT_TRUE(vfs::make_node(ctx, "/c", node));
    EXPECT_TRUE(vfs::make_node(ctx, "/d", node));
    EXPECT_EQ(describe(read_some(*file, 1000).value()), "2:1024: 2:32768: 3:256:c 3:32768: ");
  });
}

}  // namespace
}  // namespace sbx
