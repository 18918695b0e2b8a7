#include "sentry/vfs/bounce.h"

#include <utility>
#include <vector>

namespace sbx::vfs {
namespace {

constexpr uintptr_t kLine = 64;

std::vector<std::unique_ptr<u8[]>>& kept() {
  static auto* pool = new std::vector<std::unique_ptr<u8[]>>;
  return *pool;
}

}  // namespace

Bounce::Bounce(size_t n, u64 peer) : at_(small_) {
  if (n > kSmall) {
    auto& pool = kept();
    if (!pool.empty()) {
      big_ = std::move(pool.back());
      pool.pop_back();
    } else {
      big_ = std::make_unique_for_overwrite<u8[]>(kMost + kSlack);
    }
    at_ = big_.get();
  }
  const auto here = reinterpret_cast<uintptr_t>(at_);
  at_ += (peer - here) % kLine;
  if (reinterpret_cast<uintptr_t>(at_) % kPageSize < kLine) at_ += kLine;
}

Bounce::~Bounce() {
  constexpr size_t kKept = 4;
  if (big_ && kept().size() < kKept) kept().push_back(std::move(big_));
}

}  // namespace sbx::vfs
