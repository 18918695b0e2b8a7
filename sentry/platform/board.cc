// What stubs know about names (name_table.h): the sentry's side.
#include <x86intrin.h>

#include <cstring>

#include "sentry/base/counters.h"
#include "sentry/platform/internal.h"
#include "sentry/platform/name_table.h"

namespace sbx::platform {
namespace {

COUNTER(errors_told, "platform.errors_told", "errors of paths that all processes were told of");

NameEntry* table(Board* board) { return reinterpret_cast<NameEntry*>(board + 1); }

}  // namespace

void PlatformImpl::names_changed() {
  ++name_changes_;
  shelf_.check_again();
  __atomic_fetch_add(&board_->names, 1, __ATOMIC_SEQ_CST);
}

void PlatformImpl::name_touched(std::string_view name) {
  ++name_changes_;
  u32 hash = kNameStart;
  for (char c : name) hash = name_step(hash, c);
  __atomic_fetch_add(&board_->touched[name_bucket(hash)], 1, __ATOMIC_SEQ_CST);
}

void PlatformImpl::tell_all(u32 nr, const u64* args, std::string_view path, i64 error) {
  const NameCall call = name_call(nr, args);
  if (board_->no_table != 0 || !call.looks || path.size() >= kLongestName || path.empty() || path[0] != '/') return;
  const auto length = static_cast<u32>(path.size());
  NameEntry* pair = table(board_) + 2 * (name_hash(nr, call.flags, path.data(), length) % kNamePairs);
  const bool second =
      same_name(pair[1], nr, call.flags, path.data(), length) ||
      (!same_name(pair[0], nr, call.flags, path.data(), length) && pair[1].learned_at < pair[0].learned_at);
  note_error(pair[second ? 1 : 0], nr, call.flags, path.data(), length, name_stamp(*board_, path.data(), length),
             __rdtsc(), error);
  errors_told.add();
}

void PlatformImpl::tell_nobody(Differ what) {
  if (what == Differ::kTrees) shelf_.close();
  if (board_->no_table != 0) return;
  __atomic_store_n(&board_->no_table, 1, __ATOMIC_SEQ_CST);
  memset(static_cast<void*>(table(board_)), 0, 2 * kNamePairs * sizeof(NameEntry));
}

}  // namespace sbx::platform
