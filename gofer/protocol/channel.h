// How requests travel (docs/decisions/0002-gofer-transport.md): one shared window with one outstanding request, futex
// words for the hand-over, descriptors by SCM_RIGHTS on the socket. The server keeps one thread pinned to each CPU (a
// "lane"); the client rings the lane of the CPU it runs on, so a round trip never wakes another CPU. The lanes take
// turns: handlers never run concurrently.
//
// Neither side trusts the window: sizes are checked, contents are copied out before they are looked at, and the memfd
// is sealed against shrinking.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gofer/protocol/messages.h"
#include "sentry/base/result.h"
#include "sentry/base/unique_fd.h"

namespace sbx::gofer {

constexpr u32 kMaxLanes = 8;
constexpr size_t kRequestBytes = 128 * 1024;
constexpr size_t kReplyBytes = 384 * 1024;
// A ReadDir reply grows to about this.
constexpr size_t kReadDirBytes = 256 * 1024;

struct Window {
  u32 magic;
  u32 version;
  u32 lanes;
  // Shared with the other side: each is read once.
  std::atomic<u32> request_type;
  std::atomic<u32> request_size;
  std::atomic<u32> request_descriptor;  // 1: a descriptor was sent on the socket first
  std::atomic<i32> reply_error;
  std::atomic<u32> reply_size;
  std::atomic<u32> reply_descriptors;  // so many were sent on the socket, in one message
  alignas(64) std::atomic<u32> reply_word;
  struct alignas(64) Lane {
    std::atomic<u32> word;
  } lane[kMaxLanes];
  alignas(4096) char request[kRequestBytes];
  char reply[kReplyBytes];
};

// The sentry's side. Not for use by two threads at once without the internal mutex's cost; calls are synchronous.
class Client {
 public:
  // Takes our end of the request socket and waits for the server's greeting. Before the sentry's seccomp filter.
  static HostResult<std::unique_ptr<Client>> connect(UniqueFd socket);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // One round trip. `send_fd` (not owned) goes with the request; a descriptor that comes with the reply is put into
  // `received`. kIo when the server is gone; kMfile when our table of descriptors had no room.
  template <typename Request>
  Result<typename Request::Reply> call(const Request& request, int send_fd = -1, UniqueFd* received = nullptr) {
    Encoder e;
    encode(e, request);
    std::vector<UniqueFd> fds;
    std::string bytes = TRY(exchange(Request::kType, e.bytes(), send_fd, fds));
    if (received != nullptr && !fds.empty()) *received = std::move(fds[0]);
    typename Request::Reply reply;
    if (!decode(bytes, reply)) return Errno::kIo;
    return reply;
  }
  // The same with any number of descriptors in the reply: as many as there was room for.
  template <typename Request>
  Result<typename Request::Reply> call(const Request& request, std::vector<UniqueFd>& received) {
    Encoder e;
    encode(e, request);
    std::string bytes = TRY(exchange(Request::kType, e.bytes(), -1, received));
    typename Request::Reply reply;
    if (!decode(bytes, reply)) return Errno::kIo;
    return reply;
  }
  u64 round_trips() const { return round_trips_; }

 private:
  Client(UniqueFd socket, Window* window) : socket_(std::move(socket)), window_(window) {}
  Result<std::string> exchange(MessageType type, const std::string& bytes, int send_fd,
                               std::vector<UniqueFd>& received);
  Result<void> wait_reply(u32 old);
  UniqueFd socket_;
  Window* window_;
  std::mutex mutex_;
  bool dead_ = false;
  u64 round_trips_ = 0;
};

// The gofer's side.
class ServerChannel {
 public:
  // Answers one request: an error or the encoded reply. `in` may be taken; `out` goes with the reply.
  using Handler =
      std::function<Result<std::string>(u32 type, std::string_view request, UniqueFd& in, std::vector<UniqueFd>& out)>;

  // Makes the window, greets the client and starts the lanes' threads, which wait for `go`. `socket` is not owned.
  static HostResult<std::unique_ptr<ServerChannel>> create(int socket, Handler handler);
  // Lets the lanes serve.
  void go();
  int socket() const { return socket_; }
  // Waits until the client is gone.
  void wait_for_end() const;

 private:
  ServerChannel(int socket, Handler handler) : socket_(socket), handler_(std::move(handler)) {}
  void serve_lane(u32 index, u32 lanes);
  void serve_one();
  int socket_;
  Handler handler_;
  Window* window_ = nullptr;
  std::atomic<u32> up_{0};  // lanes that have started
  std::atomic<u32> go_{0};
  std::mutex turn_;
};

// Descriptors (kMostOpened at most) in one message over a SOCK_SEQPACKET socket; used by both sides. What there was no
// room for is missing at the end.
bool send_descriptors(int socket, std::span<const int> fds);
std::vector<UniqueFd> receive_descriptors(int socket);
UniqueFd receive_descriptor(int socket);

}  // namespace sbx::gofer
