#include "sentry/task/seccomp.h"

#include <linux/audit.h>
#include <linux/seccomp.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/task/kernel.h"
#include "sentry/task/signals.h"

namespace sbx::task {

namespace {

constexpr u32 kMaxLength = 32768;  // MAX_INSNS_PER_PATH
constexpr u32 kPenalty = 4;        // per program
constexpr i32 kSysSeccomp = 1;     // si_code

bool known_instruction(u16 code) {
  switch (code) {
    case BPF_LD | BPF_W | BPF_ABS:
    case BPF_LD | BPF_W | BPF_LEN:
    case BPF_LDX | BPF_W | BPF_LEN:
    case BPF_RET | BPF_K:
    case BPF_RET | BPF_A:
    case BPF_ALU | BPF_ADD | BPF_K:
    case BPF_ALU | BPF_ADD | BPF_X:
    case BPF_ALU | BPF_SUB | BPF_K:
    case BPF_ALU | BPF_SUB | BPF_X:
    case BPF_ALU | BPF_MUL | BPF_K:
    case BPF_ALU | BPF_MUL | BPF_X:
    case BPF_ALU | BPF_DIV | BPF_K:
    case BPF_ALU | BPF_DIV | BPF_X:
    case BPF_ALU | BPF_AND | BPF_K:
    case BPF_ALU | BPF_AND | BPF_X:
    case BPF_ALU | BPF_OR | BPF_K:
    case BPF_ALU | BPF_OR | BPF_X:
    case BPF_ALU | BPF_XOR | BPF_K:
    case BPF_ALU | BPF_XOR | BPF_X:
    case BPF_ALU | BPF_LSH | BPF_K:
    case BPF_ALU | BPF_LSH | BPF_X:
    case BPF_ALU | BPF_RSH | BPF_K:
    case BPF_ALU | BPF_RSH | BPF_X:
    case BPF_ALU | BPF_NEG:
    case BPF_LD | BPF_IMM:
    case BPF_LDX | BPF_IMM:
    case BPF_MISC | BPF_TAX:
    case BPF_MISC | BPF_TXA:
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX:
    case BPF_JMP | BPF_JA:
    case BPF_JMP | BPF_JEQ | BPF_K:
    case BPF_JMP | BPF_JEQ | BPF_X:
    case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JGE | BPF_X:
    case BPF_JMP | BPF_JGT | BPF_K:
    case BPF_JMP | BPF_JGT | BPF_X:
    case BPF_JMP | BPF_JSET | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_X: return true;
    default: return false;
  }
}

// net/core/filter.c bpf_check_classic and kernel/seccomp.c seccomp_check_filter: jumps go forwards and stay inside, the
// end is a return, words are aligned, scratch memory is there and was written (here: reads as zero).
bool is_valid(const std::vector<sock_filter>& program) {
  const size_t n = program.size();
  if (n == 0 || n > BPF_MAXINSNS) return false;
  for (size_t i = 0; i < n; ++i) {
    const sock_filter& in = program[i];
    if (!known_instruction(in.code)) return false;
    switch (BPF_CLASS(in.code)) {
      case BPF_LD:
      case BPF_LDX:
        if (BPF_MODE(in.code) == BPF_ABS && (in.k % 4 != 0 || in.k >= sizeof(SeccompData))) return false;
        if (BPF_MODE(in.code) == BPF_MEM && in.k >= BPF_MEMWORDS) return false;
        break;
      case BPF_ST:
      case BPF_STX:
        if (in.k >= BPF_MEMWORDS) return false;
        break;
      case BPF_ALU:
        if (in.code == (BPF_ALU | BPF_DIV | BPF_K) && in.k == 0) return false;
        if ((in.code == (BPF_ALU | BPF_LSH | BPF_K) || in.code == (BPF_ALU | BPF_RSH | BPF_K)) && in.k >= 32)
          return false;
        break;
      case BPF_JMP:
        if (BPF_OP(in.code) == BPF_JA ? in.k >= n - i - 1 : i + in.jt + 1 >= n || i + in.jf + 1 >= n) return false;
        break;
      default: break;
    }
  }
  return BPF_CLASS(program.back().code) == BPF_RET;
}

// Runs a valid program. With `only_number`, gives up (0, which allows nothing) as soon as anything but the number and
// the architecture is looked at.
u32 run(const std::vector<sock_filter>& program, const SeccompData& data, bool only_number) {
  u32 a = 0, x = 0, memory[BPF_MEMWORDS] = {};
  for (size_t pc = 0; pc < program.size(); ++pc) {
    const sock_filter& in = program[pc];
    const u32 operand = BPF_SRC(in.code) == BPF_X ? x : in.k;
    switch (BPF_CLASS(in.code)) {
      case BPF_LD:
      case BPF_LDX: {
        u32 value = in.k;
        if (BPF_MODE(in.code) == BPF_MEM) value = memory[in.k];
        if (BPF_MODE(in.code) == BPF_LEN) value = sizeof(SeccompData);
        if (BPF_MODE(in.code) == BPF_ABS) {
          if (only_number && in.k > offsetof(SeccompData, arch)) return 0;
          std::memcpy(&value, reinterpret_cast<const u8*>(&data) + in.k, sizeof(value));
        }
        (BPF_CLASS(in.code) == BPF_LD ? a : x) = value;
        break;
      }
      case BPF_ST: memory[in.k] = a; break;
      case BPF_STX: memory[in.k] = x; break;
      case BPF_MISC: (BPF_MISCOP(in.code) == BPF_TAX ? x : a) = BPF_MISCOP(in.code) == BPF_TAX ? a : x; break;
      case BPF_RET: return BPF_RVAL(in.code) == BPF_A ? a : in.k;
      case BPF_JMP: {
        if (BPF_OP(in.code) == BPF_JA) {
          pc += in.k;
          break;
        }
        bool taken = false;
        if (BPF_OP(in.code) == BPF_JEQ) taken = a == operand;
        if (BPF_OP(in.code) == BPF_JGT) taken = a > operand;
        if (BPF_OP(in.code) == BPF_JGE) taken = a >= operand;
        if (BPF_OP(in.code) == BPF_JSET) taken = (a & operand) != 0;
        pc += taken ? in.jt : in.jf;
        break;
      }
      case BPF_ALU:
        switch (BPF_OP(in.code)) {
          case BPF_ADD: a += operand; break;
          case BPF_SUB: a -= operand; break;
          case BPF_MUL: a *= operand; break;
          case BPF_DIV:
            if (operand == 0) return 0;
            a /= operand;
            break;
          case BPF_AND: a &= operand; break;
          case BPF_OR: a |= operand; break;
          case BPF_XOR: a ^= operand; break;
          case BPF_LSH: a = operand < 32 ? a << operand : 0; break;
          case BPF_RSH: a = operand < 32 ? a >> operand : 0; break;
          case BPF_NEG: a = -a; break;
          default: return 0;
        }
        break;
      default: return 0;
    }
  }
  return 0;
}

u32 action_of(u32 value) { return value & SECCOMP_RET_ACTION_FULL; }

class BpfFilter final : public SeccompFilter {
 public:
  BpfFilter(std::vector<sock_filter> program, RefPtr<const SeccompFilter> older) : program_(std::move(program)) {
    finish(std::move(older), static_cast<u32>(program_.size()));
  }

 private:
  u32 evaluate(const SeccompData& data) const override { return run(program_, data, false); }
  bool allows(u32 nr) const override {
    SeccompData data{static_cast<i32>(nr), AUDIT_ARCH_X86_64, 0, {}};
    return action_of(run(program_, data, true)) == SECCOMP_RET_ALLOW;
  }
  std::vector<sock_filter> program_;
};

bool holds(const SeccompCondition& c, const u64* args) {
  const u64 arg = args[c.index];
  switch (c.op) {
    case SeccompOp::kNe: return arg != c.value;
    case SeccompOp::kLt: return arg < c.value;
    case SeccompOp::kLe: return arg <= c.value;
    case SeccompOp::kEq: return arg == c.value;
    case SeccompOp::kGe: return arg >= c.value;
    case SeccompOp::kGt: return arg > c.value;
    case SeccompOp::kMaskedEq: return (arg & c.value) == c.value_two;
  }
  return false;
}

// A rule without conditions is for the whole call and makes those with some pointless, as in libseccomp's filters.
class RulesFilter final : public SeccompFilter {
 public:
  RulesFilter(std::vector<SeccompRule> rules, u32 default_action)
      : rules_(std::move(rules)), of_(kSeccompNumbers), default_(default_action) {
    for (const SeccompRule& rule : rules_) {
      for (u32 nr : rule.numbers) {
        if (nr >= kSeccompNumbers) continue;
        auto& known = of_[nr];
        if (!known.empty() && known.front()->conditions.empty()) continue;
        if (rule.conditions.empty()) known.clear();
        known.push_back(&rule);
      }
    }
    finish(nullptr, 0);
  }

 private:
  u32 evaluate(const SeccompData& data) const override {
    if (data.nr < 0 || data.nr >= static_cast<i32>(kSeccompNumbers)) return default_;
    for (const SeccompRule* rule : of_[static_cast<u32>(data.nr)]) {
      if (std::all_of(rule->conditions.begin(), rule->conditions.end(),
                      [&](const SeccompCondition& c) { return holds(c, data.args); })) {
        return rule->action;
      }
    }
    return default_;
  }
  bool allows(u32 nr) const override {
    const auto& known = of_[nr];
    if (known.empty()) return action_of(default_) == SECCOMP_RET_ALLOW;
    return known.front()->conditions.empty() && action_of(known.front()->action) == SECCOMP_RET_ALLOW;
  }
  std::vector<SeccompRule> rules_;
  std::vector<std::vector<const SeccompRule*>> of_;
  u32 default_;
};

void kill_by_filter(Task& task, u32 action) {
  const int signo = task.seccomp->strict ? SIGKILL : SIGSYS;
  if (action == SECCOMP_RET_KILL_THREAD && task.group->tasks.size() > 1)
    exit_task(task, signo);
  else
    exit_group(*task.group, signo);
}

}  // namespace

void SeccompFilter::finish(RefPtr<const SeccompFilter> older, u32 length) {
  older_ = std::move(older);
  length_ = length + (older_ ? older_->length_ + kPenalty : 0);
  count_ = 1 + (older_ ? older_->count_ : 0);
  for (u32 nr = 0; nr < kSeccompNumbers; ++nr) {
    if ((!older_ || older_->allowed_.test(nr)) && allows(nr)) allowed_.set(nr);
    watches_native_ |= !allowed_.test(nr) && platform::may_be_native(nr);
  }
}

u32 SeccompFilter::evaluate_all(const SeccompData& data) const {
  u32 strictest = SECCOMP_RET_ALLOW;
  for (const SeccompFilter* filter = this; filter != nullptr; filter = filter->older_.get()) {
    u32 now = filter->evaluate(data);
    if (static_cast<i32>(action_of(now)) < static_cast<i32>(action_of(strictest))) strictest = now;
  }
  return strictest;
}

Result<RefPtr<SeccompFilter>> bpf_filter(std::vector<sock_filter> program, RefPtr<const SeccompFilter> older) {
  if (!is_valid(program)) return Errno::kInval;
  if (program.size() + (older ? older->length() + kPenalty : 0) > kMaxLength) return Errno::kNomem;
  return RefPtr<SeccompFilter>(make_ref<BpfFilter>(std::move(program), std::move(older)));
}

RefPtr<SeccompFilter> rules_filter(std::vector<SeccompRule> rules, u32 default_action) {
  return make_ref<RulesFilter>(std::move(rules), default_action);
}

bool seccomp_admits(Task& task, u32 nr, const u64* args, i64* result) {
  if (task.seccomp->always_allows(nr)) return true;
  SeccompData data{static_cast<i32>(nr), AUDIT_ARCH_X86_64, task.thread->last_ip(), {}};
  std::copy(args, args + 6, data.args);
  const u32 verdict = task.seccomp->evaluate_all(data);
  const u32 value = verdict & SECCOMP_RET_DATA;
  *result = -static_cast<i64>(Errno::kNosys);
  switch (action_of(verdict)) {
    case SECCOMP_RET_ALLOW:
    case SECCOMP_RET_LOG: return true;
    case SECCOMP_RET_ERRNO: *result = -static_cast<i64>(std::min<u32>(value, 4095)); return false;
    case SECCOMP_RET_TRACE:       // no tracer is there
    case SECCOMP_RET_USER_NOTIF:  // nor a listener
      return false;
    case SECCOMP_RET_TRAP: {
      signal::SigInfo info;
      info.signo = SIGSYS;
      info.code = kSysSeccomp;
      info.error = static_cast<i32>(value);
      info.addr = data.ip;
      info.value = nr;
      force_to_task(task, info);
      *result = nr;  // the registers are as before the call
      return false;
    }
    default: kill_by_filter(task, action_of(verdict)); return false;
  }
}

}  // namespace sbx::task
