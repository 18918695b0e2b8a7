// Errors of paths that this process has asked for before (sentry/platform/layout.h, Board): programs look for the same
// missing files and for links where there are none again and again, a compiler in two of five calls.
#include "sentry/platform/stub/stub.h"

namespace sbx::platform::stub {
namespace {

constexpr u32 kEntries = 512;
constexpr u64 kLongest = 88;  // with its NUL
constexpr i64 kEnoent = 2, kEnotdir = 20;
constexpr u64 kCreate = 0x40;

// `busy` is odd while a thread writes; who meets that, or a change, does without.
struct Entry {
  u32 busy, nr;
  u64 names, learned_at, flags;
  i32 error;
  u16 length, spare;
  char text[kLongest];
};
static_assert(sizeof(Entry) == 128 && kEntries * sizeof(Entry) <= kNamesBytes);

Entry& entry_of(const NameQuery& q) {
  u64 hash = q.nr * 0x9e3779b97f4a7c15ull + q.flags;
  for (u32 i = 0; i < q.length; i += 8) {
    u64 word = 0;
    for (u32 k = 0; k < 8; ++k)
      word |= static_cast<u64>(static_cast<u8>(i + k < q.length ? q.text[i + k] : 0)) << 8 * k;
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  }
  return reinterpret_cast<Entry*>(kNamesBase)[hash >> 32 & (kEntries - 1)];
}

bool same(const Entry& e, const NameQuery& q) {
  if (e.nr != q.nr || e.flags != q.flags || e.length != q.length) return false;
  for (u32 i = 0; i < q.length; ++i) {
    if (e.text[i] != q.text[i]) return false;
  }
  return true;
}

u64 names_now() { return __atomic_load_n(&board().names, __ATOMIC_ACQUIRE); }

}  // namespace

bool is_name_query(const Context& ctx, u32 nr, NameQuery& q) {
  const u64* a = ctx.args;
  u64 path = 0;
  q.flags = 0;
  switch (nr) {
    case kNrReadlink: path = a[0]; break;
    case kNrStat:
    case kNrLstat: path = a[0]; break;
    case kNrAccess: path = a[0], q.flags = a[1]; break;
    case kNrOpen: path = a[0], q.flags = a[1]; break;
    case kNrOpenat: path = a[1], q.flags = a[2]; break;
    case kNrNewfstatat: path = a[1], q.flags = a[3]; break;
    case kNrReadlinkat: path = a[1]; break;
    case kNrFaccessat: path = a[1], q.flags = a[2]; break;
    default: return false;
  }
  if ((nr == kNrOpen || nr == kNrOpenat) && (q.flags & kCreate) != 0) return false;
  const Slot& slot = *ctx.slot;
  if (__atomic_load_n(&board().views_differ, __ATOMIC_RELAXED) != 0) return false;
  if (path == 0 || slot.report_all != 0 || slot.see_native != 0 || slot.no_names != 0) return false;
  // Absolute ones only: what others mean changes with the working directory.
  char first = 0;
  if (!copy_in(&first, path, 1) || first != '/') return false;
  i64 n = stub_copy_string(q.text, reinterpret_cast<const void*>(path), kLongest);
  if (n <= 0 || static_cast<u64>(n) >= kLongest || q.text[0] != '/') return false;
  q.nr = nr;
  q.length = static_cast<u32>(n);
  q.names = names_now();
  return true;
}

bool known_error(const NameQuery& q, i64& ret) {
  const Entry& e = entry_of(q);
  u32 busy = __atomic_load_n(&e.busy, __ATOMIC_ACQUIRE);
  if ((busy & 1) != 0 || e.error == 0 || e.names != q.names || !same(e, q) || cycles() - e.learned_at >= kIsSure) {
    return false;
  }
  ret = e.error;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return __atomic_load_n(&e.busy, __ATOMIC_RELAXED) == busy;
}

void learn_error(const NameQuery& q, i64 ret) {
  const bool link = q.nr == kNrReadlink || q.nr == kNrReadlinkat;
  if (ret != -kEnoent && ret != -kEnotdir && !(link && ret == -kEinval)) return;
  Entry& e = entry_of(q);
  u32 busy = __atomic_load_n(&e.busy, __ATOMIC_RELAXED);
  if ((busy & 1) != 0 ||
      !__atomic_compare_exchange_n(&e.busy, &busy, busy + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    return;
  }
  __atomic_thread_fence(__ATOMIC_RELEASE);
  e.nr = q.nr;
  e.flags = q.flags;
  e.names = q.names;
  e.learned_at = cycles();
  e.error = static_cast<i32>(ret);
  e.length = static_cast<u16>(q.length);
  for (u32 i = 0; i < q.length; ++i) e.text[i] = q.text[i];
  __atomic_store_n(&e.busy, busy + 2, __ATOMIC_RELEASE);
}

}  // namespace sbx::platform::stub
