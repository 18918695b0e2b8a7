#include "sentry/ipc/sem.h"

#include <algorithm>

#include "sentry/ipc/namespace.h"

namespace sbx::ipc {

void SemSet::encode(semid_ds& out) const {
  out = {};
  Object::encode(out.sem_perm);
  out.sem_otime = otime;
  out.sem_ctime = ctime;
  out.sem_nsems = sems.size();
}

u32 SemSet::waiting(u32 index, bool for_zero) const {
  return static_cast<u32>(std::count_if(waits.begin(), waits.end(), [&](const SemWait* wait) {
    return wait->index == index && wait->for_zero == for_zero;
  }));
}

i32 SemUndo::get(const SemSet& set, u32 index) const {
  auto it = adjust_.find({set.id, index});
  return it == adjust_.end() ? 0 : it->second;
}

void SemUndo::set(const SemSet& set, u32 index, i32 adjustment) {
  size_t before = adjust_.size();
  if (adjustment == 0)
    adjust_.erase({set.id, index});
  else
    adjust_[{set.id, index}] = adjustment;
  ns_.undo_count += adjust_.size() - before;
}

bool SemUndo::has_room(size_t more) const { return ns_.undo_count + more <= kSemMaxUndo; }

void SemUndo::undo_all(i32 pid) {
  auto all = std::move(adjust_);
  adjust_.clear();
  ns_.undo_count -= all.size();
  std::erase(ns_.undos, this);
  for (const auto& [key, adjustment] : all) {
    auto found = ns_.semaphores.find(key.first);
    if (!found || key.second >= (*found)->sems.size()) continue;
    SemSet& set = **found;
    Semaphore& sem = set.sems[key.second];
    // A process that ends cannot wait: what goes below or above the range is cut off (ipc/sem.c exit_sem).
    sem.value = std::clamp(sem.value + adjustment, 0, kSemMaxValue);
    sem.pid = pid;
    set.otime = now();
    set.changed.wake_all();
  }
}

void SemUndo::forget(Namespace& ns, const SemSet& set, u32 index) {
  for (SemUndo* undo : ns.undos) undo->set(set, index, 0);
}

void SemUndo::forget(Namespace& ns, const SemSet& set) {
  for (SemUndo* undo : ns.undos) {
    auto begin = undo->adjust_.lower_bound({set.id, 0});
    auto end = undo->adjust_.lower_bound({set.id, kSemMaxPerSet});
    ns.undo_count -= static_cast<size_t>(std::distance(begin, end));
    undo->adjust_.erase(begin, end);
  }
}

Result<i32> get_semaphores(Namespace& ns, const security::Credentials& creds, i32 key, i32 count, u32 flags) {
  if (count < 0 || count > static_cast<i32>(kSemMaxPerSet)) return Errno::kInval;
  auto check = [&](const SemSet& set) -> Result<void> {
    if (static_cast<size_t>(count) > set.sems.size()) return Errno::kInval;
    return {};
  };
  auto make = [&]() -> Result<RefPtr<SemSet>> {
    if (count == 0) return Errno::kInval;
    size_t all = static_cast<size_t>(count);
    for (const auto& [place, set] : ns.semaphores.objects()) all += set->sems.size();
    if (all > kSemMaxTotal) return Errno::kNospc;
    return make_ref<SemSet>(static_cast<u32>(count));
  };
  return ns.semaphores.get(creds, key, flags, check, make);
}

namespace {

// Does all operations, or none: false if one has to wait, which is then `blocking`.
Result<bool> try_all(SemSet& set, std::span<const sembuf> ops, i32 pid, SemUndo* undo, const sembuf** blocking) {
  auto undoes = [](const sembuf& op) { return (op.sem_flg & SEM_UNDO) != 0 && op.sem_op != 0; };
  size_t done = 0;
  auto take_back = [&] {
    while (done > 0) {
      const sembuf& op = ops[--done];
      set.sems[op.sem_num].value -= op.sem_op;
      if (undoes(op)) undo->set(set, op.sem_num, undo->get(set, op.sem_num) + op.sem_op);
    }
  };
  for (const sembuf& op : ops) {
    Semaphore& sem = set.sems[op.sem_num];
    if (op.sem_op == 0 ? sem.value != 0 : sem.value + op.sem_op < 0) {
      take_back();
      *blocking = &op;
      return false;
    }
    i32 adjusted = undoes(op) ? undo->get(set, op.sem_num) - op.sem_op : 0;
    if (sem.value + op.sem_op > kSemMaxValue || adjusted < -kSemMaxAdjust - 1 || adjusted > kSemMaxAdjust) {
      take_back();
      return Errno::kRange;
    }
    sem.value += op.sem_op;
    if (undoes(op)) undo->set(set, op.sem_num, adjusted);
    ++done;
  }
  for (const sembuf& op : ops) set.sems[op.sem_num].pid = pid;
  return true;
}

}  // namespace

Result<void> operate(Namespace& ns, SemSet& set, std::span<const sembuf> ops, i32 pid, RefPtr<SemUndo>& undo,
                     fiber::Deadline deadline) {
  bool undoes = false, alters = false;
  for (const sembuf& op : ops) {
    if (op.sem_num >= set.sems.size()) return Errno::kFbig;
    undoes = undoes || ((op.sem_flg & SEM_UNDO) != 0 && op.sem_op != 0);
    alters = alters || op.sem_op != 0;
  }
  RefPtr<SemSet> keep(&set);
  if (undoes && !undo) undo = ns.new_undo();
  RefPtr<SemUndo> mine = undo;  // an exec or exit of another thread must not free it
  if (undoes && !mine->has_room(ops.size())) return Errno::kNomem;
  const sembuf* blocking = nullptr;
  bool done = false;
  Result<void> outcome;
  auto attempt = [&] {
    if (set.removed) {
      outcome = Errno::kIdrm;
      return true;
    }
    auto tried = try_all(set, ops, pid, undoes ? mine.get() : nullptr, &blocking);
    if (!tried) outcome = tried.error();
    done = tried && *tried;
    return !tried || *tried;
  };
  if (!attempt()) {
    if ((blocking->sem_flg & IPC_NOWAIT) != 0) return Errno::kAgain;
    SemWait wait{};
    set.waits.push_back(&wait);
    auto retry = [&] {
      if (attempt()) return true;
      if ((blocking->sem_flg & IPC_NOWAIT) != 0) {
        outcome = Errno::kAgain;
        return true;
      }
      wait = {blocking->sem_num, blocking->sem_op == 0};
      return false;
    };
    auto waited = set.changed.wait_until(retry, "semop", deadline);
    std::erase(set.waits, &wait);
    if (!waited) return waited.error() == Errno::kTimedout ? Errno::kAgain : Errno::kIntr;  // never restarted
  }
  if (!done) return outcome;
  set.otime = now();
  if (alters) set.changed.wake_all();
  return {};
}

void remove_semaphores(Namespace& ns, SemSet& set) {
  SemUndo::forget(ns, set);
  RefPtr<SemSet> keep(&set);
  ns.semaphores.remove(set);
  set.changed.wake_all();
}

}  // namespace sbx::ipc
