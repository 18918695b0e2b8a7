#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <thread>

#include "runtime/systemd/bus.h"
#include "runtime/systemd/unit.h"
#include "sentry/base/unique_fd.h"

namespace sbx::systemd {
namespace {

TEST(UnitName, OfCgroupsPath) {
  auto unit = unit_name("machine.slice:libpod:abc", "i", true);
  ASSERT_TRUE(unit);
  EXPECT_EQ(unit->slice, "machine.slice");
  EXPECT_EQ(unit->unit, "libpod-abc.scope");
  EXPECT_EQ(unit_name("a-b.slice:p:n", "i", true)->slice, "a-b.slice");
  EXPECT_EQ(unit_name(":p:n", "i", true)->slice, "system.slice");
  EXPECT_EQ(unit_name("-.slice::n", "i", true)->unit, "n.scope");
  EXPECT_EQ(unit_name("", "i", true)->unit, "sbx-i.scope");
  EXPECT_EQ(unit_name("", "i", false)->slice, "user.slice");
  for (const char* bad : {"/docker/abc", "a:b", "a:b:c:d", "x:p:n", "a--b.slice:p:n", "-a.slice:p:n", "a-.slice:p:n",
                          ".slice:p:n", "a/b.slice:p:n", "a.slice:p:", "a.slice:p:x/y", "a.slice:p:x.slice"}) {
    auto name = unit_name(bad, "i", true);
    ASSERT_FALSE(name) << bad;
    EXPECT_NE(name.error().message.find("linux.cgroupsPath"), std::string::npos);
  }
}

const Property* find(const std::vector<Property>& list, const std::string& name) {
  for (const Property& p : list) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

u64 number(const std::vector<Property>& list, const std::string& name) {
  const Property* p = find(list, name);
  return p != nullptr && std::holds_alternative<u64>(p->value) ? std::get<u64>(p->value) : 0;
}

TEST(LimitProperties, BothVersions) {
  oci::Resources r;
  EXPECT_TRUE(limit_properties(r, true).empty());
  r.memory.limit = 64 << 20;
  r.memory.swap = 96 << 20;
  r.memory.reservation = 32 << 20;
  r.cpu.shares = 1024;
  r.cpu.quota = 50'500;
  r.cpu.period = 100'000;
  r.cpu.cpus = "0-1,9";
  r.pids_limit = 10;
  auto v2 = limit_properties(r, true);
  EXPECT_EQ(number(v2, "MemoryMax"), 64u << 20);
  EXPECT_EQ(number(v2, "MemorySwapMax"), 32u << 20);
  EXPECT_EQ(number(v2, "MemoryLow"), 32u << 20);
  EXPECT_EQ(number(v2, "CPUWeight"), 39u);
  EXPECT_EQ(number(v2, "CPUQuotaPerSecUSec"), 510'000u);  // whole percents, upwards
  EXPECT_EQ(number(v2, "CPUQuotaPeriodUSec"), 100'000u);
  EXPECT_GT(number(v2, "TasksMax"), 10u);
  ASSERT_NE(find(v2, "AllowedCPUs"), nullptr);
  EXPECT_EQ(std::get<std::vector<u8>>(find(v2, "AllowedCPUs")->value), (std::vector<u8>{3, 2}));
  auto v1 = limit_properties(r, false);
  EXPECT_EQ(number(v1, "MemoryLimit"), 64u << 20);
  EXPECT_EQ(number(v1, "CPUShares"), 1024u);
  EXPECT_EQ(find(v1, "MemoryMax"), nullptr);
  EXPECT_EQ(find(v1, "AllowedCPUs"), nullptr);
  r.memory.limit = -1;
  r.cpu.quota = -1;
  r.pids_limit = -1;
  auto none = limit_properties(r, true);
  for (const char* name : {"MemoryMax", "CPUQuotaPerSecUSec", "TasksMax"}) EXPECT_EQ(number(none, name), ~0ull) << name;
}

TEST(AnnotatedProperties, Texts) {
  auto list = annotated_properties({{"other", "x"},
                                    {"org.systemd.property.CollectMode", "'inactive-or-failed'"},
                                    {"org.systemd.property.TimeoutStopUSec", "uint64 1000"},
                                    {"org.systemd.property.SendSIGHUP", "true"}});
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 3u);
  EXPECT_EQ(std::get<std::string>((*list)[0].value), "inactive-or-failed");
  EXPECT_EQ(std::get<u64>((*list)[1].value), 1000u);
  EXPECT_TRUE(std::get<bool>((*list)[2].value));
  for (const char* bad : {"", "uint64 ", "uint64 1x", "'open", "[1, 2]"}) {
    auto refused = annotated_properties({{"org.systemd.property.X", bad}});
    ASSERT_FALSE(refused) << bad;
    EXPECT_NE(refused.error().message.find("org.systemd.property.X"), std::string::npos);
  }
}

TEST(BusAddress, Sockets) {
  EXPECT_EQ(unix_sockets("unix:path=/run/a%20b,guid=1;tcp:host=x;unix:abstract=n"),
            (std::vector<std::string>{"/run/a b", "@n"}));
  auto root = manager_addresses(true, nullptr, "unix:path=/x", "/run/user/0");
  ASSERT_EQ(root.size(), 2u);
  EXPECT_EQ(root[0].path, "/run/systemd/private");
  EXPECT_FALSE(root[0].bus);
  auto user = manager_addresses(false, "unix:path=/x", nullptr, "/run/user/5");
  ASSERT_EQ(user.size(), 2u);
  EXPECT_EQ(user[1].path, "/run/user/5/bus");
  EXPECT_TRUE(manager_addresses(false, nullptr, nullptr, nullptr).empty());
}

// The bytes of a call as the specification lays them out.
TEST(BusMessage, Bytes) {
  Message m;
  m.serial = 7;
  m.path = "/a";
  m.member = "M";
  m.signature = "sb";
  Writer body;
  body.string("x");
  body.boolean(true);
  m.body = body.bytes();
  const char expected[] =
      "l\1\0\1"
      "\14\0\0\0"
      "\7\0\0\0"
      "\50\0\0\0"
      "\1\1o\0"
      "\2\0\0\0/a\0"
      "\0\0\0\0\0"
      "\3\1s\0"
      "\1\0\0\0M\0"
      "\0\0\0\0\0\0"
      "\10\1g\0"
      "\2sb"
      "\0"
      "\1\0\0\0x\0\0\0"
      "\1\0\0\0";
  std::string bytes = encode(m);
  EXPECT_EQ(bytes, std::string(expected, sizeof(expected) - 1));
  auto back = decode(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->member, "M");
  EXPECT_EQ(back->body, m.body);
  EXPECT_EQ(*Reader(back->body).string(), "x");
}

TEST(BusMessage, Broken) {
  Message m;
  m.type = MessageType::kSignal;
  m.path = "/a";
  m.interface = "i.f";
  m.member = "M";
  std::string good = encode(m);
  ASSERT_TRUE(decode(good));
  // Every byte changed to every value of some: no crash, and lengths that lie are refused.
  for (size_t at = 0; at < good.size(); ++at) {
    for (int value : {0, 1, 8, 127, 255}) {
      std::string bad = good;
      bad[at] = static_cast<char>(value);
      (void)decode(bad);
    }
  }
  for (size_t n = 0; n < good.size(); ++n) EXPECT_FALSE(decode(good.substr(0, n)));
  EXPECT_FALSE(message_length(std::string("B\1\0\1\0\0\0\0\0\0\0\0\0\0\0\0", 16)));
  EXPECT_FALSE(message_length(std::string("l\1\0\1\xff\xff\xff\x7f\0\0\0\1\0\0\0\0", 16)));
}

// A socket where `serve` answers one connection.
class Peer {
 public:
  explicit Peer(std::function<void(int fd)> serve) {
    char name[] = "/tmp/bus.XXXXXX";
    ::close(::mkstemp(name));
    ::unlink(name);
    path_ = name;
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, name);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    thread_ = std::thread([this, serve = std::move(serve)] {
      UniqueFd fd(::accept(listener_.get(), nullptr, nullptr));
      serve(fd.get());
    });
  }
  ~Peer() {
    thread_.join();
    ::unlink(path_.c_str());
  }
  Address address() const { return {path_, false}; }

 private:
  std::string path_;
  UniqueFd listener_;
  std::thread thread_;
};

std::string take(int fd) {
  char part[4096];
  ssize_t n = ::recv(fd, part, sizeof(part), 0);
  return n > 0 ? std::string(part, static_cast<size_t>(n)) : "";
}

void put(int fd, const std::string& bytes) { (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL); }

// Authenticates and answers calls: a reply to each, errors for members that begin with "No".
void serve_calls(int fd, const std::string& before_reply) {
  EXPECT_NE(take(fd).find("\r\nBEGIN\r\n"), std::string::npos);
  put(fd, "OK 0123\r\n");
  std::string got;
  for (;;) {
    std::string more = take(fd);
    if (more.empty()) return;
    got += more;
    for (;;) {
      auto length = message_length(got);
      if (!length || *length == 0 || got.size() < *length) break;
      auto call = decode(got.substr(0, *length));
      got.erase(0, *length);
      if (!call) return;
      put(fd, before_reply);
      Message reply;
      reply.serial = 100;
      reply.reply_serial = call->serial;
      reply.type = call->member.rfind("No", 0) == 0 ? MessageType::kError : MessageType::kReturn;
      reply.signature = "s";
      if (reply.type == MessageType::kError) reply.error = "org.example.Refused";
      Writer body;
      body.string("text of " + call->member);
      reply.body = body.bytes();
      std::string bytes = encode(reply);
      put(fd, bytes.substr(0, 5));  // in two pieces
      put(fd, bytes.substr(5));
    }
  }
}

TEST(Bus, CallsErrorsAndSignals) {
  Message signal;
  signal.type = MessageType::kSignal;
  signal.serial = 1;
  signal.path = "/";
  signal.interface = "org.freedesktop.systemd1.Manager";
  signal.member = "JobRemoved";
  Peer peer([bytes = encode(signal)](int fd) { serve_calls(fd, bytes); });
  auto bus = Bus::connect(peer.address());
  ASSERT_TRUE(bus) << bus.error().message;
  auto reply = bus->call("GetUnit", "", Writer());
  ASSERT_TRUE(reply) << reply.error().message;
  EXPECT_EQ(*Reader(reply->body).string(), "text of GetUnit");
  auto refused = bus->call("NoUnit", "", Writer());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "NoUnit: org.example.Refused: text of NoUnit");
  // Those that came while the calls waited are not lost.
  EXPECT_TRUE(bus->wait_signal("JobRemoved", [](const Message&) { return true; }));
}

TEST(Bus, RefusedClosedAndGarbage) {
  {
    Peer peer([](int fd) {
      (void)take(fd);
      put(fd, "REJECTED ANONYMOUS\r\n");
    });
    auto bus = Bus::connect(peer.address());
    ASSERT_FALSE(bus);
    EXPECT_NE(bus.error().message.find("refused: REJECTED"), std::string::npos);
  }
  {
    Peer peer([](int fd) { (void)take(fd); });
    EXPECT_FALSE(Bus::connect(peer.address()));
  }
  {
    Peer peer([](int fd) {
      (void)take(fd);
      put(fd, "OK 1\r\nthis is no message at all");
      while (!take(fd).empty()) {
      }
    });
    auto bus = Bus::connect(peer.address());
    ASSERT_FALSE(bus);
    EXPECT_NE(bus.error().message.find("no D-Bus message"), std::string::npos);
  }
  EXPECT_FALSE(Bus::connect(Address{"/nonexistent/bus", true}));
}

}  // namespace
}  // namespace sbx::systemd
