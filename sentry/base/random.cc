#include "sentry/base/random.h"

#include <sys/random.h>

#include <cstring>

#include "sentry/base/log.h"

namespace sbx {

void fill_random(void* to, size_t n) {
  static u8 pool[256];
  static size_t left = 0;
  if (n > left) {
    if (n > sizeof(pool) || getrandom(pool, sizeof(pool), 0) != sizeof(pool)) PANIC("getrandom failed");
    left = sizeof(pool);
  }
  u8* from = pool + sizeof(pool) - left;
  memcpy(to, from, n);
  memset(from, 0, n);  // given out once
  left -= n;
}

u64 random_u64() {
  u64 value = 0;
  fill_random(&value, sizeof(value));
  return value;
}

}  // namespace sbx
