#include "sentry/platform/patched_text.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/platform/layout.h"
#include "sentry/platform/patch_text.h"
#include "sentry/platform/unwind_info.h"

extern const char sbx_stub_blob[];

namespace sbx::platform {

COUNTER(copies_made, "platform.patched_texts", "texts of files patched ahead, in memory");
COUNTER(sites_ahead, "platform.patched_ahead", "sites in them");
COUNTER(copies_mapped, "platform.patched_maps", "mappings of them");

namespace {

constexpr u32 kUsesBefore = 1;       // of a file, before it is worth a copy
constexpr u32 kSitesBefore = 8;      // fewer are not worth the memory
constexpr u64 kMaxText = 8 << 20;    // of one copy
constexpr u64 kMaxBytes = 32 << 20;  // of all
constexpr size_t kMaxFiles = 512;    // remembered

u64 stub_entry_address() { return reinterpret_cast<const BlobHeader*>(sbx_stub_blob)->entry; }

// How many bytes of the mapping [offset, offset + length) are the text segment's; 0: it is not one, to the page.
u64 segment_bytes(int fd, u64 offset, u64 length) {
  for (const Elf64_Phdr& p : read_segments(fd)) {
    if (p.p_type != PT_LOAD || (p.p_flags & (PF_R | PF_W | PF_X)) != (PF_R | PF_X)) continue;
    if (p.p_offset == offset && p.p_filesz == p.p_memsz && p.p_filesz <= length && page_up(p.p_filesz) == length) {
      return p.p_filesz;
    }
  }
  return 0;
}

bool same(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

// Whether so many calls with a number right before them are in a text that it may be worth a copy.
bool has_sites(int fd, u64 offset, u64 bytes) {
  constexpr size_t kChunk = 256 * 1024, kLookBack = 16;
  static auto* chunk = new u8[kChunk];
  u32 found = 0;
  for (u64 done = 0; done < bytes;) {
    const u64 n = std::min<u64>(kChunk, bytes - done);
    if (!read_all(fd, chunk, n, offset + done)) return false;
    for (u64 call = kLookBack; (call = find_call({chunk, n}, call, n)) < n; ++call) {
      const u8* at = chunk + call;
      // mov $imm32,%eax with a number that a call can have, up to two more instructions before it.
      for (const u8* mov = at - kMovBytes; mov >= at - kLookBack; --mov) {
        if (mov[0] != kMovEax || mov[2] >= kNumbers >> 8 || mov[3] != 0 || mov[4] != 0) continue;
        if (++found >= kSitesBefore) return true;
        break;
      }
    }
    done += n == bytes - done ? n : n - kLookBack;
  }
  return false;
}

// Pages of a file in memory, mapped to be written.
class Mapping {
 public:
  Mapping(int fd, u64 offset, u64 length) : length_(length) {
    at_ = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(offset));
  }
  ~Mapping() {
    if (at_ != MAP_FAILED) munmap(at_, length_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  // None: there is no memory for them.
  std::span<u8> bytes() const { return {static_cast<u8*>(at_), at_ != MAP_FAILED ? length_ : 0}; }

 private:
  void* at_;
  u64 length_;
};

}  // namespace

PatchedText::Copy PatchedText::make_copy(int fd, u64 offset, u64 length) {
  Copy copy(offset, length);
  if (length > kMaxText || bytes_ + length > kMaxBytes) return copy;
  u64 used = segment_bytes(fd, offset, length);
  // Programs of two hundred libraries are not rare, and to look through all of their text takes as long as their start.
  if (used == 0 || calls_through_libraries(fd) || !has_sites(fd, offset, used)) return copy;
  // The file may end with the segment: the rest of its last page is zero then too.
  struct stat st;
  if (fstat(fd, &st) != 0 || static_cast<u64>(st.st_size) < offset + used) return copy;
  UniqueFd memfd(memfd_create("text", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memfd || ftruncate(memfd.get(), static_cast<off_t>(offset + length)) != 0) return copy;
  u32 sites = 0;
  {
    Mapping text(memfd.get(), offset, length);
    if (text.bytes().empty() ||
        !read_all(fd, text.bytes().data(), std::min(length, static_cast<u64>(st.st_size) - offset), offset)) {
      return copy;
    }
    auto unwinds = [&](u64 at) { return has_signal_frame(fd, offset + at); };
    sites = patch_text(text.bytes(), used, static_cast<u32>(stub_entry_address()), unwinds);
  }
  if (sites < kSitesBefore ||
      fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
    return copy;
  }
  bytes_ += length;
  copies_made.add();
  sites_ahead.add(sites);
  copy.memfd = std::move(memfd);
  return copy;
}

MapSource PatchedText::replace(MapSource source, u64 length) {
  struct stat st;
  if (source.fd < 0 || fstat(source.fd, &st) != 0 || !S_ISREG(st.st_mode)) return source;
  if (files_.size() >= kMaxFiles) {
    std::erase_if(files_, [](const auto& entry) { return entry.second.uses <= kUsesBefore; });
    if (files_.size() >= kMaxFiles) return source;
  }
  File& file = files_[{st.st_dev, st.st_ino}];
  if (file.size != st.st_size || !same(file.modified, st.st_mtim) || !same(file.changed, st.st_ctim)) {
    for (const Copy& copy : file.copies) bytes_ -= copy.memfd ? copy.length : 0;
    file = File{st.st_size, st.st_mtim, st.st_ctim, 0, {}};
  }
  if (++file.uses <= kUsesBefore) return source;
  auto known = std::find_if(file.copies.begin(), file.copies.end(),
                            [&](const Copy& copy) { return copy.offset == source.offset && copy.length == length; });
  if (known == file.copies.end()) {
    // A file has one text segment; what else is mapped of it again and again is not looked at for ever.
    if (file.copies.size() >= 4) return source;
    known = file.copies.insert(known, make_copy(source.fd, source.offset, length));
  }
  if (!known->memfd) return source;
  copies_mapped.add();
  return {known->memfd.get(), source.offset, known->item, std::move(source.everybodys)};
}

}  // namespace sbx::platform
