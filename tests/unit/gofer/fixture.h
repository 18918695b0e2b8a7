// A temporary tree and a real gofer process (with its filter and without its capabilities) that serves it.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "gofer/boot.h"
#include "gofer/main.h"
#include "gofer/protocol/channel.h"

namespace sbx::gofer {

class GoferTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/sbx-gofer-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    top_ = pattern;
    tree_ = top_ + "/tree";
    std::filesystem::create_directory(tree_);
    write_file(top_ + "/secret", "outside");
  }
  void TearDown() override {
    client_.reset();
    if (child_ > 0) {
      int status = 0;
      waitpid(child_, &status, 0);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    std::error_code ignored;
    std::filesystem::remove_all(top_, ignored);
  }

  // Mount 0 is the tree, 1 the tree read-only, 2 the file `file` (made if missing).
  void start(u32 directory_fds = 0) {
    if (!std::filesystem::exists(top_ + "/file")) write_file(top_ + "/file", "file root");
    int sockets[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
    GoferBoot boot;
    boot.request_socket = sockets[1];
    boot.log_fd = 2;
    boot.directory_fds = directory_fds;
    UniqueFd root(open(tree_.c_str(), O_PATH)), file(open((top_ + "/file").c_str(), O_PATH));
    // A mount of its own, as the runtime makes them: descriptors of its files are told apart from the tree's.
    UniqueFd copy(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, tree_.c_str(), OPEN_TREE_CLONE)));
    UniqueFd proc(open("/proc", O_PATH));
    boot.proc_fd = proc.get();
    for (int i = 0; i < 3; ++i) {
      GoferMount m;
      m.root_fd = i == 2 ? file.get() : i == 1 && copy ? copy.get() : root.get();
      m.read_only = i == 1 && copy.valid();
      m.exclusive = i == 0 && !shared_rootfs_;
      m.sockets = i == 0;
      boot.mounts.push_back(m);
    }
    auto memfd = write_gofer_boot(boot);
    ASSERT_TRUE(memfd);
    child_ = fork();
    if (child_ == 0) {
      close(sockets[0]);
      std::string number = std::to_string(memfd->get());
      char name[] = "gofer";
      char* argv[] = {name, number.data(), nullptr};
      _exit(gofer_main(2, argv));
    }
    close(sockets[1]);
    auto client = Client::connect(UniqueFd(sockets[0]));
    ASSERT_TRUE(client);
    client_ = std::move(*client);
    for (u32 i = 0; i < 3; ++i) {
      AttachRequest m;
      m.mount = i;
      auto reply = client_->call(m);
      ASSERT_TRUE(reply) << errno_name(reply.error());
      roots_[i] = reply->node.dir;
    }
  }

  template <typename Request>
  Result<typename Request::Reply> call(const Request& m, int fd = -1, UniqueFd* out = nullptr) {
    return client_->call(m, fd, out);
  }
  // The error of a call, kNone if it worked.
  template <typename Request>
  Errno error_of(const Request& m, int fd = -1) {
    auto reply = client_->call(m, fd);
    return reply ? Errno::kNone : reply.error();
  }
  Result<Node> lookup(NodeId dir, const std::string& name) {
    LookupRequest m;
    m.dir = dir;
    m.name = name;
    auto reply = client_->call(m);
    if (!reply) return reply.error();
    return std::move(reply->node);
  }
  NodeId dir_of(NodeId dir, const std::string& name) {
    auto node = lookup(dir, name);
    EXPECT_TRUE(node) << name;
    return node ? node->dir : kNoNode;
  }
  static void write_file(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
  static std::string read_fd(int fd) {
    char buffer[4096];
    ssize_t n = pread(fd, buffer, sizeof(buffer), 0);
    return n < 0 ? std::string("?") : std::string(buffer, static_cast<size_t>(n));
  }

  std::string top_, tree_;
  bool shared_rootfs_ = false;
  pid_t child_ = -1;
  std::unique_ptr<Client> client_;
  NodeId roots_[3] = {};
};

}  // namespace sbx::gofer
