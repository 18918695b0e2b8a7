#include "sentry/vfs/notify.h"

#include <algorithm>

namespace sbx::vfs {
namespace notify_detail {
u64 watches = 0;
u64 access_watches = 0;
}  // namespace notify_detail

namespace {

struct State {
  std::vector<NotifyWatch*> watches;
  bool nameless = false;  // its end is told when it is closed
};

State* state_of(Inode& inode) { return static_cast<State*>(inode.notify_state.get()); }

constexpr u32 kAlways = IN_IGNORED | IN_UNMOUNT;

}  // namespace

NotifyWatch::NotifyWatch(RefPtr<Inode> inode, u32 mask) : fs_(&inode->fs()), inode_(std::move(inode)) {
  if (!inode_->notify_state) inode_->notify_state = std::make_shared<State>();
  state_of(*inode_)->watches.push_back(this);
  ++notify_detail::watches;
  set_mask(mask);
}

void NotifyWatch::set_mask(u32 mask) {
  if ((mask_ & IN_ACCESS) != 0) --notify_detail::access_watches;
  mask_ = mask;
  if ((mask_ & IN_ACCESS) != 0) ++notify_detail::access_watches;
}

NotifyWatch::~NotifyWatch() {
  State* state = state_of(*inode_);
  std::erase(state->watches, this);
  if (state->watches.empty()) inode_->notify_state.reset();
  --notify_detail::watches;
  set_mask(0);
}

void for_each_watch(Inode& inode, const std::function<void(NotifyWatch&)>& visit) {
  std::shared_ptr<void> hold = inode.notify_state;
  if (!hold) return;
  auto* state = static_cast<State*>(hold.get());
  std::vector<NotifyWatch*> copy = state->watches;
  for (NotifyWatch* watch : copy)
    if (std::find(state->watches.begin(), state->watches.end(), watch) != state->watches.end()) visit(*watch);
}

namespace notify_detail {

void inode_event(Inode& inode, u32 events, u32 cookie, std::string_view name) {
  if (!inode.notify_state) return;
  for_each_watch(inode, [&](NotifyWatch& watch) {
    if ((events & (watch.mask() | kAlways) & (IN_ALL_EVENTS | kAlways)) != 0) watch.on_event(events, cookie, name);
  });
}

void dentry_event(Dentry& dentry, u32 events, u32 cookie) {
  if (dentry.inode() == nullptr) return;
  if (dentry.is_dir()) events |= IN_ISDIR;
  RefPtr<Dentry> hold(&dentry);
  // The directory hears of its children by name, unless the name is gone and its watch asks to be spared.
  if (Dentry* parent = dentry.parent();
      parent != nullptr && parent->inode() != nullptr && parent->inode()->notify_state) {
    for_each_watch(*parent->inode(), [&](NotifyWatch& watch) {
      if ((events & watch.mask() & IN_ALL_EVENTS) == 0) return;
      if (dentry.deleted() && (watch.mask() & IN_EXCL_UNLINK) != 0) return;
      watch.on_event(events, cookie, dentry.name());
    });
  }
  inode_event(*dentry.inode(), events, cookie, {});
}

void unused(Inode& inode) {
  if (!inode.notify_state || !state_of(inode)->nameless) return;
  inode_event(inode, IN_DELETE_SELF, 0, {});
  inode_event(inode, IN_IGNORED, 0, {});
}

void lost_last_name(Inode& inode) {
  if (!inode.notify_state) return;
  state_of(inode)->nameless = true;
  if (inode.opened == 0) unused(inode);
}

void removed(Dentry& dentry) {
  Inode* inode = dentry.inode();
  if (inode == nullptr) return;
  RefPtr<Inode> hold(inode);
  u32 is_dir = dentry.is_dir() ? u32{IN_ISDIR} : 0;
  if (inode->notify_state) {
    auto attr = inode->attr();
    bool last = is_dir != 0 || !attr || attr->nlink == 0;
    if (!last) {
      inode_event(*inode, IN_ATTRIB, 0, {});
    } else {
      if (is_dir == 0) inode_event(*inode, IN_ATTRIB, 0, {});
      lost_last_name(*inode);
    }
  }
  if (Dentry* parent = dentry.parent(); parent != nullptr && parent->inode() != nullptr)
    inode_event(*parent->inode(), IN_DELETE | is_dir, 0, dentry.name());
}

}  // namespace notify_detail

u32 next_notify_cookie() {
  static u32 cookie = 0;
  if (++cookie == 0) ++cookie;
  return cookie;
}

}  // namespace sbx::vfs
