// Semaphore sets (semget(2), semop(2), ipc/sem.c).
#pragma once
#include <sys/sem.h>

#include <span>
#include <vector>

#include "sentry/fiber/fiber.h"
#include "sentry/ipc/table.h"

namespace sbx::ipc {

struct Namespace;

constexpr i32 kSemMaxValue = 32767;  // SEMVMX
// Adjustments of all processes (SEM_UNDO); Linux counts them as kernel memory.
constexpr size_t kSemMaxUndo = 256 * 1024;
constexpr u32 kSemMaxTotal = 1'024'000;  // SEMMNS; Linux has a thousand times that, in memory of the host's
constexpr u32 kSemMaxOps = 500;          // SEMOPM
constexpr u32 kSemMaxPerSet = 32000;     // SEMMSL
constexpr i32 kSemMaxAdjust = 32767;     // SEMAEM

struct Semaphore {
  i32 value = 0;
  i32 pid = 0;  // who changed it last
};

// One semop that waits: for semctl's GETNCNT and GETZCNT.
struct SemWait {
  u16 index;
  bool for_zero;
};

class SemSet : public Object {
 public:
  explicit SemSet(u32 n) : sems(n) {}
  std::vector<Semaphore> sems;
  i64 otime = 0;
  fiber::WaitQueue changed;
  std::vector<const SemWait*> waits;
  void encode(semid_ds& out) const;
  u32 waiting(u32 index, bool for_zero) const;
};

// What SEM_UNDO takes back when the process ends. Shared by threads and by CLONE_SYSVSEM, kept by exec, not inherited.
class SemUndo : public RefCounted {
 public:
  explicit SemUndo(Namespace& ns) : ns_(ns) {}
  ~SemUndo() override { undo_all(0); }
  void undo_all(i32 pid);
  i32 get(const SemSet& set, u32 index) const;
  void set(const SemSet& set, u32 index, i32 adjustment);
  // There is room for so many more adjustments in the namespace.
  bool has_room(size_t more) const;
  // SETVAL and SETALL forget the adjustments of all processes.
  static void forget(Namespace& ns, const SemSet& set, u32 index);
  static void forget(Namespace& ns, const SemSet& set);

 private:
  Namespace& ns_;
  using Key = std::pair<i32, u32>;  // id of the set, number of the semaphore
  std::map<Key, i32> adjust_;       // none of them 0
  friend struct Namespace;
};

Result<i32> get_semaphores(Namespace& ns, const security::Credentials& creds, i32 key, i32 count, u32 flags);
// All of the operations or none; waits until then. kAgain (IPC_NOWAIT, the deadline), kIntr, kIdrm, kFbig, kRange.
// `undo` is made when an operation asks for it.
Result<void> operate(Namespace& ns, SemSet& set, std::span<const sembuf> ops, i32 pid, RefPtr<SemUndo>& undo,
                     fiber::Deadline deadline);
void remove_semaphores(Namespace& ns, SemSet& set);

}  // namespace sbx::ipc
