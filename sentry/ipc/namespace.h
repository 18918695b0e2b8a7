// The System V objects of one IPC namespace, and its limits (proc(5), /proc/sys/kernel).
#pragma once
#include <vector>

#include "sentry/ipc/msg.h"
#include "sentry/ipc/sem.h"
#include "sentry/ipc/shm.h"

namespace sbx::ipc {

struct Namespace : public RefCounted {
  Table<Segment> segments;
  Table<SemSet> semaphores;
  Table<MessageQueue> queues;

  u64 shmmax = ~0ull - (1ull << 24);           // bytes of a segment
  u64 shmall = (~0ull - (1ull << 24)) / 4096;  // pages of all
  u64 shm_bytes = 0;                           // of all segments
  u64 msgmax = 8192, msgmnb = 16384;           // bytes of a message, of a queue
  std::vector<SemUndo*> undos;                 // alive ones
  size_t undo_count = 0;                       // adjustments of all of them

  RefPtr<SemUndo> new_undo();

  Namespace() {
    segments.limit = 4096;     // SHMMNI
    semaphores.limit = 32000;  // SEMMNI
    queues.limit = 2048;       // MSGMNI
  }
};

// The tables of /proc/sysvipc.
std::string shm_table(const Namespace& ns);
std::string sem_table(const Namespace& ns);
std::string msg_table(const Namespace& ns);

}  // namespace sbx::ipc
