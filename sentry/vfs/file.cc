#include "sentry/vfs/file.h"

#include "sentry/vfs/file_locks.h"
#include "sentry/vfs/notify.h"

namespace sbx::vfs {

void (*File::on_watched_end)(File&) = nullptr;

File::~File() {
  if (epoll_watched) on_watched_end(*this);
  Inode* i = inode();
  if (i == nullptr) return;
  if (i->has_locks()) i->locks().release_file(this);
  if (counted_writer_) --i->write_count();
  if (!opened_) return;
  notify_file(*this, writable() ? IN_CLOSE_WRITE : IN_CLOSE_NOWRITE);
  if (--i->opened == 0) notify_unused(*i);
}

void File::mark_opened() {
  opened_ = true;
  ++inode()->opened;
  if (writable() && inode()->type() == S_IFREG) {
    counted_writer_ = true;
    ++inode()->write_count();
  }
  notify_file(*this, IN_OPEN);
}

Result<u64> File::seek(i64 offset, int whence) {
  if (!seekable()) return Errno::kSpipe;
  i64 base = 0;
  switch (whence) {
    case SEEK_SET: break;
    case SEEK_CUR: base = static_cast<i64>(position); break;
    case SEEK_END:
    case SEEK_DATA:
    case SEEK_HOLE: {
      Attr a = TRY(attr());
      auto size = static_cast<i64>(a.size);
      if (whence == SEEK_END) {
        base = size;
        break;
      }
      // Without knowledge of holes all of the file is data, and a hole follows its end (lseek(2)).
      if (offset < 0 || offset >= size) return Errno::kNxio;
      if (whence == SEEK_HOLE) offset = size;
      break;
    }
    default: return Errno::kInval;
  }
  i64 to = 0;
  // Beyond what an offset can be is no offset either (fs/read_write.c, vfs_setpos).
  if (__builtin_add_overflow(base, offset, &to)) return Errno::kInval;
  if (to < 0) return Errno::kInval;
  position = static_cast<u64>(to);
  return position;
}

Result<Attr> File::attr() {
  Inode* i = inode();
  if (i == nullptr) return Errno::kBadf;
  return i->attr();
}

namespace {
std::function<void()>& make_up_for_closes() {
  static auto* fn = new std::function<void()>;
  return *fn;
}
}  // namespace

void WriteDenial::on_busy(std::function<void()> make_up) { make_up_for_closes() = std::move(make_up); }

Result<std::unique_ptr<WriteDenial>> WriteDenial::take(RefPtr<Inode> inode) {
  if (inode->write_count() > 0 && make_up_for_closes()) make_up_for_closes()();
  if (inode->write_count() > 0) return Errno::kTxtbsy;
  return std::unique_ptr<WriteDenial>(new WriteDenial(std::move(inode)));
}

}  // namespace sbx::vfs
