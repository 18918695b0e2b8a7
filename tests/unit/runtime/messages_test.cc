#include "sentry/control/messages.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

namespace sbx::control {
namespace {

std::vector<Request> all_requests() {
  ExecRequest exec;
  exec.process.args = {"ls", "-l"};
  exec.process.cwd = "/";
  exec.stdio_present[0] = false;
  exec.tied = true;
  exec.extra_fds = 2;
  return {StartRequest{77, 4096},
          SignalRequest{SignalTarget::kExec, 3, 15, 4},
          exec,
          WaitRequest{7},
          PsRequest{},
          DebugRequest{"stacks"},
          ResizeRequest{1, 24, 80},
          EventsRequest{9},
          PauseRequest{},
          ResumeRequest{},
          UpdateRequest{{1 << 20, -1, 5, -1, -1, -1, "0-1", ""}},
          StatsRequest{},
          JoinRequest{}};
}

std::vector<Reply> all_replies() {
  PsEntry p;
  p.pid = 1;
  p.cmdline = {"init"};
  return {OkReply{},
          ErrorReply{3, "no such process"},
          ExecReply{1, 5},
          WaitReply{137, true, false},
          PsReply{{p, p}},
          TextReply{"text"},
          EventReply{4, EventKind::kOom, "x"},
          StatsReply{2, 3}};
}

TEST(Messages, RequestsComeBack) {
  for (const Request& r : all_requests()) {
    std::string bytes = encode_request(r);
    auto back = decode_request(bytes);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->index(), r.index());
    EXPECT_EQ(encode_request(*back), bytes);
    for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode_request(std::string_view(bytes).substr(0, n)));
  }
  EXPECT_EQ(all_requests().size(), std::variant_size_v<Request>);
}

TEST(Messages, RepliesComeBack) {
  for (const Reply& r : all_replies()) {
    std::string bytes = encode_reply(r);
    auto back = decode_reply(bytes);
    ASSERT_TRUE(back);
    EXPECT_EQ(encode_reply(*back), bytes);
    for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode_reply(std::string_view(bytes).substr(0, n)));
  }
  EXPECT_EQ(all_replies().size(), std::variant_size_v<Reply>);
}

TEST(Messages, HostileBytesAreRefused) {
  EXPECT_FALSE(decode_request(""));
  EXPECT_FALSE(decode_request(std::string("\1\0\0\0\xff", 5)));
  std::string huge = encode_request(DebugRequest{"x"});
  huge[5] = '\xff';
  huge[8] = '\xff';
  EXPECT_FALSE(decode_request(huge));
}

TEST(Messages, PacketsCarryDescriptors) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
  UniqueFd a(pair[0]), b(pair[1]);
  ASSERT_TRUE(send_packet(a.get(), "hello", {0, 1, 2}));
  auto got = receive_packet(b.get());
  ASSERT_TRUE(got);
  EXPECT_EQ(got->bytes, "hello");
  ASSERT_EQ(got->fds.size(), 3u);
  EXPECT_NE(::fcntl(got->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(receive_packet(b.get(), MSG_DONTWAIT).error().code, Errno::kAgain);
  EXPECT_FALSE(send_packet(a.get(), std::string(kMaxMessage + 1, 'x'), {}));
  ASSERT_TRUE(send_packet(a.get(), std::string(kMaxMessage, 'x'), {}));
  EXPECT_EQ(receive_packet(b.get())->bytes.size(), kMaxMessage);
  a.reset();
  EXPECT_TRUE(receive_packet(b.get())->bytes.empty());
}

}  // namespace
}  // namespace sbx::control
