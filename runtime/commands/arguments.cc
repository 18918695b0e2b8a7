#include <cstdlib>
#include <cstring>

#include "runtime/commands/command.h"

namespace sbx::commands {
namespace {

// "detach,d": is `name` one of them? The first is the canonical one.
bool is_named(const Option& option, const std::string& name) {
  const char* p = option.names;
  while (*p != '\0') {
    size_t n = std::strcspn(p, ",");
    if (name.size() == n && name.compare(0, n, p, n) == 0) return true;
    p += n;
    if (*p == ',') ++p;
  }
  return false;
}

std::string canonical(const Option& option) { return std::string(option.names, std::strcspn(option.names, ",")); }

}  // namespace

HostResult<Arguments> Arguments::parse(const std::vector<Option>& options, const std::vector<std::string>& args,
                                       bool interleaved) {
  Arguments out;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--") {
      out.positional_.insert(out.positional_.end(), args.begin() + static_cast<long>(i) + 1, args.end());
      break;
    }
    if (arg.size() < 2 || arg[0] != '-') {
      if (!interleaved) {
        out.positional_.assign(args.begin() + static_cast<long>(i), args.end());
        break;
      }
      out.positional_.push_back(arg);
      continue;
    }
    std::string name = arg.substr(arg[1] == '-' ? 2 : 1);
    size_t equals = name.find('=');
    std::string value = equals == std::string::npos ? "" : name.substr(equals + 1);
    if (equals != std::string::npos) name.resize(equals);
    const Option* found = nullptr;
    for (const Option& o : options) {
      if (is_named(o, name)) found = &o;
    }
    if (name == "help" || name == "h") {
      out.values_["help"] = {"true"};
      continue;
    }
    if (found == nullptr) return Failure("flag provided but not defined: -" + name);
    if (equals == std::string::npos) {
      if (found->kind != Option::kValue) {
        value = "true";
      } else if (i + 1 < args.size()) {
        value = args[++i];
      } else {
        return Failure("flag needs an argument: -" + name);
      }
    } else if (found->kind == Option::kSwitch && value != "true" && value != "false" && value != "1" && value != "0") {
      return Failure("invalid boolean value \"" + value + "\" for -" + name);
    }
    out.values_[canonical(*found)].push_back(value);
  }
  return out;
}

bool Arguments::on(const std::string& name) const {
  std::string v = value(name);
  return v == "true" || v == "1";
}

std::string Arguments::value(const std::string& name, const std::string& otherwise) const {
  auto it = values_.find(name);
  return it == values_.end() ? otherwise : it->second.back();
}

const std::vector<std::string>& Arguments::values(const std::string& name) const {
  static const std::vector<std::string> kNone;
  auto it = values_.find(name);
  return it == values_.end() ? kNone : it->second;
}

HostResult<u64> Arguments::number(const std::string& name, u64 otherwise) const {
  if (!has(name)) return otherwise;
  std::string text = value(name);
  char* end = nullptr;
  u64 v = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || text[0] == '-')
    return Failure("invalid value \"" + text + "\" for flag -" + name);
  return v;
}

}  // namespace sbx::commands
