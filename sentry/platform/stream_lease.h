// Bytes of pipes and of sockets within the sandbox that processes write and take by themselves.
//
// Writing: a process has a ring of shared memory for a descriptor. Its stub puts there what is written, as long as it
// fits, and the call is done: the bytes are the sentry's when it looks. Whoever looks at the pipe takes them first, so
// nobody sees a pipe without them. While somebody waits for them they go by the rules of what is posted (outbox.h):
// the process comes in soon, and then they are delivered. Who waits for anything else ends that first
// (LentStream::end).
//
// What several processes write keeps its order, although each has its own ring: each write has the time it began, and
// all that is in any ring goes by that, up to the time the sentry began to look. Two writes of which the one began
// after the other had ended are in that order then; and one that ended before somebody began to look is seen by him.
//
// Both: the records of a process that reads what it writes.
//
// Taking: what is left in the pipe when a process has read from it lies in a ring for it too, as bytes of a stream do
// (file_lease.h).
//
// What a process can do with a ring is what write(2) can do: the bytes are its own, their count is bounded here.
#pragma once
#include <array>
#include <functional>
#include <span>
#include <vector>

#include "sentry/platform/file_lease.h"

namespace sbx::platform {

class LentStream;

// Kernel lock.
class WriteRing final : public RefCounted {
 public:
  WriteRing(RefPtr<SlotArea> area, u32 place, int fd);
  // The ring of an outbox, which is the area's.
  WriteRing(SlotArea& area, u32 place);
  bool open() const { return open_; }
  // Nothing more is written; what is there can still be taken. Who waits for it gets it, unless `quietly`.
  void close(bool quietly = false);
  // Somebody waits for what is written: `stream` gets it. False: he cannot be served like that.
  bool post_to(LentStream& stream);
  void nobody_waits();
  // What is written is nowhere (/dev/null): it is not put here either, and there is always room.
  void discard();
  static void close_all();

  // Looks at what is there now. Then, of that, the oldest record: when it was written, and its bytes, in two pieces if
  // it lies around the end. False: none.
  void look();
  bool first(u64* time) const;
  size_t bytes(std::array<std::span<const u8>, 2>& pieces) const;
  void consume();
  // The descriptor it names, of an outbox's.
  u32 descriptor() const;
  // All up to that position, if the process says the truth.
  void consume_to(u64 position);
  bool waited_for() const { return waited_for_ != nullptr; }
  bool all_taken() const { return taken_ == seen_; }
  // All was taken: what comes next begins at the start of the memory again, which is at hand.
  void rewind();

  // A write that has not ended comes in.
  void interrupt();
  u32 place() const { return place_; }

  // How much may be written before somebody looks, headers of records included.
  size_t claim() const { return open_ ? end_ - seen_ : 0; }
  // That may be so many bytes more, as far as the memory goes.
  void allow(size_t more);
  // Nothing fits until that may be more again: whoever writes comes in. False: there is something that was not taken,
  // or somebody is just writing.
  bool hold();
  // How much was taken since the ring was made.
  u64 total() const { return before_ + taken_; }

 private:
  friend class GuestThreadImpl;
  friend class Outbox;
  ~WriteRing() override;
  u64 written() const;
  u64 position_in(u64 word) const;
  void begin(u32 fd);
  const RefPtr<SlotArea> keep_;  // null: the area has this
  SlotArea* const area_;
  u32 place_;
  bool open_ = true;
  LentStream* waited_for_ = nullptr;  // it is one of the outbox's
  // Positions: what was taken, what there was at the last look, as far as may be written.
  u64 taken_ = 0, seen_ = 0, end_ = 0;
  u64 last_ = 0;    // closed: where it ends
  u64 before_ = 0;  // taken before the last rewind
};

// Whether to lend: the third time it would be possible, again as long as that was used, and now and then.
class LendLuck {
 public:
  bool tries() { return luck_ > 0 || ++passed_by_ % kSeldom == 0; }
  void came_back(bool used) {
    if (used)
      luck_ = kMost;
    else if (luck_ > 0)
      --luck_;
  }

 private:
  static constexpr u32 kMost = 4, kSeldom = 16;
  u32 luck_ = 0, passed_by_ = kSeldom - 3;
};

// What of one pipe is with processes. Kernel lock.
class LentStream {
 public:
  // Takes n bytes. False: there is no memory for them; they stay where they are.
  using Add = std::function<bool(const u8* from, size_t n)>;
  // Takes what was written, which wakes who waits for it; whether there is anybody.
  using Deliver = std::function<bool()>;
  explicit LentStream(Deliver deliver) : deliver_(std::move(deliver)) {}
  ~LentStream();
  LentStream(const LentStream&) = delete;
  LentStream& operator=(const LentStream&) = delete;
  bool any() const { return lent_ || !rings_.empty(); }
  // Nobody writes by himself from here on. What was written is still to be taken.
  void end();
  // The same for somebody who waits for bytes, if he cannot be told soon of what is written.
  void await();
  // All was collected: nobody writes by himself until allow(). False: somebody has, or does right now; allow() is due.
  bool hold();
  // Bytes are with a process, and nobody adds to them by himself.
  bool only_shrinks() const { return lent_ && !own_ && (held_ || rings_.empty()); }
  // Bytes that were taken: once each. Those that were not are nobody's any more.
  size_t take_back();
  // All bytes that were written. True: there were some, and who waits for them is to be woken.
  bool collect(const Add& add);
  // There is room for so many bytes, now that all were collected.
  void allow(size_t room);
  // Room that is somebody's already.
  size_t claim() const;

  bool has_rings() const { return !rings_.empty(); }
  // Whether bytes, or room, may be worth lending: also how often that was asked for.
  bool lends_bytes() { return !lent_ && reads_.tries(); }
  bool lends_room();
  void bytes_lent(RefPtr<FileLease> lease) { lent_ = std::move(lease); }
  // There is nothing to be read but what one process will write: if that is who reads, it need not come in. Null: it is
  // not so.
  const WriteRing* own_ring() const { return rings_.size() == 1 && rings_[0]->open() ? rings_[0].get() : nullptr; }
  void own_lent(RefPtr<FileLease> lease) {
    lent_ = std::move(lease);
    own_ = true;
  }
  void room_lent(RefPtr<WriteRing> ring) { rings_.push_back(std::move(ring)); }

 private:
  friend class Outbox;
  friend class WriteRing;
  static constexpr size_t kMostRings = 32;
  const Deliver deliver_;
  RefPtr<FileLease> lent_;
  bool held_ = false;  // the rings are empty, and without room
  bool own_ = false;   // the position in the first ring, whose records the process takes itself
  std::vector<RefPtr<WriteRing>> rings_;
  LendLuck reads_, writes_;
};

}  // namespace sbx::platform
