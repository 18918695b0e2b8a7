// The table of verbs: name, options, function.
#include "runtime/commands/command.h"

namespace sbx::commands {

const std::vector<Verb>& verbs() {
  constexpr auto kSwitch = Option::kSwitch;
  constexpr auto kValue = Option::kValue;
  static const std::vector<Option> kCreateOptions = {
      {"bundle,b", kValue, "path to the root of the bundle directory, defaults to the current directory"},
      {"console-socket", kValue,
       "path to an AF_UNIX socket which will receive the master end of the console's pseudoterminal"},
      {"pid-file", kValue, "the file to write the process id to"},
      {"no-pivot", kSwitch, "accepted for compatibility"},
      {"no-new-keyring", kSwitch, "accepted for compatibility"},
      {"preserve-fds", kValue,
       "pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)"}};
  static const std::vector<Option> kRunOptions = [] {
    std::vector<Option> o = kCreateOptions;
    o.push_back({"detach,d", kSwitch, "detach from the container's process"});
    o.push_back({"keep", kSwitch, "do not delete the container after it exits"});
    o.push_back({"no-subreaper", kSwitch, "accepted for compatibility"});
    return o;
  }();
  static const std::vector<Verb> kVerbs = {
      {"create", "[options] <container-id>", "create a container", kCreateOptions, create, 1, 1},
      {"run", "[options] <container-id>", "create and run a container", kRunOptions, run, 1, 1},
      {"start", "<container-id>", "execute the user defined process in a created container", {}, start, 1, 1},
      {"state", "<container-id>", "output the state of a container", {}, state, 1, 1},
      {"kill",
       "[options] <container-id> [signal]",
       "send the specified signal (default: SIGTERM) to the container's init process",
       {{"all,a", kSwitch, "send the specified signal to all processes inside the container"}},
       kill,
       1,
       2},
      {"delete",
       "[options] <container-id>",
       "delete any resources held by the container",
       {{"force,f", kSwitch, "forcibly deletes the container if it is still running (uses SIGKILL)"}},
       remove,
       1,
       1},
      {"exec",
       "[options] <container-id> <command> [args]",
       "execute new process inside the container",
       {{"console-socket", kValue,
         "path to an AF_UNIX socket which will receive the master end of the console's pseudoterminal"},
        {"cwd", kValue, "current working directory in the container"},
        {"env,e", kValue, "set environment variables"},
        {"tty,t", kSwitch, "allocate a pseudo-TTY"},
        {"user,u", kValue, "UID (format: <uid>[:<gid>])"},
        {"additional-gids,g", kValue, "additional gids"},
        {"process,p", kValue, "path to the process.json"},
        {"detach,d", kSwitch, "detach from the container's process"},
        {"pid-file", kValue, "specify the file to write the process id to"},
        {"process-label", kValue, "set the asm process label for the process"},
        {"apparmor", kValue, "set the apparmor profile for the process"},
        {"no-new-privs", kSwitch, "set the no new privileges value for the process"},
        {"cap,c", kValue, "add a capability to the bounding set for the process"},
        {"no-subreaper", kSwitch, "accepted for compatibility"},
        {"preserve-fds", kValue, "pass N additional file descriptors to the container"},
        {"cgroup", kValue, "run the process in an (existing) sub-cgroup of the guest's"},
        {"ignore-paused", kSwitch, "allow exec in a paused container"}},
       exec,
       1,
       SIZE_MAX,
       false,
       255},
      {"list",
       "[options]",
       "list containers started by sbx with the given root",
       {{"format,f", kValue, "select one of: table or json"}, {"quiet,q", kSwitch, "display only container IDs"}},
       list,
       0,
       0},
      {"ps",
       "[options] <container-id> [ps options]",
       "display the processes running inside a container",
       {{"format,f", kValue, "select one of: table or json"}},
       ps,
       1,
       SIZE_MAX,
       false},
      {"spec",
       "[options]",
       "create a new specification file",
       {{"bundle,b", kValue, "path to the root of the bundle directory"},
        {"rootless", kSwitch, "generate a configuration for a rootless container"}},
       spec,
       0,
       0},
      {"pause", "<container-id>", "suspend all processes inside the container", {}, pause, 1, 1},
      {"resume", "<container-id>", "resume all processes that have been previously paused", {}, resume, 1, 1},
      {"update",
       "[options] <container-id>",
       "update container resource constraints",
       {{"resources,r", kValue,
         "path to the file containing the resources to update or '-' to read from the standard input"},
        {"blkio-weight", kValue, "relative weight of block IO, 10 to 1000"},
        {"cpu-period", kValue, "CPU CFS period in microseconds"},
        {"cpu-quota", kValue, "CPU CFS quota in microseconds"},
        {"cpu-burst", kValue, "CPU CFS burst in microseconds"},
        {"cpu-share", kValue, "CPU shares (relative weight)"},
        {"cpu-rt-period", kValue, "CPU realtime period in microseconds"},
        {"cpu-rt-runtime", kValue, "CPU realtime limit in microseconds"},
        {"cpuset-cpus", kValue, "CPUs to use"},
        {"cpuset-mems", kValue, "memory nodes to use"},
        {"kernel-memory", kValue, "accepted for compatibility"},
        {"kernel-memory-tcp", kValue, "kernel memory limit for tcp buffers in bytes"},
        {"memory", kValue, "memory limit in bytes"},
        {"memory-reservation", kValue, "memory reservation or soft limit in bytes"},
        {"memory-swap", kValue, "total memory usage (memory + swap); -1: unlimited"},
        {"pids-limit", kValue, "maximum number of processes, -1: unlimited"},
        {"l3-cache-schema", kValue, "accepted for compatibility"},
        {"mem-bw-schema", kValue, "accepted for compatibility"}},
       update,
       1,
       1},
      {"events",
       "[options] <container-id>",
       "display container events such as OOM notifications, cpu, memory, and IO usage",
       {{"interval", kValue, "set the stats collection interval, 5s"},
        {"stats", kSwitch, "display the container's stats then exit"}},
       events,
       1,
       1},
      {"do",
       "[options] [--] <command> [args]",
       "run a command over the host's files, read-only and with its writes in memory",
       {{"rootless", kSwitch, "in a user namespace"},
        {"env,e", kValue, "set environment variables"},
        {"cwd", kValue, "working directory, defaults to the current one"},
        {"network", kValue, "host (default) or none"},
        {"root", kValue, "directory to use in place of /"},
        {"rw", kSwitch, "let writes through to the directory"}},
       do_command,
       1,
       SIZE_MAX,
       false},
      {"install",
       "--docker [options]",
       "make sbx a runtime of an engine's configuration",
       {{"docker", kSwitch, "Docker's daemon.json"},
        {"config", kValue, "the file, defaults to /etc/docker/daemon.json"},
        {"name", kValue, "name of the runtime, defaults to sbx"},
        {"runtime-arg", kValue, "a global option of sbx for every call (repeatable)"}},
       install,
       0,
       0},
      {"uninstall",
       "--docker [options]",
       "take sbx out of an engine's configuration",
       {{"docker", kSwitch, "Docker's daemon.json"},
        {"config", kValue, "the file, defaults to /etc/docker/daemon.json"},
        {"name", kValue, "name of the runtime, defaults to sbx"}},
       uninstall,
       0,
       0},
      {"features", "", "show the enabled features", {}, features, 0, 0},
      {"version", "", "show the version", {}, version, 0, 0},
      {"syscalls",
       "[options]",
       "print the table of supported system calls",
       {{"format,f", kValue, "select one of: table or json"}},
       syscalls,
       0,
       0},
      {"debug",
       "<container-id> [tasks|fds|mounts|counters|missing|platform|surface|all|strace on|strace off]",
       "look into a running sandbox",
       {},
       debug,
       1,
       SIZE_MAX,
       false},
      {"help", "[command]", "show help", {}, help, 0, 1},
  };
  return kVerbs;
}

const Verb* find_verb(const std::string& name) {
  for (const Verb& v : verbs()) {
    if (name == v.name) return &v;
  }
  return nullptr;
}

HostResult<int> help(Globals&, const Arguments& args) {
  std::string out;
  if (!args.positional().empty()) {
    const Verb* v = find_verb(args.positional()[0]);
    if (v == nullptr) return Failure("no help topic for '" + args.positional()[0] + "'");
    out = "NAME:\n   sbx " + std::string(v->name) + " - " + v->help + "\n\nUSAGE:\n   sbx " + v->name + " " + v->usage +
          "\n";
    if (!v->options.empty()) out += "\nOPTIONS:\n";
    for (const Option& o : v->options) {
      out += "   --" + std::string(o.names) + (o.kind == Option::kValue ? " value" : "") + "\t" + o.help + "\n";
    }
    print(out);
    return 0;
  }
  out =
      "NAME:\n   sbx - OCI runtime that runs containers on a kernel of their own\n\n"
      "USAGE:\n   sbx [global options] command [command options] [arguments...]\n\nCOMMANDS:\n";
  for (const Verb& v : verbs()) {
    std::string name = v.name;
    name.resize(12, ' ');
    out += "   " + name + v.help + "\n";
  }
  out +=
      "\nGLOBAL OPTIONS:\n"
      "   --root value          directory of container state (default: \"/run/sbx\" or $XDG_RUNTIME_DIR/sbx for "
      "rootless)\n"
      "   --log value           file for log lines (default: standard error)\n"
      "   --log-format value    text or json (default: \"text\")\n"
      "   --debug               log more\n"
      "   --systemd-cgroup      ask systemd for the cgroup; linux.cgroupsPath has the form slice:prefix:name\n"
      "   --rootless value      true, false or auto (default: \"auto\")\n"
      "   --strace[=FILTER]     log the container's system calls, or those that are named\n"
      "   --overlay value       none: writes reach the bundle; memory: they are kept in memory (default: \"none\")\n"
      "   --help, -h            show help\n"
      "   --version, -v         print the version\n";
  print(out);
  return 0;
}

}  // namespace sbx::commands
