// Which transport for the gofer's synchronous requests? Measures one request-reply round trip (128 bytes each way)
// between two processes, ns per trip, minimum and median of 9 batches of 2000.
//   seqpacket   SOCK_SEQPACKET, send + recv
//   stream      SOCK_STREAM, write + read
//   futex       shared page, futex both ways
//   eventfd     shared page, eventfd both ways
//   hybrid N    shared page; after a request the server, and during one the client, spins N µs before the socket
//   notif       the client's system call is answered by seccomp user notification (SYNC_WAKE_UP)
// Each for both processes pinned to one CPU, to two, and free; and free with "follow": the server moves itself to the
// client's CPU when they differ. With "think N" the client computes for N µs between requests.
// g++ -O2 -std=c++20 gofer_transport.cc -o gofer_transport -pthread
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

namespace {
using u32 = uint32_t;
using u64 = uint64_t;
struct Shared {
  alignas(64) std::atomic<u32> request{0};
  alignas(64) std::atomic<u32> reply{0};
  alignas(64) std::atomic<u32> server_sleeps{0}, client_sleeps{0};
  alignas(64) std::atomic<u32> client_cpu{0};
  char data[4096];
};
Shared* shared;
int pair_fd[2];
int event_fd[2];
bool follow;
int spin_us;

u64 now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}
void pin(int cpu) {
  cpu_set_t s;
  CPU_ZERO(&s);
  if (cpu < 0)
    for (int i = 0; i < 64; ++i) CPU_SET(i, &s);
  else
    CPU_SET(cpu, &s);
  sched_setaffinity(0, sizeof s, &s);
}
void follow_client() {
  if (!follow) return;
  int cpu = static_cast<int>(shared->client_cpu.load(std::memory_order_relaxed));
  if (cpu != sched_getcpu()) {
    pin(cpu);
  }
}
long futex(std::atomic<u32>* a, int op, u32 v) { return syscall(SYS_futex, a, op, v, nullptr, nullptr, 0); }
bool spin_until(std::atomic<u32>& a, u32 old) {
  u64 end = now() + spin_us * 1000ull;
  do {
    for (int i = 0; i < 32; ++i) {
      if (a.load(std::memory_order_acquire) != old) return true;
      __builtin_ia32_pause();
    }
  } while (now() < end);
  return a.load() != old;
}

enum Kind { kSeqpacket, kStream, kFutex, kEventfd, kHybrid };
char buffer[256];

void serve(Kind k) {
  u32 seen = 0;
  for (;;) {
    follow_client();
    switch (k) {
      case kSeqpacket:
      case kStream:
        if (read(pair_fd[1], buffer, sizeof buffer) <= 0) _exit(0);
        if (write(pair_fd[1], buffer, 128) < 0) _exit(0);
        break;
      case kFutex:
        while (shared->request.load() == seen) futex(&shared->request, FUTEX_WAIT, seen);
        seen = shared->request.load();
        memcpy(buffer, shared->data, 128);
        shared->reply.fetch_add(1);
        futex(&shared->reply, FUTEX_WAKE, 1);
        break;
      case kEventfd: {
        u64 v;
        if (read(event_fd[0], &v, 8) != 8) _exit(0);
        memcpy(buffer, shared->data, 128);
        v = 1;
        if (write(event_fd[1], &v, 8) != 8) _exit(0);
        break;
      }
      case kHybrid:
        if (!spin_until(shared->request, seen)) {
          shared->server_sleeps.store(1);
          if (shared->request.load() == seen) {
            if (read(pair_fd[1], buffer, 1) <= 0) _exit(0);
          }
          shared->server_sleeps.store(0);
          // A doorbell rung although we never slept is left over: drain without waiting.
          while (recv(pair_fd[1], buffer, 1, MSG_DONTWAIT) > 0) {
          }
        }
        if (shared->request.load() == seen) continue;
        seen = shared->request.load();
        memcpy(buffer, shared->data, 128);
        shared->reply.fetch_add(1);
        if (shared->client_sleeps.load()) {
          if (write(pair_fd[1], buffer, 1) < 0) _exit(0);
        }
        break;
    }
  }
}
void ask(Kind k) {
  shared->client_cpu.store(sched_getcpu(), std::memory_order_relaxed);
  u32 old = shared->reply.load();
  switch (k) {
    case kSeqpacket:
    case kStream:
      if (write(pair_fd[0], buffer, 128) < 0) _exit(1);
      if (read(pair_fd[0], buffer, sizeof buffer) <= 0) _exit(1);
      break;
    case kFutex:
      memcpy(shared->data, buffer, 128);
      shared->request.fetch_add(1);
      futex(&shared->request, FUTEX_WAKE, 1);
      while (shared->reply.load() == old) futex(&shared->reply, FUTEX_WAIT, old);
      break;
    case kEventfd: {
      memcpy(shared->data, buffer, 128);
      u64 v = 1;
      if (write(event_fd[0], &v, 8) != 8) _exit(1);
      if (read(event_fd[1], &v, 8) != 8) _exit(1);
      break;
    }
    case kHybrid: {
      memcpy(shared->data, buffer, 128);
      shared->request.fetch_add(1);
      bool rang = shared->server_sleeps.load() != 0;
      if (rang && write(pair_fd[0], buffer, 1) < 0) _exit(1);
      // If it had to be woken it most likely runs after us on this CPU: sleeping at once is the hand-over.
      if (!rang && spin_until(shared->reply, old)) break;
      shared->client_sleeps.store(1);
      while (shared->reply.load() == old) {
        if (read(pair_fd[0], buffer, 1) <= 0) _exit(1);
      }
      shared->client_sleeps.store(0);
      while (recv(pair_fd[0], buffer, 1, MSG_DONTWAIT) > 0) {
      }
      break;
    }
  }
}

void think(int us) {
  u64 end = now() + us * 1000ull;
  while (us && now() < end) {
  }
}

void report(const char* name, const char* where, int think_us, const std::function<void()>& one, u64 cpu_child_ns) {
  std::vector<double> v;
  int n = think_us > 100 ? 200 : 2000;
  for (int i = 0; i < 100; ++i) one();
  for (int b = 0; b < 9; ++b) {
    u64 sum = 0;
    for (int i = 0; i < n; ++i) {
      think(think_us);
      u64 a = now();
      one();
      sum += now() - a;
    }
    v.push_back(double(sum) / n);
  }
  std::sort(v.begin(), v.end());
  (void)cpu_child_ns;
  printf("%-10s %-14s think %4d us: %8.0f %8.0f\n", name, where, think_us, v[0], v[4]);
  fflush(stdout);
}

void run(const char* name, Kind k, int server_cpu, int client_cpu, bool follows, int think_us, const char* where) {
  follow = follows;
  new (shared) Shared();
  if (socketpair(AF_UNIX, k == kStream ? SOCK_STREAM : SOCK_SEQPACKET, 0, pair_fd)) _exit(1);
  event_fd[0] = eventfd(0, 0);
  event_fd[1] = eventfd(0, 0);
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(server_cpu);
    serve(k);
  }
  pin(client_cpu);
  report(
      name, where, think_us, [&] { ask(k); }, 0);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  for (int fd : {pair_fd[0], pair_fd[1], event_fd[0], event_fd[1]}) close(fd);
}

// The client in a child with the filter; the server here.
void run_notif(int server_cpu, int client_cpu, int think_us, const char* where) {
  int sv[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv)) _exit(1);
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1000, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog prog{4, code};
    int fd = static_cast<int>(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog));
    if (fd < 0) _exit(1);
    char c = 0;
    iovec iov{&c, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr m{};
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    cmsghdr* h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    sendmsg(sv[0], &m, 0);
    close(fd);
    pin(client_cpu);
    report(
        "notif", where, think_us, [] { syscall(1000); }, 0);
    _exit(0);
  }
  close(sv[0]);
  char c;
  iovec iov{&c, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  if (recvmsg(sv[1], &m, 0) <= 0) return;
  int fd;
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
  u64 flags = 1;
  ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags);
  pin(server_cpu);
  for (;;) {
    seccomp_notif n{};
    if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &n)) {
      pollfd p{fd, POLLIN, 0};
      poll(&p, 1, 0);
      if (p.revents & POLLHUP) break;
      continue;
    }
    seccomp_notif_resp r{};
    r.id = n.id;
    ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r);
  }
  waitpid(child, nullptr, 0);
  close(fd);
  close(sv[1]);
}
}  // namespace

int main() {
  shared = static_cast<Shared*>(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  for (int think_us : {0, 20, 300}) {
    const struct {
      const char* name;
      Kind k;
      int spin;
    } kinds[] = {{"seqpacket", kSeqpacket, 0}, {"stream", kStream, 0},     {"futex", kFutex, 0},
                 {"eventfd", kEventfd, 0},     {"hybrid 20", kHybrid, 20}, {"hybrid 60", kHybrid, 60}};
    for (auto& kind : kinds) {
      spin_us = kind.spin;
      run(kind.name, kind.k, 0, 0, false, think_us, "one CPU");
      run(kind.name, kind.k, 0, 1, false, think_us, "two CPUs");
      run(kind.name, kind.k, -1, -1, false, think_us, "free");
      run(kind.name, kind.k, -1, -1, true, think_us, "free, follow");
    }
    run_notif(0, 0, think_us, "one CPU");
    run_notif(-1, -1, think_us, "free, sync");
  }
}
