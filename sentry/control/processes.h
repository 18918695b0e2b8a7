// From the boot configuration's and the control socket's words for a process to the kernel's.
#pragma once
#include <string>

#include "sentry/base/unique_fd.h"
#include "sentry/control/boot_config.h"
#include "sentry/task/kernel.h"

namespace sbx::control {

// The streams of a process to start: owned host descriptors (invalid: closed), or one terminal for all three.
struct Streams {
  UniqueFd fd[3];
  std::vector<UniqueFd> extra;  // 3, 4, ...
};

// `init_caps`: what an exec without capabilities of its own gets. The error is a sentence in runc's words.
HostResult<task::ProcessSpec> make_process(task::Container& container, const ProcessSpec& in, Streams streams,
                                           const CapabilitySets* init_caps);

// Creates the working directory when it is missing, as runc does. Runs on a fiber.
HostResult<void> prepare_cwd(const task::Container& container, const ProcessSpec& in);
// The sentence for a command that find_command or start_process refused.
std::string start_error_text(const ProcessSpec& in, Errno error);

}  // namespace sbx::control
