// ptrace(2) and the calls that reach into another process's memory.
#include "sentry/task/ptrace.h"

#include <elf.h>
#include <linux/audit.h>
#include <linux/ptrace.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/fs/proc/mem_file.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/user_io.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::syscalls {

using platform::Registers;
using task::Trace;

namespace {

// struct user of <sys/user.h>: the registers come first, the debug registers last.
constexpr u64 kUserDebugRegs = 848, kUserSize = 912;
constexpr u64 kOrigRax = offsetof(Registers, orig_rax);

// kSrch: no tracee of this task, or (unless running_too) one that is not stopped.
Result<Task*> tracee(const Task& task, i32 tid, bool running_too = false) {
  Task* target = task::kernel().find_task(tid);
  if (target == nullptr || !target->trace || target->trace->tracer != &task) return Errno::kSrch;
  if (!running_too && (!target->trace->stopped || target->trace->listening)) return Errno::kSrch;
  return target;
}

bool in_call(const Task& target) {
  return target.trace->phase != Trace::Phase::kNone || target.trace->result.has_value() || target.restarting;
}

Result<Registers> registers_of(Task& target) {
  Registers r = TRY(target.thread->registers());
  bool call = in_call(target);
  r.orig_rax = call ? static_cast<u64>(static_cast<i64>(static_cast<i32>(target.entry.nr))) : ~0ull;
  if (target.trace->result) r.rax = static_cast<u64>(*target.trace->result);
  return r;
}

Result<void> set_registers_of(Task& target, Registers r) {
  Trace& trace = *target.trace;
  const Registers before = TRY(target.thread->registers());
  trace.moved |= before.rip != r.rip;
  if (trace.result) {
    trace.result = static_cast<i64>(r.rax);
    // At the entry of a call these say which it is; the number itself lies in rax.
    if (trace.phase == Trace::Phase::kEntry) {
      target.entry.nr = static_cast<u32>(r.orig_rax);
      const u64 args[6] = {r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9};
      std::copy(args, args + 6, target.entry.args);
    }
    r.rax = target.entry.nr;
  }
  TRY(target.thread->set_registers(r));
  trace.changed = true;
  return {};
}

Result<u64> peek_word(Task& target, u64 addr) {
  u64 word = 0;
  auto got = target.thread->peek(addr, &word, sizeof(word));
  if (!got || *got != sizeof(word)) return Errno::kIo;
  return word;
}

Result<u64> peek_user(Task& target, u64 offset) {
  if (offset % 8 != 0 || offset >= kUserSize) return Errno::kIo;
  if (offset >= kUserDebugRegs) return u64{0};  // no breakpoints of the processor
  if (offset >= sizeof(Registers)) return Errno::kIo;
  Registers r = TRY(registers_of(target));
  u64 word = 0;
  memcpy(&word, reinterpret_cast<const u8*>(&r) + offset, sizeof(word));
  return word;
}

Result<void> poke_user(Task& target, u64 offset, u64 word) {
  if (offset % 8 != 0) return Errno::kIo;
  // No breakpoints of the processor: they can be cleared, not set.
  if (offset >= kUserDebugRegs && offset < kUserSize && word == 0) return {};
  if (offset >= sizeof(Registers)) return Errno::kIo;
  Registers r = TRY(registers_of(target));
  memcpy(reinterpret_cast<u8*>(&r) + offset, &word, sizeof(word));
  return set_registers_of(target, r);
}

// What PTRACE_GETFPREGS shows (struct user_fpregs_struct), and the whole.
constexpr size_t kFpBytes = 512, kFpHeader = 512, kXcr0At = 464;

Result<i64> fp_register_set(Task& task, Task& target, bool whole, u64 at, u64* length, bool set) {
  const i32 tid = target.tid;
  std::string state = TRY(target.thread->fp_state());  // parks
  u64 n = std::min<u64>(*length, whole ? state.size() : kFpBytes);
  *length = n;
  if (!set) {
    const u64 parts = platform::enabled_fp_parts();
    if (whole) memcpy(state.data() + kXcr0At, &parts, sizeof(parts));
    TRY(task.memory().write(at, state.data(), n));
    return 0;
  }
  if (!whole && n < kFpBytes) return Errno::kInval;
  TRY(task.memory().read(at, state.data(), n));
  if (!whole) state[kFpHeader] = static_cast<char>(state[kFpHeader] | 3);
  TRY(TRY(tracee(task, tid))->thread->set_fp_state(std::move(state)));
  return 0;
}

// The registers as the notes of a core file name them.
Result<i64> register_set(Task& task, Task& target, u64 type, u64 vec_at, bool set) {
  abi::IoVec vec;
  TRY(task.memory().read(vec_at, &vec, sizeof(vec)));
  if (type == NT_PRFPREG || type == NT_X86_XSTATE) {
    TRY(fp_register_set(task, target, type == NT_X86_XSTATE, vec.base, &vec.length, set));
    TRY(task.memory().write(vec_at, &vec, sizeof(vec)));
    return 0;
  }
  if (type != NT_PRSTATUS) {
    STUB("ptrace register set", static_cast<i64>(type));
    return Errno::kInval;
  }
  Registers r = TRY(registers_of(target));
  u64 n = std::min<u64>(vec.length, sizeof(r));
  if (n % 8 != 0) return Errno::kInval;
  if (set) {
    TRY(task.memory().read(vec.base, &r, n));
    TRY(set_registers_of(target, r));
  } else {
    TRY(task.memory().write(vec.base, &r, n));
  }
  vec.length = n;
  TRY(task.memory().write(vec_at, &vec, sizeof(vec)));
  return 0;
}

Result<i64> syscall_info(Task& task, Task& target, u64 size, u64 to) {
  ptrace_syscall_info info{};
  Registers r = TRY(registers_of(target));
  info.arch = AUDIT_ARCH_X86_64;
  info.instruction_pointer = r.rip;
  info.stack_pointer = r.rsp;
  u64 have = offsetof(ptrace_syscall_info, entry);
  switch (target.trace->phase) {
    case Trace::Phase::kNone: info.op = PTRACE_SYSCALL_INFO_NONE; break;
    case Trace::Phase::kEntry:
      info.op = PTRACE_SYSCALL_INFO_ENTRY;
      info.entry.nr = target.entry.nr;
      for (int i = 0; i < 6; ++i) info.entry.args[i] = target.entry.args[i];
      have += sizeof(info.entry);
      break;
    case Trace::Phase::kExit:
      info.op = PTRACE_SYSCALL_INFO_EXIT;
      info.exit.rval = static_cast<i64>(r.rax);
      info.exit.is_error = info.exit.rval < 0 && info.exit.rval >= -4095;
      have += offsetof(decltype(info.exit), is_error) + sizeof(info.exit.is_error);
      break;
  }
  TRY(task.memory().write(to, &info, std::min(size, have)));
  return static_cast<i64>(have);
}

Result<i64> signal_info(Task& task, Task& target, u64 at, bool set) {
  auto& info = target.trace->info;
  if (!info) return Errno::kInval;
  u8 bytes[128];
  if (!set) {
    info->encode(bytes);
    TRY(task.memory().write(at, bytes, sizeof(bytes)));
    return 0;
  }
  TRY(task.memory().read(at, bytes, sizeof(bytes)));
  signal::SigInfo given;
  memcpy(&given.signo, bytes, sizeof(given.signo));
  given.raw.emplace();
  std::copy(bytes, bytes + sizeof(bytes), given.raw->begin());
  info = given;
  target.trace->changed = true;
  return 0;
}

Result<i64> let_go_on(Task& target, u64 signo, task::Resume how) {
  if (signo > 64) return Errno::kIo;
  task::resume_tracee(target, static_cast<int>(signo), how);
  return 0;
}

Result<i64> signal_mask(Task& task, Task& target, u64 size, u64 at, bool set) {
  u64 mask = target.has_saved_mask ? target.saved_mask : target.thread->signal_mask();
  if (size != sizeof(mask)) return Errno::kInval;
  if (!set) {
    TRY(task.memory().write(at, &mask, sizeof(mask)));
    return 0;
  }
  TRY(task.memory().read(at, &mask, sizeof(mask)));
  target.thread->set_signal_mask(mask & ~signal::kUnblockable);
  task::recalc_pending(target);
  return 0;
}

// Not PTRACE_O_TRACESECCOMP: there is no such stop, and who asks for it must not wait for one.
constexpr u64 kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                         PTRACE_O_TRACEEXEC | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL;

Result<i64> seize(Task& task, i32 pid, u64 addr, u64 options, bool seized) {
  Task* target = task::kernel().find_task(pid);
  if (target == nullptr) return Errno::kSrch;
  if (seized && addr != 0) return Errno::kIo;
  if (seized && (options & ~kOptions) != 0) return Errno::kIo;
  TRY(task::attach(task, *target, seized, seized ? static_cast<u32>(options) : 0));
  return 0;
}

// Requests to a tracee that is stopped.
Result<i64> to_stopped(Task& task, Task& target, i64 request, u64 addr, u64 data) {
  switch (request) {
    case PTRACE_PEEKTEXT:
    case PTRACE_PEEKDATA:
    case PTRACE_PEEKUSR: {
      u64 word = TRY(request == PTRACE_PEEKUSR ? peek_user(target, addr) : peek_word(target, addr));
      TRY(task.memory().write(data, &word, sizeof(word)));
      return 0;
    }
    case PTRACE_POKETEXT:
    case PTRACE_POKEDATA: {
      auto put = target.thread->poke(addr, &data, sizeof(data));
      if (put && *put == sizeof(data)) return 0;
      // Text, say.
      std::string bytes(reinterpret_cast<const char*>(&data), sizeof(data));
      if (!fs::proc::poke_protected(target, addr, bytes)) return Errno::kIo;
      return 0;
    }
    case PTRACE_POKEUSR: TRY(poke_user(target, addr, data)); return 0;
    case PTRACE_CONT: return let_go_on(target, data, task::Resume::kRun);
    case PTRACE_SYSCALL: return let_go_on(target, data, task::Resume::kToCall);
    case PTRACE_SYSEMU: return let_go_on(target, data, task::Resume::kEmulate);
    case PTRACE_SINGLESTEP: return let_go_on(target, data, task::Resume::kStep);
    case PTRACE_DETACH:
      if (data > 64) return Errno::kIo;
      task::detach(target, static_cast<int>(data));
      return 0;
    case PTRACE_GETREGS: {
      Registers r = TRY(registers_of(target));
      TRY(task.memory().write(data, &r, sizeof(r)));
      return 0;
    }
    case PTRACE_SETREGS: {
      Registers r;
      TRY(task.memory().read(data, &r, sizeof(r)));
      TRY(set_registers_of(target, r));
      return 0;
    }
    case PTRACE_GETFPREGS:
    case PTRACE_SETFPREGS: {
      u64 length = kFpBytes;
      return fp_register_set(task, target, false, data, &length, request == PTRACE_SETFPREGS);
    }
    case PTRACE_SETOPTIONS:
      if ((data & ~kOptions) != 0) return Errno::kInval;
      target.trace->options = static_cast<u32>(data);
      return 0;
    case PTRACE_GETEVENTMSG: TRY(task.memory().write(data, &target.trace->message, sizeof(u64))); return 0;
    case PTRACE_GETSIGINFO: return signal_info(task, target, data, false);
    case PTRACE_SETSIGINFO: return signal_info(task, target, data, true);
    case PTRACE_GETREGSET: return register_set(task, target, addr, data, false);
    case PTRACE_SETREGSET: return register_set(task, target, addr, data, true);
    case PTRACE_GETSIGMASK: return signal_mask(task, target, addr, data, false);
    case PTRACE_SETSIGMASK: return signal_mask(task, target, addr, data, true);
    case PTRACE_GET_SYSCALL_INFO: return syscall_info(task, target, addr, data);
    case PTRACE_LISTEN:
      if (!target.trace->seized || target.trace->code >> 8 != PTRACE_EVENT_STOP) return Errno::kIo;
      task::listen_tracee(target);
      return 0;
    default: STUB("ptrace request", request); return Errno::kIo;
  }
}

}  // namespace

Result<i64> sys_ptrace(Task& task, Long request, Int pid, ULong addr, ULong data) {
  switch (request) {
    case PTRACE_TRACEME: TRY(task::attach_to_parent(task)); return 0;
    case PTRACE_ATTACH: return seize(task, pid, 0, 0, false);
    case PTRACE_SEIZE: return seize(task, pid, addr, data, true);
    case PTRACE_INTERRUPT: {
      Task* target = TRY(tracee(task, pid, true));
      if (!target->trace->seized) return Errno::kIo;
      task::interrupt_tracee(*target);
      return 0;
    }
    case PTRACE_KILL: {
      Task* target = TRY(tracee(task, pid, true));
      task::exit_group(*target->group, SIGKILL);
      return 0;
    }
    default: return to_stopped(task, *TRY(tracee(task, pid)), request, addr, data);
  }
}

namespace {

Result<i64> other_memory(Task& task, i32 pid, u64 local_at, u64 local_count, u64 remote_at, u64 remote_count, u64 flags,
                         bool write) {
  if (flags != 0) return Errno::kInval;
  UserBuffers local = TRY(UserBuffers::read(task, local_at, local_count));
  // Of these only the lengths are checked: where nothing is, the copy ends.
  if (remote_count > kMaxIoVecs) return Errno::kInval;
  std::vector<abi::IoVec> remote(remote_count);
  if (remote_count != 0) TRY(task.memory().read(remote_at, remote.data(), remote_count * sizeof(abi::IoVec)));
  for (const abi::IoVec& v : remote) {
    if (static_cast<i64>(v.length) < 0) return Errno::kInval;
  }
  Task* target = TRY(task::task_with_memory(pid));
  if (local.total() == 0) return 0;
  TRY(task::may_trace(task, *target));
  // Both sides directly, and so that a fault shows where it is: the copy ends there.
  std::vector<u8> chunk(64 * 1024);
  const abi::IoVec* mine = local.begin();
  u64 skip = 0, done = 0;
  auto ended = [&](Errno e) { return done > 0 ? Result<i64>(static_cast<i64>(done)) : e; };
  for (const abi::IoVec& v : remote) {
    for (u64 at = 0; at < v.length;) {
      while (mine != local.end() && skip == mine->length) ++mine, skip = 0;
      if (mine == local.end()) return static_cast<i64>(done);
      size_t n = std::min<u64>({v.length - at, mine->length - skip, chunk.size()});
      platform::GuestThread& from = write ? *task.thread : *target->thread;
      platform::GuestThread& to = write ? *target->thread : *task.thread;
      auto got = from.peek(write ? mine->base + skip : v.base + at, chunk.data(), n);
      if (!got) return ended(got.error());
      auto put = to.poke(write ? v.base + at : mine->base + skip, chunk.data(), *got);
      if (!put) return ended(put.error());
      at += *put;
      skip += *put;
      done += *put;
      if (*put < n) return static_cast<i64>(done);
    }
  }
  return static_cast<i64>(done);
}

}  // namespace

Result<i64> sys_process_vm_readv(Task& task, Pid pid, UserAddr local, ULong local_count, UserAddr remote,
                                 ULong remote_count, Hex flags) {
  return other_memory(task, pid.n, local.addr, local_count, remote.addr, remote_count, flags.v, false);
}

Result<i64> sys_process_vm_writev(Task& task, Pid pid, UserAddr local, ULong local_count, UserAddr remote,
                                  ULong remote_count, Hex flags) {
  return other_memory(task, pid.n, local.addr, local_count, remote.addr, remote_count, flags.v, true);
}

}  // namespace sbx::syscalls
