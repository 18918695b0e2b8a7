// Random numbers of the host's getrandom(2), fetched some at a time: a start of a program needs half a dozen.
#pragma once
#include <cstddef>

#include "sentry/base/types.h"

namespace sbx {

// Fills `to`, of up to 256 bytes; stops the program if the host has none. Of one thread at a time (kernel lock), and
// not in a child that shares its parent's memory by copy: both would give out the same numbers.
void fill_random(void* to, size_t n);

u64 random_u64();

}  // namespace sbx
