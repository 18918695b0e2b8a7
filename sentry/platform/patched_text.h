// Text patched before it is mapped: of a file whose text many processes map (the C library, the dynamic loader), one
// copy in memory whose system calls are jumps into the stub already. A process that maps it traps at no such site and
// copies no page of it. docs/platform.md, "Patched text".
//
// Which sites are patched is decided from the file's bytes alone: nothing a stub says or writes gets into the text of
// another process, and the copies are sealed. Kernel lock for everything.
#pragma once
#include <sys/stat.h>

#include <map>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/shelf.h"

namespace sbx::platform {

class PatchedText {
 public:
  // As Platform::text. The first uses of a file are answered with the file itself: most files are mapped seldom.
  MapSource replace(MapSource source, u64 length);

 private:
  struct Copy {
    Copy(u64 at, u64 bytes) : offset(at), length(bytes), item(make_ref<ShelfItem>()) {}
    Copy(Copy&&) = default;
    Copy& operator=(Copy&&) = default;
    ~Copy() {
      if (item) item->gone = true;
    }

    u64 offset, length;  // of the file; the memfd has the same offsets
    UniqueFd memfd;      // not valid: not worth it
    RefPtr<ShelfItem> item;
  };
  struct File {
    off_t size = 0;
    timespec modified{}, changed{};
    u32 uses = 0;
    std::vector<Copy> copies;
  };
  Copy make_copy(int fd, u64 offset, u64 length);

  std::map<std::pair<dev_t, ino_t>, File> files_;
  u64 bytes_ = 0;  // in copies
};

}  // namespace sbx::platform
