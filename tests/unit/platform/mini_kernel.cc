#include "tests/unit/platform/mini_kernel.h"

#include <elf.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "sentry/base/log.h"
#include "sentry/fiber/kernel_lock.h"

namespace sbx::platform::test {

struct MiniFile {
  explicit MiniFile(int fd) : fd(fd) {}
  ~MiniFile() { close(fd); }
  int fd;
};

namespace {

constexpr u64 kStackTop = 0x7ffff0000000 - 0x10000000000;
constexpr u64 kStackBytes = 8 << 20;

}  // namespace

void MiniKernel::start(const std::vector<std::string>& argv) {
  auto task = std::make_shared<MiniTask>();
  task->process = std::make_shared<MiniProcess>();
  task->process->pid = task->tid = next_id_++;
  for (int fd = 0; fd < 3; ++fd) task->process->files[fd] = std::make_shared<MiniFile>(dup(fd));
  task->thread = platform_.new_thread();
  spawn(task, argv);
}

void MiniKernel::spawn(std::shared_ptr<MiniTask> task, std::vector<std::string> argv) {
  tasks[task->tid] = task;
  ++task->process->threads;
  fiber::spawn([this, task, argv] {
    task->fiber = fiber::current();
    GuestThread::Identity id{task->process->pid, task->tid, task->process->parent, 0, 0, 0, 0};
    task->thread->set_identity(id);
    if (!argv.empty()) {
      if (auto loaded = load(*task, argv[0], argv); !loaded) {
        LOG_ERROR("exec %s: %s", argv[0].c_str(), errno_text(loaded.error()));
        end_process(*task->process, 127 << 8);
        tasks.erase(task->tid);
        return;
      }
    }
    run(task);
    tasks.erase(task->tid);
  });
}

Result<void> MiniKernel::load(MiniTask& task, const std::string& path, std::vector<std::string> argv) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return last_errno();
  auto file = std::make_shared<MiniFile>(fd);
  Elf64_Ehdr header;
  if (pread(fd, &header, sizeof(header), 0) != sizeof(header) || memcmp(header.e_ident, ELFMAG, 4) != 0) {
    return Errno::kNoexec;
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (pread(fd, segments.data(), segments.size() * sizeof(Elf64_Phdr), static_cast<off_t>(header.e_phoff)) < 0) {
    return Errno::kNoexec;
  }
  ExecImage image;
  u64 bias = header.e_type == ET_DYN ? 0x555555554000 : 0;
  u64 end = 0, phdr = 0;
  for (const auto& p : segments) {
    if (p.p_type != PT_LOAD) continue;
    u64 begin = page_down(p.p_vaddr + bias);
    u64 file_end = p.p_vaddr + bias + p.p_filesz, mem_end = p.p_vaddr + bias + p.p_memsz;
    u32 prot = ((p.p_flags & PF_R) ? 1u : 0) | ((p.p_flags & PF_W) ? 2u : 0) | ((p.p_flags & PF_X) ? 4u : 0);
    ImageSegment s{begin, page_up(file_end) - begin, prot, {fd, page_down(p.p_offset)}, 0};
    if (mem_end > file_end) s.zero_from = file_end;
    if (s.length != 0) image.segments.push_back(s);
    if (page_up(mem_end) > page_up(file_end)) {
      image.segments.push_back({page_up(file_end), page_up(mem_end) - page_up(file_end), prot, {}, 0});
    }
    if (p.p_offset <= header.e_phoff && header.e_phoff < p.p_offset + p.p_filesz) {
      phdr = header.e_phoff - p.p_offset + p.p_vaddr + bias;
    }
    end = std::max(end, page_up(mem_end));
  }
  image.segments.push_back({kStackTop - kStackBytes, kStackBytes, 3, {}, 0});
  image.entry = header.e_entry + bias;
  image.brk_start = end;
  std::string strings;
  std::vector<u64> pointers;
  u64 base = kStackTop - 8192;
  auto put = [&](const std::string& s) {
    u64 at = base + strings.size();
    strings += s;
    strings += '\0';
    return at;
  };
  pointers.push_back(argv.size());
  for (const auto& a : argv) pointers.push_back(put(a));
  pointers.push_back(0);
  pointers.push_back(put("PATH=/bin:/usr/bin"));
  pointers.push_back(0);
  u64 random = put("0123456789abcdef");
  u64 aux[] = {AT_PHDR,   phdr, AT_PHENT,  56,          AT_PHNUM,  segments.size(),
               AT_PAGESZ, 4096, AT_ENTRY,  image.entry, AT_RANDOM, random,
               AT_UID,    0,    AT_EUID,   0,           AT_GID,    0,
               AT_EGID,   0,    AT_SECURE, 0,           AT_NULL,   0};
  pointers.insert(pointers.end(), std::begin(aux), std::end(aux));
  image.sp = (base - pointers.size() * 8) & ~15ull;
  image.data.push_back({base, strings});
  image.data.push_back({image.sp, std::string(reinterpret_cast<char*>(pointers.data()), pointers.size() * 8)});
  TRY(task.thread->exec(image));
  task.thread->resume_exec();
  task.process->execed = true;
  task.process->exe = path;
  child_queue_.wake_all();
  return {};
}

void MiniKernel::end_process(MiniProcess& process, int status) {
  if (process.dead) return;
  process.dead = true;
  process.status = status;
  process.files.clear();
  if (process.pid == 1) {
    done_ = true;
    status_ = status;
    if (on_done) on_done();
  }
  child_queue_.wake_all();
}

void MiniKernel::signal(MiniTask& task, int signo) {
  task.pending |= 1ull << (signo - 1);
  task.thread->set_pending(task.pending);
  if (task.thread->in_sentry()) {
    if (task.fiber != nullptr) task.fiber->interrupt();
  } else {
    task.thread->kick();
  }
}

// Runs a handler of the first pending signal, if one is due.
bool MiniKernel::deliver(MiniTask& task, const Entry& entry, i64 ret) {
  u64 mask = task.thread->signal_mask();
  u64 due = task.pending & ~mask;
  if (task.fiber != nullptr) task.fiber->clear_interrupt();
  if (due == 0) return false;
  int signo = __builtin_ctzll(due) + 1;
  task.pending &= ~(1ull << (signo - 1));
  task.thread->set_pending(task.pending);
  MiniAction action = task.process->actions[signo];
  if (action.handler == 1 || (action.handler == 0 && signo == SIGCHLD)) return false;
  if (action.handler == 0) {
    end_process(*task.process, signo);
    task.thread->kill_host_process();
    return true;
  }
  SignalDelivery d{};
  d.signo = signo;
  auto* info = reinterpret_cast<siginfo_t*>(d.siginfo);
  info->si_signo = signo;
  if (entry.kind == EntryKind::kFault) {
    info->si_code = entry.fault.code;
    info->si_addr = reinterpret_cast<void*>(entry.fault.addr);
  }
  d.handler = action.handler;
  d.restorer = action.restorer;
  d.sa_flags = action.flags;
  d.frame_mask = mask;
  d.new_mask = mask | action.mask | (1ull << (signo - 1));
  bool restart = (ret == -512 || entry.interrupted_native) && (action.flags & SA_RESTART) != 0;
  task.thread->resume_signal(ret == -512 ? -EINTR : ret, restart, d);
  return true;
}

void MiniKernel::run(std::shared_ptr<MiniTask> task) {
  for (;;) {
    Entry entry = task->thread->wait_entry();
    switch (entry.kind) {
      case EntryKind::kMapped:
      case EntryKind::kFileShort:
      case EntryKind::kNativeCall:
      case EntryKind::kNativeDone:
      case EntryKind::kLost:
        if (--task->process->threads == 0) end_process(*task->process, SIGKILL);
        return;
      case EntryKind::kStarted: task->thread->resume_continue(); break;
      case EntryKind::kSignalCheck:
        if (!deliver(*task, entry, 0)) task->thread->resume_continue();
        break;
      case EntryKind::kFault:
        task->pending |= 1ull << (entry.fault.signo - 1);
        task->process->exe += "";
        if (task->process->actions[entry.fault.signo].handler <= 1 || entry.fault.fatal) {
          LOG_ERROR("fault %d at ip %llx addr %llx", entry.fault.signo, (unsigned long long)entry.ip,
                    (unsigned long long)entry.fault.addr);
          end_process(*task->process, entry.fault.signo);
          task->thread->kill_host_process();
          return;
        }
        if (!deliver(*task, entry, 0)) task->thread->resume_continue();
        break;
      case EntryKind::kCloned: {
        // The child is the newest task; wait until it execed or ended.
        std::shared_ptr<MiniProcess> child;
        for (auto& [tid, other] : tasks) {
          if (other->process->vfork_child && other->process->parent == task->process->pid) child = other->process;
        }
        i32 pid = child ? child->pid : 0;
        while (child && !child->dead && !child->execed) {
          auto waited = child_queue_.wait_until([&] { return child->dead || child->execed; }, "vfork", fiber::kNever,
                                                fiber::Interruptible::kNo);
          if (!waited) break;
        }
        if (child) child->vfork_child = false;
        task->thread->resume(pid);
        break;
      }
      case EntryKind::kSyscall: {
        if (entry.nr < 512) ++calls[entry.nr];
        i64 ret = 0;
        if (syscall(task, entry, ret)) {
          if (task->process->dead) return;
          if (entry.nr == SYS_exit) return;
          break;
        }
        if (task->pending != 0 && deliver(*task, entry, ret)) break;
        task->thread->resume(ret == -512 ? -EINTR : ret);
        break;
      }
    }
    if (task->process->dead && task->thread->in_sentry()) return;
  }
}

bool MiniKernel::clone(std::shared_ptr<MiniTask>& task, const Entry& entry, i64& ret) {
  CloneRequest request{};
  u64 flags = SIGCHLD;
  if (entry.nr == SYS_clone) {
    flags = entry.args[0];
    request.child_sp = entry.args[1];
    request.parent_tid_ptr = (flags & CLONE_PARENT_SETTID) ? entry.args[2] : 0;
    request.child_tid_ptr = (flags & CLONE_CHILD_SETTID) ? entry.args[3] : 0;
    request.clear_tid_ptr = (flags & CLONE_CHILD_CLEARTID) ? entry.args[3] : 0;
    request.set_tls = (flags & CLONE_SETTLS) != 0;
    request.tls = entry.args[4];
  } else if (entry.nr == SYS_clone3) {
    struct {
      u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    } a{};
    if (!task->thread->read(entry.args[0], &a, sizeof(a))) {
      ret = -EFAULT;
      return false;
    }
    flags = a.flags;
    request.child_sp = a.stack == 0 ? 0 : a.stack + a.stack_size;
    request.parent_tid_ptr = (flags & CLONE_PARENT_SETTID) ? a.parent_tid : 0;
    request.child_tid_ptr = (flags & CLONE_CHILD_SETTID) ? a.child_tid : 0;
    request.clear_tid_ptr = (flags & CLONE_CHILD_CLEARTID) ? a.child_tid : 0;
    request.set_tls = (flags & CLONE_SETTLS) != 0;
    request.tls = a.tls;
  } else if (entry.nr == SYS_vfork) {
    flags = CLONE_VM | CLONE_VFORK | SIGCHLD;
  }
  const auto kind = (flags & CLONE_THREAD) ? CloneRequest::Kind::kThread
                    : (flags & CLONE_VM)   ? CloneRequest::Kind::kVfork
                                           : CloneRequest::Kind::kFork;
  if (auto prepared = task->thread->prepare_clone(kind); !prepared) {
    ret = -static_cast<i64>(prepared.error());
    return false;
  }
  auto child = std::make_shared<MiniTask>();
  child->tid = next_id_++;
  child->thread = platform_.new_thread();
  if ((flags & CLONE_THREAD) != 0) {
    child->process = task->process;
    request.kind = CloneRequest::Kind::kThread;
  } else {
    child->process = std::make_shared<MiniProcess>(*task->process);
    child->process->pid = child->tid;
    child->process->parent = task->process->pid;
    child->process->threads = 0;
    child->process->execed = false;
    child->process->vfork_child = (flags & CLONE_VM) != 0;
    request.kind = (flags & CLONE_VM) ? CloneRequest::Kind::kVfork : CloneRequest::Kind::kFork;
  }
  if ((flags & CLONE_THREAD) == 0) zombies_[child->tid] = child->process;
  request.guest_tid = request.child_tid_value = child->tid;
  spawn(child, {});
  GuestThread::Identity id{child->process->pid, child->tid, child->process->parent, 0, 0, 0, 0};
  child->thread->set_identity(id);
  task->thread->resume_clone(request, *child->thread);
  ret = 0;
  return true;
}

i64 MiniKernel::wait4(MiniTask& task, const Entry& entry) {
  i32 want = static_cast<i32>(entry.args[0]);
  std::shared_ptr<MiniProcess> found;
  bool any = false;
  auto look = [&] {
    any = false;
    for (auto& [tid, process] : zombies_) {
      if (process->parent != task.process->pid || process->reaped || (want > 0 && process->pid != want)) continue;
      any = true;
      if (process->dead) {
        found = process;
        return true;
      }
    }
    return !any;
  };
  if ((entry.args[2] & WNOHANG) != 0) {
    look();
    if (!found) return any ? 0 : -ECHILD;
  } else if (auto waited = child_queue_.wait_until(look, "wait4"); !waited) {
    return -512;
  }
  if (!found) return -ECHILD;
  found->reaped = true;
  zombies_.erase(found->pid);
  if (entry.args[1] != 0 && !task.thread->write(entry.args[1], &found->status, 4)) return -EFAULT;
  return found->pid;
}

}  // namespace sbx::platform::test
