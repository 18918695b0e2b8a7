// Writes to sockets of the host that a process has posted: its stub says that they are done, and the sentry sends them
// with the process's next request. An event loop that answers twenty clients before it waits again rings once for that.
//
// A process has one outbox, a ring of records (stream_lease.h), for all its descriptors that may post: each may have
// one write in it, so that an error of that is known before the next. What is there is sent
//  - before anything else is done for any thread of the process: it can see no difference;
//  - before the socket is closed, or gets another descriptor or owner (PostRight::end);
//  - before a thread of it sleeps (futex(2), nanosleep(2)): the stub comes in for that;
//  - when it writes again a tenth of a millisecond after the first of them;
//  - after a millisecond at the latest, if it goes on computing. That is rare: who does so loses its rights, for longer
//    each time.
// A write that had not ended when the right went comes in, as if it had not begun.
//
// Rings of pipes and of sockets within the sandbox go by the same rules while somebody waits for what is written: but
// whoever looks at such a pipe takes what is there, so that only he who sleeps gets it later.
//
// What a process can do with an outbox is what write(2) can do: the bytes are its own, their count is bounded here, and
// they go where its descriptor leads.
#pragma once
#include <array>
#include <span>
#include <vector>

#include "sentry/base/ref.h"
#include "sentry/base/types.h"
#include "sentry/platform/layout.h"

namespace sbx::platform {

class Outbox;
class SlotArea;
class WriteRing;
class Process;

// Where posted bytes go. Kernel lock; must not park.
class Poster {
 public:
  virtual ~Poster() = default;
  // One write, in two pieces. False: no more of them; the right is ended then.
  virtual bool send_posted(const std::array<std::span<const u8>, 2>& pieces) = 0;
};

// That one descriptor may post. Held by its file, which ends it before it lets go of it. Kernel lock.
class PostRight final : public RefCounted {
 public:
  // `poster` lives until end().
  PostRight(RefPtr<SlotArea> area, int fd, Poster& poster);
  // No more is posted. What was is sent before this returns.
  void end();
  bool open() const { return open_; }
  // Somebody has one.
  static bool any() { return all_open_ != 0; }
  // How many writes there were.
  u64 used() const { return used_; }

 private:
  friend class Outbox;
  ~PostRight() override;
  RefPtr<SlotArea> area_;
  const u32 fd_;
  Poster& poster_;
  bool open_ = true;
  u64 used_ = 0;
  static inline size_t all_open_ = 0;
};

// Kernel lock.
class Outbox {
 public:
  Outbox(SlotArea& area, Process& process);
  ~Outbox();
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;
  // A thread of the process has come in.
  void call_begins() {
    if (posts() && __atomic_load_n(&head().posted, __ATOMIC_ACQUIRE) != 0) take_all();
  }
  // It is about to go on: how long it does that is watched.
  void call_ends() {
    ++calls_;
    if (posts()) watch();
  }
  void ends(const Process& process) {
    if (process_ == &process) process_ = nullptr;
  }
  // A ring for whose bytes somebody waits; nobody any more.
  void add(WriteRing& ring);
  void remove(WriteRing& ring) { std::erase(rings_, &ring); }
  // What all processes have posted, before the sandbox ends.
  static void take_all_there_is();
  // Whether it is to be given a right now.
  bool gives_right() { return passes_ == 0 || --passes_ == 0; }
  // Of many threads each comes in soon after another has written: nothing would be gained.
  bool takes_rings() const;
  // At the end of its time: whether there is anything to watch further.
  bool look_after();

 private:
  friend class PostRight;
  friend class GuestThreadImpl;
  bool posts() const { return rights_open_ != 0 || !rings_.empty(); }
  OutboxHead& head() const;
  // False: there is no memory for it.
  bool make_ring();
  void add(PostRight& right);
  void remove(PostRight& right);
  void take_all();
  void send_all();
  void deliver_all();
  void count(size_t writes);
  bool is_late();
  void was_late();
  void end_all();
  void watch();

  SlotArea& area_;
  Process* process_;        // null: it has ended
  RefPtr<WriteRing> ring_;  // null: no socket's writes were posted yet
  std::vector<WriteRing*> rings_;
  std::array<PostRight*, kMaxLeases> rights_{};
  u32 rights_open_ = 0;
  bool sending_ = false, watched_ = false;
  u64 calls_ = 0, calls_seen_ = 0;  // of the process; when it was looked at last
  u32 idle_ = 0;                    // looks in a row that saw nothing new
  u32 passes_ = 0;                  // so many rights are refused
  u64 credit_ = 256;                // grows with writes; what a late one costs
  u32 lateness_ = 0;                // the power of two of them, the next time
  u64 in_time_ = 0;                 // writes since that changed
};

}  // namespace sbx::platform
