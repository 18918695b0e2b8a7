// Errors of paths that this process, or any, has asked for before (sentry/platform/name_table.h).
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr i64 kEnoent = 2, kEnotdir = 20;

NameEntry& own(const NameQuery& q) { return reinterpret_cast<NameEntry*>(kNamesBase)[q.place % kNameEntries]; }

}  // namespace

bool is_name_query(const Context& ctx, u32 nr, NameQuery& q) {
  const NameCall call = name_call(nr, ctx.args);
  if (!call.looks) return false;
  const u64 path = ctx.args[call.path];
  const Slot& slot = *ctx.slot;
  if (__atomic_load_n(&board().views_differ, __ATOMIC_RELAXED) != 0) return false;
  if (path == 0 || slot.report_all != 0 || slot.see_native != 0 || slot.no_names != 0) return false;
  // Absolute ones only: what others mean changes with the working directory.
  char first = 0;
  if (!copy_in(&first, path, 1) || first != '/') return false;
  i64 n = stub_copy_string(q.text, reinterpret_cast<const void*>(path), kLongestName);
  if (n <= 0 || static_cast<u64>(n) >= kLongestName || q.text[0] != '/') return false;
  q.nr = nr;
  q.flags = call.flags;
  q.length = static_cast<u32>(n);
  q.place = name_hash(nr, q.flags, q.text, q.length);
  q.stamp = name_stamp(board(), q.text, q.length);
  return true;
}

bool known_error(const NameQuery& q, i64& ret) {
  const u64 now = cycles();
  ret = platform::known_error(own(q), q.nr, q.flags, q.text, q.length, q.stamp, now, kIsSure);
  if (ret != 0) return true;
  if (__atomic_load_n(&board().no_table, __ATOMIC_ACQUIRE) != 0) return false;
  const NameEntry* pair = reinterpret_cast<const NameEntry*>(kBoard + sizeof(Board)) + 2 * (q.place % kNamePairs);
  for (u32 i = 0; i < 2 && ret == 0; ++i) {
    ret = platform::known_error(pair[i], q.nr, q.flags, q.text, q.length, q.stamp, now, kTableIsSure);
  }
  return ret != 0;
}

void learn_error(const NameQuery& q, i64 ret) {
  const bool link = q.nr == kNrReadlink || q.nr == kNrReadlinkat;
  if (ret != -kEnoent && ret != -kEnotdir && !(link && ret == -kEinval)) return;
  note_error(own(q), q.nr, q.flags, q.text, q.length, q.stamp, cycles(), ret);
}

}  // namespace sbx::platform::stub
