// Shared memory segments: shmget(2), shmop(2), shmctl(2).
#include <sys/mman.h>

#include "sentry/ipc/namespace.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/task/kernel.h"

namespace sbx::syscalls {

namespace {

ipc::Namespace& space() { return *task::kernel().current_container().ipc; }

ipc::Attachments& attachments(Task& task) {
  if (!task.group->shm) task.group->shm = make_ref<ipc::Attachments>(space());
  return *task.group->shm;
}

Result<i64> shm_info_reply(Task& task, u64 out) {
  shm_info info{};
  info.used_ids = static_cast<int>(space().segments.objects().size());
  info.shm_tot = space().shm_bytes / kPageSize;
  TRY(task.memory().write(out, &info, sizeof(info)));
  return space().segments.highest();
}

Result<i64> ipc_info_reply(Task& task, u64 out) {
  shminfo info{};
  info.shmmax = space().shmmax;
  info.shmmin = 1;
  info.shmmni = info.shmseg = space().segments.limit;
  info.shmall = space().shmall;
  TRY(task.memory().write(out, &info, sizeof(info)));
  return space().segments.highest();
}

}  // namespace

Result<i64> sys_shmget(Task& task, Int key, Size size, Hex flags) {
  return TRY(ipc::get_segment(space(), *task.creds, task.group->pid, key, size, static_cast<u32>(flags.v)));
}

Result<i64> sys_shmat(Task& task, Int id, UserAddr address, Hex flags) {
  u64 addr = address.addr;
  if (id < 0) return Errno::kInval;
  if ((addr & (kPageSize - 1)) != 0) {
    if ((flags.v & SHM_RND) == 0) return Errno::kInval;
    addr = page_down(addr);
    if (addr == 0 && (flags.v & SHM_REMAP) != 0) return Errno::kInval;
  }
  if (addr == 0 && (flags.v & SHM_REMAP) != 0) return Errno::kInval;
  RefPtr<ipc::Segment> segment = TRY(space().segments.find(id));
  bool read_only = (flags.v & SHM_RDONLY) != 0, execute = (flags.v & SHM_EXEC) != 0;
  u16 want = ipc::kMayRead;
  if (!read_only) want |= ipc::kMayWrite;
  if (execute) want |= ipc::kMayExecute;
  TRY(segment->check_access(*task.creds, want));

  if (attachments(task).full()) return Errno::kNomem;
  platform::MmapRequest request{};
  request.addr = addr;
  request.length = page_up(segment->size);
  request.prot = static_cast<u32>(PROT_READ | (read_only ? 0 : PROT_WRITE) | (execute ? PROT_EXEC : 0));
  request.flags = MAP_SHARED;
  if (addr != 0) request.flags |= (flags.v & SHM_REMAP) != 0 ? MAP_FIXED : MAP_FIXED_NOREPLACE;
  request.source.fd = segment->memfd.get();
  request.report = true;
  // Counted as attached before it is: nobody's IPC_RMID may free it meanwhile.
  ++segment->attached;
  task.thread->resume_mmap(request);
  platform::Entry entry = task.thread->wait_entry();
  --segment->attached;
  if (entry.kind != platform::EntryKind::kMapped) {
    // The thread is gone, which its next entry says again; or its stub is not ours any more.
    if (entry.kind != platform::EntryKind::kLost) task.thread->kill_host_process();
    if (segment->attached == 0 && (segment->mode & SHM_DEST) != 0) ipc::remove_segment(space(), *segment);
    task.resumed = true;
    return 0;
  }
  i64 at = static_cast<i64>(entry.args[0]);
  if (at < 0 && at > -4096) {
    if (segment->attached == 0 && (segment->mode & SHM_DEST) != 0) ipc::remove_segment(space(), *segment);
    return at == -ENOMEM ? Errno::kNomem : Errno::kInval;  // the stub's word: nothing else is passed on
  }
  attachments(task).add(static_cast<u64>(at), segment, task.group->pid);
  return at;
}

Result<i64> sys_shmdt(Task& task, UserAddr address) {
  if ((address.addr & (kPageSize - 1)) != 0) return Errno::kInval;
  platform::MmapRequest request{};
  request.addr = address.addr;
  request.length = TRY(attachments(task).remove(address.addr, task.group->pid));
  request.unmap = true;
  task.resumed = true;
  task.thread->resume_mmap(request);
  return 0;
}

Result<i64> sys_shmctl(Task& task, Int id, Int command, ULong buffer) {
  if (id < 0 || command < 0) return Errno::kInval;
  switch (command) {
    case IPC_INFO: return ipc_info_reply(task, buffer);
    case SHM_INFO: return shm_info_reply(task, buffer);
    case IPC_STAT:
    case SHM_STAT:
    case SHM_STAT_ANY: {
      RefPtr<ipc::Segment> segment =
          command == IPC_STAT ? TRY(space().segments.find(id)) : TRY(space().segments.at(id));
      if (command != SHM_STAT_ANY) TRY(segment->check_access(*task.creds, ipc::kMayRead));
      shmid_ds out;
      segment->encode(out);
      TRY(task.memory().write(buffer, &out, sizeof(out)));
      return command == IPC_STAT ? 0 : segment->id;
    }
    case IPC_SET: {
      shmid_ds in = TRY(In<shmid_ds>{buffer}.read(task));
      RefPtr<ipc::Segment> segment = TRY(space().segments.find(id));
      TRY(segment->check_owner(*task.creds));
      TRY(segment->set_owner(in.shm_perm.uid, in.shm_perm.gid, in.shm_perm.mode));
      return 0;
    }
    case IPC_RMID: {
      RefPtr<ipc::Segment> segment = TRY(space().segments.find(id));
      TRY(segment->check_owner(*task.creds));
      ipc::remove_segment(space(), *segment);
      return 0;
    }
    case SHM_LOCK:
    case SHM_UNLOCK: {
      // Paging is the host's; the flag is kept, who may ask is ruled as by mlock.
      constexpr u32 kCapIpcLock = 14;
      RefPtr<ipc::Segment> segment = TRY(space().segments.find(id));
      if (!task.creds->capable(kCapIpcLock)) {
        if (task.creds->euid != segment->uid && task.creds->euid != segment->cuid) return Errno::kPerm;
        if (command == SHM_LOCK && task.group->limit(RLIMIT_MEMLOCK) == 0) return Errno::kPerm;
      }
      u32 mode = command == SHM_LOCK ? segment->mode | SHM_LOCKED : segment->mode & ~static_cast<u32>(SHM_LOCKED);
      segment->mode = static_cast<u16>(mode);
      return 0;
    }
    default: return Errno::kInval;
  }
}

}  // namespace sbx::syscalls
