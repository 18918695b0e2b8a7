#include "sentry/fs/anon/inotify.h"

#include <sys/ioctl.h>

#include "sentry/base/log.h"
#include "sentry/fs/anon/node.h"
#include "sentry/platform/file_lease.h"

namespace sbx::fs::anon {
namespace {

constexpr size_t kMaxEvents = 16384;   // fs.inotify.max_queued_events
constexpr size_t kMaxWatches = 65536;  // fs.inotify.max_user_watches, here for each instance
constexpr u32 kWantable = IN_ALL_EVENTS;
constexpr u32 kKnown = kWantable | IN_UNMOUNT | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK | IN_MASK_CREATE |
                       IN_MASK_ADD | IN_ISDIR | IN_ONESHOT;

}  // namespace

class Inotify::Watch final : public vfs::NotifyWatch {
 public:
  Watch(Inotify& owner, int wd, RefPtr<vfs::Inode> inode, u32 mask)
      : NotifyWatch(std::move(inode), mask), owner_(owner), wd_(wd) {}
  Inotify& owner() const { return owner_; }
  int wd() const { return wd_; }
  void on_event(u32 events, u32 cookie, std::string_view name) override {
    if (events & IN_IGNORED) {
      owner_.end_watch(wd_);  // destroys this
      return;
    }
    bool last = mask() & IN_ONESHOT;
    Inotify& owner = owner_;
    int wd = wd_;
    owner.queue_event({wd, events, cookie, std::string(name)});
    if (last) owner.end_watch(wd);  // destroys this
  }

 private:
  Inotify& owner_;
  int wd_;
};

// The name is padded with NULs to a multiple of the header's size, at least one.
size_t Inotify::Event::bytes() const {
  constexpr size_t kHeader = sizeof(inotify_event);
  return kHeader + (name.empty() ? 0 : (name.size() / kHeader + 1) * kHeader);
}

Inotify::Inotify(u32 flags) : File(anon_path("inotify"), O_RDONLY | flags) {}

Inotify::~Inotify() = default;

void Inotify::queue_event(Event event) {
  if (!events_.empty() && events_.back() == event) return;
  if (events_.size() >= kMaxEvents) {
    if (events_.back().mask & IN_Q_OVERFLOW) return;
    event = {-1, IN_Q_OVERFLOW, 0, {}};
  }
  events_.push_back(std::move(event));
  queue_.wake_all();
}

void Inotify::end_watch(int wd) {
  queue_event({wd, IN_IGNORED, 0, {}});
  watches_.erase(wd);
}

// Reads and closes that the sentry does not see make no events.
void Inotify::see_reads() {
  if (vfs::notify_active()) platform::take_back_positions();
}

Result<int> Inotify::add_watch(const RefPtr<vfs::Inode>& inode, u32 mask) {
  if ((mask & ~kKnown) || !(mask & kWantable)) return Errno::kInval;
  if ((mask & IN_MASK_ADD) && (mask & IN_MASK_CREATE)) return Errno::kInval;
  u32 wanted = mask & (kWantable | IN_ONESHOT | IN_EXCL_UNLINK);
  Watch* known = nullptr;
  vfs::for_each_watch(*inode, [&](vfs::NotifyWatch& watch) {
    auto* mine = dynamic_cast<Watch*>(&watch);
    if (mine != nullptr && &mine->owner() == this) known = mine;
  });
  if (known != nullptr) {
    if (mask & IN_MASK_CREATE) return Errno::kExist;
    known->set_mask(mask & IN_MASK_ADD ? known->mask() | wanted : wanted);
    see_reads();
    return known->wd();
  }
  if (watches_.size() >= kMaxWatches) return Errno::kNospc;
  int wd = ++last_wd_;
  watches_[wd] = std::make_unique<Watch>(*this, wd, inode, wanted);
  see_reads();
  return wd;
}

Result<void> Inotify::remove_watch(int wd) {
  if (!watches_.contains(wd)) return Errno::kInval;
  end_watch(wd);
  return {};
}

Result<size_t> Inotify::read(vfs::Sink& sink, u64*) {
  if (events_.empty()) return Errno::kAgain;
  size_t total = 0;
  while (!events_.empty()) {
    const Event& event = events_.front();
    size_t n = event.bytes();
    if (n > sink.left()) {
      if (total == 0) return Errno::kInval;
      break;
    }
    std::string bytes(n, '\0');
    inotify_event header{};
    header.wd = event.wd;
    header.mask = event.mask;
    header.cookie = event.cookie;
    header.len = static_cast<u32>(n - sizeof(header));
    std::memcpy(bytes.data(), &header, sizeof(header));
    std::memcpy(bytes.data() + sizeof(header), event.name.data(), event.name.size());
    auto put = sink.put(bytes.data(), n);
    if (!put) return total > 0 ? Result<size_t>(total) : put;
    events_.pop_front();
    total += *put;
    if (*put < n) break;
  }
  return total;
}

Result<i64> Inotify::ioctl(vfs::IoctlCaller& caller, u32 cmd, u64 arg) {
  if (cmd != FIONREAD) return Errno::kNotty;
  size_t total = 0;
  for (const Event& event : events_) total += event.bytes();
  auto value = static_cast<i32>(total);
  TRY(caller.write(arg, &value, sizeof(value)));
  return i64{0};
}

std::string Inotify::fdinfo() {
  std::string out;
  for (const auto& [wd, watch] : watches_) {
    u64 ino = 0;
    if (auto attr = watch->inode()->attr()) ino = attr->ino;
    out += str_printf("inotify wd:%d ino:%llx sdev:%llx mask:%x ignored_mask:0\n", wd,
                      static_cast<unsigned long long>(ino), static_cast<unsigned long long>(watch->inode()->fs().dev()),
                      watch->mask());
  }
  return out;
}

Result<RefPtr<vfs::File>> make_inotify(u32 flags) {
  if (flags & ~u32{IN_NONBLOCK | IN_CLOEXEC}) return Errno::kInval;
  return RefPtr<vfs::File>(make_ref<Inotify>(flags & IN_NONBLOCK ? O_NONBLOCK : 0));
}

}  // namespace sbx::fs::anon
