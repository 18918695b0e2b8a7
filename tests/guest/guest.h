// A test program for Linux semantics, small enough to run where almost nothing works yet: every test is a function run
// in a forked child with a directory of its own and a time limit. The tests state what Linux does; the runner
// (tests/guest/run.py) runs the same static binary natively and in a sandbox.
//
// A check that fails prints its place and ends the process it is in, so a child made by a test must be waited for with
// wait_ok() (or CHECK on its status).
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <string>

namespace guest {

struct Test {
  const char* family;
  const char* name;
  void (*body)();
  Test* next;
  static Test* first;
  Test(const char* f, const char* n, void (*b)());
};

// Prints and ends this process with status 1.
[[noreturn]] void fail(const char* file, int line, const std::string& what);
// Ends the test as skipped: what it needs does not exist here, natively or not.
[[noreturn]] void skip(const std::string& why);

std::string show(long long value);
std::string show_errno(int error);

// Runs `body` in a forked child that exits with its result; returns the pid.
pid_t spawn(const std::function<int()>& body);
// Waits for the child; the raw wait status.
int wait_status(pid_t pid);
// Waits for the child and requires exit status 0.
void wait_ok(pid_t pid, const char* file, int line);
// Sleeps; a signal does not shorten it.
void sleep_ms(int ms);
int64_t now_ms();
// Waits (polling) until `done` holds, at most `ms`; whether it did.
bool eventually(const std::function<bool()>& done, int ms = 5000);
// The whole file as text; "" when it cannot be read.
std::string slurp(const std::string& path);
// What one read of at most n bytes gives; nothing if it fails.
std::string next(int fd, size_t n);
void spew(const std::string& path, const std::string& text);
// The number behind `key` in a file like /proc/self/status; -1 when absent.
long long field(const std::string& path, const std::string& key, int base = 10);
// From now on this thread's call `nr` fails with `error`, by a seccomp filter of its own.
void deny(unsigned nr, int error);
// This binary, to be executed with "--helper NAME ARGS..." (helpers.cc).
const char* self();
int run_helper(int argc, char** argv);

}  // namespace guest

#define TEST(family, name)                                                          \
  static void test_##family##_##name();                                             \
  static guest::Test reg_##family##_##name(#family, #name, test_##family##_##name); \
  static void test_##family##_##name()

#define FAIL(what) guest::fail(__FILE__, __LINE__, what)
#define SKIP(why) guest::skip(why)
#define WAIT_OK(pid) guest::wait_ok(pid, __FILE__, __LINE__)

#define CHECK(condition)                       \
  do {                                         \
    if (!(condition)) FAIL("not " #condition); \
  } while (0)

#define CHECK_EQ(got, want)                                                                          \
  do {                                                                                               \
    long long g_ = (long long)(got), w_ = (long long)(want);                                         \
    if (g_ != w_) FAIL(#got " is " + guest::show(g_) + ", not " #want " (" + guest::show(w_) + ")"); \
  } while (0)

#define CHECK_STR(got, want)                                                        \
  do {                                                                              \
    std::string g_ = (got), w_ = (want);                                            \
    if (g_ != w_) FAIL(std::string(#got " is \"") + g_ + "\", not \"" + w_ + "\""); \
  } while (0)

// The call must succeed (not return -1); its value.
#define OK(call)                                                                 \
  ({                                                                             \
    auto r_ = (call);                                                            \
    if ((long long)r_ == -1) FAIL(#call " failed: " + guest::show_errno(errno)); \
    r_;                                                                          \
  })

// The call must fail with this errno.
#define FAILS(call, error)                                                                    \
  do {                                                                                        \
    errno = 0;                                                                                \
    long long r_ = (long long)(call);                                                         \
    int e_ = errno;                                                                           \
    if (r_ != -1) FAIL(#call " gave " + guest::show(r_) + ", not " #error);                   \
    if (e_ != (error)) FAIL(#call " failed with " + guest::show_errno(e_) + ", not " #error); \
  } while (0)
