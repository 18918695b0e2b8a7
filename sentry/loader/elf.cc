#include "sentry/loader/elf.h"

#include <elf.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/log.h"
#include "sentry/base/random.h"
#include "sentry/loader/library.h"
#include "sentry/platform/layout.h"

namespace sbx::loader {

namespace {

constexpr u64 kMaxHeaders = 64 * 1024;
constexpr u64 kUserTop = 0x7ffffffff000;
// Where our stub lives in every process (docs/platform.md): no image may be there.
constexpr u64 kStubStart = platform::kReservedBegin, kStubEnd = platform::kReservedEnd;

// Places of our choosing, clear of the host's own mmap area (top of the address space) and of the stub.
constexpr u64 kPieBase = 0x555555554000, kInterpreterBase = 0x7e9800000000, kStackTop = 0x7e9000000000;
constexpr u64 kRandomPages = 1 << 22;  // 16 GiB of play: 22 bits

u64 random_pages(u64 pages) { return (random_u64() % pages) * kPageSize; }

Result<void> read_exact(vfs::File& file, u64 offset, void* to, size_t n) {
  size_t done = 0;
  while (done < n) {
    vfs::KernelSink sink(static_cast<u8*>(to) + done, n - done);
    u64 at = offset + done;
    size_t got = TRY(file.read(sink, &at));
    if (got == 0) return Errno::kNoexec;
    done += got;
  }
  return {};
}

// The same from `head`, the file's first bytes, as far as that goes.
Result<void> read_exact(vfs::File& file, std::string_view head, u64 offset, void* to, size_t n) {
  if (offset > head.size() || n > head.size() - offset) return read_exact(file, offset, to, n);
  std::memcpy(to, head.data() + offset, n);
  return {};
}

struct Elf {
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> segments;
  u64 low = ~0ull, high = 0;  // page-aligned extent of PT_LOAD
  std::string interpreter;
  bool executable_stack = false;
};

Result<Elf> read_elf(vfs::File& file, std::string_view head) {
  Elf elf;
  TRY(read_exact(file, head, 0, &elf.header, sizeof(elf.header)));
  const Elf64_Ehdr& h = elf.header;
  if (std::memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_X86_64 ||
      (h.e_type != ET_EXEC && h.e_type != ET_DYN) || h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phnum == 0 ||
      h.e_phnum * sizeof(Elf64_Phdr) > kMaxHeaders) {
    return Errno::kNoexec;
  }
  elf.segments.resize(h.e_phnum);
  TRY(read_exact(file, head, h.e_phoff, elf.segments.data(), h.e_phnum * sizeof(Elf64_Phdr)));
  for (const Elf64_Phdr& p : elf.segments) {
    if (p.p_type == PT_INTERP) {
      if (p.p_filesz < 2 || p.p_filesz > 4096) return Errno::kNoexec;
      elf.interpreter.resize(p.p_filesz);
      TRY(read_exact(file, head, p.p_offset, elf.interpreter.data(), p.p_filesz));
      if (elf.interpreter.back() != '\0') return Errno::kNoexec;
      elf.interpreter.resize(std::strlen(elf.interpreter.c_str()));
    } else if (p.p_type == PT_GNU_STACK) {
      elf.executable_stack = (p.p_flags & PF_X) != 0;
    } else if (p.p_type == PT_LOAD && p.p_memsz > 0) {
      if (p.p_filesz > p.p_memsz || p.p_vaddr > kUserTop || p.p_memsz > kUserTop - p.p_vaddr ||
          (p.p_vaddr & (kPageSize - 1)) != (p.p_offset & (kPageSize - 1))) {
        return Errno::kNoexec;
      }
      elf.low = std::min(elf.low, page_down(p.p_vaddr));
      elf.high = std::max(elf.high, page_up(p.p_vaddr + p.p_memsz));
    }
  }
  if (elf.high == 0) return Errno::kNoexec;
  return elf;
}

// Adds the PT_LOAD mappings at `bias` and returns the end of the image (start of the heap).
Result<u64> add_segments(const Elf& elf, u64 bias, vfs::File& file, platform::Platform* platform,
                         platform::ExecImage& image) {
  const vfs::MapHandle handle = TRY(file.map_handle(false));
  u64 end = 0;
  for (const Elf64_Phdr& p : elf.segments) {
    if (p.p_type != PT_LOAD || p.p_memsz == 0) continue;
    u32 prot = ((p.p_flags & PF_R) != 0 ? PROT_READ : 0) | ((p.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
               ((p.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
    u64 start = bias + page_down(p.p_vaddr);
    u64 file_end = bias + p.p_vaddr + p.p_filesz;
    u64 memory_end = bias + p.p_vaddr + p.p_memsz;
    u64 mapped_end = page_up(file_end);
    if (start < kStubEnd && page_up(memory_end) > kStubStart) return Errno::kNomem;
    if (p.p_filesz > 0) {
      platform::ImageSegment segment{};
      segment.addr = start;
      segment.length = mapped_end - start;
      segment.prot = prot;
      segment.source = map_source(file, handle, page_down(p.p_offset));
      if (platform != nullptr && handle.steady && prot == (PROT_READ | PROT_EXEC)) {
        segment.source = platform->text(segment.source, segment.length);
      }
      // ld.so's early malloc relies on zeroes to the end of the page; a read-only tail cannot be zeroed and need not
      // be.
      if (p.p_memsz > p.p_filesz && (prot & PROT_WRITE) != 0) segment.zero_from = file_end;
      image.segments.push_back(segment);
    } else {
      mapped_end = start;
    }
    if (page_up(memory_end) > mapped_end) {
      platform::ImageSegment bss{};
      bss.addr = mapped_end;
      bss.length = page_up(memory_end) - mapped_end;
      bss.prot = prot;
      image.segments.push_back(bss);
    }
    end = std::max(end, page_up(memory_end));
  }
  return end;
}

// The initial stack (System V ABI x86-64, 3.4.1), built downwards into one string that ends at `top`.
class StackBuilder {
 public:
  explicit StackBuilder(u64 top) : top_(top) {}
  u64 push_bytes(const void* p, size_t n) {
    reversed_.append(static_cast<const char*>(p), n);
    chunks_.push_back({n});
    used_ += n;
    return top_ - used_;
  }
  u64 push_string(const std::string& s) { return push_bytes(s.c_str(), s.size() + 1); }
  void align(u64 to) {
    u64 rest = (top_ - used_) % to;
    static const char zeros[64] = {};
    if (rest != 0) push_bytes(zeros, rest);
  }
  u64 pointer() const { return top_ - used_; }
  // The bytes from pointer() up to top.
  std::string take() const {
    std::string out(used_, '\0');
    size_t from = 0, at = used_;
    for (const auto& chunk : chunks_) {
      at -= chunk.n;
      std::memcpy(out.data() + at, reversed_.data() + from, chunk.n);
      from += chunk.n;
    }
    return out;
  }

 private:
  struct Chunk {
    size_t n;
  };
  u64 top_;
  u64 used_ = 0;
  std::string reversed_;
  std::vector<Chunk> chunks_;
};

}  // namespace

u64 argument_limit(u64 stack_limit) {
  constexpr u64 kFloor = 128 * 1024, kCeiling = 6 * 1024 * 1024;  // fs/exec.c: a quarter of the stack, 3/4 of 8 MiB
  return std::clamp(stack_limit / 4, kFloor, kCeiling);
}

Result<std::string> read_head(vfs::File& file) {
  constexpr size_t kHead = 1024;
  std::string head(kHead, '\0');
  vfs::KernelSink sink(head.data(), kHead);
  u64 at = 0;
  head.resize(TRY(file.read(sink, &at)));
  return head;
}

Result<std::optional<ScriptLine>> script_line(std::string_view head) {
  constexpr size_t kMaxLine = 256;  // BINPRM_BUF_SIZE
  std::string_view line = head.substr(0, kMaxLine);
  if (!line.starts_with("#!")) return std::optional<ScriptLine>{};
  size_t newline = line.find('\n');
  bool truncated = newline == std::string_view::npos && line.size() == kMaxLine;
  line = line.substr(2, newline == std::string_view::npos ? newline : newline - 2);
  auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!line.empty() && blank(line.front())) line.remove_prefix(1);
  while (!line.empty() && (blank(line.back()) || line.back() == '\0')) line.remove_suffix(1);
  if (line.empty()) return Errno::kNoexec;
  size_t end = 0;
  while (end < line.size() && !blank(line[end])) ++end;
  // A path cut off by the 256-byte limit must not be run as something else (fs/binfmt_script.c).
  if (truncated && end == line.size()) return Errno::kNoexec;
  ScriptLine script;
  script.interpreter = std::string(line.substr(0, end));
  while (end < line.size() && blank(line[end])) ++end;
  if (end < line.size()) {
    script.argument = std::string(line.substr(end));
    script.has_argument = true;
  }
  return std::optional<ScriptLine>(std::move(script));
}

Result<LoadedProgram> load_elf(const LoadRequest& request) {
  Elf elf = TRY(read_elf(*request.file, request.head));
  LoadedProgram program;
  platform::ExecImage& image = program.image;
  program.files.push_back(request.file);

  u64 bias = 0;
  if (elf.header.e_type == ET_DYN) {
    // A program run through its interpreter lies high; the interpreter run by itself goes where interpreters go.
    u64 base = elf.interpreter.empty() ? kInterpreterBase : kPieBase;
    bias = base + random_pages(kRandomPages) - elf.low;
  } else if (elf.low < kPageSize) {
    return Errno::kPerm;  // mmap_min_addr
  }
  u64 end = TRY(add_segments(elf, bias, *request.file, request.platform, image));
  u64 entry = bias + elf.header.e_entry;
  image.entry = entry;

  u64 interpreter_base = 0;
  program.interpreted = !elf.interpreter.empty();
  if (program.interpreted) {
    RefPtr<vfs::File> file = TRY(request.open_interpreter(elf.interpreter));
    auto parsed = read_elf(*file, TRY(read_head(*file)));
    if (!parsed) return parsed.error() == Errno::kNoexec ? Errno::kLibbad : parsed.error();
    Elf& interp = *parsed;
    const bool moves = interp.header.e_type == ET_DYN;
    if (moves) interpreter_base = kInterpreterBase + random_pages(kRandomPages) - interp.low;
    const size_t first = image.segments.size();
    TRY(add_segments(interp, interpreter_base, *file, request.platform, image));
    if (moves) {
      image.interpreter = {
          first, image.segments.size() - first, interpreter_base, kInterpreterBase - interp.low, kRandomPages, 0};
    }
    image.entry = interpreter_base + interp.header.e_entry;
    program.files.push_back(file);
  }
  image.brk_start = end + random_pages(8192);
  if (elf.header.e_type == ET_EXEC && image.brk_start + (1ull << 28) > kStubStart && end < kStubStart) {
    image.brk_start = end;  // little room below the stub: give it all to the heap
  }

  // --- stack ---
  u64 stack_size = page_up(std::clamp<u64>(request.stack_limit, 1 << 20, 64ull << 20));
  u64 top = kStackTop - random_pages(kRandomPages);
  platform::ImageSegment stack{};
  stack.addr = top - stack_size;
  stack.length = stack_size;
  stack.prot = PROT_READ | PROT_WRITE | (elf.executable_stack ? PROT_EXEC : 0);
  image.segments.push_back(stack);

  StackBuilder builder(top - 16);
  u64 filename = builder.push_string(request.filename);
  u64 total = 0;
  for (const auto& s : request.argv) total += s.size() + 1 + 8;
  for (const auto& s : request.envp) total += s.size() + 1 + 8;
  if (total > argument_limit(request.stack_limit) || total + 64 * 1024 > stack_size) return Errno::kTooBig;
  std::vector<u64> argv, envp;
  program.env_end = builder.pointer();
  for (auto it = request.envp.rbegin(); it != request.envp.rend(); ++it) envp.push_back(builder.push_string(*it));
  program.env_start = builder.pointer();
  program.arg_end = program.env_start;
  for (auto it = request.argv.rbegin(); it != request.argv.rend(); ++it) argv.push_back(builder.push_string(*it));
  program.arg_start = builder.pointer();
  u64 platform_name = builder.push_string("x86_64");
  u8 random[16];
  fill_random(random, sizeof(random));
  u64 random_at = builder.push_bytes(random, sizeof(random));
  builder.align(16);

  u64 phdr = 0;
  for (const Elf64_Phdr& p : elf.segments) {
    if (p.p_type == PT_LOAD && elf.header.e_phoff >= p.p_offset && elf.header.e_phoff < p.p_offset + p.p_filesz) {
      phdr = bias + p.p_vaddr + (elf.header.e_phoff - p.p_offset);
      break;
    }
  }
  const security::Credentials& creds = *request.creds;
  constexpr size_t kBaseEntry = 7;
  const u64 aux[][2] = {
      {AT_SYSINFO_EHDR, getauxval(AT_SYSINFO_EHDR)},  // stubs are forks of us: the vDSO is at the same place
      {AT_HWCAP, getauxval(AT_HWCAP)},
      {AT_PAGESZ, kPageSize},
      {AT_CLKTCK, 100},
      {AT_PHDR, phdr},
      {AT_PHENT, sizeof(Elf64_Phdr)},
      {AT_PHNUM, elf.header.e_phnum},
      {AT_BASE, interpreter_base},
      {AT_FLAGS, 0},
      {AT_ENTRY, entry},
      {AT_UID, creds.uid},
      {AT_EUID, creds.euid},
      {AT_GID, creds.gid},
      {AT_EGID, creds.egid},
      {AT_SECURE, request.secure ? 1u : 0u},
      {AT_RANDOM, random_at},
      {AT_HWCAP2, getauxval(AT_HWCAP2)},
      {AT_EXECFN, filename},
      {AT_PLATFORM, platform_name},
      {51 /* AT_MINSIGSTKSZ */, std::max<u64>(getauxval(51), 2048)},
      {AT_NULL, 0},
  };
  static_assert(sizeof(aux[0]) == sizeof(Elf64_auxv_t));
  CHECK(aux[kBaseEntry][0] == AT_BASE);
  program.base_at = kBaseEntry * sizeof(aux[0]) + sizeof(u64);
  program.auxv.assign(reinterpret_cast<const char*>(aux), sizeof(aux));

  // argc, argv, NULL, envp, NULL, auxv: the total must leave the stack pointer 16-byte aligned.
  u64 words = 1 + argv.size() + 1 + envp.size() + 1;
  if (words % 2 != 0) {
    u64 zero = 0;
    builder.push_bytes(&zero, 8);
  }
  const u64 aux_at = builder.push_bytes(aux, sizeof(aux));
  image.interpreter.bias_word = aux_at + kBaseEntry * sizeof(aux[0]) + sizeof(u64);
  auto push_word = [&](u64 v) { builder.push_bytes(&v, 8); };
  push_word(0);
  for (u64 p : envp) push_word(p);  // pushed last to first, as they were collected
  push_word(0);
  for (u64 p : argv) push_word(p);
  push_word(request.argv.size());
  image.sp = builder.pointer();
  CHECK(image.sp % 16 == 0);
  program.stack_start = image.sp;
  image.data.push_back({image.sp, builder.take()});
  return program;
}

}  // namespace sbx::loader
