// What the verbs do to a container.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "oci/spec.h"
#include "runtime/boot/stdio.h"
#include "runtime/container/container.h"
#include "sentry/base/result.h"
#include "sentry/control/boot_config.h"

namespace sbx::container {

// What the global options say about every container of this command.
struct Settings {
  std::string root;
  bool rootless = false;
  bool systemd_cgroup = false;
  bool debug = false;
  bool strace = false;
  std::string strace_filter;
  control::OverlayMode overlay = control::OverlayMode::kNone;
  int log_fd = -1;
  bool log_is_stderr = false;
  u8 log_format = 0;
};

enum class Console : u8 { kSocket, kRelay };

struct CreateOptions {
  std::string id;
  std::string bundle;  // absolute
  std::string console_socket;
  std::string pid_file;
  // kRelay: process.terminal without a console socket gives the pty to the caller.
  Console console = Console::kSocket;
  u32 preserve_fds = 0;
  // kNone: no cgroup at all is made.
  bool use_cgroup = true;
};

struct Created {
  Container container;  // locked
  UniqueFd pidfd;
  std::optional<boot::Pty> pty;
};

// Reads BUNDLE/config.json; errors name the field.
HostResult<oci::Spec> load_spec(const std::string& bundle);
// Everything up to the container's first instruction. Nothing is left behind on failure.
HostResult<Created> create(const Settings& settings, const CreateOptions& options, const oci::Spec& spec);
// startContainer hooks, start, poststart hooks. The container is locked.
HostResult<void> start(Container& container);
// Kills what is left, runs poststop hooks, removes every trace.
HostResult<void> destroy(Container& container);
// The name in /etc/passwd, or the number.
std::string user_name(u32 uid);

}  // namespace sbx::container
