// The hot paths of the vfs room: a stat of a cached path is what build tools and interpreters do most.
#include <benchmark/benchmark.h>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/walk.h"

namespace sbx::vfs {
namespace {

struct Tree {
  RefPtr<MountNamespace> ns;
  security::CredPtr root = security::kernel_credentials();
  security::CredPtr user;

  Tree() {
    ns = MountNamespace::create(tmpfs::Tmpfs::create(*tmpfs::parse_options("mode=755")), 0, "none");
    auto* u = new security::Credentials;
    u->fsuid = u->euid = u->uid = 1000;
    user = security::CredPtr(u);
    NewNode dir;
    dir.mode = S_IFDIR | 0755;
    for (const char* p : {"/usr", "/usr/lib", "/usr/lib/python3"}) (void)make_node(ctx(root), p, dir);
    (void)open(ctx(root), "/usr/lib/python3/os.py", {.flags = O_CREAT | O_WRONLY, .mode = 0644});
    for (int i = 0; i < 500; ++i)
      (void)open(ctx(root), "/usr/lib/python3/m" + std::to_string(i), {.flags = O_CREAT | O_WRONLY, .mode = 0644});
    NewNode link;
    link.mode = S_IFLNK | 0777;
    link.target = "usr/lib";
    (void)make_node(ctx(root), "/lib", link);
  }
  WalkContext ctx(const security::CredPtr& creds) const { return {ns->root(), ns->root(), creds.get(), ns.get()}; }
};

Tree& tree() {
  static auto* t = new Tree;
  return *t;
}

void stat_path(benchmark::State& state, const char* path, const security::CredPtr& creds) {
  Tree& t = tree();
  WalkContext ctx = t.ctx(creds);
  for (auto _ : state) {
    auto found = resolve(ctx, path);
    if (found) {
      auto attr = found->inode()->attr();
      benchmark::DoNotOptimize(attr);
    }
  }
}

void BM_StatCachedRoot(benchmark::State& s) { stat_path(s, "/usr/lib/python3/os.py", tree().root); }
void BM_StatCachedUser(benchmark::State& s) { stat_path(s, "/usr/lib/python3/os.py", tree().user); }
void BM_StatCachedMissing(benchmark::State& s) { stat_path(s, "/usr/lib/python3/none.py", tree().root); }
void BM_StatThroughLink(benchmark::State& s) { stat_path(s, "/lib/python3/os.py", tree().root); }
void BM_OpenClose(benchmark::State& state) {
  WalkContext ctx = tree().ctx(tree().root);
  for (auto _ : state) {
    auto file = open(ctx, "/usr/lib/python3/os.py", {.flags = O_RDONLY});
    benchmark::DoNotOptimize(file);
  }
}
void BM_CreateWriteUnlink(benchmark::State& state) {
  WalkContext ctx = tree().ctx(tree().root);
  char data[4096] = {};
  for (auto _ : state) {
    {
      auto file = open(ctx, "/usr/new", {.flags = O_CREAT | O_WRONLY, .mode = 0644});
      KernelSource source(data, sizeof(data));
      (void)(*file)->write(source, &(*file)->position);
    }
    (void)unlink(ctx, "/usr/new");
  }
}
BENCHMARK(BM_StatCachedRoot);
BENCHMARK(BM_StatCachedUser);
BENCHMARK(BM_StatCachedMissing);
BENCHMARK(BM_StatThroughLink);
BENCHMARK(BM_OpenClose);
BENCHMARK(BM_CreateWriteUnlink);

}  // namespace
}  // namespace sbx::vfs
