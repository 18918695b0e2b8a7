#include "runtime/systemd/bus.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "runtime/host/process.h"

namespace sbx::systemd {
namespace {

constexpr u64 kTimeoutMs = 30'000;
constexpr size_t kMostSignals = 4096;  // a manager that never stops talking must not cost memory
constexpr const char* kManager = "org.freedesktop.systemd1";
constexpr const char* kManagerPath = "/org/freedesktop/systemd1";
constexpr const char* kManagerInterface = "org.freedesktop.systemd1.Manager";
constexpr const char* kBusName = "org.freedesktop.DBus";

std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      out.push_back(static_cast<char>(std::strtoul(text.substr(i + 1, 2).c_str(), nullptr, 16)));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::string hex(const std::string& text) {
  static const char kDigits[] = "0123456789abcdef";
  std::string out;
  for (char c : text) {
    out.push_back(kDigits[static_cast<u8>(c) >> 4]);
    out.push_back(kDigits[static_cast<u8>(c) & 15]);
  }
  return out;
}

}  // namespace

std::vector<std::string> unix_sockets(const std::string& address) {
  std::vector<std::string> out;
  std::istringstream all(address);
  for (std::string one; std::getline(all, one, ';');) {
    if (one.rfind("unix:", 0) != 0) continue;
    std::istringstream keys(one.substr(5));
    for (std::string key; std::getline(keys, key, ',');) {
      if (key.rfind("path=", 0) == 0) out.push_back(unescaped(key.substr(5)));
      if (key.rfind("abstract=", 0) == 0) out.push_back("@" + unescaped(key.substr(9)));
    }
  }
  return out;
}

std::vector<Address> manager_addresses(bool root, const char* system_bus, const char* session_bus,
                                       const char* runtime_dir) {
  std::vector<Address> out;
  const char* given = root ? system_bus : session_bus;
  if (given != nullptr) {
    for (std::string& path : unix_sockets(given)) out.push_back({std::move(path), true});
  }
  if (root) {
    out.push_back({"/run/systemd/private", false});
    out.push_back({"/run/dbus/system_bus_socket", true});
  } else if (runtime_dir != nullptr && runtime_dir[0] == '/') {
    out.push_back({std::string(runtime_dir) + "/systemd/private", false});
    out.push_back({std::string(runtime_dir) + "/bus", true});
  }
  return out;
}

HostResult<Bus> Bus::connect() {
  std::string tried;
  for (const Address& address :
       manager_addresses(::geteuid() == 0, std::getenv("DBUS_SYSTEM_BUS_ADDRESS"),
                         std::getenv("DBUS_SESSION_BUS_ADDRESS"), std::getenv("XDG_RUNTIME_DIR"))) {
    auto bus = connect(address);
    if (bus) return bus;
    tried += (tried.empty() ? "" : "; ") + bus.error().message;
  }
  return Failure(Errno::kNotconn, "no way to systemd: " + (tried.empty() ? "no bus is known to this user" : tried));
}

HostResult<Bus> Bus::connect(const Address& address) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (address.path.empty() || address.path.size() >= sizeof(name.sun_path)) {
    return Failure(Errno::kNametoolong, address.path + ": no path of a socket");
  }
  std::memcpy(name.sun_path, address.path.data(), address.path.size());
  if (address.path[0] == '@') name.sun_path[0] = '\0';
  socklen_t length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr*>(&name), length) < 0) {
    return Failure::from_errno(address.path);
  }
  Bus bus(std::move(fd), address.bus);
  TRY(bus.authenticate().context(address.path));
  if (address.bus) {
    Message hello;
    hello.destination = kBusName;
    hello.path = "/org/freedesktop/DBus";
    hello.interface = kBusName;
    hello.member = "Hello";
    TRY(bus.call(hello).context(address.path));
    Message match = hello;
    match.member = "AddMatch";
    match.signature = "s";
    Writer rule;
    rule.string(std::string("type='signal',sender='") + kManager + "',interface='" + kManagerInterface + "'");
    match.body = rule.bytes();
    TRY(bus.call(match).context(address.path));
  }
  TRY(bus.call("Subscribe", "", Writer()).context(address.path));
  return bus;
}

HostResult<void> Bus::authenticate() {
  std::string hello("\0AUTH EXTERNAL ", 15);
  // All in one message, and nothing more before the answer, as sd-bus does: systemd leaves what it reads together with
  // BEGIN in its buffer until something else arrives.
  TRY(send(hello + hex(std::to_string(::geteuid())) + "\r\nBEGIN\r\n"));
  u64 deadline = host::monotonic_ms() + kTimeoutMs;
  size_t end;
  while ((end = buffer_.find("\r\n")) == std::string::npos) {
    if (buffer_.size() > 1024) return Failure(Errno::kProto, "no D-Bus at the other end");
    TRY(receive(deadline));
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  if (line.rfind("OK ", 0) != 0) return Failure(Errno::kAcces, "authentication refused: " + line);
  return {};
}

HostResult<void> Bus::send(std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return Failure::from_errno("writing to systemd");
    pollfd wait{fd_.get(), POLLOUT, 0};
    if (::poll(&wait, 1, static_cast<int>(kTimeoutMs)) == 0) {
      return Failure(Errno::kTimedout, "systemd does not take our message");
    }
  }
  return {};
}

HostResult<void> Bus::receive(u64 deadline_ms) {
  for (;;) {
    char part[4096];
    ssize_t n = ::recv(fd_.get(), part, sizeof(part), 0);
    if (n > 0) {
      buffer_.append(part, static_cast<size_t>(n));
      return {};
    }
    if (n == 0) return Failure(Errno::kConnreset, "systemd closed the connection");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return Failure::from_errno("reading from systemd");
    u64 now = host::monotonic_ms();
    pollfd wait{fd_.get(), POLLIN, 0};
    if (now >= deadline_ms || ::poll(&wait, 1, static_cast<int>(deadline_ms - now)) == 0) {
      return Failure(Errno::kTimedout, "systemd does not answer");
    }
  }
}

HostResult<Message> Bus::next(u64 deadline_ms) {
  for (;;) {
    auto length = message_length(buffer_);
    if (!length) return Failure(Errno::kProto, "systemd sent what is no D-Bus message");
    if (*length != 0 && buffer_.size() >= *length) {
      auto message = decode(std::string_view(buffer_).substr(0, *length));
      if (!message) return Failure(Errno::kProto, "systemd sent what is no D-Bus message");
      buffer_.erase(0, *length);
      return std::move(*message);
    }
    TRY(receive(deadline_ms));
  }
}

HostResult<Message> Bus::call(Message message) {
  message.serial = ++serial_;
  TRY(send(encode(message)));
  u64 deadline = host::monotonic_ms() + kTimeoutMs;
  for (;;) {
    Message m = TRY(next(deadline));
    if (m.type == MessageType::kSignal && signals_.size() < kMostSignals) signals_.push_back(std::move(m));
    if (m.reply_serial != serial_) continue;
    if (m.type == MessageType::kReturn) return m;
    if (m.type != MessageType::kError) continue;
    std::string text = m.error;
    if (!m.signature.empty() && m.signature[0] == 's') {
      if (auto said = Reader(m.body).string()) text += ": " + *said;
    }
    return Failure(Errno::kRemoteio, message.member + ": " + text);
  }
}

HostResult<Message> Bus::call(const std::string& member, const std::string& signature, const Writer& body) {
  Message m;
  if (bus_) m.destination = kManager;
  m.path = kManagerPath;
  m.interface = kManagerInterface;
  m.member = member;
  m.signature = signature;
  m.body = body.bytes();
  return call(std::move(m));
}

HostResult<Message> Bus::wait_signal(const std::string& member, const std::function<bool(const Message&)>& accept) {
  auto wanted = [&](const Message& m) {
    return m.type == MessageType::kSignal && m.interface == kManagerInterface && m.member == member && accept(m);
  };
  u64 deadline = host::monotonic_ms() + kTimeoutMs;
  for (;;) {
    while (!signals_.empty()) {
      Message m = std::move(signals_.front());
      signals_.pop_front();
      if (wanted(m)) return m;
    }
    Message m = TRY(next(deadline));
    if (wanted(m)) return m;
  }
}

}  // namespace sbx::systemd
