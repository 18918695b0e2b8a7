// What is made of the heads of files that guests map: anything can stand there.
#include "sentry/loader/library.h"

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "sentry/base/unique_fd.h"
#include "sentry/platform/file_window.h"

namespace sbx::loader {
namespace {

constexpr u64 kSpan = 0x6000 + 700;

struct Image {
  Elf64_Ehdr header{};
  Elf64_Phdr parts[17]{};
};

Image library() {
  Image image;
  memcpy(image.header.e_ident, ELFMAG, SELFMAG);
  image.header.e_ident[EI_CLASS] = ELFCLASS64;
  image.header.e_type = ET_DYN;
  image.header.e_machine = EM_X86_64;
  image.header.e_phoff = sizeof(Elf64_Ehdr);
  image.header.e_phentsize = sizeof(Elf64_Phdr);
  image.header.e_phnum = 4;
  image.parts[0] = {PT_LOAD, PF_R, 0, 0, 0, 0x800, 0x800, 0x1000};
  image.parts[1] = {PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0, 0, 16};
  image.parts[2] = {PT_LOAD, PF_R | PF_X, 0x1000, 0x1000, 0x1000, 0x1800, 0x1800, 0x1000};
  image.parts[3] = {PT_LOAD, PF_R | PF_W, 0x2e00, 0x4e00, 0x4e00, 0x300, kSpan - 0x4e00, 0x1000};
  return image;
}

std::vector<LibrarySegment> look(const void* bytes, size_t n, u64 length = kSpan, u32 prot = PROT_READ, u64 base = 0) {
  UniqueFd fd(memfd_create("library", MFD_CLOEXEC));
  EXPECT_EQ(pwrite(fd.get(), bytes, n, static_cast<off_t>(base)), static_cast<ssize_t>(n));
  return segments_behind(fd.get(), base, length, prot);
}
std::vector<LibrarySegment> look(const Image& image, u64 length = kSpan, u32 prot = PROT_READ) {
  return look(&image, sizeof(image), length, prot);
}

TEST(Library, Segments) {
  const Image image = library();
  for (u64 base : {u64{0}, u64{8192}}) {
    const auto got = look(&image, sizeof(image), kSpan, PROT_READ, base);
    ASSERT_EQ(got.size(), 2u);
    EXPECT_EQ(got[0].at, 0x1000u);
    EXPECT_EQ(got[0].length, 0x2000u);
    EXPECT_EQ(got[0].offset, 0x1000u);
    EXPECT_EQ(got[0].prot, u32{PROT_READ | PROT_EXEC});
    EXPECT_EQ(got[1].at, 0x4000u);
    EXPECT_EQ(got[1].length, 0x2000u);
    EXPECT_EQ(got[1].offset, 0x2000u);
    EXPECT_EQ(got[1].prot, u32{PROT_READ | PROT_WRITE});
  }
}

TEST(Library, AnotherMapping) {
  EXPECT_TRUE(look(library(), kSpan - 1).empty());
  EXPECT_TRUE(look(library(), kSpan + 1).empty());
  EXPECT_TRUE(look(library(), kSpan, PROT_READ | PROT_EXEC).empty());
}

TEST(Library, NotALibrary) {
  const auto without = [](auto change) {
    Image image = library();
    change(image);
    return look(image);
  };
  EXPECT_TRUE(without([](Image& i) { i.header.e_ident[0] = 0; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.header.e_type = ET_EXEC; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.header.e_machine = EM_AARCH64; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.header.e_phentsize = 32; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.header.e_phnum = 0; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.header.e_phnum = 1; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.header.e_phnum = 0xffff; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.header.e_phoff = ~0ull; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.header.e_phoff = platform::kLibraryHead; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.parts[0].p_vaddr = 0x1000; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.parts[2].p_vaddr = 0; }).empty());        // over the first
  EXPECT_TRUE(without([](Image& i) { i.parts[2].p_vaddr = 0x1234; }).empty());   // other page offset than the file's
  EXPECT_TRUE(without([](Image& i) { i.parts[2].p_filesz = 0x4000; }).empty());  // more than p_memsz
  EXPECT_TRUE(without([](Image& i) { i.parts[2].p_align = 1 << 21; }).empty());  // the loader goes another way
  EXPECT_TRUE(without([](Image& i) { i.parts[3].p_memsz = ~0ull; }).empty());
  EXPECT_TRUE(without([](Image& i) { i.parts[3].p_vaddr = ~0ull << 12; }).empty());
  EXPECT_TRUE(without([](Image& i) { std::swap(i.parts[2], i.parts[3]); }).empty());
  const Image image = library();
  for (size_t n : {0, 1, 63, 64, 100}) EXPECT_TRUE(look(&image, n).empty());
}

TEST(Library, Noise) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 3000; ++round) {
    Image image = library();
    auto* bytes = reinterpret_cast<u8*>(&image);
    for (int i = 0; i < 3; ++i)
      bytes[8 + random() % (sizeof(Elf64_Ehdr) + 4 * sizeof(Elf64_Phdr) - 8)] = static_cast<u8>(random());
    for (const LibrarySegment& s : look(image)) {
      EXPECT_EQ((s.at | s.length | s.offset) & (kPageSize - 1), 0u);
      EXPECT_GT(s.length, 0u);
      EXPECT_GE(s.at, kPageSize);
      EXPECT_LE(s.at + s.length, page_up(kSpan));
    }
  }
}

}  // namespace
}  // namespace sbx::loader
