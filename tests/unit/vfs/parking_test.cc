// A filesystem that parks in the middle of every operation, as the gofer's may: fibers that work on the same few names
// must neither crash nor leave a cache that disagrees with the filesystem.
#include <random>

#include "tests/unit/vfs/fixture.h"

namespace sbx::vfs {
namespace {

std::mt19937 random_source{7};

void pause() {
  for (u32 n = random_source() % 3; n > 0 && fiber::current() != nullptr; --n) fiber::yield();
}

class SlowNode final : public Inode {
 public:
  using Registry = std::unordered_map<const Inode*, SlowNode*>;
  SlowNode(FileSystem& fs, std::shared_ptr<Registry> registry, RefPtr<Inode> real)
      : Inode(fs), registry_(std::move(registry)), real_(std::move(real)) {
    (*registry_)[real_.get()] = this;
  }
  ~SlowNode() override { registry_->erase(real_.get()); }

  Result<Attr> attr() override {
    pause();
    return real_->attr();
  }
  u32 type() const override { return real_->type(); }
  Result<void> set_attr(const SetAttr& change) override {
    pause();
    return real_->set_attr(change);
  }
  Result<RefPtr<File>> open(const Path& path, u32 flags) override {
    pause();
    return real_->open(path, flags);
  }
  Result<RefPtr<Inode>> lookup(std::string_view name) override { return wrap(name, real_->lookup(name)); }
  Result<RefPtr<Inode>> create(std::string_view name, const NewNode& how) override {
    pause();
    return wrap(name, real_->create(name, how));
  }
  Result<void> link(std::string_view name, Inode& target) override {
    pause();
    return after(real_->link(name, real(target)));
  }
  Result<void> unlink(std::string_view name, Inode& child) override {
    pause();
    return after(real_->unlink(name, real(child)));
  }
  Result<void> rmdir(std::string_view name, Inode& child) override {
    pause();
    return after(real_->rmdir(name, real(child)));
  }
  Result<void> rename(std::string_view old_name, Inode& child, Inode& new_dir, std::string_view new_name,
                      Inode* replaced, u32 flags) override {
    pause();
    return after(real_->rename(old_name, real(child), real(new_dir), new_name,
                               replaced == nullptr ? nullptr : &real(*replaced), flags));
  }
  Result<std::string> read_link() override {
    pause();
    return real_->read_link();
  }

 private:
  static Inode& real(Inode& node) { return *static_cast<SlowNode&>(node).real_; }
  static Result<void> after(Result<void> done) {
    pause();
    return done;
  }
  Result<RefPtr<Inode>> wrap(std::string_view, Result<RefPtr<Inode>> found) {
    pause();
    if (!found) return found;
    if (auto it = registry_->find(found->get()); it != registry_->end()) return RefPtr<Inode>(it->second);
    return RefPtr<Inode>(make_ref<SlowNode>(fs(), registry_, *found));
  }
  std::shared_ptr<Registry> registry_;
  RefPtr<Inode> real_;
};

class SlowFs final : public FileSystem {
 public:
  explicit SlowFs(RefPtr<FileSystem> real) : real_(std::move(real)) {}
  const char* type_name() const override { return "slow"; }
  RefPtr<Inode> root() override {
    auto root = real_->root();
    if (auto it = registry_->find(root.get()); it != registry_->end()) return RefPtr<Inode>(it->second);
    return RefPtr<Inode>(make_ref<SlowNode>(*this, registry_, root));
  }
  Result<StatFs> statfs() override { return real_->statfs(); }

 private:
  RefPtr<FileSystem> real_;
  std::shared_ptr<SlowNode::Registry> registry_ = std::make_shared<SlowNode::Registry>();
};

class Parking : public VfsTest {
 protected:
  void SetUp() override {
    VfsTest::SetUp();
    real_ = fs_;
    fs_ = RefPtr<FileSystem>(new SlowFs(real_));
    setup_namespace(fs_);
  }

  static std::string some_path() {
    static const char* const kNames[] = {"a", "b", "c"};
    std::string p;
    for (u32 n = 1 + random_source() % 3; n > 0; --n) p += std::string("/") + kNames[random_source() % 3];
    return p;
  }

  void one_call() {
    std::string p = some_path(), q = some_path();
    switch (random_source() % 10) {
      case 0:
      case 1: (void)mkdir(p); break;
      case 2: (void)rmdir(p); break;
      case 3: (void)remove(p); break;
      case 4: (void)symlink(q, p); break;
      case 5: (void)link(p, q); break;
      case 6: (void)rename(p, q, random_source() % 3); break;
      case 7: (void)find(p); break;
      case 8: {
        auto parent = find(p.substr(0, p.size() - 2));
        if (parent) parent->dentry->forget_child(p.substr(p.size() - 1));
        break;
      }
      default: (void)touch(p); break;
    }
  }

  // The cached view of every path equals that of a fresh namespace on the same filesystem.
  void agree(const std::string& dir, Inode& node, int depth) {
    for (const char* name : {"a", "b", "c"}) {
      std::string p = dir + "/" + name;
      auto fresh = node.lookup(name);
      auto cached = lfind(p);
      ASSERT_EQ(static_cast<bool>(fresh), static_cast<bool>(cached)) << p;
      if (!fresh) continue;
      ASSERT_EQ(fresh->get(), cached->inode()) << p;
      if ((*fresh)->type() == S_IFDIR && depth < 6) agree(p, **fresh, depth + 1);
    }
  }

  RefPtr<FileSystem> real_;
};

TEST_F(Parking, ManyFibersFewNames) {
  in_fiber([&] {
    for (int round = 0; round < 150; ++round) {
      int running = 8;
      for (int f = 0; f < 8; ++f) {
        fiber::spawn([&] {
          for (int i = 0; i < 60; ++i) one_call();
          --running;
        });
      }
      while (running > 0) fiber::yield();
      if (round % 3 == 0) Dentry::shrink(0);
      agree("", *ns_->root().inode(), 0);
      if (HasFatalFailure()) return;
    }
  });
}

}  // namespace
}  // namespace sbx::vfs
