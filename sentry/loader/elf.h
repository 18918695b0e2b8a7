// Loading programs: ELF images and `#!` scripts into a platform::ExecImage (elf(5), execve(2), fs/binfmt_elf.c).
// Reads through vfs::File only; knows no task.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "sentry/base/result.h"
#include "sentry/platform/platform.h"
#include "sentry/security/credentials.h"
#include "sentry/vfs/file.h"

namespace sbx::loader {

struct LoadRequest {
  RefPtr<vfs::File> file;  // opened for reading, execute permission checked
  std::string head;        // what read_head() says of it
  std::string filename;    // AT_EXECFN
  std::vector<std::string> argv, envp;
  const security::Credentials* creds = nullptr;  // after exec
  bool secure = false;                           // AT_SECURE
  u64 stack_limit = 8 << 20;                     // RLIMIT_STACK, soft
  platform::Platform* platform = nullptr;        // patched text comes from there, if given
  // Opens the interpreter named by PT_INTERP.
  std::function<Result<RefPtr<vfs::File>>(const std::string& path)> open_interpreter;
};

struct LoadedProgram {
  platform::ExecImage image;
  // The mappings of `image` borrow host descriptors of these files: keep them until exec returned.
  std::vector<RefPtr<vfs::File>> files;
  u64 arg_start = 0, arg_end = 0, env_start = 0, env_end = 0, stack_start = 0;
  std::string auxv;
  size_t base_at = 0;        // in auxv: the value of AT_BASE, which exec may correct
  bool interpreted = false;  // it names an interpreter, which maps its libraries
};

// kNoexec: not an ELF for this machine. kTooBig: arguments too long. kLibbad...: as Linux.
Result<LoadedProgram> load_elf(const LoadRequest& request);

// The first KiB of a file, or what there is: what tells how it is run, and mostly all that the loading asks for.
Result<std::string> read_head(vfs::File& file);

// If a file that begins with `head` begins with "#!": interpreter path and optional argument; nullopt: no script.
struct ScriptLine {
  std::string interpreter, argument;
  bool has_argument = false;
};
Result<std::optional<ScriptLine>> script_line(std::string_view head);

// Bytes that argv and envp may take (execve(2), "Limits on size of arguments and environment").
u64 argument_limit(u64 stack_limit);

}  // namespace sbx::loader
