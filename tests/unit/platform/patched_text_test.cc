// Text patched ahead runs as before, only that its calls arrive at the stub's entry.
#include "sentry/platform/patched_text.h"

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "sentry/platform/layout.h"
#include "sentry/platform/patch_text.h"
#include "sentry/platform/unwind_info.h"

namespace sbx::platform {
namespace {

constexpr u64 kBytes = 2 * kPageSize;

// Two pages, executable; the stand-in for the stub answers rax + 1000 and lies below 4 GiB, as its address has 32 bits.
class PatchedTextTest : public testing::Test {
 protected:
  void SetUp() override {
    text_ = static_cast<u8*>(
        mmap(nullptr, kBytes + kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    entry_ = static_cast<u8*>(
        mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
    ASSERT_NE(text_, MAP_FAILED);
    ASSERT_EQ(mprotect(text_ + kBytes, kPageSize, PROT_NONE), 0);  // nothing is written behind the text
    std::memset(text_, 0x90, used_);
    ASSERT_NE(entry_, MAP_FAILED);
    // add $1000,%rax; jmp *%rcx
    const u8 code[] = {0x48, 0x05, 0xe8, 3, 0, 0, 0xff, 0xe1};
    std::memcpy(entry_, code, sizeof(code));
  }
  void TearDown() override {
    munmap(text_, kBytes + kPageSize);
    munmap(entry_, kPageSize);
  }
  // Adds a function behind the last one, aligned as compilers do it; its offset.
  u64 add(std::initializer_list<u8> code) {
    while (used_ % 16 != 0) text_[used_++] = 0xcc;
    u64 at = used_;
    for (u8 byte : code) text_[used_++] = byte;
    return at;
  }
  u32 patch(bool unwinds = false) {
    return patch_text({text_, kBytes}, used_, static_cast<u32>(reinterpret_cast<u64>(entry_)),
                      [unwinds](u64) { return unwinds; });
  }
  long call(u64 at) { return reinterpret_cast<long (*)()>(text_ + at)(); }

  u8* text_ = nullptr;
  u8* entry_ = nullptr;
  u64 used_ = 128;  // code before the first function
};

TEST_F(PatchedTextTest, NumberRightBefore) {
  u64 getpid = add({0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3});
  u64 odd = add({0xb8, 0xff, 1, 0, 0, 0x0f, 0x05, 0xc3});
  EXPECT_EQ(patch(), 2u);
  EXPECT_EQ(call(getpid), 1039);
  EXPECT_EQ(call(odd), 1511);
}

TEST_F(PatchedTextTest, OtherInstructionsBefore) {
  std::vector<u64> filler;
  for (int i = 0; i < 8; ++i) filler.push_back(add({0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0, 0x5d, 0xc3}));
  u64 argument = add({0xb8, 7, 0, 0, 0, 0xbf, 0, 0, 0, 0, 0x0f, 0x05, 0xc3});         // mov $0,%edi
  u64 stack = add({0xb8, 8,    0,    0, 0, 0x48, 0x81, 0xec, 0, 1, 0, 0, 0x0f, 0x05,  // sub $256,%rsp
                   0x48, 0x81, 0xc4, 0, 1, 0,    0,    0xc3});                        // add $256,%rsp
  u64 store = add({0xb8, 9, 0, 0, 0, 0x48, 0x89, 0x84, 0x24, 0x80, 0xff, 0xff, 0xff,  // mov %rax,-128(%rsp)
                   0x0f, 0x05, 0xc3});
  u64 pad = add({0x31, 0xc0, 0x0f, 0x05, 0xc3});  // xor %eax,%eax: the pad behind it takes the jump
  add({0xc3});
  EXPECT_EQ(patch(), 4u);
  EXPECT_EQ(call(argument), 1007);
  EXPECT_EQ(call(stack), 1008);
  EXPECT_EQ(call(store), 1009);
  EXPECT_EQ(call(pad), 1000);
  for (u64 at : filler) EXPECT_EQ(call(at), 0);
}

// rt_sigreturn in both forms stays, and what is relative to rip, or a jump, before a site.
TEST_F(PatchedTextTest, LeftAlone) {
  u64 sigreturn = add({0xb8, 15, 0, 0, 0, 0x0f, 0x05, 0xf4});
  add({0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05, 0xf4});
  u64 behind = add({0xb8, 1, 0, 0, 0, 0x48, 0x8d, 0x35, 0, 0, 0, 0, 0x0f, 0x05, 0x90, 0x90, 0xf4});
  add({0xe8, 0, 0, 0, 0, 0x0f, 0x05, 0x90, 0x90, 0xf4});
  used_ += 1;
  while (used_ % 16 != 0) text_[used_++] = 0x90;
  std::vector<u8> before(text_, text_ + used_);
  patch();
  for (u64 at = 0; at + 1 < used_; ++at) {
    if (before[at] != 0x0f || before[at + 1] != 0x05) continue;
    EXPECT_EQ(std::memcmp(text_ + at - 5, before.data() + at - 5, 5), 0) << at;
  }
  EXPECT_EQ(std::memcmp(text_ + sigreturn, before.data() + sigreturn, behind - sigreturn), 0);
}

TEST_F(PatchedTextTest, SigreturnThatUnwindersKnow) {
  u64 at = add({0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05, 0xc3});
  EXPECT_EQ(patch(true), 1u);
  EXPECT_EQ(call(at), 1015);
}

TEST_F(PatchedTextTest, AsManyAsThereIsRoomFor) {
  std::vector<u64> calls;
  for (int i = 0; i < 300; ++i) calls.push_back(add({0xb8, static_cast<u8>(i % 200 + 16), 0, 0, 0, 0x0f, 0x05, 0xc3}));
  u32 done = patch();
  EXPECT_GT(done, 200u);
  EXPECT_LT(done, 300u);
  u32 jumps = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (text_[calls[i]] != kJmp) continue;
    ++jumps;
    EXPECT_EQ(call(calls[i]), static_cast<long>(i % 200 + 1016));
  }
  EXPECT_EQ(jumps, done);
}

// However the room left over compares with what a site, and what ends a group of them, takes.
TEST_F(PatchedTextTest, AnyRoom) {
  for (u64 room = 1; room < 400; ++room) {
    std::memset(text_, 0, kBytes);
    used_ = kBytes - room - 64 * 16;
    for (int i = 0; i < 64; ++i) add({0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3});
    used_ = kBytes - room;
    std::memset(text_ + used_ - 8, 0x90, 8);
    patch();
  }
}

TEST_F(PatchedTextTest, NoRoom) {
  add({0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3});
  text_[kBytes - 1] = 1;  // somebody's data
  EXPECT_EQ(patch(), 0u);
  text_[kBytes - 1] = 0;
  used_ = kBytes - 8;
  EXPECT_EQ(patch(), 0u);
  used_ = kBytes;
  EXPECT_EQ(patch(), 0u);
}

// Whatever the bytes are, nothing outside of them is touched and the answer is an answer.
TEST_F(PatchedTextTest, AnyBytes) {
  u32 state = 1;
  for (int round = 0; round < 200; ++round) {
    used_ = kBytes - 512;
    for (u64 at = 0; at < used_; ++at) {
      state = state * 1664525 + 1013904223;
      u8 byte = static_cast<u8>(state >> 24);
      constexpr u8 kLikely[] = {0x0f, 0x05, 0xb8, 0x0f, 0x90, 0xc3, 0x48, 0x0f};
      text_[at] = (byte & 1) != 0 ? kLikely[(byte >> 1) & 7] : byte;
    }
    std::memset(text_ + used_, 0, kBytes - used_);
    EXPECT_LE(patch(), 64u);
  }
}

TEST(PatchedTextCache, FilesThatAreNone) {
  PatchedText cache;
  UniqueFd memfd(memfd_create("x", MFD_CLOEXEC));
  std::string junk(8192, '\x7f');
  ASSERT_EQ(write(memfd.get(), junk.data(), junk.size()), static_cast<ssize_t>(junk.size()));
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(cache.replace({memfd.get(), 0}, 4096).fd, memfd.get());
    EXPECT_EQ(cache.replace({-1, 0}, 4096).fd, -1);
    EXPECT_EQ(cache.replace({memfd.get(), 1ull << 62}, ~0ull).fd, memfd.get());
  }
}

TEST(UnwindInfo, SignalFrames) {
  UniqueFd libc(open("/lib/x86_64-linux-gnu/libc.so.6", O_RDONLY | O_CLOEXEC));
  if (!libc) GTEST_SKIP() << "no glibc at its place";
  struct stat st;
  ASSERT_EQ(fstat(libc.get(), &st), 0);
  std::string bytes(static_cast<size_t>(st.st_size), 0);
  ASSERT_TRUE(read_all(libc.get(), bytes.data(), bytes.size(), 0));
  size_t at = bytes.find(std::string("\x48\xc7\xc0\x0f\0\0\0\x0f\x05", 9));
  ASSERT_NE(at, std::string::npos);
  EXPECT_TRUE(has_signal_frame(libc.get(), at + 7));
  EXPECT_FALSE(has_signal_frame(libc.get(), at + 4096));
  EXPECT_FALSE(has_signal_frame(libc.get(), 0));
  EXPECT_FALSE(has_signal_frame(libc.get(), ~0ull));
}

TEST(UnwindInfo, CallsThroughLibraries) {
  UniqueFd self(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  UniqueFd libc(open("/lib/x86_64-linux-gnu/libc.so.6", O_RDONLY | O_CLOEXEC));
  UniqueFd loader(open("/lib64/ld-linux-x86-64.so.2", O_RDONLY | O_CLOEXEC));
  UniqueFd none(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(calls_through_libraries(none.get()));
  if (!libc || !loader) GTEST_SKIP() << "no glibc at its place";
  EXPECT_TRUE(calls_through_libraries(self.get()));
  EXPECT_FALSE(calls_through_libraries(libc.get()));
  EXPECT_FALSE(calls_through_libraries(loader.get()));
}

// The text of this very program, again and again: a sealed copy with the file's offsets, until the file changes.
TEST(PatchedTextCache, CopyOfAProgram) {
  UniqueFd libc(open("/lib/x86_64-linux-gnu/libc.so.6", O_RDONLY | O_CLOEXEC));
  if (!libc) GTEST_SKIP() << "no glibc at its place";
  Elf64_Ehdr header;
  ASSERT_EQ(pread(libc.get(), &header, sizeof(header), 0), static_cast<ssize_t>(sizeof(header)));
  Elf64_Phdr text{};
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr p;
    ASSERT_EQ(pread(libc.get(), &p, sizeof(p), static_cast<off_t>(header.e_phoff + static_cast<u64>(i) * sizeof(p))),
              static_cast<ssize_t>(sizeof(p)));
    if (p.p_type == PT_LOAD && (p.p_flags & PF_X) != 0) text = p;
  }
  PatchedText cache;
  MapSource last;
  for (int i = 0; i < 3; ++i) last = cache.replace({libc.get(), text.p_offset}, page_up(text.p_filesz));
  ASSERT_NE(last.fd, libc.get());
  EXPECT_EQ(last.offset, text.p_offset);
  EXPECT_EQ(cache.replace({libc.get(), text.p_offset}, page_up(text.p_filesz)).fd, last.fd);
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, last.fd, static_cast<off_t>(last.offset)),
            MAP_FAILED);
  EXPECT_EQ(pwrite(last.fd, "x", 1, static_cast<off_t>(last.offset)), -1);
  // Another part of the file is the file's.
  EXPECT_EQ(cache.replace({libc.get(), text.p_offset}, page_up(text.p_filesz) + kPageSize).fd, libc.get());
}

}  // namespace
}  // namespace sbx::platform
