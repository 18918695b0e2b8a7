// Semaphore sets: semget(2), semop(2), semctl(2).
#include "sentry/ipc/namespace.h"
#include "sentry/syscalls/handlers.h"
#include "sentry/syscalls/wait_mask.h"
#include "sentry/task/kernel.h"

namespace sbx::syscalls {

namespace {

ipc::Namespace& space() { return *task::kernel().current_container().ipc; }

Result<i64> operate(Task& task, i32 id, u64 ops_at, u64 count, fiber::Deadline deadline) {
  if (count < 1 || id < 0) return Errno::kInval;
  if (count > ipc::kSemMaxOps) return Errno::kTooBig;
  std::vector<sembuf> ops(count);
  TRY(task.memory().read(ops_at, ops.data(), count * sizeof(sembuf)));
  RefPtr<ipc::SemSet> set = TRY(space().semaphores.find(id));
  bool alters = false;
  for (const sembuf& op : ops) {
    if (op.sem_num >= set->sems.size()) return Errno::kFbig;
    alters = alters || op.sem_op != 0;
  }
  TRY(set->check_access(*task.creds, alters ? ipc::kMayWrite : ipc::kMayRead));
  TRY(ipc::operate(space(), *set, ops, task.group->pid, task.group->sem_undo, deadline));
  return 0;
}

Result<i64> info(Task& task, i32 command, u64 out) {
  seminfo reply{};
  reply.semmni = reply.semmap = static_cast<int>(space().semaphores.limit);
  reply.semmns = static_cast<int>(ipc::kSemMaxTotal);
  reply.semmnu = reply.semmns;
  reply.semmsl = static_cast<int>(ipc::kSemMaxPerSet);
  reply.semopm = reply.semume = static_cast<int>(ipc::kSemMaxOps);
  reply.semvmx = reply.semaem = ipc::kSemMaxValue;
  reply.semusz = 20;
  if (command == SEM_INFO) {
    size_t all = 0;
    for (const auto& [place, set] : space().semaphores.objects()) all += set->sems.size();
    reply.semusz = static_cast<int>(space().semaphores.objects().size());
    reply.semaem = static_cast<int>(all);
  }
  TRY(task.memory().write(out, &reply, sizeof(reply)));
  return space().semaphores.highest();
}

// The commands for a set or one of its semaphores, its permissions checked.
Result<i64> control(Task& task, ipc::SemSet& set, u32 index, i32 command, u64 argument) {
  auto& sems = set.sems;
  bool one = command == GETVAL || command == SETVAL || command == GETPID || command == GETNCNT || command == GETZCNT;
  if (one && index >= sems.size()) return Errno::kInval;
  switch (command) {
    case GETVAL: return sems[index].value;
    case GETPID: return sems[index].pid;
    case GETNCNT: return set.waiting(index, false);
    case GETZCNT: return set.waiting(index, true);
    case GETALL: {
      std::vector<u16> values;
      for (const ipc::Semaphore& sem : sems) values.push_back(static_cast<u16>(sem.value));
      TRY(task.memory().write(argument, values.data(), values.size() * sizeof(u16)));
      return 0;
    }
    case SETVAL: {
      auto value = static_cast<i32>(argument);
      if (value < 0 || value > ipc::kSemMaxValue) return Errno::kRange;
      ipc::SemUndo::forget(space(), set, index);
      sems[index] = {value, task.group->pid};
      break;
    }
    case SETALL: {
      std::vector<u16> values(sems.size());
      TRY(task.memory().read(argument, values.data(), values.size() * sizeof(u16)));
      if (set.removed) return Errno::kIdrm;
      for (u16 value : values) {
        if (value > ipc::kSemMaxValue) return Errno::kRange;
      }
      for (u32 i = 0; i < sems.size(); ++i) {
        ipc::SemUndo::forget(space(), set, i);
        sems[i] = {values[i], task.group->pid};
      }
      break;
    }
    default: return Errno::kInval;
  }
  set.ctime = ipc::now();
  set.changed.wake_all();
  return 0;
}

}  // namespace

Result<i64> sys_semget(Task& task, Int key, Int count, Hex flags) {
  return TRY(ipc::get_semaphores(space(), *task.creds, key, count, static_cast<u32>(flags.v)));
}

Result<i64> sys_semop(Task& task, Int id, UserAddr ops, Size count) {
  return operate(task, id, ops.addr, count, fiber::kNever);
}

Result<i64> sys_semtimedop(Task& task, Int id, UserAddr ops, Size count, UserAddr timeout) {
  return operate(task, id, ops.addr, count, TRY(deadline_from(task, timeout.addr)));
}

Result<i64> sys_semctl(Task& task, Int id, Int index, Int command, ULong argument) {
  if (id < 0) return Errno::kInval;
  switch (command) {
    case IPC_INFO:
    case SEM_INFO: return info(task, command, argument);
    case IPC_STAT:
    case SEM_STAT:
    case SEM_STAT_ANY: {
      RefPtr<ipc::SemSet> set = command == IPC_STAT ? TRY(space().semaphores.find(id)) : TRY(space().semaphores.at(id));
      if (command != SEM_STAT_ANY) TRY(set->check_access(*task.creds, ipc::kMayRead));
      semid_ds out;
      set->encode(out);
      TRY(task.memory().write(argument, &out, sizeof(out)));
      return command == IPC_STAT ? 0 : set->id;
    }
    case IPC_SET: {
      semid_ds in = TRY(In<semid_ds>{argument}.read(task));
      RefPtr<ipc::SemSet> set = TRY(space().semaphores.find(id));
      TRY(set->check_owner(*task.creds));
      TRY(set->set_owner(in.sem_perm.uid, in.sem_perm.gid, in.sem_perm.mode));
      return 0;
    }
    case IPC_RMID: {
      RefPtr<ipc::SemSet> set = TRY(space().semaphores.find(id));
      TRY(set->check_owner(*task.creds));
      ipc::remove_semaphores(space(), *set);
      return 0;
    }
    case GETVAL:
    case GETPID:
    case GETNCNT:
    case GETZCNT:
    case GETALL:
    case SETVAL:
    case SETALL: {
      RefPtr<ipc::SemSet> set = TRY(space().semaphores.find(id));
      bool alters = command == SETVAL || command == SETALL;
      TRY(set->check_access(*task.creds, alters ? ipc::kMayWrite : ipc::kMayRead));
      return control(task, *set, static_cast<u32>(index), command, argument);
    }
    default: return Errno::kInval;
  }
}

}  // namespace sbx::syscalls
