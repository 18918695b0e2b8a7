// epoll(7). Interest is keyed by (descriptor, file description) and does not own the file: it ends with the file
// (File::on_watched_end), not with the descriptor, exactly as in Linux.
//
// An item enters the ready list when its file's wait queue is woken; whether it really is ready is asked when events
// are collected. So a wake-up costs a list insertion, and none is lost.
#pragma once
#include <sys/epoll.h>

#include <list>
#include <map>
#include <memory>

#include "sentry/platform/post_box.h"
#include "sentry/task/fd_table.h"
#include "sentry/vfs/file.h"

namespace sbx::fs::anon {

class Epoll final : public vfs::File {
 public:
  explicit Epoll(u32 flags);
  u32 readiness() override;
  fiber::WaitQueue* wait_queue() override;
  std::string fdinfo() override;

  // epoll_ctl(2). `file` is what `fd` refers to now; event matters for ADD and MOD.
  Result<void> control(int op, int fd, const RefPtr<vfs::File>& file, const epoll_event& event);
  // The calling task did this through its descriptor `epoll_fd`: may let it post such changes from now on
  // (epoll_posts.cc). After control().
  void controlled(int epoll_fd, int op, int fd, const RefPtr<vfs::File>& file, const epoll_event& event);
  // What an event is about, as long as nothing else is done.
  struct Source {
    int fd;  // when it was added
    vfs::File* file;
  };
  // epoll_wait(2): at most max events; 0 at the deadline (0: do not wait). kIntr when a signal arrives: never
  // restarted. `sources`: of each event, unless null.
  Result<size_t> wait(epoll_event* out, size_t max, fiber::Deadline deadline, Source* sources = nullptr);

 private:
  struct Item;
  class PostsOf;
  using Key = std::pair<int, vfs::File*>;
  ~Epoll() override;
  Result<void> check_nesting(Epoll& inner) const;
  size_t depth_below() const;
  size_t depth_above() const;
  bool reaches(const Epoll& other, int levels) const;
  size_t collect(epoll_event* out, size_t max, Source* sources);
  void item_woken(Item& item);
  void make_ready(Item& item);
  void unready(Item& item);
  static void forget(vfs::File& file);
  // What the host knows of the files in it by now is known here afterwards.
  void take_news();

  // Before anything is looked at: what its thread has posted is carried out, and if another one looks, the thread posts
  // no more.
  void take_posts();
  void end_posts();
  // Whether what it is about is ready is looked at once it matters, or right now: somebody may wait.
  enum class Look : bool { kLater, kNow };
  Result<void> change(int op, int fd, const RefPtr<vfs::File>& file, const epoll_event& event, Look look);

  std::shared_ptr<PostsOf> posts_;  // null: everything comes in
  i32 last_tid_ = 0;                // who changed it last,
  u32 in_a_row_ = 0;                // and how often
  size_t host_items_ = 0;           // of files that are told_by_host()
  bool polled_ = false;             // waited for by poll(2) or another epoll
  std::map<Key, std::unique_ptr<Item>> items_;
  std::list<Item*> ready_;
  fiber::WaitQueue waiters_;     // fibers in wait(): woken one at a time, each passes on what it leaves
  fiber::WaitQueue poll_queue_;  // poll(2) on the epoll descriptor, and epolls that contain it
};

// epoll_create1(2): flags EPOLL_CLOEXEC only.
Result<RefPtr<vfs::File>> make_epoll(u32 flags);

}  // namespace sbx::fs::anon
