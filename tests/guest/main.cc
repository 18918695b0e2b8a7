// The runner inside: main [--list] [FAMILY[.NAME]...]. One line per test, exit status 1 when one failed.
#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <iterator>

#include "guest.h"

namespace guest {

Test* Test::first = nullptr;
static Test** tail = &Test::first;
static std::string self_path;
static constexpr int kSkipped = 77;
static constexpr int kLimitMs = 30000;

Test::Test(const char* f, const char* n, void (*b)()) : family(f), name(n), body(b), next(nullptr) {
  *tail = this;
  tail = &next;
}

static void say(const std::string& line) {
  std::string text = line + "\n";
  if (write(1, text.data(), text.size()) < 0) _exit(3);
}

void fail(const char* file, int line, const std::string& what) {
  const char* slash = strrchr(file, '/');
  say(std::string("  ") + (slash ? slash + 1 : file) + ":" + show(line) + ": " + what);
  _exit(1);
}

void skip(const std::string& why) {
  say("  skipped: " + why);
  _exit(kSkipped);
}

std::string show(long long value) { return std::to_string(value); }

std::string show_errno(int error) {
  const char* name = strerrorname_np(error);
  return name ? name : "errno " + show(error);
}

pid_t spawn(const std::function<int()>& body) {
  pid_t pid = fork();
  if (pid < 0) fail(__FILE__, __LINE__, "fork failed: " + show_errno(errno));
  if (pid == 0) _exit(body());
  return pid;
}

int wait_status(pid_t pid) {
  int status = 0;
  pid_t got;
  do got = waitpid(pid, &status, 0);
  while (got < 0 && errno == EINTR);
  if (got != pid) fail(__FILE__, __LINE__, "waitpid failed: " + show_errno(errno));
  return status;
}

void wait_ok(pid_t pid, const char* file, int line) {
  int status = wait_status(pid);
  if (WIFSIGNALED(status)) fail(file, line, "the child was killed by signal " + show(WTERMSIG(status)));
  if (WEXITSTATUS(status) != 0) fail(file, line, "the child ended with status " + show(WEXITSTATUS(status)));
}

void sleep_ms(int ms) {
  timespec left{ms / 1000, ms % 1000 * 1000000L};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

int64_t now_ms() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

bool eventually(const std::function<bool()>& done, int ms) {
  int64_t end = now_ms() + ms;
  while (!done()) {
    if (now_ms() > end) return false;
    sleep_ms(2);
  }
  return true;
}

std::string next(int fd, size_t n) {
  std::string text(n, 0);
  ssize_t got = read(fd, text.data(), n);
  text.resize(got < 0 ? 0 : (size_t)got);
  return text;
}

std::string slurp(const std::string& path) {
  std::string text;
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, n);
  close(fd);
  return text;
}

void spew(const std::string& path, const std::string& text) {
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail(__FILE__, __LINE__, "open " + path + ": " + show_errno(errno));
  if (write(fd, text.data(), text.size()) != (ssize_t)text.size()) fail(__FILE__, __LINE__, "write " + path);
  close(fd);
}

long long field(const std::string& path, const std::string& key, int base) {
  std::string text = "\n" + slurp(path);
  size_t at = text.find("\n" + key);
  if (at == std::string::npos) return -1;
  return strtoll(text.c_str() + at + 1 + key.size(), nullptr, base);
}

const char* self() { return self_path.c_str(); }

void deny(unsigned nr, int error) {
  sock_filter program[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
                           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
                           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  sock_fprog filter{std::size(program), program};
  OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0));
}

static void remove_tree(const std::string& path) {
  if (DIR* dir = opendir(path.c_str())) {
    while (dirent* entry = readdir(dir)) {
      std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      std::string child = path + "/" + name;
      if (entry->d_type == DT_DIR)
        remove_tree(child);
      else
        unlink(child.c_str());
    }
    closedir(dir);
  }
  rmdir(path.c_str());
}

// Exit status of the test, or 128 + signal; the whole process group is killed when its time is over.
static int run_one(const Test& test, const std::string& base) {
  std::string dir = base + "/" + test.family + "." + test.name;
  remove_tree(dir);
  if (mkdir(dir.c_str(), 0755) != 0) {
    say("  mkdir " + dir + ": " + show_errno(errno));
    return 1;
  }
  pid_t pid = fork();
  if (pid < 0) return 1;
  if (pid == 0) {
    setpgid(0, 0);
    if (chdir(dir.c_str()) != 0) _exit(3);
    test.body();
    _exit(0);
  }
  int status = 0, result = 124;
  int64_t end = now_ms() + kLimitMs;
  for (int pause = 1; now_ms() < end; pause = pause < 16 ? pause * 2 : 16) {
    if (waitpid(pid, &status, WNOHANG) == pid) {
      result = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      break;
    }
    sleep_ms(pause);
  }
  kill(-pid, SIGKILL);
  if (result == 124) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  // What the test left behind, if this process is its reaper.
  for (int i = 0; i < 50 && waitpid(-1, nullptr, WNOHANG) > 0; i++) {
  }
  if (chdir("/") == 0) remove_tree(dir);
  return result;
}

}  // namespace guest

int main(int argc, char** argv) {
  using namespace guest;
  char link[4096];
  ssize_t n = readlink("/proc/self/exe", link, sizeof link);
  self_path = n > 0 ? std::string(link, n) : argv[0];
  if (argc > 1 && !strcmp(argv[1], "--helper")) return run_helper(argc - 2, argv + 2);

  // What runs programs may learn of those that are executed again.
  if (const char* times = getenv("GUEST_EXECS"); times != nullptr && atoi(times) > 0) {
    setenv("GUEST_EXECS", show(atoi(times) - 1).c_str(), 1);
    execv(self(), argv);
    return 126;
  }

  bool list = argc > 1 && !strcmp(argv[1], "--list");
  const char* base_env = getenv("GUEST_DIR");
  std::string base = base_env ? base_env : "/tmp";
  int ran = 0, failed = 0, skipped = 0;
  for (Test* test = Test::first; test; test = test->next) {
    std::string name = std::string(test->family) + "." + test->name;
    bool wanted = argc == 1 + list;
    for (int i = 1 + list; i < argc; i++) wanted |= name == argv[i] || !strcmp(test->family, argv[i]);
    if (!wanted) continue;
    if (list) {
      say(name);
      continue;
    }
    int status = run_one(*test, base);
    ran++;
    if (status == 0) {
      say("ok   " + name);
    } else if (status == kSkipped) {
      skipped++;
      say("skip " + name);
    } else {
      failed++;
      const char* how = status == 124 ? " (took too long)" : status > 128 ? " (killed by signal " : "";
      say("FAIL " + name + how + (status > 128 ? show(status - 128) + ")" : ""));
    }
  }
  if (!list) say(show(ran) + " tests, " + show(failed) + " failed, " + show(skipped) + " skipped");
  return failed ? 1 : 0;
}
