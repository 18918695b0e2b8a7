// linux.seccomp as numbers: names are looked up in libseccomp's table for x86-64.
#include <linux/seccomp.h>
#include <seccomp.h>

#include <array>
#include <cerrno>

#include "runtime/boot/convert.h"

namespace sbx::boot {
namespace {

using control::SeccompAction;
using control::SeccompCompare;

SeccompAction action_of(const std::string& name) {
  static constexpr std::pair<const char*, SeccompAction> kActions[] = {
      {"SCMP_ACT_ALLOW", SeccompAction::kAllow},
      {"SCMP_ACT_ERRNO", SeccompAction::kErrno},
      {"SCMP_ACT_KILL", SeccompAction::kKillThread},
      {"SCMP_ACT_KILL_THREAD", SeccompAction::kKillThread},
      {"SCMP_ACT_KILL_PROCESS", SeccompAction::kKillProcess},
      {"SCMP_ACT_TRAP", SeccompAction::kTrap},
      {"SCMP_ACT_NOTIFY", SeccompAction::kNotify},
      {"SCMP_ACT_TRACE", SeccompAction::kTrace},
      {"SCMP_ACT_LOG", SeccompAction::kLog}};
  for (const auto& [known, action] : kActions) {
    if (name == known) return action;
  }
  return SeccompAction::kKillProcess;  // validate() has refused unknown ones
}

SeccompCompare compare_of(const std::string& op) {
  static constexpr std::pair<const char*, SeccompCompare> kOps[] = {
      {"SCMP_CMP_NE", SeccompCompare::kNe}, {"SCMP_CMP_LT", SeccompCompare::kLt}, {"SCMP_CMP_LE", SeccompCompare::kLe},
      {"SCMP_CMP_EQ", SeccompCompare::kEq}, {"SCMP_CMP_GE", SeccompCompare::kGe}, {"SCMP_CMP_GT", SeccompCompare::kGt}};
  for (const auto& [known, compare] : kOps) {
    if (op == known) return compare;
  }
  return SeccompCompare::kMaskedEq;
}

u32 flag_of(const std::string& name) {
  if (name == "SECCOMP_FILTER_FLAG_TSYNC") return SECCOMP_FILTER_FLAG_TSYNC;
  if (name == "SECCOMP_FILTER_FLAG_LOG") return SECCOMP_FILTER_FLAG_LOG;
  if (name == "SECCOMP_FILTER_FLAG_SPEC_ALLOW") return SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  return 0;  // WAIT_KILLABLE_RECV concerns a notify listener only
}

}  // namespace

HostResult<control::SeccompConfig> convert_seccomp(const oci::Seccomp& s) {
  control::SeccompConfig out;
  out.present = true;
  out.default_action = action_of(s.default_action);
  out.default_errno = s.default_errno_ret.value_or(EPERM);
  for (const std::string& arch : s.architectures) {
    if (arch == "SCMP_ARCH_X86") out.x86 = true;
    if (arch == "SCMP_ARCH_X32") out.x32 = true;
  }
  for (const std::string& flag : s.flags) out.flags |= flag_of(flag);
  if (!s.listener_path.empty()) {
    return Failure("linux.seccomp.listenerPath: seccomp notification listeners are not supported");
  }
  for (const oci::SeccompSyscall& call : s.syscalls) {
    control::SeccompRule rule;
    rule.action = action_of(call.action);
    rule.errno_value = call.errno_ret.value_or(EPERM);
    for (const std::string& name : call.names) {
      int number = ::seccomp_syscall_resolve_name_arch(SCMP_ARCH_X86_64, name.c_str());
      if (number >= 0) rule.syscalls.push_back(static_cast<u32>(number));  // pseudo numbers of other archs are negative
    }
    if (rule.syscalls.empty()) continue;
    std::array<unsigned, 6> uses{};
    bool alternatives = false;
    for (const oci::SeccompArg& a : call.args) {
      control::SeccompArg arg{a.index, compare_of(a.op), a.value, a.value_two};
      rule.args.push_back(arg);
      alternatives |= ++uses[a.index] > 1;
    }
    if (!alternatives) {
      out.rules.push_back(std::move(rule));
      continue;
    }
    // libseccomp takes one condition an argument; more on one index are rules of their own (runc reads it so).
    for (const control::SeccompArg& arg : rule.args) {
      control::SeccompRule one = rule;
      one.args = {arg};
      out.rules.push_back(std::move(one));
    }
  }
  return out;
}

}  // namespace sbx::boot
