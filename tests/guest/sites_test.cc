// System calls from code of every shape: where the instruction lies, and what is before it, must not matter. Each site
// is called often, as what runs the program may rewrite sites that are.
#include <elf.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <initializer_list>
#include <thread>
#include <vector>

#include "guest.h"
using namespace guest;

namespace {

constexpr size_t kPage = 4096;
constexpr int kCalls = 20;

// Two pages of text, nops but for `code` at `offset`.
long (*text_at(size_t offset, std::initializer_list<unsigned char> code))() {
  void* at = mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED);
  auto* bytes = static_cast<unsigned char*>(at);
  memset(bytes, 0x90, 2 * kPage);
  for (unsigned char byte : code) bytes[offset++] = byte;
  CHECK_EQ(mprotect(at, 2 * kPage, PROT_READ | PROT_EXEC), 0);
  return reinterpret_cast<long (*)()>(bytes + offset - code.size());
}

// mov $SYS_getpid,%eax; syscall; ret
constexpr std::initializer_list<unsigned char> kGetpid = {0xb8, SYS_getpid, 0, 0, 0, 0x0f, 0x05, 0xc3};
// mov $SYS_getpgid,%eax; mov $0,%edi; syscall; ret
constexpr std::initializer_list<unsigned char> kGetpgid = {0xb8, SYS_getpgid, 0, 0,    0,    0xbf, 0,
                                                           0,    0,           0, 0x0f, 0x05, 0xc3};

}  // namespace

TEST(sites, anywhere_in_its_cache_line) {
  for (size_t offset = 512; offset < 512 + 64; ++offset) {
    auto call = text_at(offset, kGetpid);
    for (int i = 0; i < kCalls; ++i) CHECK_EQ(call(), getpid());
  }
}

TEST(sites, across_pages) {
  for (size_t before = 1; before <= kGetpid.size(); ++before) {
    auto call = text_at(kPage - before, kGetpid);
    for (int i = 0; i < kCalls; ++i) CHECK_EQ(call(), getpid());
  }
}

TEST(sites, behind_another_argument) {
  for (size_t offset = 512; offset < 512 + 64; offset += 7) {
    auto call = text_at(offset, kGetpgid);
    for (int i = 0; i < kCalls; ++i) CHECK_EQ(call(), getpgid(0));
  }
}

// The last five bytes before the call read as `mov $0,%edx`, and %edx is 0; but they are the end of a store.
TEST(sites, behind_what_looks_like_an_argument) {
  auto call = text_at(512, {
                               0xc7, 0x44,        0x24, 0xba, 1,    0, 0, 0,  // movl $1,-0x46(%rsp)
                               0x31, 0xd2,        0x31, 0xff,                 // xor %edx,%edx; xor %edi,%edi
                               0xb8, SYS_getpgid, 0,    0,    0,              // mov $SYS_getpgid,%eax
                               0xc7, 0x44,        0x24, 0xba, 0,    0, 0, 0,  // movl $0,-0x46(%rsp)
                               0x0f, 0x05,                                    // syscall
                               0x8b, 0x44,        0x24, 0xba, 0xc3,           // mov -0x46(%rsp),%eax; ret
                           });
  for (int i = 0; i < kCalls; ++i) CHECK_EQ(call(), 0);
}

TEST(sites, with_other_threads_there) {
  for (size_t offset = 512; offset < 512 + 64; ++offset) {
    auto call = text_at(offset, kGetpid);
    std::vector<std::thread> all;
    for (int t = 0; t < 3; ++t) {
      all.emplace_back([&] {
        for (int i = 0; i < kCalls; ++i) CHECK_EQ(call(), getpid());
      });
    }
    for (auto& t : all) t.join();
  }
}

// One process after another: what runs them may have learned of the program's sites.
TEST(sites, interrupted_at_every_instruction) {
  for (int run = 0; run < 4; ++run) {
    pid_t pid = spawn([] {
      execl(self(), "self", "--helper", "interrupted", "200", nullptr);
      return 99;
    });
    WAIT_OK(pid);
  }
}

// An interpreter of programs (valgrind) maps their text and reads it: it is the file's.
TEST(sites, mapped_text_is_the_files) {
  std::string code(128, '\x90');
  for (int i = 0; i < 40; ++i) {
    for (unsigned char byte : kGetpid) code.push_back(static_cast<char>(byte));
    code.resize((code.size() + 15) & ~size_t{15}, '\xcc');
  }
  Elf64_Ehdr header{};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_type = ET_DYN;
  header.e_machine = EM_X86_64;
  header.e_phoff = sizeof(header);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  Elf64_Phdr text{};
  text.p_type = PT_LOAD;
  text.p_flags = PF_R | PF_X;
  text.p_offset = text.p_vaddr = kPage;
  text.p_filesz = text.p_memsz = code.size();
  std::string file(reinterpret_cast<const char*>(&header), sizeof(header));
  file.append(reinterpret_cast<const char*>(&text), sizeof(text));
  file.resize(kPage);
  spew("library", file + code);
  for (int i = 0; i < 4; ++i) {
    const int fd = OK(open("library", O_RDONLY));
    void* at = mmap(nullptr, code.size(), PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, kPage);
    CHECK(at != MAP_FAILED);
    CHECK(memcmp(at, code.data(), code.size()) == 0);
    OK(munmap(at, code.size()));
    OK(close(fd));
  }
}
