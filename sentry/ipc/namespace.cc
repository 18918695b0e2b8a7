#include "sentry/ipc/namespace.h"

#include "sentry/base/log.h"

namespace sbx::ipc {

RefPtr<SemUndo> Namespace::new_undo() {
  auto undo = make_ref<SemUndo>(*this);
  undos.push_back(undo.get());
  return undo;
}

std::string shm_table(const Namespace& ns) {
  std::string out =
      "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      "
      "dtime "
      "     ctime                   rss                  swap\n";
  for (const auto& [place, s] : ns.segments.objects()) {
    out += str_printf("%10d %10d  %4o %21llu %5d %5d  %5llu %5u %5u %5u %5u %10lld %10lld %10lld %21llu %21llu\n",
                      s->key, s->id, s->mode, static_cast<unsigned long long>(s->size), s->creator, s->last,
                      static_cast<unsigned long long>(s->attached), s->uid, s->gid, s->cuid, s->cgid,
                      static_cast<long long>(s->atime), static_cast<long long>(s->dtime),
                      static_cast<long long>(s->ctime), 0ull, 0ull);
  }
  return out;
}

std::string sem_table(const Namespace& ns) {
  std::string out = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
  for (const auto& [place, s] : ns.semaphores.objects()) {
    out += str_printf("%10d %10d  %4o %10zu %5u %5u %5u %5u %10lld %10lld\n", s->key, s->id, s->mode, s->sems.size(),
                      s->uid, s->gid, s->cuid, s->cgid, static_cast<long long>(s->otime),
                      static_cast<long long>(s->ctime));
  }
  return out;
}

std::string msg_table(const Namespace& ns) {
  std::string out =
      "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime    "
      "  "
      "ctime\n";
  for (const auto& [place, q] : ns.queues.objects()) {
    out += str_printf("%10d %10d  %4o  %10llu %10zu %5d %5d %5u %5u %5u %5u %10lld %10lld %10lld\n", q->key, q->id,
                      q->mode, static_cast<unsigned long long>(q->bytes), q->messages.size(), q->last_sender,
                      q->last_receiver, q->uid, q->gid, q->cuid, q->cgid, static_cast<long long>(q->stime),
                      static_cast<long long>(q->rtime), static_cast<long long>(q->ctime));
  }
  return out;
}

}  // namespace sbx::ipc
