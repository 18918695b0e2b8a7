// What a hostile client, or a host that changes things at the same time, must not achieve.
#include <sys/prctl.h>

#include <atomic>
#include <random>
#include <thread>

#include "gofer/server/server.h"
#include "tests/unit/gofer/fixture.h"

namespace sbx::gofer {
namespace {

// A server in this process on the fixture's tree; raw requests.
class HostileTest : public GoferTest {
 protected:
  void make_server(u32 open_limit = 64) {
    std::vector<GoferMount> mounts(1);
    UniqueFd root(open(tree_.c_str(), O_PATH));
    mounts[0].root_fd = root.get();
    auto served = open_mounts(mounts);
    ASSERT_TRUE(served);
    Server::Options options;
    options.open_limit = open_limit;
    options.self_fd = open_self_fd();
    server_ = std::make_unique<Server>(std::move(*served), std::move(options));
    AttachRequest m;
    root_ = ask<AttachRequest>(m)->node.dir;
  }
  void TearDown() override {
    server_.reset();
    ASSERT_EQ(chdir("/"), 0);
    GoferTest::TearDown();
  }
  template <typename Request>
  Result<typename Request::Reply> ask(const Request& m) {
    Encoder e;
    encode(e, m);
    UniqueFd in;
    std::vector<UniqueFd> out;
    auto bytes = server_->serve(static_cast<u32>(Request::kType), e.bytes(), in, out);
    if (!bytes) return bytes.error();
    typename Request::Reply reply;
    EXPECT_TRUE(decode(*bytes, reply));
    return reply;
  }
  Errno raw(u32 type, std::string_view bytes) {
    UniqueFd in;
    std::vector<UniqueFd> out;
    auto r = server_->serve(type, bytes, in, out);
    return r ? Errno::kNone : r.error();
  }
  std::unique_ptr<Server> server_;
  NodeId root_ = 0;
};

TEST_F(HostileTest, BadNamesDoNotDecode) {
  make_server();
  for (std::string name : {std::string(""), std::string("."), std::string(".."), std::string("a/b"), std::string("/"),
                           std::string("a\0b", 3), std::string(256, 'x')}) {
    Encoder e;
    e.u64v(root_);
    e.str(name);
    EXPECT_EQ(raw(static_cast<u32>(MessageType::kLookup), e.bytes()), Errno::kProto) << name;
    EXPECT_EQ(raw(static_cast<u32>(MessageType::kUnlink), e.bytes()), Errno::kProto) << name;
  }
}

TEST_F(HostileTest, BadNumbersAndNodes) {
  make_server();
  EXPECT_EQ(raw(0, ""), Errno::kProto);
  EXPECT_EQ(raw(9999, ""), Errno::kProto);
  LookupRequest m;
  m.dir = 424242;
  m.name = "x";
  EXPECT_EQ(ask(m).error(), Errno::kBadf);
  AttachRequest a;
  a.mount = 7;
  EXPECT_EQ(ask(a).error(), Errno::kNxio);
  Encoder e;
  encode(e, m);
  for (size_t n = 0; n < e.bytes().size(); ++n)
    EXPECT_EQ(raw(static_cast<u32>(MessageType::kLookup), e.bytes().substr(0, n)), Errno::kProto);
  EXPECT_EQ(raw(static_cast<u32>(MessageType::kLookup), e.bytes() + "x"), Errno::kProto);
}

TEST_F(HostileTest, RandomBytesNeverCrash) {
  for (int i = 0; i < 5; ++i) std::filesystem::create_directories(tree_ + "/d" + std::to_string(i) + "/e");
  make_server(4);
  std::mt19937 random(7);
  for (int i = 0; i < 60'000; ++i) {
    u32 type = random() % 31;
    std::string bytes;
    size_t n = random() % 80;
    // Half of them begin with a node that exists and a small length, so that they get further.
    if (random() % 2 == 0) {
      u64 node = 1 + random() % 8;
      bytes.append(reinterpret_cast<const char*>(&node), 8);
      u32 length = random() % 4;
      bytes.append(reinterpret_cast<const char*>(&length), 4);
      for (u32 k = 0; k < length; ++k) bytes.push_back("de01"[random() % 4]);
    }
    while (bytes.size() < n) bytes.push_back(static_cast<char>(random() % 3 == 0 ? random() : 0));
    (void)raw(type, bytes);
  }
  std::ifstream secret(top_ + "/secret");
  std::string text;
  secret >> text;
  EXPECT_EQ(text, "outside");
}

TEST_F(HostileTest, FewDescriptorsManyDirectories) {
  std::string path = tree_;
  for (int i = 0; i < 100; ++i) std::filesystem::create_directory(path += "/d");
  for (int i = 0; i < 200; ++i) std::filesystem::create_directory(tree_ + "/w" + std::to_string(i));
  make_server(8);
  std::vector<NodeId> chain{root_};
  LookupRequest m;
  for (int i = 0; i < 100; ++i) {
    m.dir = chain.back();
    m.name = "d";
    auto r = ask(m);
    ASSERT_TRUE(r) << i << errno_name(r.error());
    chain.push_back(r->node.dir);
  }
  std::vector<NodeId> wide;
  for (int i = 0; i < 200; ++i) {
    m.dir = root_;
    m.name = "w" + std::to_string(i);
    wide.push_back(ask(m)->node.dir);
  }
  for (NodeId node : wide) {
    GetAttrRequest g;
    g.target.dir = node;
    ASSERT_TRUE(ask(g));
  }
  server_->nodes().trim();
  EXPECT_LE(server_->nodes().open_count(), 8u);
  GetAttrRequest g;
  g.target.dir = chain.back();
  ASSERT_TRUE(ask(g));
  // Forgetting the top forgets all below.
  size_t before = server_->nodes().size();
  ForgetRequest f;
  f.dirs = {chain[1]};
  ASSERT_TRUE(ask(f));
  EXPECT_EQ(server_->nodes().size(), before - 100);
  EXPECT_EQ(ask(g).error(), Errno::kBadf);
}

TEST_F(HostileTest, SomebodyElseAtTheSameNameIsStale) {
  std::filesystem::create_directories(tree_ + "/a/b");
  make_server(4);
  LookupRequest m;
  m.dir = root_;
  m.name = "a";
  NodeId a = ask(m)->node.dir;
  std::filesystem::rename(tree_ + "/a", tree_ + "/old");
  std::filesystem::create_directories(tree_ + "/a/b");
  m.dir = a;
  m.name = "b";
  EXPECT_EQ(ask(m).error(), Errno::kStale);
  m.dir = root_;
  m.name = "a";
  EXPECT_NE(ask(m)->node.dir, a);
}

// While directories and symbolic links that lead outside take turns under one name, nothing outside is ever reached.
TEST_F(HostileTest, RacesDoNotEscape) {
  std::filesystem::create_directories(tree_ + "/real");
  write_file(tree_ + "/real/secret", "inside");
  std::filesystem::create_symlink(top_, tree_ + "/link");
  make_server(4);
  std::filesystem::rename(tree_ + "/real", tree_ + "/x");
  std::atomic<bool> stop{false};
  std::string x = tree_ + "/x", link = tree_ + "/link";
  std::thread host([&] {
    while (!stop) (void)renameat2(AT_FDCWD, x.c_str(), AT_FDCWD, link.c_str(), RENAME_EXCHANGE);
  });
  int inside = 0, errors = 0;
  for (int i = 0; i < 20'000; ++i) {
    WalkRequest w;
    w.dir = root_;
    w.names = {"x", "secret"};
    auto r = ask(w);
    if (r && r->nodes.size() == 2) {
      EXPECT_EQ(r->nodes[1].attr.size, 6u);
      OpenRequest o;
      o.target.dir = r->nodes[0].dir;
      o.target.leaf = "secret";
      Encoder e;
      encode(e, o);
      UniqueFd in;
      std::vector<UniqueFd> out;
      if (server_->serve(static_cast<u32>(MessageType::kOpen), e.bytes(), in, out)) {
        ASSERT_EQ(read_fd(out.at(0).get()), "inside");
        ++inside;
      }
    } else {
      ++errors;
    }
  }
  stop = true;
  host.join();
  EXPECT_GT(inside, 0);
  EXPECT_GT(errors, 0);
}

// In the real process: the calls that the filter must refuse are refused to all of its threads.
TEST_F(GoferTest, HoldsNoPowersItDoesNotNeed) {
  start();
  auto status = [&](const std::string& key) {
    std::ifstream in("/proc/" + std::to_string(child_) + "/status");
    for (std::string line; std::getline(in, line);)
      if (line.starts_with(key + ":")) return line.substr(key.size() + 2);
    return std::string();
  };
  EXPECT_EQ(status("Seccomp"), "2");
  EXPECT_EQ(status("NoNewPrivs"), "1");
  // CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID SETGID SETUID SETFCAP
  EXPECT_EQ(std::stoull(status("CapEff"), nullptr, 16) & ~0x800000dfull, 0u);
  EXPECT_EQ(std::stoull(status("CapPrm"), nullptr, 16) & ~0x800000dfull, 0u);
  for (auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(child_) + "/task")) {
    std::ifstream in(task.path() / "status");
    std::string all((std::istreambuf_iterator<char>(in)), {});
    EXPECT_NE(all.find("Seccomp:\t2"), std::string::npos);
  }
  // Its root leads nowhere.
  std::error_code error;
  EXPECT_FALSE(std::filesystem::exists("/proc/" + std::to_string(child_) + "/root/etc", error));
}

TEST_F(GoferTest, ClientNoticesTheEnd) {
  start();
  kill(child_, SIGKILL);
  EXPECT_EQ(lookup(roots_[0], "x").error(), Errno::kIo);
  EXPECT_EQ(lookup(roots_[0], "x").error(), Errno::kIo);
  client_.reset();
  waitpid(child_, nullptr, 0);
  child_ = -1;
}

}  // namespace
}  // namespace sbx::gofer
