#include "sentry/control/processes.h"

#include <algorithm>

#include "sentry/base/log.h"
#include "sentry/control/terminal.h"
#include "sentry/fs/host/host_file.h"
#include "sentry/vfs/walk.h"

namespace sbx::control {

namespace {

security::CredPtr credentials(const ProcessSpec& in, const CapabilitySets* init_caps) {
  RefPtr<security::Credentials> creds(new security::Credentials);
  creds->uid = creds->euid = creds->suid = creds->fsuid = in.uid;
  creds->gid = creds->egid = creds->sgid = creds->fsgid = in.gid;
  creds->groups = in.groups;
  std::sort(creds->groups.begin(), creds->groups.end());
  const CapabilitySets none;
  const CapabilitySets& caps = in.has_capabilities ? in.capabilities : (init_caps != nullptr ? *init_caps : none);
  creds->bounding = caps.bounding & security::kAllCaps;
  creds->permitted = caps.permitted & security::kAllCaps;
  creds->effective = caps.effective & creds->permitted;
  creds->inheritable = caps.inheritable & security::kAllCaps;
  creds->ambient = caps.ambient & creds->permitted & creds->inheritable;
  creds->no_new_privs = in.no_new_privs;
  return creds;
}

// The home directory of /etc/passwd; "/" when the user is not there.
std::string home_directory(const task::Container& container, u32 uid) {
  auto file = vfs::open(container.kernel_context(), "/etc/passwd", {.flags = O_RDONLY});
  if (!file) return "/";
  std::string text(256 * 1024, '\0');
  vfs::KernelSink sink(text.data(), text.size());
  u64 at = 0;
  auto n = (*file)->read(sink, &at);
  text.resize(n ? *n : 0);
  for (size_t line = 0; line < text.size();) {
    size_t end = std::min(text.find('\n', line), text.size());
    std::vector<std::string> fields;
    for (size_t i = line; i <= end;) {
      size_t colon = std::min(text.find(':', i), end);
      fields.push_back(text.substr(i, colon - i));
      i = colon + 1;
    }
    if (fields.size() >= 7 && fields[2] == std::to_string(uid)) return fields[5].empty() ? "/" : fields[5];
    line = end + 1;
  }
  return "/";
}

}  // namespace

std::string start_error_text(const ProcessSpec& in, Errno error) {
  const std::string& command = in.args[0];
  if (error == Errno::kNoexec) return exec_failed_text(command, error);
  if (command.find('/') == std::string::npos && error == Errno::kNoent) return command_not_in_path_text(command);
  return command_error_text(command, error);
}

HostResult<void> prepare_cwd(const task::Container& container, const ProcessSpec& in) {
  vfs::WalkContext ctx = container.kernel_context();
  if (vfs::resolve(ctx, in.cwd, {.need_dir = true})) return {};
  for (size_t at = 1; at <= in.cwd.size();) {
    size_t slash = std::min(in.cwd.find('/', at), in.cwd.size());
    std::string prefix = in.cwd.substr(0, slash);
    at = slash + 1;
    auto made = vfs::make_node(ctx, prefix, {.mode = S_IFDIR | 0755});
    if (!made && made.error() != Errno::kExist) {
      return Failure(made.error(), "process.cwd: mkdir " + prefix + ": " + errno_text(made.error()));
    }
  }
  if (auto found = vfs::resolve(ctx, in.cwd, {.need_dir = true}); !found) {
    return Failure(found.error(), "process.cwd: chdir to cwd (\"" + in.cwd +
                                      "\") set in config.json failed: " + errno_text(found.error()));
  }
  return {};
}

HostResult<task::ProcessSpec> make_process(task::Container& container, const ProcessSpec& in, Streams streams,
                                           const CapabilitySets* init_caps) {
  task::ProcessSpec out;
  out.container = RefPtr<task::Container>(&container);
  out.args = in.args;
  out.env = in.env;
  out.cwd = in.cwd;
  out.creds = credentials(in, init_caps);
  out.umask = in.umask >= 0 ? static_cast<u32>(in.umask) : 022;
  bool has_home =
      std::any_of(in.env.begin(), in.env.end(), [](const std::string& s) { return s.rfind("HOME=", 0) == 0; });
  if (!has_home) out.env.push_back("HOME=" + home_directory(container, in.uid));
  for (size_t i = 0; i < out.limits.size(); ++i) {
    // What the container's processes would have inherited from the runtime.
    if (getrlimit(static_cast<__rlimit_resource_t>(i), &out.limits[i]) != 0)
      out.limits[i] = {RLIM_INFINITY, RLIM_INFINITY};
  }
  for (const Rlimit& limit : in.rlimits) {
    if (limit.resource < out.limits.size()) out.limits[limit.resource] = {limit.soft, limit.hard};
  }
  if (in.has_oom_score_adj) out.oom_score_adj = in.oom_score_adj;

  out.fds = make_ref<task::FdTable>();
  constexpr u64 kNoLimit = 1 << 20;
  if (in.terminal) {
    auto terminal = make_terminal(container, std::move(streams.fd[0]), in);
    if (!terminal) return std::move(terminal).error();
    out.tty = terminal->tty;
    for (int i = 0; i < 3; ++i) {
      if (!out.fds->set(i, terminal->file, false, kNoLimit)) return Failure("process.terminal: no descriptor");
    }
  } else {
    for (int i = 0; i < 3; ++i) {
      if (!streams.fd[i]) continue;
      bool tty = isatty(streams.fd[i].get()) != 0;
      auto file = fs::host::make_host_file(std::move(streams.fd[i]), tty, in.uid, in.gid);
      if (!file) return Failure(file.error(), str_printf("standard stream %d: %s", i, errno_text(file.error())));
      if (!out.fds->set(i, *file, false, kNoLimit)) return Failure("standard streams: no descriptor");
    }
  }
  int next = 3;
  for (UniqueFd& fd : streams.extra) {
    auto file = fs::host::make_host_file(std::move(fd), false, in.uid, in.gid);
    if (!file) return Failure(file.error(), str_printf("preserved descriptor %d: %s", next, errno_text(file.error())));
    if (!out.fds->set(next++, *file, false, kNoLimit)) return Failure("preserved descriptors: too many");
  }
  return out;
}

}  // namespace sbx::control
