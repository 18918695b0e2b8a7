#include "sentry/net/inet_posts.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <list>
#include <vector>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/fiber/reactor.h"

namespace sbx::net {
namespace {

COUNTER(kept, "net.posts_kept", "posted writes that the host had no room for");
COUNTER(lingering, "net.lingering", "closed sockets kept until what was posted to them is sent");
COUNTER(given_up, "net.lingering_refused", "closed sockets that were not, as there were too many");

// No limit of the guest's counts these descriptors of ours. As with too many orphans of the host (tcp(7),
// tcp_max_orphans) what is not sent is lost beyond that.
constexpr size_t kMostLingering = 256;

// Sends as much as there is room for. kNone: all; kAgain: the rest waits.
Errno send_some(int fd, std::string& bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno == EINTR ? Errno::kAgain : last_errno();
    bytes.erase(0, static_cast<size_t>(sent));
  }
  return Errno::kNone;
}

// Those with bytes that wait.
std::vector<InetPosts*>& waiting_posts() {
  static auto* all = new std::vector<InetPosts*>;
  return *all;
}

// A socket that nobody has any more.
class Lingering {
 public:
  Lingering(UniqueFd fd, std::string bytes) : fd_(std::move(fd)), bytes_(std::move(bytes)) {
    auto on_events = [this](u32 events) {
      if ((events & (EPOLLERR | EPOLLHUP)) != 0 || send() != Errno::kAgain) end();
    };
    auto watched = watch_.watch(fd_.get(), EPOLLOUT, on_events);
    if (!watched) LOG_WARNING("cannot watch a socket that lingers: %s", errno_name(watched.error()));
  }
  static void keep(UniqueFd fd, std::string bytes) {
    all().emplace_back(std::move(fd), std::move(bytes));
    all().back().at_ = std::prev(all().end());
  }

  static std::list<Lingering>& all() {
    static auto* list = new std::list<Lingering>;
    return *list;
  }
  Errno send() { return send_some(fd_.get(), bytes_); }
  int fd() const { return fd_.get(); }

 private:
  // Not in the course of the watch's own call.
  void end() {
    if (std::exchange(ended_, true)) return;
    fiber::spawn([at = at_] { all().erase(at); });
  }
  UniqueFd fd_;
  std::string bytes_;
  fiber::HostWatch watch_;
  std::list<Lingering>::iterator at_;
  bool ended_ = false;
};

}  // namespace

InetPosts::~InetPosts() { std::erase(waiting_posts(), this); }

bool InetPosts::wants_right() {
  if (right_ && right_->open()) return false;
  end_right();
  return !unusual() && !shuts_ && luck_.tries();
}

void InetPosts::end_right() {
  if (!right_) return;
  right_->end();
  luck_.came_back(right_->used() > 0);
  right_ = nullptr;
}

bool InetPosts::send_posted(const std::array<std::span<const u8>, 2>& pieces) {
  if (unusual()) {
    // Only who does not keep to one write gets here.
    if (!owes()) {
      for (auto piece : pieces) waiting_.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
    return false;
  }
  iovec vecs[2];
  for (size_t i = 0; i < 2; ++i) vecs[i] = {const_cast<u8*>(pieces[i].data()), pieces[i].size()};
  msghdr message{};
  message.msg_iov = vecs;
  message.msg_iovlen = pieces[1].empty() ? 1 : 2;
  const ssize_t got = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  const bool full = got < 0 && (errno == EAGAIN || errno == EINTR);
  if (got < 0 && !full) {
    // A connection that is over says so again; any other error it has told now (sock_error).
    if (errno != EPIPE) owed_ = last_errno();
    return false;
  }
  size_t sent = full ? 0 : static_cast<size_t>(got);
  if (sent == pieces[0].size() + pieces[1].size()) return true;
  kept.add();
  std::string rest;
  for (auto piece : pieces) {
    const size_t gone = std::min(sent, piece.size());
    rest.append(reinterpret_cast<const char*>(piece.data()) + gone, piece.size() - gone);
    sent -= gone;
  }
  waiting_ = std::move(rest);
  waiting_posts().push_back(this);
  // Until the host says that there is no room, it does not tell when there is.
  (void)flush();
  return false;
}

bool InetPosts::flush() {
  if (waiting_.empty()) return true;
  const Errno error = send_some(fd_, waiting_);
  if (error == Errno::kAgain) return false;
  if (error != Errno::kNone && error != Errno::kPipe) owed_ = error;
  waiting_.clear();
  std::erase(waiting_posts(), this);
  if (std::exchange(shuts_, false)) (void)::shutdown(fd_, SHUT_WR);
  return true;
}

void InetPosts::linger(UniqueFd fd) {
  ::linger how{};
  socklen_t n = sizeof(how);
  // Who asked for it loses what was not sent (socket(7)).
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &how, &n) == 0 && how.l_onoff != 0 && how.l_linger == 0) return;
  if (Lingering::all().size() >= kMostLingering) return given_up.add();
  lingering.add();
  Lingering::keep(std::move(fd), std::move(waiting_));
}

void InetPosts::drain(int ms) {
  for (const u64 end = fiber::now_ns() + static_cast<u64>(ms) * 1'000'000;;) {
    std::vector<pollfd> full;
    const std::vector<InetPosts*> waiting = waiting_posts();
    for (InetPosts* posts : waiting) {
      if (!posts->flush()) full.push_back({posts->fd_, POLLOUT, 0});
    }
    for (Lingering& one : Lingering::all()) {
      if (one.send() == Errno::kAgain) full.push_back({one.fd(), POLLOUT, 0});
    }
    const u64 now = fiber::now_ns();
    if (full.empty() || now >= end) return;
    if (::poll(full.data(), full.size(), static_cast<int>((end - now) / 1'000'000) + 1) < 0 && errno != EINTR) return;
  }
}

}  // namespace sbx::net
