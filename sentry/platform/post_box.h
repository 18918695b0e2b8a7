// Calls that a stub answers at once and posts: epoll_ctl(2) of the one thread that uses an epoll, where the answer is
// known to be 0. The sentry carries them out when any thread of the process comes in next, and before anybody else
// looks at the epoll: until then nobody can tell. Whoever is about to look closes the box first; a stub that posts
// meanwhile sees that and comes in.
//
// What a process can do with the box is what epoll_ctl can do: each post goes through the same checks.
#pragma once
#include "sentry/base/ref.h"
#include "sentry/base/types.h"

namespace sbx::platform {

class SlotArea;
class GuestThread;
struct PostedControl;

// Kernel lock.
class PostBox final : public RefCounted {
 public:
  PostBox(RefPtr<SlotArea> area, u32 slot, int epoll);
  // Whether the stub may post what concerns this descriptor, and whether it is in the set.
  void set(int fd, bool known, bool registered);
  // The oldest post that was not taken. False: there is none.
  bool take(PostedControl& post);
  bool empty() const;
  // Nobody posts any more; what is there can still be taken.
  void close();

 private:
  ~PostBox() override;
  RefPtr<SlotArea> area_;
  u32 head_ = 0;
};

}  // namespace sbx::platform
