#include "sentry/loader/library.h"

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "sentry/platform/file_window.h"
#include "sentry/vfs/walk.h"

namespace sbx::loader {

namespace {
u32 protection(const Elf64_Phdr& p) {
  return static_cast<u32>(((p.p_flags & PF_R) != 0 ? PROT_READ : 0) | ((p.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
                          ((p.p_flags & PF_X) != 0 ? PROT_EXEC : 0));
}
}  // namespace

platform::MapSource map_source(vfs::File& file, const vfs::MapHandle& handle, u64 offset) {
  platform::MapSource source{handle.host_fd, handle.offset + offset};
  if (!handle.steady || handle.known_as == nullptr) return source;
  source.item = handle.known_as->shelf_item();
  source.everybodys = [path = file.path()] { return vfs::anybody_may_read(path); };
  return source;
}

std::vector<LibrarySegment> segments_behind(int fd, u64 base, u64 length, u32 prot) {
  char head[platform::kLibraryHead];
  const ssize_t got = pread64(fd, head, sizeof(head), static_cast<off64_t>(base));
  Elf64_Ehdr h;
  if (got < static_cast<ssize_t>(sizeof(h))) return {};
  memcpy(&h, head, sizeof(h));
  if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_X86_64 ||
      h.e_type != ET_DYN || h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phoff > sizeof(head) ||
      h.e_phnum > (static_cast<u64>(got) - std::min<u64>(h.e_phoff, static_cast<u64>(got))) / sizeof(Elf64_Phdr))
    return {};
  std::vector<LibrarySegment> segments;
  u64 end = 0;
  for (u32 i = 0; i < h.e_phnum; ++i) {
    Elf64_Phdr p;
    memcpy(&p, head + h.e_phoff + i * sizeof(p), sizeof(p));
    if (p.p_type != PT_LOAD) continue;
    constexpr u64 kMost = 1ull << 40;
    const u64 within = p.p_vaddr & (kPageSize - 1);
    if (p.p_align > kPageSize || within != (p.p_offset & (kPageSize - 1)) || p.p_filesz == 0 ||
        p.p_filesz > p.p_memsz || p.p_vaddr > kMost || p.p_memsz > kMost || p.p_offset > kMost)
      return {};
    const u64 at = page_down(p.p_vaddr);
    if (!segments.empty() && at < segments.back().at + segments.back().length) return {};
    segments.push_back({at, page_up(p.p_vaddr + p.p_filesz) - at, page_down(p.p_offset), protection(p)});
    end = p.p_vaddr + p.p_memsz;
  }
  if (segments.size() < 2 || segments[0].at != 0 || segments[0].offset != 0 || segments[0].prot != prot ||
      length != end)
    return {};
  segments.erase(segments.begin());
  return segments;
}

}  // namespace sbx::loader
