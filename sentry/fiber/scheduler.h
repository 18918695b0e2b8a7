// Inside the fiber room: what HostBlock needs of the scheduler.
#pragma once
#include "sentry/fiber/fiber.h"

namespace sbx::fiber {
// Names the fiber that runs on the thread that holds the kernel lock (null: none).
void set_current(Fiber* fiber);
}  // namespace sbx::fiber
