#include "sentry/vfs/file_locks.h"

#include <algorithm>

namespace sbx::vfs {
namespace {

bool overlap(const RecordLock& a, const RecordLock& b) { return a.start <= b.end && b.start <= a.end; }
bool clash(LockType a, LockType b) { return a == LockType::kWrite || b == LockType::kWrite; }

// POSIX lock owners that wait, and for whom, system-wide: deadlock is a circle among owners, over any files.
struct Blocked {
  LockOwner waiter, holder;
};
std::vector<Blocked>& blocked() {
  static auto* list = new std::vector<Blocked>;
  return *list;
}

}  // namespace

FileLocks::~FileLocks() = default;

bool FileLocks::flock_conflict(LockOwner owner, LockType type) const {
  return std::any_of(flocks_.begin(), flocks_.end(),
                     [&](const Flock& l) { return l.owner != owner && clash(l.type, type); });
}

Result<void> FileLocks::flock(LockOwner owner, LockType type, LockWait wait) {
  auto mine = std::find_if(flocks_.begin(), flocks_.end(), [&](const Flock& l) { return l.owner == owner; });
  if (mine != flocks_.end()) {
    if (mine->type == type) return {};
    // A conversion is not atomic (flock(2)): the old lock goes first and others may take their turn.
    flocks_.erase(mine);
    queue_.wake_all();
  }
  if (type == LockType::kUnlock) return {};
  if (flock_conflict(owner, type)) {
    if (wait == LockWait::kNo) return Errno::kAgain;
    TRY(queue_.wait_until([&] { return !flock_conflict(owner, type); }, "flock"));
  }
  flocks_.push_back({type, owner});
  return {};
}

const RecordLock* FileLocks::conflict(const RecordLock& lock) const {
  for (const RecordLock& l : records_)
    if (l.owner != lock.owner && overlap(l, lock) && clash(l.type, lock.type)) return &l;
  return nullptr;
}

bool FileLocks::would_deadlock(const RecordLock& wanted) const {
  const RecordLock* held = conflict(wanted);
  if (held == nullptr || wanted.ofd || held->ofd) return false;
  // Follow who waits for whom; each owner (a process) may have several threads that wait.
  std::vector<LockOwner> work{held->owner}, seen;
  while (!work.empty()) {
    LockOwner owner = work.back();
    work.pop_back();
    if (owner == wanted.owner) return true;
    if (std::find(seen.begin(), seen.end(), owner) != seen.end()) continue;
    seen.push_back(owner);
    for (const Blocked& b : blocked())
      if (b.waiter == owner) work.push_back(b.holder);
  }
  return false;
}

Result<void> FileLocks::set(const RecordLock& lock, LockWait wait) {
  if (lock.type != LockType::kUnlock) {
    while (const RecordLock* held = conflict(lock)) {
      if (wait == LockWait::kNo) return Errno::kAgain;
      if (would_deadlock(lock)) return Errno::kDeadlk;
      LockOwner holder = held->owner;
      if (!lock.ofd) blocked().push_back({lock.owner, holder});
      // Until this holder no longer stands in the way; another one may then, hence the loop.
      auto waited = queue_.wait_until(
          [&] {
            const RecordLock* now = conflict(lock);
            return now == nullptr || now->owner != holder;
          },
          "file lock");
      if (!lock.ofd) {
        auto& list = blocked();
        auto it = std::find_if(list.begin(), list.end(),
                               [&](const Blocked& b) { return b.waiter == lock.owner && b.holder == holder; });
        if (it != list.end()) list.erase(it);
      }
      TRY(std::move(waited));
    }
  }
  apply(lock);
  return {};
}

void FileLocks::apply(const RecordLock& lock) {
  std::vector<RecordLock> next;
  next.reserve(records_.size() + 2);
  RecordLock fresh = lock;
  for (const RecordLock& l : records_) {
    if (l.owner != lock.owner) {
      next.push_back(l);
      continue;
    }
    bool adjacent = (l.end != ~0ull && l.end + 1 == fresh.start) || (fresh.end != ~0ull && fresh.end + 1 == l.start);
    if (l.type == lock.type && (overlap(l, fresh) || adjacent)) {
      fresh.start = std::min(fresh.start, l.start);
      fresh.end = std::max(fresh.end, l.end);
      continue;
    }
    if (!overlap(l, lock)) {
      next.push_back(l);
      continue;
    }
    if (l.start < lock.start) {
      next.push_back(l);
      next.back().end = lock.start - 1;
    }
    if (l.end > lock.end) {
      next.push_back(l);
      next.back().start = lock.end + 1;
    }
  }
  if (lock.type != LockType::kUnlock) {
    auto at = std::find_if(next.begin(), next.end(), [&](const RecordLock& l) { return l.start > fresh.start; });
    next.insert(at, fresh);
  }
  records_ = std::move(next);
  queue_.wake_all();
}

RecordLock FileLocks::test(const RecordLock& lock) const {
  if (const RecordLock* held = conflict(lock)) return *held;
  RecordLock none = lock;
  none.type = LockType::kUnlock;
  return none;
}

void FileLocks::release_posix(LockOwner owner) {
  if (std::erase_if(records_, [&](const RecordLock& l) { return l.owner == owner && !l.ofd; }) > 0) queue_.wake_all();
}

void FileLocks::release_file(LockOwner file) {
  size_t gone = std::erase_if(flocks_, [&](const Flock& l) { return l.owner == file; });
  gone += std::erase_if(records_, [&](const RecordLock& l) { return l.owner == file && l.ofd; });
  if (gone > 0) queue_.wake_all();
}

}  // namespace sbx::vfs
