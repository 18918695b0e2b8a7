// execve: credentials, scripts, the point of no return (fs/exec.c); and starting processes from outside.
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/mount.h>

#include <algorithm>

#include "sentry/base/log.h"
#include "sentry/loader/elf.h"
#include "sentry/task/kernel.h"
#include "sentry/task/ptrace.h"
#include "sentry/task/signals.h"

namespace sbx::task {

namespace {

constexpr int kMaxScripts = 5;  // BINPRM_MAX_RECURSION + 1

struct FileCaps {
  u64 permitted = 0, inheritable = 0;
  bool effective = false, present = false;
};

// security.capability, versions 2 and 3 (linux/capability.h struct vfs_ns_cap_data). Damaged data is ignored.
FileCaps read_file_caps(vfs::Inode& inode) {
  FileCaps caps;
  auto data = inode.get_xattr("security.capability");
  if (!data || data->size() < 20) return caps;
  u32 words[5];
  std::memcpy(words, data->data(), sizeof(words));
  u32 revision = words[0] & VFS_CAP_REVISION_MASK;
  if (revision != VFS_CAP_REVISION_2 && revision != VFS_CAP_REVISION_3) return caps;
  caps.present = true;
  caps.effective = (words[0] & VFS_CAP_FLAGS_EFFECTIVE) != 0;
  caps.permitted = (words[1] | (static_cast<u64>(words[3]) << 32)) & security::kAllCaps;
  caps.inheritable = (words[2] | (static_cast<u64>(words[4]) << 32)) & security::kAllCaps;
  return caps;
}

// capabilities(7), "Transformation of capabilities during execve()".
RefPtr<security::Credentials> credentials_after_exec(const security::Credentials& old, const vfs::Path& path,
                                                     const vfs::Attr& attr, bool may_gain, bool* secure) {
  RefPtr<security::Credentials> next(new security::Credentials(old));
  may_gain = may_gain && !old.no_new_privs && (path.mount->flags & MS_NOSUID) == 0;
  FileCaps file;
  bool set_id = false;
  if (may_gain) {
    if ((attr.mode & S_ISUID) != 0) {
      next->euid = attr.uid;
      set_id = set_id || attr.uid != old.euid;
    }
    if ((attr.mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) {
      next->egid = attr.gid;
      set_id = set_id || attr.gid != old.egid;
    }
    file = read_file_caps(*path.inode());
  }
  next->suid = next->fsuid = next->euid;
  next->sgid = next->fsgid = next->egid;
  bool root_rules = (old.securebits & SECBIT_NOROOT) == 0;
  if (root_rules && !(file.present && next->uid != 0 && next->euid == 0)) {
    if (next->euid == 0 || next->uid == 0) file.permitted = file.inheritable = security::kAllCaps, file.present = true;
    if (next->euid == 0) file.effective = true;
  }
  if (set_id || (file.present && !(root_rules && (next->euid == 0 || next->uid == 0)))) next->ambient = 0;
  next->permitted = (old.inheritable & file.inheritable) | (file.permitted & old.bounding) | next->ambient;
  next->effective = file.effective ? next->permitted : next->ambient;
  next->securebits &= ~static_cast<u32>(SECBIT_KEEP_CAPS);
  *secure = set_id || (file.effective && next->uid != 0 && next->permitted != old.permitted);
  return next;
}

struct Prepared {
  loader::LoadedProgram program;
  RefPtr<security::Credentials> creds;
  vfs::Path exe;
  RefPtr<vfs::File> exe_file;
  std::unique_ptr<vfs::WriteDenial> text_busy;
  std::string comm;
};

std::string base_name(const std::string& path) {
  size_t slash = path.rfind('/');
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  return name.substr(0, 15);
}

Result<RefPtr<vfs::File>> open_program(const security::Credentials& creds, const vfs::Path& path) {
  if (!S_ISREG(path.inode()->type())) return Errno::kAcces;
  if ((path.mount->flags & MS_NOEXEC) != 0) return Errno::kAcces;
  TRY(vfs::check_access(creds, *path.inode(), vfs::kMayExec));
  return vfs::open_path(*security::kernel_credentials(), path, O_RDONLY);
}

// Everything that can fail without harm to the caller.
Result<Prepared> prepare(const Task& task, ExecArgs& args) {
  Prepared out;
  loader::LoadRequest request;
  vfs::Path path = args.file;
  std::string interpreter_comm = base_name(args.filename);
  if (args.argv.empty()) args.argv.emplace_back();
  for (int depth = 0;; ++depth) {
    RefPtr<vfs::File> file = TRY(open_program(*task.creds, path));
    // Of a script, too, until its interpreter is open (fs/exec.c, do_open_execat, exec_binprm).
    out.text_busy = TRY(vfs::WriteDenial::take(RefPtr<vfs::Inode>(path.inode())));
    std::string head = TRY(loader::read_head(*file));
    auto script = TRY(loader::script_line(head));
    if (!script) {
      out.exe_file = std::move(file);
      request.head = std::move(head);
      out.exe = path;
      break;
    }
    if (depth >= kMaxScripts) return Errno::kLoop;
    std::vector<std::string> argv{script->interpreter};
    if (script->has_argument) argv.push_back(script->argument);
    argv.push_back(args.filename);
    argv.insert(argv.end(), args.argv.begin() + 1, args.argv.end());
    args.argv = std::move(argv);
    args.filename = script->interpreter;
    path = TRY(vfs::resolve(task.walk_context(), script->interpreter));
  }
  vfs::Attr attr = TRY(out.exe.inode()->attr());
  bool secure = false;
  out.creds = credentials_after_exec(*task.creds, out.exe, attr, tracer_may_see_more(task), &secure);
  out.comm = std::move(interpreter_comm);

  request.file = out.exe_file;
  request.filename = args.filename;
  request.argv = std::move(args.argv);
  request.envp = std::move(args.envp);
  request.creds = out.creds.get();
  request.secure = secure;
  request.stack_limit = task.group->limit(RLIMIT_STACK);
  request.platform = kernel().platform.get();
  request.open_interpreter = [&task](const std::string& name) -> Result<RefPtr<vfs::File>> {
    vfs::Path interpreter = TRY(vfs::resolve(task.walk_context(), name));
    return open_program(*task.creds, interpreter);
  };
  // `docker top` and the host's ps show it: the beginning of the command line tells more than a bare name.
  std::string shown;
  for (const std::string& arg : request.argv) shown += (shown.empty() ? base_name(arg) : " " + arg);
  out.program = TRY(loader::load_elf(request));
  out.program.image.name = shown.substr(0, 15);
  return out;
}

RefPtr<ImageInfo> image_info(Prepared& prepared) {
  auto info = make_ref<ImageInfo>();
  const loader::LoadedProgram& p = prepared.program;
  info->exe = prepared.exe;
  info->exe_file = prepared.exe_file;
  info->text_busy = std::move(prepared.text_busy);
  info->arg_start = p.arg_start;
  info->arg_end = p.arg_end;
  info->env_start = p.env_start;
  info->env_end = p.env_end;
  info->stack_start = p.stack_start;
  info->brk_start = p.image.brk_start;
  info->auxv = p.auxv;
  if (p.image.interpreter.count != 0) {
    info->auxv.replace(p.base_at, sizeof(u64), reinterpret_cast<const char*>(&p.image.interpreter.bias), sizeof(u64));
  }
  info->interpreted = p.interpreted;
  return info;
}

// The other threads die; this one becomes the leader under the group's id (fs/exec.c de_thread).
Result<void> become_only_thread(Task& task) {
  ThreadGroup& group = *task.group;
  if (group.tasks.size() == 1 && group.leader == &task) return {};
  group.exec_task = &task;
  for (Task* other : group.tasks) {
    if (other == &task) continue;
    other->fiber->interrupt();
    if (other->trace) other->trace->queue.wake_all();
    // Those in guest code come in and leave; the host threads end with the old host process.
    if (!other->thread->in_sentry()) other->thread->kick();
  }
  fiber::WaitQueue unused;
  while (group.tasks.size() > 1 && !group.exiting) {
    fiber::current()->set_wait_reason("exec");
    fiber::park_until(fiber::now_ns() + 100'000'000);
    for (Task* other : group.tasks) {
      if (other != &task && !other->thread->in_sentry()) other->thread->kick();
    }
  }
  group.exec_task = nullptr;
  if (group.exiting) return Errno::kIntr;
  if (group.leader == nullptr) {
    kernel().remove_task(task);
    const_cast<i32&>(task.tid) = group.pid;
    kernel().add_task(task);
    group.leader = &task;
  }
  return {};
}

}  // namespace

Result<i64> exec_task(Task& task, ExecArgs args) {
  Prepared prepared = TRY(prepare(task, args));
  ThreadGroup& group = *task.group;
  TRY(become_only_thread(task));

  // --- the point of no return ---
  task.set_creds(prepared.creds);
  const Usage before = host_usage(task);
  auto resumed = task.thread->exec(prepared.program.image);
  if (!resumed) {
    LOG_WARNING("exec of %s failed past the point of no return: %s", prepared.comm.c_str(),
                errno_name(resumed.error()));
    exit_group(group, SIGKILL);
    return Errno::kNomem;
  }
  group.usage.add(before);
  group.apply_memory_limits();
  task.resumed = true;
  if (task.fds->ref_count() > 1) task.fds = task.fds->clone();
  task.fds->close_on_exec();
  if (group.actions->ref_count() > 1) group.actions = RefPtr<signal::Actions>(new signal::Actions(*group.actions));
  group.actions->reset_for_exec();
  task.publish_identity();
  group.image = image_info(prepared);
  // What a user may not read he may not see in memory either, nor what runs with more than his own rights
  // (begin_new_exec, would_dump).
  group.image->dumpable = task.creds->euid == task.creds->uid && task.creds->egid == task.creds->gid &&
                          vfs::check_access(*task.creds, *prepared.exe.inode(), vfs::kMayRead).has_value();
  group.has_execed = true;
  group.exit_signal = SIGCHLD;
  group.posix_timers.reset();
  leave_memory(group);
  task.comm = prepared.comm;
  group.vfork_done = true;
  group.vfork_queue.wake_all();
  recalc_pending(task);
  trace_exec(task);
  group.container->adopt(task.thread->address_space()->host_pid());
  if (!group.exiting) task.thread->resume_exec();
  return 0;
}

namespace {

Result<std::string> usable_command(const vfs::WalkContext& ctx, const std::string& path) {
  vfs::Path found = TRY(vfs::resolve(ctx, path));
  if (!S_ISREG(found.inode()->type())) return Errno::kAcces;
  TRY(vfs::check_access(*ctx.creds, *found.inode(), vfs::kMayExec));
  return path;
}

}  // namespace

Result<std::string> Kernel::find_command(const ProcessSpec& spec) {
  vfs::WalkContext ctx = (spec.container ? spec.container : container)->kernel_context();
  ctx.creds = spec.creds.get();
  if (auto cwd = vfs::resolve(ctx, spec.cwd)) ctx.cwd = *cwd;
  const std::string& command = spec.args.at(0);
  if (command.find('/') != std::string::npos) return usable_command(ctx, command);
  std::string path;
  for (const std::string& variable : spec.env) {
    if (variable.rfind("PATH=", 0) == 0) path = variable.substr(5);
  }
  Errno error = Errno::kNoent;
  for (size_t at = 0; at <= path.size() && !path.empty();) {
    size_t colon = std::min(path.find(':', at), path.size());
    std::string dir = path.substr(at, colon - at);
    at = colon + 1;
    auto found = usable_command(ctx, (dir.empty() ? "." : dir) + "/" + command);
    if (found) return found;
    if (found.error() == Errno::kAcces) error = Errno::kAcces;
  }
  return error;
}

Result<RefPtr<ThreadGroup>> Kernel::start_process(ProcessSpec spec) {
  RefPtr<Container> home = spec.container ? spec.container : container;
  if (!init && home != container) return Errno::kSrch;
  std::string command = TRY(find_command(spec));
  const i32 pid = spec.init ? init_pid_ : TRY(allocate_pid());
  auto group = make_ref<ThreadGroup>(pid);
  group->container = home;
  group->actions = make_ref<signal::Actions>();
  group->limits = spec.limits;
  group->oom_score_adj = spec.oom_score_adj;

  auto task = std::make_unique<Task>(pid, group);
  task->creds = spec.creds;
  task->fds = spec.fds;
  task->fs = make_ref<FsContext>();
  task->fs->root = home->mounts->root();
  task->fs->cwd = task->fs->root;
  task->fs->umask = spec.umask;
  task->mounts = home->mounts;
  task->uts = home->uts;
  task->seccomp = home->seccomp;
  task->fs->cwd = TRY(vfs::resolve(task->walk_context(), spec.cwd, {.need_dir = true}));
  task->thread = platform->new_thread();

  ExecArgs args;
  args.filename = command;
  args.argv = spec.args;
  args.envp = spec.env;
  args.file = TRY(vfs::resolve(task->walk_context(), command));
  Prepared prepared = TRY(prepare(*task, args));
  task->creds = prepared.creds;

  auto session = make_ref<Session>(pid);
  session->leader = group.get();
  join_process_group(*group, make_ref<ProcessGroup>(pid, session));
  group->leader = task.get();
  group->tasks.push_back(task.get());
  auto undo = [&](Errno e) {
    group->tasks.clear();
    group->leader = nullptr;
    join_process_group(*group, nullptr);
    return e;
  };
  task->publish_identity();
  auto started = task->thread->exec(prepared.program.image);
  if (!started) return undo(started.error());
  home->adopt(task->thread->address_space()->host_pid());
  task->thread->resume_exec();
  group->apply_memory_limits();
  group->image = image_info(prepared);
  group->has_execed = true;
  group->on_exit = std::move(spec.on_exit);
  task->comm = prepared.comm;
  if (spec.tty) {
    session->tty = spec.tty;
    spec.tty->session_gained(*session, *group->group);
  }
  if (spec.init) init = group;
  add_group(*group);
  add_task(*task);
  ++processes_started;
  Task* running = task.release();
  running->fiber = fiber::spawn([running] { running->run(); });
  running->fiber->owner = running;
  recalc_pending(*running);
  return group;
}

}  // namespace sbx::task
