#include "sentry/platform/filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>

#include "sentry/base/bpf_export.h"
#include "sentry/base/log.h"
#include "sentry/platform/layout.h"
#include "sentry/platform/platform.h"

namespace sbx::platform {
namespace {

constexpr u64 kAll = ~0ull;

ArgRule equals(u32 index, u64 value) { return {index, kAll, value}; }
// Only the low 32 bits count: the kernel takes an int.
ArgRule within_bits(u32 index, u64 bits) { return {index, ~bits, 0}; }

std::vector<FilterRow> make_rows() {
  std::vector<FilterRow> rows;
  auto add = [&](int nr, const char* name, std::vector<ArgRule> rules = {}) {
    rows.push_back({nr, name, std::move(rules)});
  };
  auto add_values = [&](int nr, const char* name, u32 index, std::initializer_list<u64> values,
                        std::vector<ArgRule> more = {}) {
    for (u64 value : values) {
      std::vector<ArgRule> rules = more;
      rules.push_back(equals(index, value));
      add(nr, name, std::move(rules));
    }
  };
  // Memory. Anonymous, or of a descriptor the sentry put there for exactly this and that is closed at once.
  add(SYS_mmap, "mmap", {within_bits(2, 7), within_bits(3, 0x104033)});
  add(SYS_munmap, "munmap");
  add(SYS_mprotect, "mprotect", {within_bits(2, 7)});
  add(SYS_mremap, "mremap", {within_bits(3, 3)});
  add_values(SYS_madvise, "madvise", 2, {0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 22, 23});
  add(SYS_mincore, "mincore");
  // Threads and time.
  std::initializer_list<u64> futex_ops = {0, 1, 3, 4, 5, 9, 10};
  for (u64 op : futex_ops) {
    add(SYS_futex, "futex", {{1, kAll & ~128ull, op}});
    if (op == 0 || op == 9) add(SYS_futex, "futex", {{1, kAll & ~128ull, op | 256}});
  }
  for (u64 flags : {0x108011, 0x308011, 0x108111, 0x308111, 0x150f00, 0x350f00}) {
    add(SYS_clone, "clone", {equals(0, flags)});
  }
  add(SYS_set_tid_address, "set_tid_address");
  add(SYS_exit, "exit");
  add(SYS_exit_group, "exit_group");
  add(SYS_sched_yield, "sched_yield");
  add_values(SYS_clock_gettime, "clock_gettime", 0, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11});
  add_values(SYS_clock_getres, "clock_getres", 0, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11});
  add_values(SYS_clock_nanosleep, "clock_nanosleep", 0, {0, 1, 2, 7, 11}, {within_bits(1, 1)});
  add_values(SYS_getrusage, "getrusage", 0, {0, 1});
  // What the kernel itself puts in rax when a stopped or frozen sleeper goes on.
  add(SYS_restart_syscall, "restart_syscall");
  add(SYS_prctl, "prctl", {equals(0, PR_SET_NAME)});
  // The stub's own signal handling and tidiness.
  add(SYS_rt_sigreturn, "rt_sigreturn");
  add(SYS_rt_sigprocmask, "rt_sigprocmask");
  add(SYS_sigaltstack, "sigaltstack");
  add(SYS_close, "close");
  add(SYS_close_range, "close_range", {equals(2, 0)});
  return rows;
}

sock_filter statement(u16 code, u32 k) { return {code, 0, 0, k}; }
sock_filter jump(u16 code, u32 k, u8 yes, u8 no) { return {code, yes, no, k}; }

// Runs before libseccomp's program, which loads what it needs again.
std::vector<sock_filter> prefix() {
  std::vector<sock_filter> p;
  p.push_back(statement(BPF_LD | BPF_W | BPF_ABS, 4));  // arch
  p.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  p.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  // The instruction pointer is the address after the instruction: (base, base + size] is the stub.
  p.push_back(statement(BPF_LD | BPF_W | BPF_ABS, 12));
  p.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3));
  p.push_back(statement(BPF_LD | BPF_W | BPF_ABS, 8));
  p.push_back(statement(BPF_ALU | BPF_SUB | BPF_K, static_cast<u32>(kStubBase + 1)));
  p.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, static_cast<u32>(kStubSize), 0, 1));
  p.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
  p.push_back(statement(BPF_LD | BPF_W | BPF_ABS, 0));  // number
  p.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, kDoorbell, 0, 1));
  p.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  return p;
}

}  // namespace

const std::vector<FilterRow>& filter_rows() {
  static const auto* rows = new std::vector<FilterRow>(make_rows());
  return *rows;
}

HostResult<std::vector<sock_filter>> build_filter() {
  scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(1));
  if (ctx == nullptr) return Failure("seccomp_init failed");
  struct Release {
    scmp_filter_ctx ctx;
    ~Release() { seccomp_release(ctx); }
  } release{ctx};
  seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (const FilterRow& row : filter_rows()) {
    std::vector<scmp_arg_cmp> compares;
    for (const ArgRule& rule : row.rules) {
      compares.push_back(scmp_arg_cmp{rule.index, SCMP_CMP_MASKED_EQ, rule.mask, rule.value});
    }
    int ret =
        seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, row.nr, static_cast<unsigned>(compares.size()), compares.data());
    if (ret != 0) return Failure(str_printf("seccomp rule for %s: error %d", row.name, ret));
  }
  auto rest = TRY(export_bpf(ctx));
  std::vector<sock_filter> program = prefix();
  program.insert(program.end(), rest.begin(), rest.end());
  return program;
}

std::vector<std::string> host_surface() {
  std::vector<std::string> lines;
  std::map<std::string, std::string> merged;
  std::vector<std::string> order;
  for (const FilterRow& row : filter_rows()) {
    std::string text;
    for (const ArgRule& rule : row.rules) {
      if (!text.empty()) text += " and ";
      if (rule.mask == kAll) {
        text += str_printf("arg%u = %#llx", rule.index, static_cast<unsigned long long>(rule.value));
      } else {
        text += str_printf("arg%u & %#llx = %#llx", rule.index, static_cast<unsigned long long>(rule.mask),
                           static_cast<unsigned long long>(rule.value));
      }
    }
    auto [it, fresh] = merged.try_emplace(row.name, text);
    if (fresh)
      order.push_back(row.name);
    else
      it->second += " or " + text;
  }
  for (const std::string& name : order) {
    lines.push_back(merged[name].empty() ? name : name + ": " + merged[name]);
  }
  return lines;
}

}  // namespace sbx::platform
