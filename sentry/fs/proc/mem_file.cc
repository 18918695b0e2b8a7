#include "sentry/fs/proc/mem_file.h"

#include <algorithm>
#include <vector>

#include "sentry/fs/proc/maps.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/task/ptrace.h"

namespace sbx::fs::proc {
namespace {

constexpr size_t kChunk = 64 * 1024;

task::Task* stopped_tracee(const task::ThreadGroup& group) {
  for (task::Task* t : group.tasks) {
    if (t->trace && t->trace->tracer == task::current_task() && t->trace->stopped && !t->trace->listening) return t;
  }
  return nullptr;
}

// Of the memory that the process has when it is opened (fs/proc/base.c mem_open): after an exec there is nothing.
class MemFile final : public vfs::File {
 public:
  MemFile(const vfs::Path& path, u32 flags, const Target& target, RefPtr<platform::AddressSpace> memory)
      : File(path, flags), target_(target), memory_(std::move(memory)) {}
  bool seekable() const override { return true; }

  Result<size_t> read(vfs::Sink& to, u64* offset) override {
    return move(to.left(), offset, [&](task::Task& t, u64 at, size_t n) -> Result<size_t> {
      size_t got = TRY(t.thread->peek(at, buffer_.data(), n));
      return to.put(buffer_.data(), got);
    });
  }
  Result<size_t> write(vfs::Source& from, u64* offset) override {
    return move(from.left(), offset, [&](task::Task& t, u64 at, size_t n) -> Result<size_t> {
      size_t got = TRY(from.get(buffer_.data(), n));
      auto put = t.thread->poke(at, buffer_.data(), got);
      if (put && *put == got) return got;
      // A debugger writes into text here. Any thread that it has stopped can do it.
      task::Task* stopped = stopped_tracee(*t.group);
      if (put || stopped == nullptr) return put;
      TRY(poke_protected(*stopped, at, std::string_view(reinterpret_cast<const char*>(buffer_.data()), got)));
      return got;
    });
  }
  // Addresses are positions, so all of them are (mem_lseek).
  Result<u64> seek(i64 offset, int whence) override {
    if (whence == SEEK_CUR)
      offset = static_cast<i64>(position + static_cast<u64>(offset));
    else if (whence != SEEK_SET)
      return Errno::kInval;
    position = static_cast<u64>(offset);
    return position;
  }

 private:
  template <typename Step>
  Result<size_t> move(size_t n, u64* offset, Step step) {
    if (offset == nullptr) offset = &position;
    size_t done = 0;
    buffer_.resize(std::min(n, kChunk));
    while (done < n) {
      task::Task* t = target_.task();
      if (t == nullptr || t->thread->address_space().get() != memory_.get()) break;
      size_t part = std::min(n - done, kChunk);
      auto moved = step(*t, *offset + done, part);
      if (!moved) {
        if (done == 0) return Errno::kIo;
        break;
      }
      done += *moved;
      if (*moved < part) break;
    }
    *offset += done;
    return done;
  }
  Target target_;
  RefPtr<platform::AddressSpace> memory_;
  std::vector<u8> buffer_;
};

class MemNode final : public Node {
 public:
  MemNode(PseudoFs& fs, u64 ino, Target target) : Node(fs, ino, S_IFREG | 0600), target_(std::move(target)) {}
  NodeOwner node_owner() const override { return target_.owner(); }
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override {
    TRY(target_.live_task());
    task::Task* t = TRY(task::task_with_memory(target_.tid != 0 ? target_.tid : target_.group->pid));
    const task::Task* caller = task::current_task();
    if (caller == nullptr || !task::may_trace(*caller, *t)) return Errno::kAcces;
    return RefPtr<vfs::File>(make_ref<MemFile>(path, flags, target_, t->thread->address_space()));
  }

 private:
  Target target_;
};

}  // namespace

Result<void> poke_protected(task::Task& target, u64 addr, std::string_view bytes) {
  const i32 tid = target.tid;
  std::string maps = TRY(read_host_proc(target.thread->address_space()->host_pid(), "maps"));
  while (!bytes.empty()) {
    size_t n = std::min<u64>(bytes.size(), kPageSize - addr % kPageSize);
    u32 prot = TRY(private_protection(maps, addr));
    task::Task* now = task::kernel().find_task(tid);
    if (now != &target || !now->trace || !now->trace->stopped) return Errno::kSrch;
    TRY(now->thread->poke_protected(addr, std::string(bytes.substr(0, n)), prot));
    addr += n;
    bytes.remove_prefix(n);
  }
  return {};
}

RefPtr<Node> mem_node(PseudoFs& fs, u64 ino, const Target& target) {
  return RefPtr<Node>(make_ref<MemNode>(fs, ino, target));
}

}  // namespace sbx::fs::proc
