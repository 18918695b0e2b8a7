#include "sentry/platform/unwind_info.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace sbx::platform {

namespace {

constexpr u32 kMaxHeaders = 64;

// Pointer encodings of .eh_frame_hdr and .eh_frame as linkers write them; others are not followed.
constexpr u8 kPcrelSdata4 = 0x1b, kUdata4 = 0x03, kDatarelSdata4 = 0x3b;

struct TableRow {
  i32 begin, fde;  // relative to the table's header
};

class Image {
 public:
  explicit Image(int fd) : fd_(fd), segments_(read_segments(fd)) {}
  const std::vector<Elf64_Phdr>& segments() const { return segments_; }
  bool read(u64 address, void* to, size_t n) const {
    for (const Elf64_Phdr& p : segments_) {
      u64 from = address - p.p_vaddr;
      if (p.p_type != PT_LOAD || from >= p.p_filesz || p.p_filesz - from < n) continue;
      return read_all(fd_, to, n, p.p_offset + from);
    }
    return false;
  }
  template <typename T>
  bool read(u64 address, T* to) const {
    return read(address, to, sizeof(T));
  }

 private:
  int fd_;
  std::vector<Elf64_Phdr> segments_;
};

u64 relative(u64 base, i32 distance) { return base + static_cast<u64>(static_cast<i64>(distance)); }

// The frame description of the last function that begins at or below `address`; 0: there is none.
u64 find_fde(const Image& image, u64 table, u64 address) {
  struct {
    u8 version, frame_encoding, count_encoding, row_encoding;
    i32 frame;
    u32 count;
  } header;
  static_assert(sizeof(header) == 12);
  if (!image.read(table, &header) || header.version != 1 || header.frame_encoding != kPcrelSdata4 ||
      header.count_encoding != kUdata4 || header.row_encoding != kDatarelSdata4) {
    return 0;
  }
  u64 rows = table + sizeof(header), low = 0, high = header.count;
  TableRow found{};
  bool any = false;
  while (low < high) {
    u64 middle = (low + high) / 2;
    TableRow row;
    if (!image.read(rows + middle * sizeof(row), &row)) return 0;
    if (relative(table, row.begin) <= address) {
      found = row;
      any = true;
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return any ? relative(table, found.fde) : 0;
}

}  // namespace

bool read_all(int fd, void* to, size_t n, u64 offset) {
  auto* out = static_cast<char*>(to);
  while (n > 0) {
    ssize_t got = pread(fd, out, n, static_cast<off_t>(offset));
    if (got <= 0) return false;
    out += got;
    n -= static_cast<size_t>(got);
    offset += static_cast<u64>(got);
  }
  return true;
}

std::vector<Elf64_Phdr> read_segments(int fd) {
  Elf64_Ehdr header;
  if (!read_all(fd, &header, sizeof(header), 0)) return {};
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_machine != EM_X86_64 || header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > kMaxHeaders) {
    return {};
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (!read_all(fd, segments.data(), segments.size() * sizeof(Elf64_Phdr), header.e_phoff)) return {};
  return segments;
}

bool calls_through_libraries(int fd) {
  constexpr u64 kMaxEntries = 256;
  Image image(fd);
  std::vector<Elf64_Dyn> entries;
  for (const Elf64_Phdr& p : image.segments()) {
    if (p.p_type != PT_DYNAMIC) continue;
    entries.resize(std::min<u64>(p.p_filesz / sizeof(Elf64_Dyn), kMaxEntries));
    if (!read_all(fd, entries.data(), entries.size() * sizeof(Elf64_Dyn), p.p_offset)) return false;
  }
  u64 names = 0;
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag == DT_STRTAB) names = entry.d_un.d_ptr;
  }
  auto begins_with = [&](u64 name, std::string_view prefix) {
    char bytes[16];
    return image.read(names + name, bytes, prefix.size()) && prefix == std::string_view(bytes, prefix.size());
  };
  bool needs = false;
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag == DT_SONAME && begins_with(entry.d_un.d_val, "libpthread.so")) return false;
    needs = needs || (entry.d_tag == DT_NEEDED && !begins_with(entry.d_un.d_val, "ld-"));
  }
  return needs;
}

bool has_signal_frame(int fd, u64 offset) {
  Image image(fd);
  u64 address = 0, table = 0;
  for (const Elf64_Phdr& p : image.segments()) {
    u64 from = offset - p.p_offset;
    if (p.p_type == PT_LOAD && (p.p_flags & PF_X) != 0 && from < p.p_filesz) address = p.p_vaddr + from;
    if (p.p_type == PT_GNU_EH_FRAME) table = p.p_vaddr;
  }
  if (address == 0 || table == 0) return false;
  u64 fde = find_fde(image, table, address);
  struct {
    u32 length, cie;  // how far before this field the CIE begins
    i32 begin;        // of the code, relative to this field
    u32 bytes;
  } description;
  if (fde == 0 || !image.read(fde, &description) || description.cie == 0) return false;
  u64 begin = relative(fde + 8, description.begin);
  if (address - begin >= description.bytes) return false;
  struct {
    u32 length, zero;
    u8 version;
    char augmentation[7];
  } common;
  static_assert(sizeof(common) == 16);
  if (!image.read(fde + 4 - description.cie, &common) || common.zero != 0 || common.version != 1) return false;
  // Only with pointers in the encoding assumed above, which "R" announces: its byte is the last of the data.
  const char* end = static_cast<const char*>(std::memchr(common.augmentation, 0, sizeof(common.augmentation)));
  return end != nullptr &&
         std::memchr(common.augmentation, 'S', static_cast<size_t>(end - common.augmentation)) != nullptr;
}

}  // namespace sbx::platform
