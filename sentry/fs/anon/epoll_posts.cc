// Changes of an epoll that its thread posts (platform/post_box.h). A thread that toggles what it waits for before each
// wait (libevent, redis, wrk) makes more calls of epoll_ctl than of anything else.
//
// Only one thread may post, and only while nobody else can notice: the epoll has one descriptor, in a table that no
// other memory shares, no other thread waits in it, and no poll or epoll waits for it. Each of these ends it before it
// is so: the table tells (FdTable::Watcher), and every look at the epoll passes take_posts().
#include <sys/syscall.h>

#include <vector>

#include "sentry/fs/anon/epoll.h"
#include "sentry/platform/layout.h"
#include "sentry/task/kernel.h"
#include "sentry/task/seccomp.h"

namespace sbx::fs::anon {

namespace {
constexpr u32 kManyChanges = 8;  // by one thread in a row, before it may post
}

class Epoll::PostsOf final : public task::FdTable::Watcher {
 public:
  PostsOf(Epoll& epoll, task::Task& owner, RefPtr<platform::PostBox> box, int epoll_fd)
      : epoll_(epoll), table_(*owner.fds), owner_(owner.tid), epoll_fd_(epoll_fd), box_(std::move(box)) {
    table_.set_watcher(this);
  }
  ~PostsOf() override {
    if (table_.watcher() == this) table_.set_watcher(nullptr);
    box_->close();
  }
  bool is_owner(const task::Task* task) const {
    return task != nullptr && task->tid == owner_ && task->fds.get() == &table_;
  }
  int epoll_fd() const { return epoll_fd_; }

  void know(int fd, vfs::File* file, bool registered) {
    if (fd < 0 || static_cast<u32>(fd) >= platform::kMostPostFds) return;
    if (static_cast<size_t>(fd) >= known_.size()) known_.resize(static_cast<size_t>(fd) + 1);
    known_[static_cast<size_t>(fd)] = file;
    box_->set(fd, file != nullptr, registered);
  }

  // A ring full at most: who posts on meanwhile is served with its next call.
  void carry_out() {
    platform::PostedControl post;
    for (u32 i = 0; i < platform::kMostPosts && box_->take(post); ++i) {
      // Closed meanwhile, by another thread: as if after the change.
      if (post.fd >= known_.size() || known_[post.fd] == nullptr) continue;
      epoll_event event{};
      event.events = post.events;
      event.data.u64 = post.data;
      if ((post.events & (EPOLLEXCLUSIVE | EPOLLWAKEUP)) != 0) continue;  // no honest stub posts that
      (void)epoll_.change(static_cast<int>(post.op), static_cast<int>(post.fd), RefPtr<vfs::File>(known_[post.fd]),
                          event, Look::kLater);
    }
  }

  void call_begins() override {
    if (!box_->empty()) carry_out();
  }
  void closes(int fd) override {
    if (fd == epoll_fd_)
      epoll_.end_posts();
    else if (static_cast<size_t>(fd) < known_.size() && known_[static_cast<size_t>(fd)] != nullptr)
      know(fd, nullptr, false);
  }
  void gets(const vfs::File& file) override {
    if (&file == &epoll_) epoll_.end_posts();
  }
  void copied() override { epoll_.end_posts(); }
  void close_box() { box_->close(); }

 private:
  Epoll& epoll_;
  task::FdTable& table_;
  const i32 owner_;
  const int epoll_fd_;
  RefPtr<platform::PostBox> box_;
  // By descriptor: its file, of which the table has a reference until closes().
  std::vector<vfs::File*> known_;
};

void Epoll::take_posts() {
  if (!posts_) return;
  if (posts_->is_owner(task::current_task()))
    posts_->call_begins();
  else
    end_posts();
}

void Epoll::end_posts() {
  if (!posts_) return;
  in_a_row_ = 0;
  posts_->close_box();
  auto ended = std::move(posts_);
  ended->carry_out();
}

void Epoll::controlled(int epoll_fd, int op, int fd, const RefPtr<vfs::File>& file, const epoll_event& event) {
  task::Task* task = task::current_task();
  if (task == nullptr) return;
  in_a_row_ = task->tid == last_tid_ ? in_a_row_ + 1 : 0;
  last_tid_ = task->tid;
  if (!posts_) {
    // Two references: the descriptor's and the caller's.
    if (in_a_row_ < kManyChanges || polled_ || ref_count() != 2 || !waiters_.empty()) return;
    if (task->fds->watcher() != nullptr || task->fds->shared()) return;
    if (task->seccomp && !task->seccomp->always_allows(SYS_epoll_ctl)) return;
    RefPtr<platform::PostBox> box = task->thread->open_posts(epoll_fd);
    if (!box) return;
    posts_ = std::make_shared<PostsOf>(*this, *task, std::move(box), epoll_fd);
  }
  const bool plain = (event.events & EPOLLEXCLUSIVE) == 0 && dynamic_cast<Epoll*>(file.get()) == nullptr;
  posts_->know(fd, op == EPOLL_CTL_DEL || plain ? file.get() : nullptr, op != EPOLL_CTL_DEL);
}

}  // namespace sbx::fs::anon
