// The stub's filter, evaluated instruction by instruction, against the published list: every number, from inside and
// outside the stub, with the high halves of the arguments set. And loaded into the kernel, for what is denied.
#include "sentry/platform/filter.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "sentry/platform/layout.h"

namespace sbx::platform {
namespace {

constexpr u64 kInside = kStubBase + 100;
constexpr u32 kErrnoPerm = SECCOMP_RET_ERRNO | 1;
constexpr u32 kNotUnderstood = 0xdeadbeef;

// The classic BPF that seccomp accepts (kernel/seccomp.c, seccomp_check_filter).
u32 evaluate(const std::vector<sock_filter>& program, const seccomp_data& data) {
  u32 a = 0, x = 0, memory[16]{};
  for (size_t pc = 0; pc < program.size(); ++pc) {
    const sock_filter& f = program[pc];
    u32 source = BPF_SRC(f.code) == BPF_X ? x : f.k;
    switch (BPF_CLASS(f.code)) {
      case BPF_LD:
        if (BPF_MODE(f.code) == BPF_ABS)
          memcpy(&a, reinterpret_cast<const char*>(&data) + f.k, 4);
        else if (BPF_MODE(f.code) == BPF_IMM)
          a = f.k;
        else
          a = memory[f.k & 15];
        break;
      case BPF_ST: memory[f.k & 15] = a; break;
      case BPF_ALU:
        if (BPF_OP(f.code) == BPF_AND)
          a &= source;
        else if (BPF_OP(f.code) == BPF_SUB)
          a -= source;
        else
          return kNotUnderstood;
        break;
      case BPF_JMP: {
        if (BPF_OP(f.code) == BPF_JA) {
          pc += f.k;
          break;
        }
        bool yes = false;
        switch (BPF_OP(f.code)) {
          case BPF_JEQ: yes = a == source; break;
          case BPF_JGT: yes = a > source; break;
          case BPF_JGE: yes = a >= source; break;
          case BPF_JSET: yes = (a & source) != 0; break;
          default: return kNotUnderstood;
        }
        pc += yes ? f.jt : f.jf;
        break;
      }
      case BPF_RET: return f.k;
      default: return kNotUnderstood;
    }
  }
  return kNotUnderstood;
}

bool listed(const seccomp_data& data) {
  for (const FilterRow& row : filter_rows()) {
    if (row.nr != data.nr) continue;
    bool all = true;
    for (const ArgRule& rule : row.rules) all = all && (data.args[rule.index] & rule.mask) == rule.value;
    if (all) return true;
  }
  return false;
}

seccomp_data call(int nr, u64 ip = kInside) {
  seccomp_data data{};
  data.nr = nr;
  data.arch = AUDIT_ARCH_X86_64;
  data.instruction_pointer = ip;
  return data;
}

// The very program that stubs load.
#include "sentry/platform/stub_filter.inc"

class FilterTest : public testing::Test {
 protected:
  void SetUp() override { program_.assign(std::begin(kStubFilter), std::end(kStubFilter)); }
  std::vector<sock_filter> program_;
};

TEST_F(FilterTest, InsideTheStubExactlyTheListIsAllowed) {
  const u64 values[] = {0,        1,        2,        3,        4,        5,        7,        8,          9,
                        10,       11,       12,       15,       17,       0x22,     0x32,     128,        129,
                        137,      256,      384,      393,      0x1000,   0x100022, 0x104033, 0x40022,    0x10100,
                        0x108011, 0x308011, 0x108111, 0x308111, 0x150f00, 0x350f00, 0x128011, 0x10108011, 0x80000000};
  u64 allowed = 0;
  for (int nr = 0; nr <= 600; ++nr) {
    for (u64 value : values) {
      for (u64 high : {0ull, 1ull << 32, 0xffffffffull << 32, 1ull << 63}) {
        // All arguments alike, then one alone.
        for (int which = -1; which < 6; ++which) {
          seccomp_data data = call(nr);
          for (int i = 0; i < 6; ++i) data.args[i] = which == -1 || which == i ? value | high : 0;
          u32 verdict = evaluate(program_, data);
          u32 expected = listed(data) ? SECCOMP_RET_ALLOW : kErrnoPerm;
          ASSERT_EQ(verdict, expected) << "nr " << nr << " argument " << which << std::hex << " value "
                                       << (value | high);
          allowed += verdict == SECCOMP_RET_ALLOW;
        }
      }
    }
  }
  EXPECT_GT(allowed, 0u);
}

// The list itself: a row added by mistake must be seen here.
TEST_F(FilterTest, TheListHasOnlyTheseCalls) {
  const int expected[] = {
      SYS_mmap,         SYS_munmap,         SYS_mprotect,     SYS_mremap,          SYS_madvise,    SYS_mincore,
      SYS_prctl,        SYS_futex,          SYS_clone,        SYS_set_tid_address, SYS_exit,       SYS_exit_group,
      SYS_sched_yield,  SYS_clock_gettime,  SYS_clock_getres, SYS_clock_nanosleep, SYS_getrusage,  SYS_restart_syscall,
      SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_sigaltstack,  SYS_close,           SYS_close_range};
  for (const FilterRow& row : filter_rows()) {
    bool known = false;
    for (int nr : expected) known = known || nr == row.nr;
    EXPECT_TRUE(known) << row.name;
  }
  for (u64 flags : {0x10000000ull, 0x00020000ull, 0x20000000ull, 0x40000000ull, 0x00800000ull, 0x02000000ull}) {
    seccomp_data data = call(SYS_clone);
    data.args[0] = 0x108011 | flags;  // NEWUSER, NEWNS, NEWPID, NEWNET, UNTRACED, NEWCGROUP
    EXPECT_EQ(evaluate(program_, data), kErrnoPerm) << std::hex << flags;
  }
}

TEST_F(FilterTest, OutsideTheStubEverythingTraps) {
  const u64 outside[] = {0,        kStubBase - 1,        kStubBase,      kStubBase + kStubSize + 1,
                         0x400000, kInside | 1ull << 32, 0x7fffffffe000, ~0ull};
  for (u64 ip : outside) {
    for (int nr = -2; nr <= 1100; ++nr) {
      ASSERT_EQ(evaluate(program_, call(nr, ip)), static_cast<u32>(SECCOMP_RET_TRAP)) << nr << " at " << std::hex << ip;
    }
  }
  EXPECT_EQ(evaluate(program_, call(SYS_close, kStubBase + 1)), static_cast<u32>(SECCOMP_RET_ALLOW));
  EXPECT_EQ(evaluate(program_, call(SYS_close, kStubBase + kStubSize)), static_cast<u32>(SECCOMP_RET_ALLOW));
}

TEST_F(FilterTest, DoorbellAndForeignNumbers) {
  EXPECT_EQ(evaluate(program_, call(kDoorbell)), static_cast<u32>(SECCOMP_RET_USER_NOTIF));
  auto denied = [&](int nr) {
    u32 verdict = evaluate(program_, call(nr));
    return verdict == kErrnoPerm || verdict == SECCOMP_RET_KILL_PROCESS;
  };
  for (int nr : {999, 1001, 2000, -1, -1000}) EXPECT_TRUE(denied(nr)) << nr;
  for (int nr = 0; nr <= 600; ++nr) EXPECT_TRUE(denied(nr | 0x40000000)) << "x32 " << nr;
}

TEST_F(FilterTest, OtherArchitecturesAreKilled) {
  for (u32 arch : {static_cast<u32>(AUDIT_ARCH_I386), static_cast<u32>(AUDIT_ARCH_AARCH64), 0u}) {
    seccomp_data data = call(SYS_close);
    data.arch = arch;
    EXPECT_EQ(evaluate(program_, data), static_cast<u32>(SECCOMP_RET_KILL_PROCESS));
  }
}

// In a child, at a stub address: mov %rdi,%rax; rsi into all six arguments; the instruction; ret.
int run_probe(const std::vector<sock_filter>& program, bool compat) {
  pid_t pid = fork();
  if (pid == 0) {
    auto* code = static_cast<u8*>(mmap(reinterpret_cast<void*>(kStubBase), kPageSize, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    if (code != reinterpret_cast<u8*>(kStubBase)) _exit(2);
    u8 text[] = {0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xf2, 0x49, 0x89,
                 0xf2, 0x49, 0x89, 0xf0, 0x49, 0x89, 0xf1, 0x0f, 0x05, 0xc3};
    if (compat) {
      text[18] = 0xcd;  // int $0x80
      text[19] = 0x80;
    }
    memcpy(code, text, sizeof(text));
    if (mprotect(code, kPageSize, PROT_READ | PROT_EXEC) != 0) _exit(3);
    sock_fprog filter{static_cast<unsigned short>(program.size()), const_cast<sock_filter*>(program.data())};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) _exit(4);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) _exit(5);
    auto probe = reinterpret_cast<i64 (*)(u64, u64)>(code);
    if (compat) probe(20, 0);
    for (u64 nr = 0; nr <= 600; ++nr) {
      bool skip = nr == 335 || nr == 336;  // uretprobe, uprobe: some kernels let them by seccomp
      for (const FilterRow& row : filter_rows()) skip = skip || static_cast<u64>(row.nr) == nr;
      if (!skip && probe(nr, 0x7f00000000000000) != -1) probe(SYS_exit_group, 10);
    }
    probe(SYS_exit_group, 0);
  }
  int status = 0;
  return waitpid(pid, &status, 0) == pid ? status : -1;
}

TEST_F(FilterTest, TheKernelDeniesWhatIsNotListed) {
  int status = run_probe(program_, false);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(FilterTest, TheKernelKillsInt80) {
  int status = run_probe(program_, true);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << status;
}

}  // namespace
}  // namespace sbx::platform
