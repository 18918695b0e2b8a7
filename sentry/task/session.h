// Sessions and process groups (credentials(7), setsid(2), setpgid(2)) and what a terminal needs of them.
#pragma once
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/signal/signal.h"

namespace sbx::task {

class ThreadGroup;
class ProcessGroup;
class Session;

// A controlling terminal as sessions see it; implemented by fs/devpts.
class ControllingTty : public RefCounted {
 public:
  // The terminal was given to a session whose tty member already names it.
  virtual void session_gained(Session& session, ProcessGroup& foreground) = 0;
  // The session leader exits or gives the terminal up: the tty forgets session and foreground group.
  virtual void session_lost() = 0;
  virtual u64 rdev() const = 0;             // for /proc/PID/stat tty_nr
  virtual i32 foreground_pgid() const = 0;  // tpgid; -1 none
};

class Session : public RefCounted {
 public:
  explicit Session(i32 sid) : sid(sid) {}
  const i32 sid;
  ThreadGroup* leader = nullptr;  // null once it exited
  RefPtr<ControllingTty> tty;
};

class ProcessGroup : public RefCounted {
 public:
  ProcessGroup(i32 pgid, RefPtr<Session> session);
  const i32 pgid;
  const RefPtr<Session> session;
  std::vector<ThreadGroup*> members;
  // No member has a parent in the same session but another group: stop signals from the tty are then discarded.
  bool orphaned() const;
  void send(const signal::SigInfo& info);

 private:
  ~ProcessGroup() override;
};

// Moves a process to `group` (null: out of every group, when it is reaped).
void join_process_group(ThreadGroup& member, RefPtr<ProcessGroup> group);

}  // namespace sbx::task
