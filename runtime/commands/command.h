// What the verbs share: the global options and the parser of their own.
#pragma once
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "runtime/container/lifecycle.h"
#include "sentry/base/result.h"

namespace sbx::commands {

struct Globals {
  container::Settings settings;
  std::string log_path;
  std::string log_format = "text";
};

// A verb's options in the form of Go's flag packages: -x v, --x v, --x=v, -x=v; a switch may be --x or --x=true.
struct Option {
  const char* names;                                   // "detach,d"
  enum Kind : u8 { kSwitch, kValue, kOptional } kind;  // kOptional: alone, or --x=v
  const char* help;
};

class Arguments {
 public:
  // `interleaved`: options may follow positional arguments; else the first of these ends them (exec ID cmd -x).
  static HostResult<Arguments> parse(const std::vector<Option>& options, const std::vector<std::string>& args,
                                     bool interleaved);
  bool has(const std::string& name) const { return values_.count(name) != 0; }
  bool on(const std::string& name) const;
  std::string value(const std::string& name, const std::string& otherwise = "") const;
  const std::vector<std::string>& values(const std::string& name) const;
  HostResult<u64> number(const std::string& name, u64 otherwise) const;
  const std::vector<std::string>& positional() const { return positional_; }

 private:
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> positional_;
};

// Result of a verb: the exit status, or a Failure that main prints (exit status 1, or Verb::failure_status).
using Handler = HostResult<int> (*)(Globals& globals, const Arguments& args);

struct Verb {
  const char* name;
  const char* usage;  // "[options] <container-id>"
  const char* help;
  std::vector<Option> options;
  Handler run;
  size_t min_positional;
  size_t max_positional;
  bool interleaved = true;
  int failure_status = 1;
};
const std::vector<Verb>& verbs();
const Verb* find_verb(const std::string& name);

// Output on descriptor 1.
void print(const std::string& text);

// --- the verbs
HostResult<int> create(Globals&, const Arguments&);
HostResult<int> run(Globals&, const Arguments&);
HostResult<int> start(Globals&, const Arguments&);
HostResult<int> state(Globals&, const Arguments&);
HostResult<int> kill(Globals&, const Arguments&);
HostResult<int> remove(Globals&, const Arguments&);
HostResult<int> exec(Globals&, const Arguments&);
HostResult<int> list(Globals&, const Arguments&);
HostResult<int> ps(Globals&, const Arguments&);
HostResult<int> spec(Globals&, const Arguments&);
HostResult<int> pause(Globals&, const Arguments&);
HostResult<int> resume(Globals&, const Arguments&);
HostResult<int> update(Globals&, const Arguments&);
HostResult<int> events(Globals&, const Arguments&);
HostResult<int> do_command(Globals&, const Arguments&);
HostResult<int> install(Globals&, const Arguments&);
HostResult<int> uninstall(Globals&, const Arguments&);
HostResult<int> features(Globals&, const Arguments&);
HostResult<int> version(Globals&, const Arguments&);
HostResult<int> syscalls(Globals&, const Arguments&);
HostResult<int> debug(Globals&, const Arguments&);
HostResult<int> help(Globals&, const Arguments&);

std::string version_text();

// Creates, starts and waits in the foreground, then removes: `run` and `do`. Returns the exit status.
struct RunOptions {
  container::CreateOptions create;
  bool detach = false;
  bool keep = false;
};
HostResult<int> run_container(Globals& globals, const RunOptions& options, const oci::Spec& spec);

// "TERM", "SIGTERM", "15" to a number; 0: not a signal.
int signal_number(const std::string& text);

}  // namespace sbx::commands
