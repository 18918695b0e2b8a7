#include "gofer/protocol/channel.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace sbx::gofer {
namespace {

constexpr u32 kMagic = 0x77677873;  // "sxgw"

long futex_wait(std::atomic<u32>& word, u32 value, const timespec* timeout) {
  return syscall(SYS_futex, &word, FUTEX_WAIT, value, timeout, nullptr, 0);
}
void futex_wake(std::atomic<u32>& word) { syscall(SYS_futex, &word, FUTEX_WAKE, 1 << 30, nullptr, nullptr, 0); }

bool peer_gone(int socket) {
  pollfd p{socket, 0, 0};
  return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

}  // namespace

bool send_descriptors(int socket, std::span<const int> fds) {
  char byte = 0;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMostOpened)] = {};
  if (fds.empty() || fds.size() > kMostOpened) return false;
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* h = CMSG_FIRSTHDR(&m);
  h->cmsg_level = SOL_SOCKET;
  h->cmsg_type = SCM_RIGHTS;
  h->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(h), fds.data(), fds.size_bytes());
  return sendmsg(socket, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

std::vector<UniqueFd> receive_descriptors(int socket) {
  std::vector<UniqueFd> fds;
  char byte = 0;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMostOpened)] = {};
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof(control);
  if (recvmsg(socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0) return fds;
  cmsghdr* h = CMSG_FIRSTHDR(&m);
  if (h == nullptr || h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) return fds;
  for (size_t i = 0; i < (h->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
    fds.emplace_back(fd);
  }
  return fds;
}

UniqueFd receive_descriptor(int socket) {
  std::vector<UniqueFd> fds = receive_descriptors(socket);
  return fds.size() == 1 ? std::move(fds[0]) : UniqueFd();
}

// --- client ---

HostResult<std::unique_ptr<Client>> Client::connect(UniqueFd socket) {
  pollfd p{socket.get(), POLLIN, 0};
  int ready = 0;
  do {
    ready = poll(&p, 1, 10'000);
  } while (ready < 0 && errno == EINTR);
  UniqueFd memfd = ready == 1 ? receive_descriptor(socket.get()) : UniqueFd();
  if (!memfd) return Failure(Errno::kIo, "the gofer did not greet");
  void* at = mmap(nullptr, sizeof(Window), PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  if (at == MAP_FAILED) return Failure::from_errno("mapping the gofer's window");
  auto* window = static_cast<Window*>(at);
  if (window->magic != kMagic || window->version != kProtocolVersion || window->lanes == 0 ||
      window->lanes > kMaxLanes) {
    munmap(at, sizeof(Window));
    return Failure(Errno::kProto, "the gofer speaks another version");
  }
  return std::unique_ptr<Client>(new Client(std::move(socket), window));
}

Client::~Client() { munmap(window_, sizeof(Window)); }

Result<void> Client::wait_reply(u32 old) {
  const timespec second{1, 0};
  while (window_->reply_word.load(std::memory_order_acquire) == old) {
    if (futex_wait(window_->reply_word, old, &second) != 0 && errno == ETIMEDOUT && peer_gone(socket_.get())) {
      dead_ = true;
      return Errno::kIo;
    }
  }
  return {};
}

Result<std::string> Client::exchange(MessageType type, const std::string& bytes, int send_fd,
                                     std::vector<UniqueFd>& received) {
  if (bytes.size() > kRequestBytes) return Errno::kTooBig;
  std::lock_guard lock(mutex_);
  if (dead_) return Errno::kIo;
  Window& w = *window_;
  if (send_fd >= 0 && !send_descriptors(socket_.get(), {&send_fd, 1})) return Errno::kIo;
  w.request_type = static_cast<u32>(type);
  w.request_size = static_cast<u32>(bytes.size());
  w.request_descriptor = send_fd >= 0 ? 1 : 0;
  std::memcpy(w.request, bytes.data(), bytes.size());
  u32 old = w.reply_word.load(std::memory_order_relaxed);
  int cpu = sched_getcpu();
  u32 lanes = w.lanes;
  u32 lane = lanes >= 1 && lanes <= kMaxLanes && cpu >= 0 && static_cast<u32>(cpu) < lanes ? static_cast<u32>(cpu) : 0;
  w.lane[lane].word.fetch_add(1, std::memory_order_release);
  futex_wake(w.lane[lane].word);
  TRY(wait_reply(old));
  ++round_trips_;
  i32 error = w.reply_error;
  u32 size = w.reply_size;
  received.clear();
  if (w.reply_descriptors != 0) {
    received = receive_descriptors(socket_.get());
    if (received.empty()) return Errno::kMfile;  // our table is full: the kernel dropped them
  }
  if (error != 0) return error > 0 && error < 512 ? static_cast<Errno>(error) : Errno::kIo;
  if (size > kReplyBytes) return Errno::kIo;
  return std::string(w.reply, size);
}

// --- server ---

HostResult<std::unique_ptr<ServerChannel>> ServerChannel::create(int socket, Handler handler) {
  UniqueFd memfd(memfd_create("gofer-window", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memfd || ftruncate(memfd.get(), sizeof(Window)) != 0) return Failure::from_errno("making the gofer's window");
  if (fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return Failure::from_errno("sealing the gofer's window");
  void* at = mmap(nullptr, sizeof(Window), PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  if (at == MAP_FAILED) return Failure::from_errno("mapping the gofer's window");
  auto* window = static_cast<Window*>(at);
  // Many CPUs: one thread that the scheduler places. A wake across CPUs is cheap on such machines.
  long cpus = sysconf(_SC_NPROCESSORS_CONF);
  u32 lanes = cpus >= 1 && cpus <= static_cast<long>(kMaxLanes) ? static_cast<u32>(cpus) : 1;
  window->magic = kMagic;
  window->version = kProtocolVersion;
  window->lanes = lanes;
  std::unique_ptr<ServerChannel> channel(new ServerChannel(socket, std::move(handler)));
  channel->window_ = window;
  for (u32 i = 0; i < lanes; ++i) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    struct Start {
      ServerChannel* channel;
      u32 index, lanes;
    };
    pthread_t thread;
    auto* start = new Start{channel.get(), i, lanes};
    int error = pthread_create(
        &thread, &attr,
        [](void* p) -> void* {
          std::unique_ptr<Start> s(static_cast<Start*>(p));
          s->channel->serve_lane(s->index, s->lanes);
          return nullptr;
        },
        start);
    pthread_attr_destroy(&attr);
    if (error != 0) {
      delete start;
      return Failure(static_cast<Errno>(error), "starting a thread of the gofer");
    }
  }
  // Their first system calls (the C library's, the CPU's) are not in the filter that is loaded next.
  for (u32 up = 0; (up = channel->up_.load(std::memory_order_acquire)) != lanes;) futex_wait(channel->up_, up, nullptr);
  const int window_fd = memfd.get();
  if (!send_descriptors(socket, {&window_fd, 1})) return Failure::from_errno("greeting the sentry");
  return channel;
}

void ServerChannel::go() {
  go_.store(1, std::memory_order_release);
  futex_wake(go_);
}

void ServerChannel::wait_for_end() const {
  for (;;) {
    // No events asked for: arriving descriptors do not wake us, the end of the peer does.
    pollfd p{socket_, 0, 0};
    if (poll(&p, 1, -1) > 0) return;
  }
}

void ServerChannel::serve_lane(u32 index, u32 lanes) {
  if (lanes > 1) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(index, &set);
    // A CPU outside our cpuset: then nobody rings this lane from there either.
    (void)sched_setaffinity(0, sizeof(set), &set);
  }
  up_.fetch_add(1, std::memory_order_release);
  futex_wake(up_);
  while (go_.load(std::memory_order_acquire) == 0) futex_wait(go_, 0, nullptr);
  std::atomic<u32>& word = window_->lane[index].word;
  u32 seen = 0;
  for (;;) {
    u32 now = word.load(std::memory_order_acquire);
    if (now == seen) {
      futex_wait(word, seen, nullptr);
      continue;
    }
    seen = now;
    std::lock_guard turn(turn_);
    serve_one();
  }
}

void ServerChannel::serve_one() {
  Window& w = *window_;
  u32 type = w.request_type;
  u32 size = w.request_size;
  UniqueFd in = w.request_descriptor == 1 ? receive_descriptor(socket_) : UniqueFd();
  std::vector<UniqueFd> out;
  Result<std::string> reply = Errno::kProto;
  if (size <= kRequestBytes) {
    std::string request(w.request, size);
    reply = handler_(type, request, in, out);
  }
  if (reply && reply->size() > kReplyBytes) reply = Errno::kOverflow;
  u32 count = reply ? static_cast<u32>(std::min(out.size(), kMostOpened)) : 0;
  int fds[kMostOpened];
  for (u32 i = 0; i < count; ++i) fds[i] = out[i].get();
  if (count != 0 && !send_descriptors(socket_, {fds, count})) {
    reply = Errno::kIo;
    count = 0;
  }
  w.reply_descriptors = count;
  w.reply_error = reply ? 0 : static_cast<i32>(reply.error());
  w.reply_size = reply ? static_cast<u32>(reply->size()) : 0;
  if (reply) std::memcpy(w.reply, reply->data(), reply->size());
  w.reply_word.fetch_add(1, std::memory_order_release);
  futex_wake(w.reply_word);
}

}  // namespace sbx::gofer
