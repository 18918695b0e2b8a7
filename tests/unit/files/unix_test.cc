#include <sys/ioctl.h>
#include <sys/un.h>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/net/socket.h"
#include "tests/unit/files/fixture.h"

namespace sbx {
namespace {
using namespace net;
using namespace test;

struct World {
  RefPtr<vfs::MountNamespace> ns =
      vfs::MountNamespace::create(tmpfs::Tmpfs::create(*tmpfs::parse_options("mode=755")), 0, "tmpfs");
  vfs::WalkContext ctx{ns->root(), ns->root(), security::kernel_credentials().get(), ns.get()};
  World() { register_unix(); }
  RefPtr<Socket> make(int type) { return make_socket(AF_UNIX, type | SOCK_NONBLOCK, 0).value(); }
  std::pair<RefPtr<Socket>, RefPtr<Socket>> pair(int type) {
    return make_socket_pair(AF_UNIX, type | SOCK_NONBLOCK, 0).value();
  }
};

std::string at(std::string_view name) {
  std::string out(2, '\0');
  out[0] = AF_UNIX;
  return out.append(name);
}
const std::string kAbstract = at(std::string_view("\0name", 5));

Result<size_t> send_files(Socket& s, std::string_view bytes, std::vector<RefPtr<vfs::File>> files) {
  vfs::KernelSource source(bytes.data(), bytes.size());
  SendRequest request{source, {}, std::move(files), {}, 0};
  return s.send(nullptr, request);
}
struct Received {
  std::string bytes;
  size_t count = 0;
  std::vector<RefPtr<vfs::File>> files;
  std::optional<Identity> credentials;
  std::string address;
  u32 flags = 0;
};
Result<Received> receive(Socket& s, size_t max, u32 flags = 0) {
  std::string buffer(max, '\0');
  vfs::KernelSink sink(buffer.data(), max);
  ReceiveRequest request{sink, flags};
  auto n = s.receive(request);
  if (!n) return n.error();
  buffer.resize(max - sink.left());
  return Received{buffer, *n, request.files, request.credentials, request.address, request.out_flags};
}

TEST(Unix, StreamPair) {
  on_fiber([] {
    World w;
    auto [a, b] = w.pair(SOCK_STREAM);
    EXPECT_EQ(read_some(*a, 5).error(), Errno::kAgain);
    EXPECT_EQ(a->readiness(), u32{POLLOUT | POLLWRNORM | POLLWRBAND});
    write_some(*a, "hello").value();
    write_some(*a, "world").value();
    i32 n = 0;
    EXPECT_TRUE(ioctl(*b, FIONREAD, &n));
    EXPECT_EQ(n, 10);
    EXPECT_TRUE(ioctl(*a, TIOCOUTQ, &n));
    EXPECT_EQ(n, 10);
    EXPECT_EQ(receive(*b, 7, MSG_PEEK)->bytes, "hellowo");
    EXPECT_EQ(read_some(*b, 20).value(), "helloworld");
    EXPECT_TRUE(a->shutdown(SHUT_WR));
    EXPECT_EQ(read_some(*b, 20).value(), "");
    EXPECT_EQ(b->readiness() & (POLLRDHUP | POLLHUP | POLLIN), u32{POLLRDHUP | POLLIN});
    EXPECT_EQ(write_some(*a, "x").error(), Errno::kPipe);
    write_some(*b, "left").value();
    b.reset();
    EXPECT_EQ(read_some(*a, 20).value(), "left");
    EXPECT_EQ(read_some(*a, 20).value(), "");
    EXPECT_TRUE(a->readiness() & POLLHUP);
    EXPECT_EQ(write_some(*a, "x").error(), Errno::kPipe);
    EXPECT_TRUE(a->path().dentry->name().starts_with("socket:["));
  });
}

TEST(Unix, ResetAndBackpressure) {
  on_fiber([] {
    World w;
    {
      auto [a, b] = w.pair(SOCK_STREAM);
      write_some(*a, "unread").value();
      b.reset();
      EXPECT_EQ(read_some(*a, 5).error(), Errno::kConnreset);
      EXPECT_EQ(read_some(*a, 5).value(), "");
    }
    auto [a, b] = w.pair(SOCK_STREAM);
    a->set_flags(O_RDWR);
    b->set_flags(O_RDWR);
    std::string sent, got;
    for (int i = 0; i < 1000000; ++i) sent.push_back(static_cast<char>(i * 13));
    RefPtr<Socket> writer = std::move(a);
    fiber::spawn([&] {
      EXPECT_EQ(write_wait(*writer, sent).value(), sent.size());
      writer.reset();
    });
    for (;;) {
      std::string part = read_wait(*b, 30011).value();
      if (part.empty()) break;
      got += part;
    }
    EXPECT_TRUE(got == sent);
  });
}

TEST(Unix, DescriptorsAndCredentials) {
  on_fiber([] {
    caller_identity = [] { return Identity{42, 7, 8}; };
    World w;
    auto [a, b] = w.pair(SOCK_STREAM);
    auto [c, d] = w.pair(SOCK_DGRAM);
    i32 one = 1;
    EXPECT_TRUE(b->set_option(SOL_SOCKET, SO_PASSCRED, std::string_view(reinterpret_cast<char*>(&one), 4)));
    send_files(*a, "1", {}).value();
    send_files(*a, "2", {c}).value();
    send_files(*a, "3", {}).value();
    // What comes before a message with descriptors is taken along, what follows it is not.
    auto first = receive(*b, 10).value();
    EXPECT_EQ(first.bytes, "12");
    EXPECT_EQ(first.credentials->pid, 42);
    ASSERT_EQ(first.files.size(), 1u);
    EXPECT_EQ(first.files[0].get(), c.get());
    EXPECT_EQ(receive(*b, 10)->bytes, "3");
    auto cred = a->get_option(SOL_SOCKET, SO_PEERCRED, 100).value();
    Identity peer;
    std::memcpy(&peer, cred.data(), sizeof(peer));
    EXPECT_EQ(peer, (Identity{42, 7, 8}));
    caller_identity = nullptr;
  });
}

TEST(Unix, Datagrams) {
  on_fiber([] {
    World w;
    auto [a, b] = w.pair(SOCK_DGRAM);
    write_some(*a, "one").value();
    write_some(*a, "three").value();
    EXPECT_EQ(read_some(*b, 10).value(), "one");
    auto cut = receive(*b, 2, MSG_TRUNC).value();
    EXPECT_EQ(cut.bytes, "th");
    EXPECT_EQ(cut.count, 5u);
    EXPECT_EQ(cut.flags, u32{MSG_TRUNC});
    auto server = w.make(SOCK_DGRAM), client = w.make(SOCK_DGRAM);
    EXPECT_TRUE(server->bind(w.ctx, 022, at("/server")));
    EXPECT_EQ(client->bind(w.ctx, 022, at("/server")).error(), Errno::kAddrinuse);
    EXPECT_TRUE(client->bind(w.ctx, 022, at("")));
    vfs::KernelSource source("ping", 4);
    SendRequest request{source, at("/server"), {}, {}, 0};
    std::string to = at("/server");
    request.address = to;
    EXPECT_EQ(client->send(&w.ctx, request).value(), 4u);
    auto got = receive(*server, 10).value();
    EXPECT_EQ(got.address, client->local_address().value());
    EXPECT_EQ(write_some(*client, "x").error(), Errno::kNotconn);
    EXPECT_TRUE(client->connect(w.ctx, to));
    EXPECT_EQ(write_some(*client, "x").value(), 1u);
    while (write_some(*client, std::string(10000, 'y'))) {
    }
    EXPECT_EQ(client->readiness() & POLLOUT, 0u);
    server.reset();
    EXPECT_EQ(write_some(*client, "x").error(), Errno::kConnrefused);
    EXPECT_EQ(client->connect(w.ctx, to).error(), Errno::kConnrefused);
  });
}

TEST(Unix, ListenAndAccept) {
  on_fiber([] {
    World w;
    for (const std::string& name : {kAbstract, at("/stream")}) {
      auto server = w.make(SOCK_STREAM), client = w.make(SOCK_STREAM);
      EXPECT_EQ(client->connect(w.ctx, name).error(), name == kAbstract ? Errno::kConnrefused : Errno::kNoent);
      EXPECT_EQ(server->listen(1).error(), Errno::kInval);
      EXPECT_TRUE(server->bind(w.ctx, 022, name));
      EXPECT_EQ(client->connect(w.ctx, name).error(), Errno::kConnrefused);
      // Abstract names are a type's own.
      EXPECT_EQ(w.make(SOCK_DGRAM)->connect(w.ctx, name).error(),
                name == kAbstract ? Errno::kConnrefused : Errno::kPrototype);
      EXPECT_TRUE(server->listen(0));
      EXPECT_EQ(server->accept(0).error(), Errno::kAgain);
      EXPECT_TRUE(client->connect(w.ctx, name));
      EXPECT_EQ(client->connect(w.ctx, name).error(), Errno::kIsconn);
      auto second = w.make(SOCK_STREAM);
      EXPECT_EQ(second->connect(w.ctx, name).error(), Errno::kAgain);
      EXPECT_TRUE(server->readiness() & POLLIN);
      write_some(*client, "early").value();
      auto accepted = server->accept(O_NONBLOCK).value();
      EXPECT_EQ(read_some(*accepted, 10).value(), "early");
      EXPECT_EQ(client->peer_address().value(), server->local_address().value());
      EXPECT_TRUE(second->connect(w.ctx, name));
      server.reset();
      EXPECT_EQ(read_some(*second, 1).error(), Errno::kConnreset);
      write_some(*accepted, "still").value();
      EXPECT_EQ(read_some(*client, 10).value(), "still");
    }
    EXPECT_EQ(make_socket(AF_INET, SOCK_STREAM, 0).error(), Errno::kAfnosupport);
    EXPECT_EQ(make_socket(AF_UNIX, SOCK_STREAM, 5).error(), Errno::kProtonosupport);
  });
}

TEST(Unix, SequencedPackets) {
  on_fiber([] {
    World w;
    auto [a, b] = w.pair(SOCK_SEQPACKET);
    write_some(*a, "one").value();
    write_some(*a, "two").value();
    auto got = receive(*b, 2).value();
    EXPECT_EQ(got.bytes, "on");
    EXPECT_EQ(got.flags, u32{MSG_TRUNC});
    a.reset();
    EXPECT_EQ(read_some(*b, 10).value(), "two");
    EXPECT_EQ(read_some(*b, 10).value(), "");
    EXPECT_EQ(write_some(*b, "x").error(), Errno::kPipe);
  });
}

}  // namespace
}  // namespace sbx
