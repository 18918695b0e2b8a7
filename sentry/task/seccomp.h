// Guest seccomp (seccomp(2), kernel/seccomp.c): filters of tasks, the container's (linux.seccomp) among them. A call
// that the stub answers natively (docs/syscalls.md, cost "native") is asked about first, if a filter does not allow all
// such whatever their arguments.
#pragma once
#include <linux/filter.h>

#include <bitset>
#include <span>
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/base/result.h"

namespace sbx::task {

class Task;

constexpr u32 kSeccompNumbers = 512;

// What a filter sees: struct seccomp_data.
struct SeccompData {
  i32 nr;
  u32 arch;
  u64 ip;
  u64 args[6];
};

class SeccompFilter : public RefCounted {
 public:
  // The action and data (SECCOMP_RET_*) of this filter and all older ones: the most restrictive.
  u32 evaluate_all(const SeccompData& data) const;
  bool always_allows(u32 nr) const { return nr < kSeccompNumbers && allowed_.test(nr); }
  // Not for all calls that a stub may answer by itself.
  bool watches_native() const { return watches_native_; }
  // The filters from here to the oldest.
  u32 count() const { return count_; }
  // Of all programs, in instructions: limited by the kernel to 32768, with four for each program.
  u32 length() const { return length_; }
  // SECCOMP_MODE_STRICT: what is not admitted is killed by SIGKILL; no filter comes after it.
  bool strict = false;

 protected:
  // To be called when the filter can be evaluated: finds the calls that it and `older` allow whatever their arguments.
  void finish(RefPtr<const SeccompFilter> older, u32 length);
  virtual u32 evaluate(const SeccompData& data) const = 0;
  // Whether the outcome for this number is an allowance that depends on nothing else.
  virtual bool allows(u32 nr) const = 0;

 private:
  RefPtr<const SeccompFilter> older_;
  std::bitset<kSeccompNumbers> allowed_;
  bool watches_native_ = false;
  u32 count_ = 1, length_ = 0;
};

// A program of a guest's. kInval: not one that the kernel takes (kernel/seccomp.c seccomp_check_filter).
Result<RefPtr<SeccompFilter>> bpf_filter(std::vector<sock_filter> program, RefPtr<const SeccompFilter> older);

// --- rules, as in config.json ---
enum class SeccompOp : u8 { kNe, kLt, kLe, kEq, kGe, kGt, kMaskedEq };
struct SeccompCondition {
  u32 index;
  SeccompOp op;
  u64 value, value_two;  // kMaskedEq: the mask, what the masked argument shall be
};
struct SeccompRule {
  std::vector<u32> numbers;
  u32 action;                                // SECCOMP_RET_* with data
  std::vector<SeccompCondition> conditions;  // all must hold
};
RefPtr<SeccompFilter> rules_filter(std::vector<SeccompRule> rules, u32 default_action);

// Before a call is served. True: serve it. False: `result` is what the guest gets, if it lives.
bool seccomp_admits(Task& task, u32 nr, const u64* args, i64* result);

}  // namespace sbx::task
