// Rings that processes write (platform/stream_lease.h): the order of several, and what a process may not do with one.
#include "sentry/platform/stream_lease.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "sentry/platform/internal.h"

namespace sbx::platform {
namespace {

// A process as far as its rings go.
struct Writer {
  RefPtr<SlotArea> area = SlotArea::make();
  RefPtr<WriteRing> ring;

  void lend(LentStream& stream, int fd = 1) {
    ring = make_ref<WriteRing>(area, 0u, fd);
    stream.room_lent(ring);
  }
  SlotRing& head() const { return area->ring(0); }
  u64 position() const { return head().word & SlotLease::kPosition; }
  RingRecord& record(u64 at) const { return *reinterpret_cast<RingRecord*>(area->ring_bytes(0) + at % kRingBytes); }
  // As the stub does it. False: no room.
  bool write(std::string_view bytes, u64 time) const {
    const u64 at = position(), next = at + ring_record_bytes(bytes.size());
    if ((head().word & SlotLease::kLent) == 0 || next > head().end) return false;
    record(at).time = time;
    record(at).length = static_cast<u32>(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i)
      area->ring_bytes(0)[(at + sizeof(RingRecord) + i) % kRingBytes] = static_cast<u8>(bytes[i]);
    head().word += next - at;
    return true;
  }
};

std::string all(LentStream& stream) {
  std::string out;
  stream.collect([&](const u8* from, size_t n) {
    out.append(reinterpret_cast<const char*>(from), n);
    return true;
  });
  return out;
}

TEST(Rings, GoByTime) {
  LentStream stream{[] { return false; }};
  Writer a, b, c;
  for (Writer* w : {&a, &b, &c}) w->lend(stream);
  stream.allow(65536);
  EXPECT_TRUE(b.write("2", 20));
  EXPECT_TRUE(a.write("1", 10));
  EXPECT_TRUE(c.write("3", 30));
  EXPECT_TRUE(a.write("4", 40));
  EXPECT_TRUE(b.write("5", 50));
  EXPECT_EQ(all(stream), "12345");
  EXPECT_EQ(all(stream), "");
  // What is said to be later than now stays until nothing can come before it.
  EXPECT_TRUE(a.write("8", ~0ull - 1));
  EXPECT_TRUE(b.write("6", 60));
  EXPECT_EQ(all(stream), "6");
  EXPECT_TRUE(c.write("7", 70));
  a.ring->close();
  EXPECT_EQ(all(stream), "78");
  EXPECT_FALSE(a.write("9", 80));
  EXPECT_TRUE(stream.any());
  stream.end();
  EXPECT_EQ(all(stream), "");
  EXPECT_FALSE(stream.any());
}

TEST(Rings, GoAroundAndBegin) {
  LentStream stream{[] { return false; }};
  Writer w;
  w.lend(stream);
  std::string want, got;
  for (int i = 0; i < 3000; ++i) {
    stream.allow(1 << 20);
    const std::string bytes(static_cast<size_t>(i % 700 + 1), static_cast<char>('a' + i % 26));
    while (!w.write(bytes, 1)) {
      got += all(stream);
      stream.allow(1 << 20);
    }
    want += bytes;
  }
  EXPECT_EQ(got + all(stream), want);
  // All was taken: the next record is at the start.
  EXPECT_EQ(w.position(), 0u);
}

TEST(Rings, PromiseNoMoreThanThereIs) {
  LentStream stream{[] { return false; }};
  Writer a, b;
  a.lend(stream);
  stream.allow(10000);
  b.lend(stream);
  stream.allow(10000);
  EXPECT_LE(a.head().end + b.head().end, 10000u);
  EXPECT_GT(b.head().end, 0u);
  EXPECT_EQ(stream.claim(), a.head().end + b.head().end);
  const u64 before = a.head().end;
  stream.allow(100);  // what was promised is kept
  EXPECT_EQ(a.head().end, before);
}

// A position can be anything, and so can lengths: never more is taken than was allowed, and never from elsewhere.
TEST(Rings, OfAnAttacker) {
  for (u64 position : {u64{1}, u64{15}, u64{17}, u64{4097}, u64{1} << 40, SlotLease::kPosition}) {
    for (u32 length : {0u, 1u, 5000u, 70000u, ~0u}) {
      LentStream stream{[] { return false; }};
      Writer w;
      w.lend(stream);
      stream.allow(4096);
      w.head().word = (w.head().word & ~SlotLease::kPosition) | position;
      for (u64 at = 0; at < kRingBytes; at += sizeof(RingRecord)) w.record(at).length = length;
      EXPECT_LE(all(stream).size(), 4096u);
      w.head().word = 0;
      w.head().end = ~0ull;
      EXPECT_EQ(all(stream), "");
      w.head().word = ~0ull;
      stream.allow(4096);
      stream.end();
      EXPECT_LE(all(stream).size(), 2 * 4096u);
      EXPECT_FALSE(stream.any());
    }
  }
}

// Taken away in the middle of a write: that did not happen.
TEST(Rings, EndInAWrite) {
  LentStream stream{[] { return false; }};
  Writer w;
  w.lend(stream);
  stream.allow(4096);
  EXPECT_TRUE(w.write("whole", 1));
  const u64 before = w.head().word;
  w.head().word |= SlotLease::kClosed;
  EXPECT_EQ(all(stream), "whole");
  stream.end();
  EXPECT_EQ(w.head().word, 0u);
  EXPECT_NE(before, 0u);
  EXPECT_EQ(all(stream), "");
}

}  // namespace
}  // namespace sbx::platform
