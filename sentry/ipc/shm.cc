#include "sentry/ipc/shm.h"

#include <sys/mman.h>
#include <unistd.h>

#include <memory>

#include "sentry/base/counters.h"
#include "sentry/ipc/namespace.h"

namespace sbx::ipc {

void Segment::encode(shmid_ds& out) const {
  out = {};
  Object::encode(out.shm_perm);
  out.shm_segsz = size;
  out.shm_atime = atime;
  out.shm_dtime = dtime;
  out.shm_ctime = ctime;
  out.shm_cpid = creator;
  out.shm_lpid = last;
  out.shm_nattch = attached;
}

RefPtr<Attachments> Attachments::clone() const {
  auto copy = make_ref<Attachments>(ns_);
  copy->at_ = at_;
  for (const auto& [addr, segment] : at_) ++segment->attached;
  return copy;
}

void Attachments::add(u64 addr, RefPtr<Segment> segment, i32 pid) {
  ++segment->attached;
  segment->atime = now();
  segment->last = pid;
  RefPtr<Segment> before = std::move(at_[addr]);
  at_[addr] = std::move(segment);
  if (before) detach(*before, pid);  // SHM_REMAP
}

Result<u64> Attachments::remove(u64 addr, i32 pid) {
  auto it = at_.find(addr);
  if (it == at_.end()) return Errno::kInval;
  RefPtr<Segment> segment = std::move(it->second);
  at_.erase(it);
  detach(*segment, pid);
  return page_up(segment->size);
}

void Attachments::detach_all(i32 pid) {
  auto all = std::move(at_);
  at_.clear();
  for (auto& [addr, segment] : all) detach(*segment, pid);
}

void Attachments::detach(Segment& segment, i32 pid) {
  --segment.attached;
  segment.dtime = now();
  if (pid != 0) segment.last = pid;
  if (segment.attached == 0 && (segment.mode & SHM_DEST) != 0) remove_segment(ns_, segment);
}

Result<i32> get_segment(Namespace& ns, const security::Credentials& creds, i32 pid, i32 key, u64 size, u32 flags) {
  if ((flags & SHM_HUGETLB) != 0) {
    STUB("shmget SHM_HUGETLB", flags);
    return Errno::kNomem;  // no huge pages reserved, as on most hosts
  }
  auto check = [&](const Segment& segment) -> Result<void> {
    if (size > segment.size) return Errno::kInval;
    return {};
  };
  auto make = [&]() -> Result<RefPtr<Segment>> {
    if (size < 1 || size > ns.shmmax) return Errno::kInval;
    if (page_up(size) < size || (ns.shm_bytes + page_up(size)) / kPageSize > ns.shmall) return Errno::kNospc;
    auto segment = make_ref<Segment>();
    segment->memfd.reset(memfd_create("SYSV", MFD_CLOEXEC));
    if (!segment->memfd || ftruncate(segment->memfd.get(), static_cast<off_t>(page_up(size))) != 0) {
      return Errno::kNomem;
    }
    segment->size = size;
    segment->creator = pid;
    ns.shm_bytes += page_up(size);
    return segment;
  };
  return ns.segments.get(creds, key, flags, check, make);
}

void remove_segment(Namespace& ns, Segment& segment) {
  if (segment.removed) return;
  if (segment.attached != 0) {
    segment.mode |= SHM_DEST;
    segment.key = IPC_PRIVATE;  // not found again
    return;
  }
  ns.shm_bytes -= page_up(segment.size);
  ns.segments.remove(segment);
}

}  // namespace sbx::ipc
