#include "sentry/fs/proc/mem_file.h"

#include <algorithm>
#include <vector>

#include "sentry/task/ptrace.h"

namespace sbx::fs::proc {
namespace {

constexpr size_t kChunk = 64 * 1024;

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
      return t.thread->poke(at, buffer_.data(), got);
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

RefPtr<Node> mem_node(PseudoFs& fs, u64 ino, const Target& target) {
  return RefPtr<Node>(make_ref<MemNode>(fs, ino, target));
}

}  // namespace sbx::fs::proc
