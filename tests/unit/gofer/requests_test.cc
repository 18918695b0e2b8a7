// Each request against a temporary tree, through the real process and its filter.
#include <dirent.h>
#include <linux/fs.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <map>

#include "tests/unit/gofer/fixture.h"

namespace sbx::gofer {
namespace {

template <typename Request>
Request at(NodeId dir, const std::string& name) {
  Request m;
  m.dir = dir;
  m.name = name;
  return m;
}
OpenRequest open_of(NodeId dir, const std::string& leaf, u32 flags) {
  OpenRequest m;
  m.target.dir = dir;
  m.target.leaf = leaf;
  m.flags = flags;
  return m;
}

TEST_F(GoferTest, LookupTellsAttributesTargetsAndNodes) {
  write_file(tree_ + "/f", "12345");
  std::filesystem::create_symlink("f", tree_ + "/l");
  std::filesystem::create_directory(tree_ + "/d");
  start();
  auto f = lookup(roots_[0], "f");
  ASSERT_TRUE(f);
  EXPECT_TRUE(S_ISREG(f->attr.mode));
  EXPECT_EQ(f->attr.size, 5u);
  EXPECT_EQ(f->dir, kNoNode);
  EXPECT_EQ(lookup(roots_[0], "l")->target, "f");
  auto d = lookup(roots_[0], "d");
  EXPECT_NE(d->dir, kNoNode);
  EXPECT_EQ(lookup(roots_[0], "d")->dir, d->dir);
  EXPECT_EQ(lookup(roots_[0], "none").error(), Errno::kNoent);
}

TEST_F(GoferTest, WalkStopsWhereItMust) {
  std::filesystem::create_directories(tree_ + "/a/b");
  write_file(tree_ + "/a/b/c", "x");
  std::filesystem::create_symlink("b", tree_ + "/a/s");
  start();
  WalkRequest m;
  m.dir = roots_[0];
  m.names = {"a", "b", "c"};
  u64 before = client_->round_trips();
  auto r = call(m);
  EXPECT_EQ(client_->round_trips(), before + 1);
  ASSERT_TRUE(r);
  ASSERT_EQ(r->nodes.size(), 3u);
  EXPECT_EQ(r->error, 0u);
  m.names = {"a", "s", "c"};
  r = call(m);
  EXPECT_EQ(r->nodes.size(), 2u);
  EXPECT_EQ(r->nodes[1].target, "b");
  EXPECT_EQ(r->error, 0u);
  m.names = {"a", "x", "c"};
  r = call(m);
  EXPECT_EQ(r->nodes.size(), 1u);
  EXPECT_EQ(r->error, u32(ENOENT));
}

TEST_F(GoferTest, ReadDirIsCompleteInChunks) {
  for (int i = 0; i < 3000; ++i) write_file(tree_ + "/a-rather-long-file-name-number-" + std::to_string(i), "");
  std::filesystem::create_directory(tree_ + "/sub");
  start();
  std::map<std::string, DirEntry> seen;
  ReadDirRequest m;
  m.dir = roots_[0];
  m.with_nodes = true;
  int chunks = 0;
  for (;;) {
    auto r = call(m);
    ASSERT_TRUE(r);
    ++chunks;
    for (auto& e : r->entries) {
      EXPECT_TRUE(e.known);
      EXPECT_EQ(e.ino, e.node.attr.ino);
      EXPECT_TRUE(seen.emplace(e.name, e).second) << e.name;
      m.cookie = e.cookie;
    }
    if (r->end) break;
  }
  EXPECT_EQ(seen.size(), 3001u);
  EXPECT_GT(chunks, 1);
  EXPECT_EQ(seen["sub"].node.dir, dir_of(roots_[0], "sub"));
  EXPECT_EQ(seen["sub"].type, DT_DIR);
}

// What is no regular file: a link to "f", a directory, a FIFO.
static void make_others(const std::string& tree) {
  std::filesystem::create_symlink("f", tree + "/l");
  std::filesystem::create_directory(tree + "/d");
  ASSERT_EQ(mkfifo((tree + "/p").c_str(), 0600), 0);
}

TEST_F(GoferTest, OpenDonatesRegularFilesOnly) {
  write_file(tree_ + "/f", "text");
  make_others(tree_);
  start();
  UniqueFd fd;
  ASSERT_TRUE(call(open_of(roots_[0], "f", O_RDONLY), -1, &fd));
  EXPECT_EQ(read_fd(fd.get()), "text");
  EXPECT_EQ(error_of(open_of(roots_[0], "l", O_RDONLY)), Errno::kLoop);
  EXPECT_EQ(error_of(open_of(roots_[0], "d", O_RDONLY)), Errno::kIsdir);
  EXPECT_EQ(error_of(open_of(roots_[0], "p", O_RDWR)), Errno::kInval);
  EXPECT_EQ(error_of(open_of(roots_[0], "f", O_CREAT | O_RDWR)), Errno::kInval);
  EXPECT_EQ(error_of(open_of(roots_[1], "f", O_RDWR)), Errno::kRofs);
  auto r = call(open_of(roots_[0], "f", O_RDWR | O_TRUNC), -1, &fd);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->attr.size, 0u);
}

TEST_F(GoferTest, OpensSeveralAndLeavesOutWhatItMayNot) {
  write_file(tree_ + "/f", "one");
  write_file(tree_ + "/g", "two");
  make_others(tree_);
  start();
  OpenSeveralRequest m;
  m.dir = roots_[0];
  m.names = {"f", "l", "none", "d", "p", "g"};
  std::vector<UniqueFd> fds;
  auto r = client_->call(m, fds);
  ASSERT_TRUE(r);
  ASSERT_EQ(r->files.size(), 2u);
  ASSERT_EQ(fds.size(), 2u);
  EXPECT_EQ(r->files[0].place, 0u);
  EXPECT_EQ(r->files[1].place, 5u);
  struct stat st {};
  ASSERT_EQ(stat((tree_ + "/g").c_str(), &st), 0);
  EXPECT_EQ(r->files[1].ino, st.st_ino);
  EXPECT_EQ(read_fd(fds[0].get()), "one");
  EXPECT_EQ(read_fd(fds[1].get()), "two");
  EXPECT_EQ(fcntl(fds[0].get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  m.names = {"l"};
  r = client_->call(m, fds);
  ASSERT_TRUE(r);
  EXPECT_TRUE(r->files.empty());
  EXPECT_TRUE(fds.empty());
  m.names.assign(kMostOpened + 1, Name("f"));
  EXPECT_EQ(client_->call(m, fds).error(), Errno::kInval);
  m.names.assign(kMostOpened, Name("f"));
  ASSERT_TRUE(client_->call(m, fds));
  EXPECT_EQ(fds.size(), kMostOpened);
}

TEST_F(GoferTest, FileAsMountRoot) {
  start();
  UniqueFd fd;
  ASSERT_TRUE(call(open_of(roots_[2], "", O_RDWR), -1, &fd));
  EXPECT_EQ(read_fd(fd.get()), "file root");
  EXPECT_EQ(lookup(roots_[2], "x").error(), Errno::kNotdir);
  ReadDirRequest m;
  m.dir = roots_[2];
  EXPECT_EQ(error_of(m), Errno::kNotdir);
  SetAttrRequest s;
  s.target.dir = roots_[2];
  s.change.mask = AttrChange::kSize | AttrChange::kMode;
  s.change.size = 4;
  s.change.mode = 0640;
  auto r = call(s);
  ASSERT_TRUE(r) << errno_name(r.error());
  EXPECT_EQ(r->attr.size, 4u);
  EXPECT_EQ(r->attr.mode & 07777, 0640u);
}

TEST_F(GoferTest, CreateGivesOwnersAndHonoursSetgidDirectories) {
  std::filesystem::create_directory(tree_ + "/g");
  ASSERT_EQ(chown((tree_ + "/g").c_str(), 0, 77), 0);
  ASSERT_EQ(chmod((tree_ + "/g").c_str(), 02755), 0);
  start();
  auto m = at<CreateRequest>(roots_[0], "new");
  m.creation = {04755, 1000, 1001};
  UniqueFd fd;
  auto r = call(m, -1, &fd);
  ASSERT_TRUE(r) << errno_name(r.error());
  EXPECT_EQ(r->attr.uid, 1000u);
  EXPECT_EQ(r->attr.gid, 1001u);
  EXPECT_EQ(r->attr.mode & 07777, 04755u);
  EXPECT_EQ(pwrite(fd.get(), "abc", 3, 0), 3);
  EXPECT_EQ(error_of(m), Errno::kExist);
  m.dir = dir_of(roots_[0], "g");
  EXPECT_EQ(call(m)->attr.gid, 77u);
  auto d = at<MkdirRequest>(m.dir, "sub");
  d.creation = {0755, 1000, 1001};
  auto made = call(d);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->node.attr.gid, 77u);
  EXPECT_EQ(made->node.attr.uid, 1000u);
  EXPECT_EQ(made->node.attr.mode & 07777, 02755u);
}

TEST_F(GoferTest, MakesLinksNodesAndRefusesDevices) {
  write_file(tree_ + "/f", "text");
  start();
  auto s = at<SymlinkRequest>(roots_[0], "l");
  s.target = "../../anywhere";
  s.uid = 5;
  auto made = call(s);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->node.target, "../../anywhere");
  EXPECT_EQ(made->node.attr.uid, 5u);
  auto n = at<MknodRequest>(roots_[0], "p");
  n.creation = {S_IFIFO | 0600, 1, 2};
  ASSERT_TRUE(call(n));
  n.name = "dev";
  n.creation.mode = S_IFCHR | 0600;
  EXPECT_EQ(error_of(n), Errno::kPerm);
  n.creation.mode = S_IFBLK | 0600;
  EXPECT_EQ(error_of(n), Errno::kPerm);
  LinkRequest l;
  l.target = {roots_[0], "f", false};
  l.dir = roots_[0];
  l.name = "f2";
  EXPECT_EQ(call(l)->attr.nlink, 2u);
  l.dir = roots_[1];
  EXPECT_EQ(error_of(l), Errno::kRofs);
}

TEST_F(GoferTest, TmpfileCanBeLinked) {
  start();
  TmpfileRequest t;
  t.dir = roots_[0];
  t.creation = {0600, 9, 9};
  UniqueFd fd;
  auto r = call(t, -1, &fd);
  ASSERT_TRUE(r) << errno_name(r.error());
  EXPECT_EQ(r->attr.nlink, 0u);
  EXPECT_EQ(r->attr.uid, 9u);
  LinkRequest l;
  l.target = {roots_[0], "", true};
  l.dir = roots_[0];
  l.name = "named";
  auto linked = call(l, fd.get());
  ASSERT_TRUE(linked) << errno_name(linked.error());
  EXPECT_EQ(linked->attr.ino, r->attr.ino);
}

TEST_F(GoferTest, RenameKeepsNodes) {
  std::filesystem::create_directories(tree_ + "/a/deep/er");
  std::filesystem::create_directory(tree_ + "/b");
  write_file(tree_ + "/a/deep/er/f", "x");
  start(4);
  NodeId a = dir_of(roots_[0], "a"), deep = dir_of(a, "deep"), er = dir_of(deep, "er"), b = dir_of(roots_[0], "b");
  RenameRequest m;
  m.dir = a;
  m.name = "deep";
  m.new_dir = b;
  m.new_name = "moved";
  ASSERT_EQ(error_of(m), Errno::kNone);
  EXPECT_TRUE(lookup(er, "f"));
  EXPECT_EQ(dir_of(b, "moved"), deep);
  m = {};
  m.dir = roots_[0];
  m.name = "a";
  m.new_dir = roots_[0];
  m.new_name = "b";
  m.flags = RENAME_EXCHANGE;
  ASSERT_TRUE(call(m));
  EXPECT_EQ(dir_of(roots_[0], "a"), b);
  EXPECT_EQ(dir_of(roots_[0], "b"), a);
  EXPECT_TRUE(lookup(er, "f"));
  m.flags = RENAME_NOREPLACE;
  EXPECT_EQ(error_of(m), Errno::kExist);
  m.flags = RENAME_WHITEOUT;
  EXPECT_EQ(error_of(m), Errno::kInval);
}

TEST_F(GoferTest, RemovedDirectoryStaysUsable) {
  std::filesystem::create_directory(tree_ + "/d");
  write_file(tree_ + "/f", "");
  start();
  NodeId d = dir_of(roots_[0], "d");
  ASSERT_TRUE(call(at<RmdirRequest>(roots_[0], "d")));
  GetAttrRequest g;
  g.target.dir = d;
  auto r = call(g);
  ASSERT_TRUE(r);
  EXPECT_EQ(lookup(d, "x").error(), Errno::kNoent);
  EXPECT_EQ(error_of(at<RmdirRequest>(roots_[0], "f")), Errno::kNotdir);
  EXPECT_TRUE(call(at<UnlinkRequest>(roots_[0], "f")));
  EXPECT_EQ(error_of(at<UnlinkRequest>(roots_[0], "f")), Errno::kNoent);
  EXPECT_EQ(error_of(at<UnlinkRequest>(roots_[1], "f")), Errno::kRofs);
}

TEST_F(GoferTest, SetAttrByNameAndByDescriptor) {
  write_file(tree_ + "/f", "0123456789");
  std::filesystem::create_symlink("f", tree_ + "/l");
  start();
  SetAttrRequest s;
  s.target = {roots_[0], "f", false};
  s.change.mask = AttrChange::kUid | AttrChange::kGid | AttrChange::kMode | AttrChange::kSize | AttrChange::kAtime |
                  AttrChange::kMtime;
  s.change.uid = 12;
  s.change.gid = 13;
  s.change.mode = 04711;
  s.change.size = 3;
  s.change.atime = {-5, 1};
  s.change.mtime = {1000, 999};
  auto r = call(s);
  ASSERT_TRUE(r) << errno_name(r.error());
  EXPECT_EQ(r->attr.uid, 12u);
  EXPECT_EQ(r->attr.gid, 13u);
  EXPECT_EQ(r->attr.mode & 07777, 04711u);
  EXPECT_EQ(r->attr.size, 3u);
  EXPECT_EQ(r->attr.atime.seconds, -5);
  EXPECT_EQ(r->attr.mtime.nanoseconds, 999u);
  s.target.leaf = "l";
  s.change.mask = AttrChange::kUid;
  s.change.uid = 99;
  EXPECT_EQ(call(s)->attr.uid, 99u);
  EXPECT_EQ(lookup(roots_[0], "f")->attr.uid, 12u);
  s.change.mask = AttrChange::kSize;
  EXPECT_EQ(error_of(s), Errno::kInval);

  UniqueFd fd;
  ASSERT_TRUE(call(open_of(roots_[0], "f", O_RDONLY), -1, &fd));
  ASSERT_TRUE(call(at<UnlinkRequest>(roots_[0], "f")));
  s = {};
  s.target = {roots_[0], "", true};
  s.change.mask = AttrChange::kMode;
  s.change.mode = 0604;
  r = call(s, fd.get());
  ASSERT_TRUE(r) << errno_name(r.error());
  EXPECT_EQ(r->attr.mode & 07777, 0604u);
  EXPECT_EQ(r->attr.nlink, 0u);
  UniqueFd other(open("/dev/null", O_RDWR));
  EXPECT_EQ(error_of(s, other.get()), Errno::kBadf);
  UniqueFd path(open((top_ + "/secret").c_str(), O_PATH));
  EXPECT_EQ(error_of(s, path.get()), Errno::kBadf);
}

TEST_F(GoferTest, ExtendedAttributes) {
  write_file(tree_ + "/f", "");
  start();
  SetXattrRequest s;
  s.target = {roots_[0], "f", false};
  s.name = "user.colour";
  s.value = std::string("re\0d", 4);
  Errno e = error_of(s);
  if (e == Errno::kOpnotsupp) GTEST_SKIP() << "no user xattrs here";
  ASSERT_EQ(e, Errno::kNone);
  GetXattrRequest g;
  g.target = s.target;
  g.name = s.name;
  EXPECT_EQ(call(g)->value, s.value);
  ListXattrRequest l;
  l.target = s.target;
  EXPECT_EQ(call(l)->names, Strings{"user.colour"});
  s.flags = XATTR_CREATE;
  EXPECT_EQ(error_of(s), Errno::kExist);
  s.name = "trusted.overlay.opaque";
  EXPECT_EQ(error_of(s), Errno::kOpnotsupp);
  RemoveXattrRequest r;
  r.target = l.target;
  r.name = "user.colour";
  EXPECT_EQ(error_of(r), Errno::kNone);
  EXPECT_EQ(error_of(g), Errno::kNodata);
  r.target.dir = roots_[1];
  EXPECT_EQ(error_of(r), Errno::kRofs);
}

TEST_F(GoferTest, SocketFiles) {
  start();
  UniqueFd server(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)), peer(socket(AF_UNIX, SOCK_STREAM, 0));
  auto b = at<BindSocketRequest>(roots_[0], "sock");
  b.creation = {0751, 3, 4};
  auto r = call(b, server.get());
  ASSERT_TRUE(r) << errno_name(r.error());
  EXPECT_EQ(r->attr.mode, u32(S_IFSOCK | 0751));
  EXPECT_EQ(r->attr.uid, 3u);
  ASSERT_EQ(listen(server.get(), 1), 0);
  ConnectSocketRequest c;
  c.dir = roots_[0];
  c.leaf = "sock";
  c.uid = 3;
  c.gid = 4;
  EXPECT_EQ(error_of(c, peer.get()), Errno::kInval);
  fcntl(peer.get(), F_SETFL, O_NONBLOCK);
  EXPECT_EQ(error_of(c, peer.get()), Errno::kNone);
  UniqueFd accepted(accept(server.get(), nullptr, nullptr));
  ucred seen{};
  socklen_t length = sizeof(seen);
  ASSERT_EQ(getsockopt(accepted.get(), SOL_SOCKET, SO_PEERCRED, &seen, &length), 0);
  EXPECT_EQ(seen.uid, 3u);
  EXPECT_EQ(seen.gid, 4u);
  // The same tree as a mount whose sockets are nobody's to reach.
  UniqueFd other(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
  c.dir = roots_[1];
  EXPECT_EQ(error_of(c, other.get()), Errno::kConnrefused);
  c.dir = roots_[0];
  UniqueFd inet(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  EXPECT_EQ(error_of(c, inet.get()), Errno::kAfnosupport);
}

TEST_F(GoferTest, SmallOnes) {
  std::filesystem::create_symlink("t", tree_ + "/l");
  std::filesystem::create_directory(tree_ + "/d");
  start();
  ReadLinkRequest l;
  l.dir = roots_[0];
  l.leaf = "l";
  EXPECT_EQ(call(l)->target, "t");
  StatFsRequest f;
  f.dir = roots_[0];
  EXPECT_GT(call(f)->stat.blocks, 0u);
  SyncRequest y;
  y.dir = roots_[0];
  EXPECT_EQ(error_of(y), Errno::kNone);
  HostProcRequest p;
  p.pid = static_cast<u32>(getpid());
  p.kind = 4;
  auto text = call(p);
  ASSERT_TRUE(text) << errno_name(text.error());
  EXPECT_NE(text->text.find("unit_gofer"), std::string::npos);
  p.kind = kProcKinds;
  EXPECT_EQ(error_of(p), Errno::kInval);
  NodeId d = dir_of(roots_[0], "d");
  ForgetRequest g;
  g.dirs = {d, roots_[0], 12345};
  EXPECT_EQ(error_of(g), Errno::kNone);
  EXPECT_EQ(lookup(d, "x").error(), Errno::kBadf);
  EXPECT_TRUE(lookup(roots_[0], "d"));
}

TEST_F(GoferTest, RoundTripTime) {
  write_file(tree_ + "/f", "12345");
  start();
  timespec a, b;
  constexpr int kTimes = 5000;
  clock_gettime(CLOCK_MONOTONIC, &a);
  for (int i = 0; i < kTimes; ++i) ASSERT_TRUE(lookup(roots_[0], "f"));
  clock_gettime(CLOCK_MONOTONIC, &b);
  double lookups = double((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec) / kTimes;
  clock_gettime(CLOCK_MONOTONIC, &a);
  for (int i = 0; i < kTimes; ++i) {
    UniqueFd fd;
    ASSERT_TRUE(call(open_of(roots_[0], "f", O_RDONLY), -1, &fd));
  }
  clock_gettime(CLOCK_MONOTONIC, &b);
  double opens = double((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec) / kTimes;
  RecordProperty("lookup_ns", static_cast<int>(lookups));
  RecordProperty("open_ns", static_cast<int>(opens));
  printf("lookup %.0f ns, open+close %.0f ns\n", lookups, opens);
}

}  // namespace
}  // namespace sbx::gofer
