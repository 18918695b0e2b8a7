// A connection to systemd's manager: its private socket, or the bus where it is org.freedesktop.systemd1.
#pragma once
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "runtime/systemd/message.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"

namespace sbx::systemd {

// Where to look, best first: for root $DBUS_SYSTEM_BUS_ADDRESS, /run/systemd/private (as systemctl does), the system
// bus; for others $DBUS_SESSION_BUS_ADDRESS and both sockets below $XDG_RUNTIME_DIR.
struct Address {
  std::string path;  // of a socket; a leading @: abstract
  bool bus = true;   // a message bus, which wants to be greeted; else systemd itself
};
std::vector<Address> manager_addresses(bool root, const char* system_bus, const char* session_bus,
                                       const char* runtime_dir);
// The unix sockets of a D-Bus address ("unix:path=/run/bus;unix:abstract=x"), values unescaped.
std::vector<std::string> unix_sockets(const std::string& address);

class Bus {
 public:
  // Connected, authenticated as our user (SASL EXTERNAL) and subscribed to the manager's signals.
  static HostResult<Bus> connect();
  // The same on one socket.
  static HostResult<Bus> connect(const Address& address);

  // Calls a method of the manager and waits for its answer: an error's name and text are the Failure's message.
  HostResult<Message> call(const std::string& member, const std::string& signature, const Writer& body);
  // The first signal `member` of the manager that `accept` takes, also one that came while a call waited.
  HostResult<Message> wait_signal(const std::string& member, const std::function<bool(const Message&)>& accept);

 private:
  explicit Bus(UniqueFd fd, bool bus) : fd_(std::move(fd)), bus_(bus) {}
  HostResult<void> authenticate();
  HostResult<Message> call(Message message);
  HostResult<void> send(std::string_view bytes);
  HostResult<void> receive(u64 deadline_ms);
  HostResult<Message> next(u64 deadline_ms);

  UniqueFd fd_;
  bool bus_ = true;
  u32 serial_ = 0;
  std::string buffer_;           // received, not yet a whole message
  std::deque<Message> signals_;  // came while a call waited
};

}  // namespace sbx::systemd
