// Shared memory segments (shmget(2), shmop(2), ipc/shm.c): memfds that guest processes map.
#pragma once
#include <sys/shm.h>

#include <map>

#include "sentry/base/unique_fd.h"
#include "sentry/ipc/table.h"

namespace sbx::ipc {

struct Namespace;

class Segment : public Object {
 public:
  u64 size = 0;
  UniqueFd memfd;
  i64 atime = 0, dtime = 0;
  i32 creator = 0, last = 0;  // process ids
  u64 attached = 0;
  void encode(shmid_ds& out) const;
};

// The segments one address space has attached. Copied by fork, shared by vfork, left behind by exec and exit. What a
// process unmaps by munmap(2) is not seen: it stays counted until the process detaches, execs or ends.
class Attachments : public RefCounted {
 public:
  explicit Attachments(Namespace& ns) : ns_(ns) {}
  ~Attachments() override { detach_all(0); }
  RefPtr<Attachments> clone() const;
  void add(u64 addr, RefPtr<Segment> segment, i32 pid);
  // The length to unmap. kInval: nothing is attached there.
  Result<u64> remove(u64 addr, i32 pid);
  void detach_all(i32 pid);
  bool empty() const { return at_.empty(); }
  // As many as an address space may have mappings (vm.max_map_count): a stub that is not ours maps none of them.
  bool full() const { return at_.size() >= 65530; }

 private:
  void detach(Segment& segment, i32 pid);
  Namespace& ns_;
  std::map<u64, RefPtr<Segment>> at_;
};

// kInval: the size is none, or an existing segment is smaller.
Result<i32> get_segment(Namespace& ns, const security::Credentials& creds, i32 pid, i32 key, u64 size, u32 flags);
// IPC_RMID: gone at once, or with its last user (SHM_DEST).
void remove_segment(Namespace& ns, Segment& segment);

}  // namespace sbx::ipc
