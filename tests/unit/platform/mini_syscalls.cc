// The mini kernel's system calls.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstring>

#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"
#include "tests/unit/platform/mini_kernel.h"

namespace sbx::platform::test {

struct MiniFile {
  explicit MiniFile(int fd) : fd(fd) {}
  ~MiniFile() { close(fd); }
  int fd;
};

namespace {
i64 host(i64 ret) { return ret < 0 ? -errno : ret; }
}  // namespace

bool MiniKernel::syscall(std::shared_ptr<MiniTask>& task, const Entry& e, i64& ret) {
  GuestThread& t = *task->thread;
  MiniProcess& p = *task->process;
  const u64* a = e.args;
  auto fd_of = [&](u64 fd) {
    auto it = p.files.find(static_cast<int>(fd));
    return it == p.files.end() ? -1 : it->second->fd;
  };
  auto install = [&](int fd) -> i64 {
    int at = 0;
    while (p.files.count(at) != 0) ++at;
    p.files[at] = std::make_shared<MiniFile>(fd);
    return at;
  };
  auto path_at = [&](u64 dir, const std::string& path) {
    (void)dir;
    return path;
  };
  char buffer[65536];
  switch (e.nr) {
    case SYS_read: {
      size_t n = std::min<size_t>(a[2], sizeof(buffer));
      {
        int fd = fd_of(a[0]);
        fiber::HostBlock block;
        ret = host(::read(fd, buffer, n));
      }
      if (ret > 0 && !t.write(a[1], buffer, static_cast<size_t>(ret))) ret = -EFAULT;
      return false;
    }
    case SYS_write: {
      size_t n = std::min<size_t>(a[2], sizeof(buffer));
      if (!t.read(a[1], buffer, n))
        ret = -EFAULT;
      else
        ret = host(::write(fd_of(a[0]), buffer, n));
      return false;
    }
    case SYS_writev: {
      iovec v[16];
      size_t count = std::min<size_t>(a[2], 16);
      if (!t.read(a[1], v, count * sizeof(iovec))) {
        ret = -EFAULT;
        return false;
      }
      ret = 0;
      for (size_t i = 0; i < count; ++i) {
        size_t n = std::min<size_t>(v[i].iov_len, sizeof(buffer));
        if (n == 0) continue;
        if (!t.read(reinterpret_cast<u64>(v[i].iov_base), buffer, n)) {
          ret = -EFAULT;
          return false;
        }
        ret += host(::write(fd_of(a[0]), buffer, n));
      }
      return false;
    }
    case SYS_open:
    case SYS_openat: {
      int shift = e.nr == SYS_openat;
      auto path = t.read_string(a[shift], 4095);
      if (!path) {
        ret = -static_cast<i64>(path.error());
        return false;
      }
      int fd = ::open(path_at(a[0], *path).c_str(), static_cast<int>(a[1 + shift]) | O_CLOEXEC, 0644);
      ret = fd < 0 ? -errno : install(fd);
      return false;
    }
    case SYS_close: ret = p.files.erase(static_cast<int>(a[0])) != 0 ? 0 : -EBADF; return false;
    case SYS_dup2: {
      auto it = p.files.find(static_cast<int>(a[0]));
      if (it == p.files.end()) {
        ret = -EBADF;
        return false;
      }
      p.files[static_cast<int>(a[1])] = it->second;
      ret = static_cast<i64>(a[1]);
      return false;
    }
    case SYS_pipe:
    case SYS_pipe2: {
      int fds[2];
      if (::pipe2(fds, O_CLOEXEC) != 0) {
        ret = -errno;
        return false;
      }
      int out[2] = {static_cast<int>(install(fds[0])), 0};
      out[1] = static_cast<int>(install(fds[1]));
      ret = t.write(a[0], out, 8) ? 0 : -EFAULT;
      return false;
    }
    case SYS_fstat: {
      struct stat st;
      ret = host(::fstat(fd_of(a[0]), &st));
      if (ret == 0 && !t.write(a[1], &st, sizeof(st))) ret = -EFAULT;
      return false;
    }
    case SYS_stat:
    case SYS_lstat:
    case SYS_newfstatat: {
      int shift = e.nr == SYS_newfstatat;
      auto path = t.read_string(a[shift], 4095);
      struct stat st;
      if (!path) {
        ret = -static_cast<i64>(path.error());
        return false;
      }
      if (shift && path->empty())
        ret = host(::fstat(fd_of(a[0]), &st));
      else
        ret = host(e.nr == SYS_lstat ? ::lstat(path->c_str(), &st) : ::stat(path->c_str(), &st));
      if (ret == 0 && !t.write(a[1 + shift], &st, sizeof(st))) ret = -EFAULT;
      return false;
    }
    case SYS_getdents64:
      ret = host(::syscall(SYS_getdents64, fd_of(a[0]), buffer, std::min<size_t>(a[2], sizeof(buffer))));
      if (ret > 0 && !t.write(a[1], buffer, static_cast<size_t>(ret))) ret = -EFAULT;
      return false;
    case SYS_access: {
      auto path = t.read_string(a[0], 4095);
      ret = path ? host(::access(path->c_str(), static_cast<int>(a[1]))) : -static_cast<i64>(path.error());
      return false;
    }
    case SYS_readlink:
      ret = std::min<i64>(static_cast<i64>(p.exe.size()), static_cast<i64>(a[2]));
      if (!t.write(a[1], p.exe.data(), static_cast<size_t>(ret))) ret = -EFAULT;
      return false;
    case SYS_uname: {
      utsname u;
      ::uname(&u);
      ret = t.write(a[0], &u, sizeof(u)) ? 0 : -EFAULT;
      return false;
    }
    case SYS_getcwd: ret = t.write(a[0], "/", 2) ? 2 : -EFAULT; return false;
    case SYS_getrandom:
      ret = static_cast<i64>(std::min<size_t>(a[1], 256));
      if (::getrandom(buffer, static_cast<size_t>(ret), 0) < 0 || !t.write(a[0], buffer, static_cast<size_t>(ret)))
        ret = -EFAULT;
      return false;
    case SYS_prlimit64: {
      rlimit r{8 << 20, ~0ull};
      ret = a[3] == 0 || t.write(a[3], &r, sizeof(r)) ? 0 : -EFAULT;
      return false;
    }
    case SYS_mmap: {
      MmapRequest request{a[0], a[1], static_cast<u32>(a[2]), static_cast<u32>(a[3]) & 0x104033, {fd_of(a[4]), a[5]}};
      if (request.source.fd < 0) {
        ret = -EBADF;
        return false;
      }
      t.resume_mmap(request);
      return true;
    }
    case SYS_rt_sigaction: {
      int signo = static_cast<int>(a[0]);
      MiniAction old = p.actions[signo];
      MiniAction fresh;
      if (a[1] != 0) {
        if (!t.read(a[1], &fresh, sizeof(fresh))) {
          ret = -EFAULT;
          return false;
        }
        p.actions[signo] = fresh;
      }
      ret = a[2] == 0 || t.write(a[2], &old, sizeof(old)) ? 0 : -EFAULT;
      return false;
    }
    case SYS_kill:
    case SYS_tgkill:
    case SYS_tkill: {
      i32 tid = static_cast<i32>(e.nr == SYS_tgkill ? a[1] : a[0]);
      int signo = static_cast<int>(e.nr == SYS_tgkill ? a[2] : a[1]);
      ret = -ESRCH;
      if (auto it = tasks.find(tid); it != tasks.end()) {
        auto other = it->second;
        if (signo != 0) signal(*other, signo);
        ret = 0;
      }
      return false;
    }
    case SYS_pause: {
      fiber::WaitQueue queue;
      (void)queue.wait_until([] { return false; }, "pause");
      ret = -512;
      return false;
    }
    case SYS_clone:
    case SYS_clone3:
    case SYS_fork:
    case SYS_vfork: return clone(task, e, ret);
    case SYS_execve: {
      auto path = t.read_string(a[0], 4095);
      if (!path) {
        ret = -static_cast<i64>(path.error());
        return false;
      }
      std::vector<std::string> argv;
      for (u64 at = a[1];; at += 8) {
        u64 pointer = 0;
        if (!t.read(at, &pointer, 8)) {
          ret = -EFAULT;
          return false;
        }
        if (pointer == 0) break;
        auto text = t.read_string(pointer, 65536);
        if (!text) {
          ret = -static_cast<i64>(text.error());
          return false;
        }
        argv.push_back(*text);
      }
      auto loaded = load(*task, *path == "/proc/self/exe" ? p.exe : *path, argv);
      if (!loaded) {
        ret = -static_cast<i64>(loaded.error());
        return false;
      }
      p.actions.clear();
      return true;
    }
    case SYS_wait4: ret = wait4(*task, e); return false;
    case SYS_exit:
      if (--p.threads > 0) {
        t.resume_exit();
        return true;
      }
      [[fallthrough]];
    case SYS_exit_group:
      t.kill_host_process();
      end_process(p, static_cast<int>(a[0] & 0xff) << 8);
      return true;
    case SYS_getppid:  // never reached through tier 0; the null sentry call
    case SYS_getpgrp:
    case SYS_getpgid: ret = 1; return false;
    case SYS_ioctl: ret = -ENOTTY; return false;
    case SYS_fcntl: ret = 0; return false;
    case SYS_lseek: ret = host(::lseek(fd_of(a[0]), static_cast<off_t>(a[1]), static_cast<int>(a[2]))); return false;
    case SYS_poll: ret = 0; return false;
    case SYS_setpgid:
    case SYS_setuid:
    case SYS_setgid:
    case SYS_prctl:
    case SYS_umask: ret = 0; return false;
    default: ret = -ENOSYS; return false;
  }
}

}  // namespace sbx::platform::test
