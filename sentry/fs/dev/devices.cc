#include "sentry/fs/dev/devices.h"

#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "sentry/base/counters.h"
#include "sentry/base/log.h"
#include "sentry/task/task.h"
#include "sentry/vfs/special.h"

namespace sbx::fs::dev {
namespace {

constexpr size_t kChunk = 128 * 1024;

enum class Memory : u32 { kNull = 3, kZero = 5, kFull = 7, kRandom = 8, kUrandom = 9 };

RefPtr<devpts::Tty>& console_tty() {
  static auto* tty = new RefPtr<devpts::Tty>;
  return *tty;
}

// Calls `make` for pieces of what the reader wants, until it has all or its memory faults.
template <typename Make>
Result<size_t> fill(vfs::Sink& sink, u8* piece, size_t piece_bytes, Make make) {
  size_t total = 0;
  while (sink.left() > 0) {
    size_t n = std::min(sink.left(), piece_bytes);
    make(piece, n);
    auto put = sink.put(piece, n);
    if (!put) return total > 0 ? Result<size_t>(total) : put;
    total += *put;
    if (*put < n) break;
  }
  return total;
}

// Takes and forgets all bytes, but fetches them: a bad address must be noticed.
Result<size_t> swallow(vfs::Source& source, u8* piece, size_t piece_bytes) {
  size_t total = 0;
  while (source.left() > 0) {
    size_t n = std::min(source.left(), piece_bytes);
    auto got = source.get(piece, n);
    if (!got) return total > 0 ? Result<size_t>(total) : got;
    total += *got;
    if (*got < n) break;
  }
  return total;
}

// Major 1: /dev/null and its family.
class MemoryDevice final : public vfs::File {
 public:
  MemoryDevice(vfs::Path path, u32 flags, Memory kind) : File(std::move(path), flags), kind_(kind) {}

  Result<size_t> read(vfs::Sink& sink, u64*) override {
    static u8 zeros[kChunk];  // nobody writes there
    u8 piece[4096];
    switch (kind_) {
      case Memory::kNull: return size_t{0};
      case Memory::kZero:
      case Memory::kFull: return fill(sink, zeros, sizeof(zeros), [](u8*, size_t) {});
      case Memory::kRandom:
      case Memory::kUrandom:
        return fill(sink, piece, sizeof(piece), [](u8* to, size_t n) {
          for (size_t done = 0; done < n;) {
            ssize_t got = getrandom(to + done, n - done, 0);
            if (got > 0) done += static_cast<size_t>(got);
          }
        });
    }
    return Errno::kIo;
  }
  Result<size_t> write(vfs::Source& source, u64*) override {
    if (kind_ == Memory::kFull) return source.left() == 0 ? Result<size_t>(size_t{0}) : Errno::kNospc;
    if (kind_ == Memory::kNull || kind_ == Memory::kZero) {
      // Linux never looks at the bytes either.
      return source.left();
    }
    u8 piece[512];
    return swallow(source, piece, sizeof(piece));
  }
  bool discards_writes() const override { return kind_ == Memory::kNull || kind_ == Memory::kZero; }
  bool seekable() const override { return true; }
  // null, zero and full answer 0 to every lseek; random has no position (drivers/char/mem.c, random.c).
  Result<u64> seek(i64, int) override {
    if (kind_ != Memory::kRandom && kind_ != Memory::kUrandom) position = 0;
    return u64{0};
  }
  Result<i64> ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) override {
    constexpr u32 kGetEntropyCount = 0x80045200;  // RNDGETENTCNT
    if ((kind_ == Memory::kRandom || kind_ == Memory::kUrandom) && cmd == kGetEntropyCount) {
      i32 bits = 256;
      TRY(caller.write(arg, &bits, sizeof(bits)));
      return i64{0};
    }
    return Errno::kNotty;
  }
  // An anonymous mapping: no host descriptor.
  Result<vfs::MapHandle> map_handle(bool) override {
    if (kind_ != Memory::kZero) return Errno::kNodev;
    return vfs::MapHandle{};
  }

 private:
  Memory kind_;
};

Result<RefPtr<vfs::File>> open_device(vfs::Inode&, u64 rdev, const vfs::Path& path, u32 flags) {
  u32 device = major(rdev), index = minor(rdev);
  if (device == 1) {
    switch (static_cast<Memory>(index)) {
      case Memory::kNull:
      case Memory::kZero:
      case Memory::kFull:
      case Memory::kRandom:
      case Memory::kUrandom: return RefPtr<vfs::File>(make_ref<MemoryDevice>(path, flags, static_cast<Memory>(index)));
    }
  }
  if (device == 5 && index == 0) {
    auto tty = TRY(devpts::controlling_tty());
    return TRY(devpts::open_slave(*tty, path, flags | O_NOCTTY));
  }
  if (device == 5 && index == 1) {
    if (!console_tty()) return Errno::kNxio;
    return TRY(devpts::open_slave(*console_tty(), path, flags | O_NOCTTY));
  }
  auto* pts = devpts::DevptsFs::default_instance();
  if (device == 5 && index == 2 && pts != nullptr) {
    task::Task* task = task::current_task();
    u32 uid = task != nullptr ? task->creds->fsuid : 0, gid = task != nullptr ? task->creds->fsgid : 0;
    return TRY(pts->open_ptmx(path, flags, uid, gid));
  }
  if (device == devpts::kPtsMajor && pts != nullptr) {
    if (auto tty = pts->find(index)) return TRY(devpts::open_slave(*tty, path, flags));
  }
  STUB("open of a device", rdev);
  return Errno::kNxio;
}

}  // namespace

void register_devices() { vfs::register_special(S_IFCHR, open_device); }

void set_console(RefPtr<devpts::Tty> tty) { console_tty() = std::move(tty); }

Result<void> populate(const vfs::WalkContext& ctx, std::string_view dir, bool console) {
  struct Node {
    const char* name;
    u32 mode;
    u64 rdev;
    const char* target;
  };
  const Node kNodes[] = {
      {"null", S_IFCHR | 0666, makedev(1, 3), ""},      {"zero", S_IFCHR | 0666, makedev(1, 5), ""},
      {"full", S_IFCHR | 0666, makedev(1, 7), ""},      {"random", S_IFCHR | 0666, makedev(1, 8), ""},
      {"urandom", S_IFCHR | 0666, makedev(1, 9), ""},   {"tty", S_IFCHR | 0666, makedev(5, 0), ""},
      {"console", S_IFCHR | 0620, makedev(5, 1), ""},   {"fd", S_IFLNK | 0777, 0, "/proc/self/fd"},
      {"stdin", S_IFLNK | 0777, 0, "/proc/self/fd/0"},  {"stdout", S_IFLNK | 0777, 0, "/proc/self/fd/1"},
      {"stderr", S_IFLNK | 0777, 0, "/proc/self/fd/2"}, {"core", S_IFLNK | 0777, 0, "/proc/kcore"},
      {"ptmx", S_IFLNK | 0777, 0, "pts/ptmx"},          {"pts", S_IFDIR | 0755, 0, ""},
      {"shm", S_IFDIR | S_ISVTX | 0777, 0, ""},         {"mqueue", S_IFDIR | S_ISVTX | 0777, 0, ""},
  };
  for (const Node& node : kNodes) {
    if (!console && std::string_view(node.name) == "console") continue;
    vfs::NewNode wanted;
    wanted.mode = node.mode;
    wanted.rdev = node.rdev;
    wanted.target = node.target;
    auto made = vfs::make_node(ctx, std::string(dir) + "/" + node.name, wanted);
    if (!made && made.error() != Errno::kExist) return made.error();
  }
  return {};
}

}  // namespace sbx::fs::dev
