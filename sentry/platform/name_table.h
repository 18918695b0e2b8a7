// What is known of paths that lead nowhere: programs look for the same missing files and for links where there are none
// again and again, a compiler in two of five calls. Each process keeps what it has been told (stub/names.cc), and the
// sentry writes for all what anybody would be told. Read by the stub: no library, nothing that allocates.
#pragma once
#include "sentry/platform/layout.h"

namespace sbx::platform {

constexpr u64 kLongestName = 144;  // with its NUL
constexpr u32 kNameEntries = 512;  // of a process
// Of all: in pairs of which the older one goes.
constexpr u32 kNamePairs = 512;

// `busy` is odd while somebody writes; who meets that, or a change, does without.
struct NameEntry {
  u32 busy, nr;
  u64 names, learned_at, flags;
  i32 error;  // 0: nothing
  u32 touched, length, spare;
  char text[kLongestName];
};
static_assert(sizeof(NameEntry) == 192 && kNameEntries * sizeof(NameEntry) <= kNamesBytes &&
              sizeof(Board) + 2 * kNamePairs * sizeof(NameEntry) <= kBoardBytes);

// What the board said before somebody asked.
struct NameStamp {
  u64 names;
  u32 touched;  // of all components together: whichever is made or removed, the sum changes
};

inline u64 name_hash(u32 nr, u64 flags, const char* text, u32 length) {
  u64 hash = nr * 0x9e3779b97f4a7c15ull + flags;
  for (u32 i = 0; i < length; i += 8) {
    u64 word = 0;
    for (u32 k = 0; k < 8; ++k) word |= static_cast<u64>(static_cast<u8>(i + k < length ? text[i + k] : 0)) << 8 * k;
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  }
  return hash >> 32;  // modulo either number of places
}

// Which of Board::touched counts names like this one.
constexpr u32 kNameStart = 2166136261u;
inline u32 name_step(u32 hash, char c) { return (hash ^ static_cast<u8>(c)) * 16777619u; }
inline u32 name_bucket(u32 hash) { return (hash ^ hash >> 15) & (kNameBuckets - 1); }

// Acquire: what follows is not older.
inline NameStamp name_stamp(const Board& board, const char* text, u32 length) {
  NameStamp stamp;
  stamp.names = __atomic_load_n(&board.names, __ATOMIC_ACQUIRE);
  stamp.touched = 0;
  u32 hash = kNameStart;
  for (u32 i = 0; i <= length; ++i) {
    const char c = i < length ? text[i] : '/';
    if (c != '/' && c != '\0') {
      hash = name_step(hash, c);
    } else if (hash != kNameStart) {
      stamp.touched += __atomic_load_n(&board.touched[name_bucket(hash)], __ATOMIC_ACQUIRE);
      hash = kNameStart;
    }
  }
  return stamp;
}

inline bool same_name(const NameEntry& e, u32 nr, u64 flags, const char* text, u32 length) {
  if (e.nr != nr || e.flags != flags || e.length != length) return false;
  for (u32 i = 0; i < length; ++i) {
    if (e.text[i] != text[i]) return false;
  }
  return true;
}

// For all, some time stamp counter ticks longer than what a process was told: about half a second.
constexpr u64 kTableIsSure = 4 * kIsSure;

// The error, or 0, if it is not older than `most`. now: time stamp counter.
inline i64 known_error(const NameEntry& e, u32 nr, u64 flags, const char* text, u32 length, const NameStamp& stamp,
                       u64 now, u64 most) {
  const u32 busy = __atomic_load_n(&e.busy, __ATOMIC_ACQUIRE);
  const i32 error = e.error;
  if ((busy & 1) != 0 || error == 0 || e.names != stamp.names || e.touched != stamp.touched) return 0;
  if (now - e.learned_at >= most || !same_name(e, nr, flags, text, length)) return 0;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return __atomic_load_n(&e.busy, __ATOMIC_RELAXED) == busy ? error : 0;
}

inline void note_error(NameEntry& e, u32 nr, u64 flags, const char* text, u32 length, const NameStamp& stamp, u64 now,
                       i64 error) {
  u32 busy = __atomic_load_n(&e.busy, __ATOMIC_RELAXED);
  if ((busy & 1) != 0 ||
      !__atomic_compare_exchange_n(&e.busy, &busy, busy + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    return;
  }
  __atomic_thread_fence(__ATOMIC_RELEASE);
  e.nr = nr;
  e.flags = flags;
  e.names = stamp.names;
  e.touched = stamp.touched;
  e.learned_at = now;
  e.error = static_cast<i32>(error);
  e.length = length;
  for (u32 i = 0; i < length; ++i) e.text[i] = text[i];
  __atomic_store_n(&e.busy, busy + 2, __ATOMIC_RELEASE);
}

// A call that looks for one path and does nothing else: which argument that is, and what else decides its result.
struct NameCall {
  bool looks = false;
  u32 path = 0;
  u64 flags = 0;
};
inline NameCall name_call(u32 nr, const u64* args) {
  constexpr u64 kCreate = 0x40;
  switch (nr) {
    case 4:                                                   // stat
    case 6:                                                   // lstat
    case 89: return {true, 0, 0};                             // readlink
    case 21: return {true, 0, args[1]};                       // access
    case 2: return {(args[1] & kCreate) == 0, 0, args[1]};    // open
    case 257: return {(args[2] & kCreate) == 0, 1, args[2]};  // openat
    case 262: return {true, 1, args[3]};                      // newfstatat
    case 267: return {true, 1, 0};                            // readlinkat
    case 269: return {true, 1, args[2]};                      // faccessat
    default: return {};
  }
}

}  // namespace sbx::platform
